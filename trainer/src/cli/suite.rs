//! The arguments of `coca suite`.

use crate::suite::Section;
use clap::Args;
use std::num::NonZeroU64;
use std::path::PathBuf;

/// Arguments of `coca suite`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  coca suite --model runs/emoji/model
  coca suite --model runs/emoji/model --sets data --steps 2000 --out runs/suite-2000 \\
      --beside dual-encoder=runs/b32

Each row comes from a command of this program, which the page shows. Larger sets are used where
`coca data fetch SET --out SETS/SET` and `coca data make scenes --out SETS/scenes` have put them;
the table names the commands for those that are missing. What is in OUT is used again if the same
command made it of the same weights; else it is measured again, and a run moved to OUT/NAME-previous-1.")]
pub struct SuiteArgs {
    /// Folder with the model
    #[arg(long, value_name = "DIR")]
    pub model: PathBuf,
    /// Folder with a folder for each of the larger sets
    #[arg(long, value_name = "DIR", default_value = "data")]
    pub sets: PathBuf,
    /// Folder for suite.html, suite.json, and the figures and runs of every command
    #[arg(long, value_name = "DIR", default_value = "runs/suite")]
    pub out: PathBuf,
    /// Measure these alone; can be repeated
    #[arg(long, value_name = "TASK")]
    pub only: Vec<Section>,
    /// Steps of each training of a head
    #[arg(long, value_name = "COUNT", default_value = "1000")]
    pub steps: NonZeroU64,
    /// Another model to compare with, by a name of your own; can be repeated
    #[arg(long, value_name = "NAME=DIR", value_parser = parse_beside)]
    pub beside: Vec<(String, PathBuf)>,
    /// Measure everything again, what is in the folder too
    #[arg(long)]
    pub again: bool,
}

/// `NAME=DIR`.
fn parse_beside(text: &str) -> Result<(String, PathBuf), String> {
    match text.split_once('=') {
        Some((name, folder)) if !name.is_empty() && !folder.is_empty() => Ok((name.to_owned(), folder.into())),
        _ => Err(format!("'{text}' is no NAME=DIR")),
    }
}
