//! Every variant of every CUDA kernel compiles for every architecture, without spills and local arrays, and takes the
//! registers and shared memory that `src/cuda/registers.tsv` says, so that a change shows in the diff.
//!
//! `COCA_WRITE_REGISTERS=1 cargo test -p kernels --test compile` writes the table anew.

use engine::cuda::{Architecture, Source, Toolchain, Usage, compiler_or_skip};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

const CAPABILITIES: [(u32, u32); 6] = [(8, 0), (8, 6), (8, 9), (9, 0), (10, 0), (12, 0)];

/// The NVRTC that the table was made with: others allocate registers otherwise.
const VERSION: (u32, u32) = (13, 0);

/// Kernel and constants of a row, and its cell for each architecture.
type Table = BTreeMap<(String, String), [Option<Usage>; CAPABILITIES.len()]>;

fn constants(source: &Source) -> String {
    source.constants.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" ")
}

fn text(table: &Table) -> String {
    let mut text =
        "# registers/static shared bytes/spilled bytes of each kernel, by NVRTC 13.0; written by tests/compile.rs\n\
                    kernel\tconstants"
            .to_owned();
    for capability in CAPABILITIES {
        let _ = write!(text, "\t{}", Architecture::of(capability).expect("supported"));
    }
    for ((kernel, constants), cells) in table {
        let _ = write!(text, "\n{kernel}\t{constants}");
        for cell in cells {
            let _ = match cell {
                Some(usage) => write!(text, "\t{}/{}/{}", usage.registers, usage.shared_bytes, usage.spill_bytes),
                None => write!(text, "\t-"),
            };
        }
    }
    text + "\n"
}

#[test]
fn every_variant_compiles_for_every_architecture_as_the_table_says() {
    let Some(compiler) = compiler_or_skip("every_variant_compiles_for_every_architecture_as_the_table_says") else {
        return;
    };
    let mut table = Table::new();
    for (column, capability) in CAPABILITIES.into_iter().enumerate() {
        let architecture = Architecture::of(capability).expect("supported");
        for source in kernels::cuda::variants(architecture) {
            let compiled = compiler.compile(architecture, &source).unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(compiled.warnings, [""; 0], "{} for {architecture}", compiled.title);
            for (kernel, usage) in &compiled.functions {
                let spilled = (usage.spill_bytes, usage.stack_bytes);
                assert_eq!(spilled, (0, 0), "{kernel} of {} for {architecture} spills", compiled.title);
                let row = table.entry((kernel.clone(), constants(&source))).or_default();
                assert_eq!(row[column].replace(*usage), None, "{} is listed twice", compiled.title);
            }
        }
    }
    let hopper_alone = |(kernel, _): &(String, String)| ["gauge_wgmma", "matmul_sm90"].contains(&kernel.as_str());
    for (row, cells) in &table {
        let compiled: Vec<bool> = cells.iter().map(Option::is_some).collect();
        assert_eq!(compiled, CAPABILITIES.map(|capability| !hopper_alone(row) || capability == (9, 0)), "{row:?}");
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/cuda/registers.tsv");
    let made = text(&table);
    if std::env::var_os("COCA_WRITE_REGISTERS").is_some() {
        std::fs::write(&path, made).expect("the table can be written");
    } else if compiler.nvrtc().version() == VERSION {
        let committed = std::fs::read_to_string(&path).expect("the table is there");
        for (committed, made) in committed.lines().zip(made.lines()) {
            assert_eq!(
                committed,
                made,
                "a row of {} differs; see tests/compile.rs for how to write it anew",
                path.display()
            );
        }
        assert_eq!(committed.lines().count(), made.lines().count(), "rows of {}", path.display());
    }
}
