//! `coca suite`: what one model can do, task by task, each figure beside what knowing less would reach. Every row comes from
//! a command that can be run alone; what is measured once stays, so that a suite that was stopped goes on.

mod examples;
mod origin;
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
use crate::signal::Stop;
use crate::{Error, Result};
use clap::{Parser, ValueEnum};
use engine::DType;
use model::weights::write_atomically;
use origin::{Models, Origin};
use plan::{Measurement, Planner};
use row::{Figures, Row};
use serde::{Serialize, Serializer};
use serde_json::Value;
use sets::Sets;
use std::io::{ErrorKind, Write};
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
    refuse_twins(&args.beside)?;
    let sets = Sets::open(&args.sets)?;
    let plan = |sections: &[Section]| {
        let (model, image_size) = (args.model.as_path(), folder.model.config().vision.image_size);
        let (out, steps, beside) = (args.out.as_path(), args.steps.get(), args.beside.as_slice());
        Planner { model, image_size, sets: &sets, out, steps, beside, sections }.plan()
    };
    let every = Section::value_variants();
    let asked = every.iter().copied().filter(|section| args.only.is_empty() || args.only.contains(section));
    // What an earlier call measured is a control too, whatever is asked for now.
    let (all, plan) = (plan(every), plan(&asked.collect::<Vec<_>>()));
    let models = Models::default();
    let read = |stem: &str| -> Option<Value> {
        let measurement = all.measurements.iter().find(|measurement| measurement.stem == stem)?;
        Origin::of(measurement, &models).ok().filter(|origin| origin.is_kept(measurement, &args.out))?;
        serde_json::from_slice(&std::fs::read(figures_of(measurement, &args.out)).ok()?).ok()
    };
    if args.again {
        plan.measurements.iter().try_for_each(|measurement| origin::forget(measurement, &args.out))?;
    }
    let stop = Stop::install()?;
    let mut measured = Vec::new();
    for (number, measurement) in plan.measurements.iter().enumerate() {
        let words = words(measurement, &args.out);
        let command = format!("coca {}", words.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" "));
        eprintln!("[{}/{}] {command}", number + 1, plan.measurements.len());
        Origin::of(measurement, &models)?.settle(measurement, &args.out)?;
        let figures = figures_of(measurement, &args.out);
        if !figures.exists() {
            // A training saves what it has; of anything else nothing is left to save.
            let watch = (!measurement.trains).then(|| stop.last_words(stopped(args.again))).transpose()?;
            run(&words)?;
            drop(watch);
            models.forget();
        }
        let own = own(&figures, args.again)?;
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

/// Refuses names to compare by whose figures would have one folder.
fn refuse_twins(beside: &[(String, PathBuf)]) -> Result<()> {
    let names: Vec<&str> = std::iter::once(plan::THIS).chain(beside.iter().map(|(name, _)| name.as_str())).collect();
    for (place, name) in names.iter().enumerate() {
        let folder = plan::folder_name(name);
        if let Some(twin) = names[..place].iter().find(|twin| plan::folder_name(twin) == folder) {
            return Err(Error::invalid(format!(
                "--beside '{name}' and '{twin}' would both have their figures in beside/{folder}: choose another name"
            )));
        }
    }
    Ok(())
}

fn stopped(again: bool) -> String {
    let without = if again { " without --again" } else { "" };
    format!("stopped; the same command{without} goes on")
}

/// The figures that the command wrote.
fn own(figures: &Path, again: bool) -> Result<Value> {
    let bytes = std::fs::read(figures).map_err(|error| match error.kind() {
        ErrorKind::NotFound => Error::invalid(stopped(again)),
        _ => Error::io(figures, error),
    })?;
    serde_json::from_slice(&bytes)
        .map_err(|error| Error::invalid(format!("{}: no figures: {error}; start anew with --again", figures.display())))
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
