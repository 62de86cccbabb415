//! What can go wrong, and where: every error of the emulator is a [`Fault`].
use std::fmt;

/// The kind of a fault, so that tests can ask for one without reading its message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FaultKind {
    /// PTX that does not parse: a syntax error or an unknown name.
    Parse,
    /// An opcode, a modifier or a combination of them that the emulator does not execute.
    Unsupported,
    /// A launch that the device refuses: sizes, parameters, shared memory, registers.
    Launch,
    /// An access outside every allocation, the shared window, the parameters or the local frame.
    OutOfBounds,
    /// An address that is not a multiple of the access size.
    Misaligned,
    /// A register or a byte of memory read before anything wrote it.
    Uninitialised,
    /// Lanes of a warp disagree where the instruction demands that the whole warp executes it.
    Divergence,
    /// Two accesses of which one writes, without an order between them.
    Race,
    /// A write of the generic proxy read by the asynchronous proxy without `fence.proxy.async`.
    Proxy,
    /// A misused barrier: over-arrival, use before initialisation, wrong byte count.
    Barrier,
    /// A matrix or tensor-copy operand that the hardware would not accept.
    Descriptor,
    /// No warp can run and nothing is outstanding, or all of them wait for something that nobody will do.
    Deadlock,
    /// The program asked for it: `trap`, `brkpt`, a failed assertion.
    Trap,
}

/// Where a fault happened, as far as it is known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// Line of the PTX text, from 1.
    pub line: Option<u32>,
    /// The PTX instruction as it was written.
    pub instruction: Option<String>,
    /// File and line of the source, from `.loc` (present when compiled with `-lineinfo`).
    pub source: Option<(String, u32)>,
    /// Name of the kernel.
    pub kernel: Option<String>,
    /// Index of the block in the grid.
    pub block: Option<[u32; 3]>,
    /// Warp within the block.
    pub warp: Option<u32>,
    /// The lanes concerned, as a mask.
    pub lanes: Option<u32>,
}

/// An error of the emulator: what, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// What kind of mistake it is.
    pub kind: FaultKind,
    /// One sentence that names the thing.
    pub message: String,
    /// Where it happened; boxed because most results are not faults.
    pub place: Box<Place>,
}

impl Fault {
    /// A fault of `kind` with a message, at a place still unknown.
    pub fn new(kind: FaultKind, message: impl Into<String>) -> Self {
        Fault { kind, message: message.into(), place: Box::default() }
    }

    /// The same fault at a line of the PTX.
    pub fn at_line(mut self, line: u32) -> Self {
        self.place.line.get_or_insert(line);
        self
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.kind, self.message)?;
        let place = &self.place;
        if let Some(line) = place.line {
            write!(f, "; PTX line {line}")?;
        }
        if let Some(instruction) = &place.instruction {
            write!(f, " `{instruction}`")?;
        }
        if let Some((file, line)) = &place.source {
            write!(f, "; {file}:{line}")?;
        }
        if let Some(kernel) = &place.kernel {
            write!(f, "; kernel {kernel}")?;
        }
        if let Some([x, y, z]) = place.block {
            write!(f, ", block ({x}, {y}, {z})")?;
        }
        if let Some(warp) = place.warp {
            write!(f, ", warp {warp}")?;
        }
        if let Some(lanes) = place.lanes {
            write!(f, ", lanes {lanes:#010x}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Fault {}
