//! `coca suite`: what one model can do, task by task, each figure beside what knowing less would reach. Every row comes from
//! a command that can be run alone; what is measured once stays, so that a suite that was stopped goes on.

mod examples;
mod page;
mod plan;
mod row;
mod sets;
#[cfg(test)]
mod tests;

pub use plan::Section;

use crate::cli::{Cli, SuiteArgs};
use crate::evaluate::{percent, table};
use crate::model_folder::ModelFolder;
use crate::{Error, Result};
use clap::{Parser, ValueEnum};
use engine::DType;
use model::weights::write_atomically;
use plan::{Measurement, Planner};
use row::{Figures, Row};
use serde::{Serialize, Serializer};
use serde_json::Value;
use sets::Sets;
use std::io::Write;
use std::path::{Path, PathBuf};

/// What the suite found, as it is written to `suite.json`.
#[derive(Debug, Serialize)]
struct Findings {
    /// Folder of the model.
    model: PathBuf,
    /// Number of its parameters.
    parameters: usize,
    /// Steps of each training.
    steps: u64,
    /// The rows of each measurement, in the order of the page.
    measured: Vec<Measured>,
    /// Commands that make the sets of which nothing is here.
    missing: Vec<String>,
}

/// The rows of one command.
#[derive(Debug, Serialize)]
struct Measured {
    /// Written by its heading.
    #[serde(rename = "task", serialize_with = "heading")]
    section: Section,
    /// The command that makes them.
    command: String,
    rows: Vec<Row>,
}

/// Measures everything, writes `suite.json` and `suite.html` into the folder, and returns the table.
///
/// # Errors
/// The model cannot be opened, a command fails, or a file cannot be written.
pub fn suite(args: &SuiteArgs) -> Result<String> {
    let folder = ModelFolder::open(&args.model, DType::F32)?;
    let sets = Sets::open(&args.sets)?;
    let sections = if args.only.is_empty() { Section::value_variants() } else { &args.only };
    let planner = Planner {
        model: &args.model,
        image_size: folder.model.config().vision.image_size,
        sets: &sets,
        out: &args.out,
        steps: args.steps.get(),
        beside: &args.beside,
        sections,
    };
    let plan = planner.plan();
    let read = |stem: &str| -> Option<Value> {
        let measurement = plan.measurements.iter().find(|measurement| measurement.stem == stem)?;
        serde_json::from_slice(&std::fs::read(figures_of(measurement, &args.out)).ok()?).ok()
    };
    let mut measured = Vec::new();
    for (number, measurement) in plan.measurements.iter().enumerate() {
        let words = words(measurement, &args.out);
        let command = format!("coca {}", words.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" "));
        eprintln!("[{}/{}] {command}", number + 1, plan.measurements.len());
        let figures = figures_of(measurement, &args.out);
        if args.again || !figures.exists() {
            if let Some(parent) = figures.parent() {
                std::fs::create_dir_all(parent).map_err(|error| Error::io(parent, error))?;
            }
            run(&words)?;
        }
        let own = read(&measurement.stem)
            .ok_or_else(|| Error::invalid(format!("{}: no figures; start anew with --again", figures.display())))?;
        let rows = (measurement.rows)(&Figures { own: &own, stem: &measurement.stem, others: &read });
        measured.push(Measured { section: measurement.section, command, rows });
    }
    let findings = Findings {
        model: args.model.clone(),
        parameters: folder.model.parameter_count(),
        steps: args.steps.get(),
        measured,
        missing: plan.missing.iter().map(|set| sets.command(set)).collect(),
    };
    let json = args.out.join("suite.json");
    write_atomically(&json, |file| serde_json::to_writer_pretty(file, &findings).map_err(std::io::Error::from))?;
    let examples = examples::examples(&folder)?;
    let page = args.out.join("suite.html");
    write_atomically(&page, |file| file.write_all(page::render(&findings, &examples).as_bytes()))?;
    let missing: String =
        findings.missing.iter().map(|command| format!("not measured, its set is not here: {command}\n")).collect();
    Ok(format!("{}{missing}page written to {}\n", text(&findings.measured), page.display()))
}

fn heading<S: Serializer>(section: &Section, to: S) -> std::result::Result<S::Ok, S::Error> {
    to.serialize_str(section.heading().0)
}

/// Where the figures of a measurement lie.
fn figures_of(measurement: &Measurement, out: &Path) -> PathBuf {
    match measurement.trains {
        true => out.join(&measurement.stem).join("report.json"),
        false => out.join(format!("{}.json", measurement.stem)),
    }
}

/// The words of its command, with where the figures go.
fn words(measurement: &Measurement, out: &Path) -> Vec<String> {
    let place = match measurement.trains {
        true => ["--out".to_owned(), out.join(&measurement.stem).display().to_string()],
        false => ["--json".to_owned(), figures_of(measurement, out).display().to_string()],
    };
    measurement.words.iter().cloned().chain(place).collect()
}

/// Runs a command of this program.
fn run(words: &[String]) -> Result<()> {
    let words = std::iter::once("coca").chain(words.iter().map(String::as_str));
    let cli = Cli::try_parse_from(words).map_err(|error| Error::invalid(error.to_string()))?;
    cli.run()
}

/// A word as a shell takes it.
fn quoted(word: &str) -> String {
    let plain = |letter: char| letter.is_ascii_alphanumeric() || "-_./:=,".contains(letter);
    if word.chars().all(plain) { word.to_owned() } else { format!("'{word}'") }
}

fn text(measured: &[Measured]) -> String {
    let rows = |measured: &Measured| {
        let row = |row: &Row| {
            let (name, control) =
                row.control.clone().map_or_else(Default::default, |(name, value)| (name, percent(value)));
            let above = row.is_above().map_or("", |above| if above { "yes" } else { "no" });
            let (count, value) = (row.count.to_string(), percent(row.value));
            vec![
                measured.section.heading().0.to_owned(),
                row.set.clone(),
                count,
                row.measure.clone(),
                value,
                control,
                name,
                above.to_owned(),
            ]
        };
        measured.rows.iter().map(row).collect::<Vec<_>>()
    };
    let rows: Vec<Vec<String>> = measured.iter().flat_map(rows).collect();
    table(&["task", "set", "samples", "measure", "%", "control %", "control", "above"], &rows)
}
