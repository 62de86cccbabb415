//! Errors as values. An error of an op names the op, its inputs and the line of model code that made it.

/// Result with the engine's error.
pub type Result<T> = std::result::Result<T, Error>;

/// Everything that can go wrong in the engine and in the kernels.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A request that cannot be met; the text names the thing and the fix.
    #[error("{0}")]
    Invalid(String),
    /// An op refused its inputs or failed while it ran.
    #[error("{op}: {detail}\n  inputs: {inputs}\n  at {place}")]
    Op {
        /// Name of the op.
        op: &'static str,
        /// What is wrong, and what would be right.
        detail: String,
        /// Shapes and dtypes of the inputs.
        inputs: String,
        /// Span and source line of the code that pushed the op.
        place: String,
    },
    /// An op, or a part of the optimiser, cannot run on the device of the queue; the text names it.
    #[error("{0}")]
    NoKernel(String),
    /// Reading or writing a file failed.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
}

impl Error {
    /// An error with its whole text; ops use it in `infer` and `run`, the tape adds op, shapes and source line.
    pub fn invalid(detail: impl Into<String>) -> Error {
        Error::Invalid(detail.into())
    }

    /// An error about a file.
    pub fn io(path: impl AsRef<std::path::Path>, source: std::io::Error) -> Error {
        Error::Io { path: path.as_ref().display().to_string(), source }
    }
}
