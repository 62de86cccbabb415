//! A peer in a process of its own that works whenever it is asked, so that ours and theirs alternate.

use model::config::CocaConfig;
use std::io;
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use trainer::lab::peers::process::Process;

/// The script that runs the training steps of open_clip's CoCa, and of timm's Vision Transformer.
pub const STEP: &str = include_str!("../peers/torch_step.py");
/// The script that runs open_clip's model in use.
pub const INFERENCE: &str = include_str!("../peers/open_clip_inference.py");

/// The script that runs open_clip's transform and tokenizer.
pub const PIPELINE: &str = include_str!("../peers/open_clip_pipeline.py");

/// Rest before each contestant's turn: the threads of the one before keep a core busy for milliseconds.
pub const REST: Duration = Duration::from_millis(20);

/// A running peer. It ends when it is dropped.
#[derive(Debug)]
pub struct Peer(Process);

impl Peer {
    /// Starts the script and waits until its model stands. Its arguments are a file with the configuration, then `arguments`.
    ///
    /// # Errors
    /// The interpreter does not start, or the script ends before it is ready.
    pub fn start(
        python: &Path,
        script: &str,
        config: &CocaConfig,
        arguments: &[String],
        tuned: bool,
    ) -> io::Result<Peer> {
        let mut command = Command::new(python);
        command.args(["-c", script]);
        Peer::command(command, config, arguments, tuned)
    }

    /// The same of a program that speaks as the scripts do.
    ///
    /// # Errors
    /// It does not start, or ends before it is ready.
    pub fn program(program: &Path, config: &CocaConfig, arguments: &[String], tuned: bool) -> io::Result<Peer> {
        Peer::command(Command::new(program), config, arguments, tuned)
    }

    fn command(mut command: Command, config: &CocaConfig, arguments: &[String], tuned: bool) -> io::Result<Peer> {
        let path = std::env::temp_dir().join(format!("coca-peer-{}.json", std::process::id()));
        std::fs::write(&path, config.to_open_clip())?;
        command.arg(&path).args(arguments);
        if tuned {
            // Pages stay with the process, in huge pages: by default glibc gives every large activation back.
            command
                .env("MALLOC_MMAP_MAX_", "0")
                .env("MALLOC_TRIM_THRESHOLD_", "-1")
                .env("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1");
        }
        let mut peer = Peer(Process::start(command)?);
        let ready = peer.0.answer();
        std::fs::remove_file(&path)?;
        ready?;
        Ok(peer)
    }

    /// Rests, then does one of the things that its script knows, such as `step`; its seconds.
    ///
    /// # Errors
    /// The peer ended.
    pub fn seconds(&mut self, work: &str) -> io::Result<f64> {
        std::thread::sleep(REST);
        self.0.ask(work)?["seconds"].as_f64().ok_or_else(|| io::Error::other("the peer gave no seconds"))
    }

    /// Most memory that it has held, in bytes.
    ///
    /// # Errors
    /// The peer ended.
    pub fn peak_bytes(&mut self) -> io::Result<u64> {
        self.0.ask("memory")?["bytes"].as_u64().ok_or_else(|| io::Error::other("the peer gave no bytes"))
    }
}
