//! What is measured: the ops' own cases, products of given sizes, or the ops of a training step.

use crate::{Error, Result};
use engine::{DType, Device, Meta, Op};
use kernels::case::{Array, Case, CaseProgram, Input, Pass, Reference, Tolerance};
use kernels::matmul::{Layout, bench_case};
use std::collections::HashMap;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

/// Where shapes come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shapes {
    /// The training step of a configuration.
    Config(PathBuf),
    /// A product of `m` x `n` x `k`.
    Product(usize, usize, usize),
}

impl FromStr for Shapes {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Shapes, String> {
        let wanted = || format!("'{text}' is neither from=CONFIG.toml nor M=ROWS,N=COLUMNS,K=TERMS");
        if let Some(file) = text.strip_prefix("from=").filter(|file| !file.is_empty()) {
            return Ok(Shapes::Config(file.into()));
        }
        let mut sizes = [None; 3];
        for part in text.split(',') {
            let (name, value) = part.split_once('=').ok_or_else(wanted)?;
            let name = name.trim();
            let place = ["M", "N", "K"].iter().position(|size| size.eq_ignore_ascii_case(name)).ok_or_else(wanted)?;
            let size = value.trim().parse().ok().filter(|&size| size > 0);
            let size = size.ok_or_else(|| format!("{name}={value}: a whole number from 1 on is wanted"))?;
            if sizes[place].replace(size).is_some() {
                return Err(format!("'{text}' gives {name} twice"));
            }
        }
        match sizes {
            [Some(m), Some(n), Some(k)] => Ok(Shapes::Product(m, n, k)),
            _ => Err(format!("'{text}' lacks one of M, N and K")),
        }
    }
}

/// An op on inputs of given shapes, to be measured and checked.
#[derive(Clone, Debug)]
pub struct Subject {
    /// What it is called in tables.
    pub name: String,
    /// `forward`, `both`, or the phase of the training step that it is from.
    pub pass: &'static str,
    /// How often a training step runs it; 1 for cases.
    pub calls: usize,
    /// The op.
    pub op: Arc<dyn Op>,
    /// Its inputs.
    pub inputs: Vec<Input>,
    /// Whether its backward runs too.
    pub run: Pass,
    /// Its first outputs that hold results; those after them may be scratch.
    pub results: usize,
    /// The plain version, where it is known.
    pub reference: Option<Arc<dyn Reference>>,
    /// Error bound of what is compared: of outputs, or of gradients.
    pub tolerance: Tolerance,
}

impl Subject {
    /// A case of the kernels; none if it has no such pass.
    pub fn of_case(case: &Case, run: Pass) -> Option<Subject> {
        let (pass, tolerance) = match run {
            Pass::Forward => ("forward", case.forward),
            Pass::Both if case.results == 0 => return None,
            Pass::Both => ("both", case.backward),
        };
        Some(Subject {
            name: case.name.clone(),
            pass,
            calls: 1,
            op: case.op.clone(),
            inputs: case.inputs.clone(),
            run,
            results: case.results.max(1),
            reference: Some(case.reference.clone()),
            tolerance,
        })
    }

    /// Its program on these values, on this device; after a forward pass all outputs can be read.
    ///
    /// # Errors
    /// The op refuses its inputs, or memory runs out.
    pub fn program(&self, values: &[Array], device: &Device) -> Result<CaseProgram> {
        let metas: Vec<Meta> = self.inputs.iter().map(|input| input.meta).collect();
        let kept = match self.run {
            Pass::Forward => self.op.infer(&metas)?.len(),
            Pass::Both => 1,
        };
        CaseProgram::new(&self.op, &self.inputs, self.run, kept, values, device)
    }

    /// The type that it computes with: of its first input that holds numbers.
    pub fn dtype(&self) -> DType {
        let floats = self.inputs.iter().map(|input| input.meta.dtype).find(|dtype| dtype.is_float());
        floats.unwrap_or(DType::F32)
    }
}

/// The ops' own cases in shapes of real models, forward and with their backward.
pub fn of_kernels() -> Vec<Subject> {
    in_both_passes(&kernels::cases())
}

/// Those in sizes that fill a GPU.
pub fn of_gpu() -> Vec<Subject> {
    in_both_passes(&kernels::gpu_cases())
}

fn in_both_passes(cases: &[Case]) -> Vec<Subject> {
    let passes = |case: &Case| [Pass::Forward, Pass::Both].map(|pass| Subject::of_case(case, pass));
    cases.iter().filter(|case| case.bench_only).flat_map(passes).flatten().collect()
}

/// A product in all three storage orders and both types. A backward of one is products in the other orders.
pub fn products(sizes: (usize, usize, usize)) -> Vec<Subject> {
    let mut subjects = Vec::new();
    for dtype in [DType::F32, DType::BF16] {
        for layout in [Layout::Nn, Layout::Nt, Layout::Tn] {
            subjects.extend(Subject::of_case(&bench_case(layout, sizes, dtype), Pass::Forward));
        }
    }
    subjects
}

/// Those whose name has the filter in it. Equal names get a number.
///
/// # Errors
/// Nothing is left.
pub fn select(subjects: Vec<Subject>, filter: Option<&str>) -> Result<Vec<Subject>> {
    let mut names: Vec<&'static str> = subjects.iter().map(|subject| subject.op.name()).collect();
    let wanted = |subject: &Subject| filter.is_none_or(|filter| subject.name.contains(filter));
    let mut selected: Vec<Subject> = subjects.into_iter().filter(wanted).collect();
    if selected.is_empty() {
        names.sort_unstable();
        names.dedup();
        return Err(Error::invalid(format!(
            "no op has '{}' in its name; there are {}, and `model` for a whole training step",
            filter.unwrap_or_default(),
            names.join(", ")
        )));
    }
    let mut seen: HashMap<(String, &str), usize> = HashMap::new();
    for subject in &mut selected {
        let number = seen.entry((subject.name.clone(), subject.pass)).or_default();
        *number += 1;
        if *number > 1 {
            subject.name += &format!(" #{number}");
        }
    }
    Ok(selected)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_are_read() {
        let read = |text: &str| text.parse::<Shapes>();
        assert_eq!(read("M=4,N=5,K=6"), Ok(Shapes::Product(4, 5, 6)));
        assert_eq!(read("k=6, m=4, n=5"), Ok(Shapes::Product(4, 5, 6)));
        assert_eq!(read("from=a/b.toml"), Ok(Shapes::Config("a/b.toml".into())));
        assert_eq!(read("from=a,b=c.toml"), Ok(Shapes::Config("a,b=c.toml".into())));
        let fails = |text: &str, part: &str| {
            let error = read(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        };
        fails("M=4,N=5", "lacks one of M, N and K");
        fails("M=4,N=5,K=0", "K=0: a whole number from 1 on");
        fails("M=4,N=5,K=-1", "K=-1: a whole number from 1 on");
        fails("M=4,M=5,K=1", "gives M twice");
        fails("128x128x128", "neither from=CONFIG.toml nor M=");
        fails("M=4,N=5,L=1", "neither from=CONFIG.toml nor M=");
        fails("from=", "neither from=CONFIG.toml nor M=");
        fails("M=4,from=a.toml", "neither from=CONFIG.toml nor M=");
    }

    #[test]
    fn selection_is_by_name() {
        let all = of_kernels();
        let attention = select(all.clone(), Some("attention B-32")).unwrap();
        assert!(attention.iter().all(|subject| subject.op.name() == "attention"));
        assert!(attention.iter().any(|subject| subject.pass == "both" && subject.dtype() == DType::BF16));
        let error = select(all.clone(), Some("atention")).unwrap_err().to_string();
        assert!(error.contains("'atention'") && error.contains("attention, "), "{error}");
        let twice = select([all.clone(), all.clone()].concat(), None).unwrap();
        let mut names: Vec<_> = twice.iter().map(|subject| (&subject.name, subject.pass)).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), 2 * all.len(), "rows of two runs are matched by name and pass");
    }

    #[test]
    fn products_come_in_every_order() {
        let names: Vec<_> = products((8, 16, 24)).into_iter().map(|subject| subject.name).collect();
        assert_eq!(names[..3], ["matmul_nn 8x16x24 f32", "matmul_nt 8x16x24 f32", "matmul_tn 8x16x24 f32"]);
        assert_eq!(names.len(), 6);
    }
}
