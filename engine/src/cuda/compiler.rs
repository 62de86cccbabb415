//! The compile service: sources in, machine code out, each variant compiled once on a machine.

use super::cache::{Cache, Entry};
use super::{Architecture, Compiled, Nvrtc, Source, Toolchain, log};
use crate::{Error, Result};
use std::path::Path;

/// Compiles kernels with NVRTC and keeps what it made on disk.
#[derive(Debug)]
pub struct Compiler {
    nvrtc: Nvrtc,
    cache: Option<Cache>,
}

impl Compiler {
    /// The NVRTC of this machine for a driver of CUDA `newest` (`None` for any), with the user's cache: `COCA_CACHE`, else
    /// `coca` in `XDG_CACHE_HOME` or `~/.cache`. Without a home nothing is kept.
    ///
    /// # Errors
    /// No NVRTC that fits, in one sentence.
    pub fn find(newest: Option<(u32, u32)>) -> Result<Compiler> {
        Ok(Compiler { nvrtc: Nvrtc::find(newest)?, cache: Cache::of_user() })
    }

    /// The same compiler with its cache in `folder`, or with none.
    pub fn with_cache(self, folder: Option<&Path>) -> Compiler {
        Compiler { cache: folder.map(Cache::new), ..self }
    }

    /// The NVRTC in use.
    pub fn nvrtc(&self) -> &Nvrtc {
        &self.nvrtc
    }

    /// Folder of what was compiled before.
    pub fn cache_folder(&self) -> Option<&Path> {
        self.cache.as_ref().map(Cache::folder)
    }

    fn make(&self, architecture: Architecture, source: &Source, text: &str, options: &[String]) -> Result<Entry> {
        let fail =
            |log: &str| Error::invalid(format!("{} does not compile for {architecture}:\n{log}", source.title()));
        let output = match self.nvrtc.compile(source.name, text, options)? {
            Ok(output) => output,
            Err(log) => return Err(fail(&self.located(architecture, source, text, &log))),
        };
        let complaints = log::complaints(&output.log);
        if !complaints.is_empty() {
            return Err(fail(&complaints.join("\n")));
        }
        let ptx = log::with_given_names(&String::from_utf8_lossy(&output.ptx)).into_bytes();
        Ok(Entry { ptx, cubin: output.cubin, log: output.log.into_bytes() })
    }

    /// A log of errors with the `.cu` line of each line of PTX that it names. The assembler sees inline assembly only as
    /// PTX, and after its failure that is gone: so the front end runs once more, alone.
    fn located(&self, architecture: Architecture, source: &Source, text: &str, log: &str) -> String {
        let mut log = log.trim().to_owned();
        let refused = log::refused_lines(&log);
        let virtual_name = architecture.to_string().replacen("sm_", "compute_", 1);
        if !refused.is_empty()
            && let Ok(Ok(output)) = self.nvrtc.compile(source.name, text, &options(&virtual_name))
        {
            let ptx = log::with_given_names(&String::from_utf8_lossy(&output.ptx));
            for line in refused {
                let written = ptx.lines().nth(line - 1).unwrap_or_default().trim();
                if let Some((file, number)) = log::source_of(&ptx, line) {
                    log += &format!("\n{file}({number}): line {line} of the PTX is `{written}`");
                }
            }
        }
        log
    }

    /// Compiles every source, each distinct one once; `progress` hears of each before its turn: how many are done, how
    /// many there are, and its title.
    pub fn compile_all(
        &self,
        architecture: Architecture,
        sources: &[Source],
        progress: &mut dyn FnMut(usize, usize, &str),
    ) -> Result<Vec<Compiled>> {
        let mut made: Vec<Compiled> = Vec::with_capacity(sources.len());
        for (index, source) in sources.iter().enumerate() {
            let compiled = match sources[..index].iter().position(|earlier| earlier == source) {
                Some(earlier) => made[earlier].clone(),
                None => {
                    progress(index, sources.len(), &source.title());
                    self.compile(architecture, source)?
                }
            };
            made.push(compiled);
        }
        Ok(made)
    }
}

impl Toolchain for Compiler {
    /// Compiles a source for an architecture, or finds it in the cache.
    ///
    /// # Errors
    /// The source is at fault: the error shows the `.cu` file and line. Also where the assembler says that it ignores an
    /// instruction or makes asynchronous products wait for each other: such a kernel is not what was written.
    fn compile(&self, architecture: Architecture, source: &Source) -> Result<Compiled> {
        let (text, options) = (source.text(), options(&architecture.to_string()));
        let (major, minor) = self.nvrtc.version();
        let key = format!("NVRTC {major}.{minor} {}\n{text}", options.join(" "));
        let stored = self.cache.as_ref().and_then(|cache| cache.get(&key));
        let entry = match stored {
            Some(entry) => entry,
            None => {
                let entry = self.make(architecture, source, &text, &options)?;
                if let Some(cache) = &self.cache {
                    // A cache that cannot be written costs time at the next start, nothing else.
                    let _ = cache.put(&key, &entry);
                }
                entry
            }
        };
        let log = String::from_utf8_lossy(&entry.log);
        Ok(Compiled {
            title: source.title(),
            ptx: entry.ptx.into(),
            cubin: entry.cubin.into(),
            functions: log::usage(&log),
            warnings: log::warnings(&log).into_iter().map(str::to_owned).collect(),
        })
    }
}

/// Options of every compilation: line tables, so that faults name a line, and the assembler's report.
fn options(architecture: &str) -> Vec<String> {
    let architecture = format!("--gpu-architecture={architecture}");
    [&architecture, "--std=c++17", "-lineinfo", "--ptxas-options=-v"].map(str::to_owned).into()
}
