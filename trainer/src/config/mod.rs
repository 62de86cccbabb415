//! One typed configuration: defaults, then a TOML file, then `--set section.key=value`. An unknown key is refused with
//! the nearest name, a wrong value with its file and line; what was resolved is written out and makes the same run.

mod layers;
mod paradigm;
mod resume;
mod table;
#[cfg(test)]
mod tests;

pub use paradigm::Paradigm;
pub use table::*;

use crate::{Error, Result};
use model::config::{CocaConfig, PRESETS, TokenizerKeys};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// The configuration of `coca train` without arguments: the small model on the bundled emoji.
pub const DEFAULT_FILE: &str = include_str!("../../configs/emoji.toml");

/// One section of the configuration.
#[derive(Clone, Copy, Debug)]
pub struct SectionInfo {
    /// Its name.
    pub name: &'static str,
    /// What it is about.
    pub about: &'static str,
    /// Its keys in order.
    pub keys: &'static [KeyInfo],
}

/// One key of the configuration.
#[derive(Clone, Copy, Debug)]
pub struct KeyInfo {
    /// Its name.
    pub name: &'static str,
    /// What it means.
    pub about: &'static str,
    /// Name and meaning of the values it can take; empty if its type is open.
    pub choices: &'static [(&'static str, &'static str)],
}

/// A type that a key can have.
trait KeyType {
    /// See [`KeyInfo::choices`].
    const CHOICES: &'static [(&'static str, &'static str)] = &[];
}

impl KeyType for bool {}
impl KeyType for u64 {}
impl KeyType for usize {}
impl KeyType for f64 {}
impl KeyType for String {}
impl KeyType for std::path::PathBuf {}
impl KeyType for toml::Table {}
impl KeyType for Names {}

/// Names of any number; written as one or as a list, where an empty one is none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "WrittenNames", into = "WrittenNames")]
pub struct Names(pub Vec<String>);

#[derive(Serialize, Deserialize)]
#[serde(untagged, expecting = "a name or a list of names")]
enum WrittenNames {
    One(String),
    Several(Vec<String>),
}

impl From<WrittenNames> for Names {
    fn from(written: WrittenNames) -> Names {
        match written {
            WrittenNames::One(name) if name.is_empty() => Names::default(),
            WrittenNames::One(name) => Names(vec![name]),
            WrittenNames::Several(names) => Names(names),
        }
    }
}

impl From<Names> for WrittenNames {
    fn from(Names(mut names): Names) -> WrittenNames {
        match names.len() {
            0 | 1 => WrittenNames::One(names.pop().unwrap_or_default()),
            _ => WrittenNames::Several(names),
        }
    }
}

/// Enums whose variants are written as words in the configuration.
macro_rules! choices {
    ($($(#[doc = $about:literal])+ $name:ident { $($(#[doc = $doc:literal])+ $variant:ident = $text:literal,)+ })+) => {$(
        $(#[doc = $about])+
        #[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize, clap::ValueEnum)]
        pub enum $name { $($(#[doc = $doc])+ #[serde(rename = $text)] #[value(name = $text)] $variant,)+ }

        impl $name {
            /// The word that stands for it in the configuration.
            pub const fn name(self) -> &'static str {
                match self { $($name::$variant => $text,)+ }
            }
        }

        impl super::KeyType for $name {
            const CHOICES: &'static [(&'static str, &'static str)] = &[$(($text, concat!($($doc),+)),)+];
        }
    )+};
}

/// The sections: one struct each, its defaults, `Config` of them all, and `SECTIONS` that describes them.
macro_rules! sections {
    ($($(#[doc = $about:literal])+ $section:ident : $name:ident {
        $($(#[doc = $doc:literal])+ $key:ident : $type:ty = $default:expr,)+
    })+) => {
        $(
            $(#[doc = $about])+
            #[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
            #[serde(deny_unknown_fields, default)]
            pub struct $name { $($(#[doc = $doc])+ pub $key: $type,)+ }

            impl Default for $name {
                fn default() -> $name {
                    $name { $($key: $default,)+ }
                }
            }
        )+

        /// The whole configuration of a training run.
        #[derive(Clone, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
        #[serde(deny_unknown_fields, default)]
        pub struct Config { $($(#[doc = $about])+ pub $section: $name,)+ }

        /// Every section and key, in the order of the file.
        pub const SECTIONS: &[super::SectionInfo] = &[$(super::SectionInfo {
            name: stringify!($section),
            about: concat!($($about),+),
            keys: &[$(super::KeyInfo {
                name: stringify!($key),
                about: concat!($($doc),+),
                choices: <$type as super::KeyType>::CHOICES,
            },)+],
        },)+];
    };
}

use {choices, sections};

/// Lays one tree of values over another, leaf by leaf.
fn overlay(under: &mut serde_json::Value, over: serde_json::Value) {
    match (under, over) {
        (serde_json::Value::Object(under), serde_json::Value::Object(over)) => {
            for (key, value) in over {
                overlay(under.entry(key).or_insert(serde_json::Value::Null), value);
            }
        }
        (under, over) => *under = over,
    }
}

impl Config {
    /// Defaults, then the file, then each `section.key=value` of `sets` in order. Without a file [`DEFAULT_FILE`] stands for
    /// it where the bundled data is trained on from scratch, which is what it is tuned for.
    ///
    /// # Errors
    /// An unreadable file, TOML that does not parse, an unknown key, a value of the wrong type or out of range; the text
    /// names file and line (or `--set`), the key, and the nearest known name.
    pub fn load(file: Option<&Path>, sets: &[String]) -> Result<Config> {
        match file {
            Some(path) => {
                let text = std::fs::read_to_string(path).map_err(|source| Error::io(path, source))?;
                Config::parse(&text, &path.display().to_string(), sets)
            }
            None => {
                let plain = Config::parse("", "no file", sets)?;
                if plain.data.train != Data::default().train || !plain.model.init.as_os_str().is_empty() {
                    return Ok(plain);
                }
                Config::parse(DEFAULT_FILE, "the built-in emoji.toml", sets)
            }
        }
    }

    /// As [`load`](Config::load), from the text of a file; `name` stands for the file in errors. With `model.init` a
    /// preset that was left at its default becomes that folder.
    pub fn parse(text: &str, name: &str, sets: &[String]) -> Result<Config> {
        let mut layers = layers::Layers::new();
        layers.file(text, name)?;
        for set in sets {
            layers.set(set)?;
        }
        let mut config = layers.finish()?;
        // Weights to start from bring their architecture along, unless another was named.
        let Model { preset, init, .. } = &mut config.model;
        if !init.as_os_str().is_empty() && *preset == Model::default().preset {
            *preset = init.display().to_string();
        }
        Ok(config)
    }

    /// The configuration as TOML that loads back to the same value; with `documented`, every key under its explanation.
    pub fn to_toml(&self, documented: bool) -> String {
        let table = layers::to_table(self);
        let mut text = String::new();
        for section in SECTIONS {
            if !text.is_empty() {
                text.push('\n');
            }
            if documented {
                text += &format!("# {}\n", section.about.trim());
            }
            text += &format!("[{}]\n", section.name);
            for key in section.keys {
                if documented {
                    text += &format!("# {}\n", key.about.trim());
                    for (name, about) in key.choices {
                        text += &format!("#   {name}: {}\n", about.trim());
                    }
                }
                text += &format!("{} = {}\n", key.name, table[section.name][key.name]);
            }
        }
        text
    }

    /// The number of pairs whose features the contrastive loss compares: batch size times accumulation.
    pub fn pairs_per_step(&self) -> usize {
        self.batch.size * self.batch.accumulation
    }

    /// How the sets of `evaluation.data` are read.
    pub fn evaluation_data(&self) -> Data {
        Data { split: self.evaluation.split.clone(), ..self.data.clone() }
    }

    /// The architecture: the preset, or the open_clip configuration of that path, with the overrides laid over it. What
    /// that says of a tokenizer stays only if the run keeps it.
    ///
    /// # Errors
    /// There is no such preset and no such file, an override names no size, or the sizes do not fit together.
    pub fn architecture(&self) -> Result<CocaConfig> {
        let name = &self.model.preset;
        let path = Path::new(name);
        let base = if !PRESETS.contains(&name.as_str()) && path.exists() {
            let path = if path.is_dir() { path.join("open_clip_config.json") } else { path.to_owned() };
            let text = std::fs::read_to_string(&path).map_err(|source| Error::io(&path, source))?;
            CocaConfig::from_open_clip(&text)?
        } else {
            CocaConfig::preset(name).map_err(|error| {
                let near = layers::nearest(name, PRESETS.into_iter());
                let hint = near.map_or(String::new(), |near| format!("; did you mean {near}?"));
                Error::invalid(format!("model.preset: {error}; nor is there such a file{hint}"))
            })?
        };
        let mut architecture = self.with_overrides(&base)?;
        if !self.keeps_tokenizer() {
            architecture.tokenizer = TokenizerKeys::default();
        }
        Ok(architecture)
    }

    /// Whether the tokenizer is that of the weights to start from.
    pub fn keeps_tokenizer(&self) -> bool {
        self.model.tokenizer == "captions" && !self.model.init.as_os_str().is_empty()
    }

    /// An architecture with `model.overrides` laid over it.
    ///
    /// # Errors
    /// An override names no size, or the sizes do not fit together.
    pub fn with_overrides(&self, base: &CocaConfig) -> Result<CocaConfig> {
        let refuse = |error: &dyn std::fmt::Display| Error::invalid(format!("model.overrides: {error}"));
        let mut sizes = serde_json::to_value(base).map_err(|error| refuse(&error))?;
        overlay(&mut sizes, serde_json::to_value(&self.model.overrides).map_err(|error| refuse(&error))?);
        let architecture: CocaConfig = serde_json::from_value(sizes).map_err(|error| refuse(&error))?;
        architecture.validate()?;
        Ok(architecture)
    }

    /// The instruction set to compute with.
    ///
    /// # Errors
    /// The name is unknown, or this machine lacks it.
    pub fn isa(&self) -> Result<engine::cpu::Isa> {
        match self.compute.isa.as_str() {
            "auto" => engine::cpu::Isa::from_env(),
            name => engine::cpu::Isa::parse(name),
        }
    }

    /// The number of threads to compute with.
    ///
    /// # Errors
    /// `COCA_THREADS` is not a number.
    pub fn threads(&self) -> Result<usize> {
        match self.compute.threads {
            0 => engine::cpu::threads_from_env(),
            count => Ok(count),
        }
    }
}
