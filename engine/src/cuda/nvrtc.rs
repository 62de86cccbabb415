//! NVIDIA's run-time compiler, opened where it is found: nothing is linked and nothing needs to be installed to build.
//!
//! A folder with NVRTC holds `libnvrtc.so.MAJOR` and `libnvrtc-builtins.so.MAJOR.MINOR`. The first opens the second by
//! name alone, which the system finds only if that is loaded already: so it is, by its full path, first.

use super::search;
use crate::{Error, Result};
use libloading::Library;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::mem::ManuallyDrop;
use std::path::{Path, PathBuf};
use std::ptr::{null, null_mut};

type Program = *mut c_void;

/// The functions that are used, of nvrtc.h.
#[derive(Debug)]
struct Functions {
    version: unsafe extern "C" fn(*mut c_int, *mut c_int) -> c_int,
    error_string: unsafe extern "C" fn(c_int) -> *const c_char,
    create: unsafe extern "C" fn(
        *mut Program,
        *const c_char,
        *const c_char,
        c_int,
        *const *const c_char,
        *const *const c_char,
    ) -> c_int,
    compile: unsafe extern "C" fn(Program, c_int, *const *const c_char) -> c_int,
    destroy: unsafe extern "C" fn(*mut Program) -> c_int,
    log: Getter,
    ptx: Getter,
    cubin: Getter,
}

/// A pair of functions that tell the size of a result and copy it.
#[derive(Debug)]
struct Getter {
    size: unsafe extern "C" fn(Program, *mut usize) -> c_int,
    copy: unsafe extern "C" fn(Program, *mut c_char) -> c_int,
}

/// An opened NVRTC.
#[derive(Debug)]
pub struct Nvrtc {
    /// Never closed: the library registers handlers for the end of the process.
    _libraries: ManuallyDrop<Vec<Library>>,
    functions: Functions,
    version: (u32, u32),
    path: PathBuf,
}

/// What a compilation gives.
#[derive(Clone, Debug)]
pub(super) struct Output {
    /// The text, without its final NUL.
    pub ptx: Vec<u8>,
    /// Machine code for the architecture of the options.
    pub cubin: Vec<u8>,
    /// What compiler and assembler had to say.
    pub log: String,
}

impl Nvrtc {
    /// Opens `COCA_NVRTC` (a file or a folder) if that is set, else the newest version on this machine that makes code for
    /// a driver of CUDA `newest` (major and minor; `None` for any).
    pub fn find(newest: Option<(u32, u32)>) -> Result<Nvrtc> {
        let fits = |candidate: &search::Candidate| newest.is_none_or(|(major, _)| candidate.version.0 <= major);
        let found = search::candidates(fits)?;
        let mut failures = Vec::new();
        for candidate in found.iter().filter(|candidate| fits(candidate)) {
            match Nvrtc::open(candidate) {
                Ok(nvrtc) => return Ok(nvrtc),
                Err(error) => failures.push(error.to_string()),
            }
        }
        Err(Error::invalid(match (found.first(), newest) {
            _ if !failures.is_empty() => failures.join("\n"),
            (Some(other), Some((major, minor))) => format!(
                "the GPU's driver runs code of CUDA {major}.{minor}, but {} is of CUDA {}: install nvidia-cuda-nvrtc of \
                 version {major} or older, or a newer driver",
                other.library.display(),
                other.version.0
            ),
            _ => "NVIDIA's compiler NVRTC is not found: `pip install nvidia-cuda-nvrtc` installs it; COCA_NVRTC names its \
                  folder if it is elsewhere"
                .to_owned(),
        }))
    }

    fn open(candidate: &search::Candidate) -> Result<Nvrtc> {
        let path = &candidate.library;
        let failed = |what: &str| Error::invalid(format!("{}: {what}", path.display()));
        // SAFETY: opening a library runs its initialisers; these are NVIDIA's, from the folder that was asked for.
        let load = |path: &Path| unsafe { Library::new(path) }.map_err(|error| failed(&error.to_string()));
        let mut libraries = candidate.builtins.iter().map(|path| load(path)).collect::<Result<Vec<_>>>()?;
        let library = load(path)?;
        macro_rules! function {
            ($name:literal) => {
                // SAFETY: the type is the one that nvrtc.h declares for this name; the library is never closed.
                *unsafe { library.get($name.as_bytes()) }.map_err(|_| failed(concat!("it has no ", $name)))?
            };
        }
        let functions = Functions {
            version: function!("nvrtcVersion"),
            error_string: function!("nvrtcGetErrorString"),
            create: function!("nvrtcCreateProgram"),
            compile: function!("nvrtcCompileProgram"),
            destroy: function!("nvrtcDestroyProgram"),
            log: Getter { size: function!("nvrtcGetProgramLogSize"), copy: function!("nvrtcGetProgramLog") },
            ptx: Getter { size: function!("nvrtcGetPTXSize"), copy: function!("nvrtcGetPTX") },
            cubin: Getter { size: function!("nvrtcGetCUBINSize"), copy: function!("nvrtcGetCUBIN") },
        };
        libraries.push(library);
        let (mut major, mut minor) = (0, 0);
        // SAFETY: valid pointers to two integers.
        if unsafe { (functions.version)(&mut major, &mut minor) } != 0 || major < 12 {
            return Err(failed("NVRTC 12 or newer is needed"));
        }
        let version = (major as u32, minor as u32);
        Ok(Nvrtc { _libraries: ManuallyDrop::new(libraries), functions, version, path: path.clone() })
    }

    /// Version, major and minor.
    pub fn version(&self) -> (u32, u32) {
        self.version
    }

    /// The library's file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Compiles a text. `Ok(Err(log))` if the text is at fault.
    pub(super) fn compile(
        &self,
        name: &str,
        text: &str,
        options: &[String],
    ) -> Result<std::result::Result<Output, String>> {
        let c_string = |text: &str| {
            CString::new(text).map_err(|_| Error::invalid(format!("the source of {name} contains a zero byte")))
        };
        let (c_text, c_name) = (c_string(text)?, c_string(name)?);
        let c_options = options.iter().map(|option| c_string(option)).collect::<Result<Vec<_>>>()?;
        let c_options: Vec<*const c_char> = c_options.iter().map(|option| option.as_ptr()).collect();
        let mut program = Opened { functions: &self.functions, program: null_mut() };
        // SAFETY: strings that end with a zero byte and outlive the call; no headers are given.
        let created = unsafe {
            (self.functions.create)(&mut program.program, c_text.as_ptr(), c_name.as_ptr(), 0, null(), null())
        };
        self.check("nvrtcCreateProgram", created)?;
        // SAFETY: the program made above; options that outlive the call.
        let code = unsafe { (self.functions.compile)(program.program, c_options.len() as c_int, c_options.as_ptr()) };
        let log = String::from_utf8_lossy(&self.get(&program, &self.functions.log)?).into_owned();
        const COMPILATION: c_int = 6; // NVRTC_ERROR_COMPILATION
        if code == COMPILATION {
            return Ok(Err(log));
        }
        self.check("nvrtcCompileProgram", code).map_err(|error| Error::invalid(format!("{error}\n{}", log.trim())))?;
        let ptx = self.get(&program, &self.functions.ptx)?;
        // The size of machine code counts no final NUL.
        let cubin = self.get_exact(&program, &self.functions.cubin)?;
        Ok(Ok(Output { ptx, cubin, log }))
    }

    /// A text without its final NUL.
    fn get(&self, program: &Opened<'_>, getter: &Getter) -> Result<Vec<u8>> {
        let mut text = self.get_exact(program, getter)?;
        while text.last() == Some(&0) {
            text.pop();
        }
        Ok(text)
    }

    fn get_exact(&self, program: &Opened<'_>, getter: &Getter) -> Result<Vec<u8>> {
        let mut size = 0;
        // SAFETY: a live program and a valid pointer.
        self.check("NVRTC's query of a size", unsafe { (getter.size)(program.program, &mut size) })?;
        let mut bytes = vec![0u8; size];
        // SAFETY: a live program; the buffer has the size that it asked for.
        self.check("NVRTC's copy of a result", unsafe { (getter.copy)(program.program, bytes.as_mut_ptr().cast()) })?;
        Ok(bytes)
    }

    fn check(&self, call: &str, code: c_int) -> Result<()> {
        if code == 0 {
            return Ok(());
        }
        // SAFETY: returns a static string for any code.
        let text = unsafe { CStr::from_ptr((self.functions.error_string)(code)) };
        Err(Error::invalid(format!("{call} fails: {} ({})", text.to_string_lossy(), self.path.display())))
    }
}

/// A program of NVRTC, destroyed when dropped.
struct Opened<'a> {
    functions: &'a Functions,
    program: Program,
}

impl Drop for Opened<'_> {
    fn drop(&mut self) {
        if !self.program.is_null() {
            // SAFETY: made by `nvrtcCreateProgram`, destroyed once.
            unsafe { (self.functions.destroy)(&mut self.program) };
        }
    }
}
