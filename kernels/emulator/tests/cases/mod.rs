//! One small kernel for each instruction and layout, for the emulator and for a GPU alike.
//!
//! A case is the body of a kernel in PTX that reads `IN`, writes `OUT` and may use the tensor map `MAP`; these three
//! stand for 64-bit registers with generic addresses. On the emulator the body stands in a module of its own, so that
//! no compiler is needed; for a GPU it becomes inline assembly of a CUDA kernel. `expected` is what the definition of
//! the instruction says.
mod barriers;
mod clusters;
mod copies;
mod matrices;

use ptxemu::tensor_map::Descriptor;

/// How close two results must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Agreement {
    /// Bit by bit.
    Bits,
    /// f32 sums of products whose terms have magnitudes up to a bound: an error of so many last places of that bound.
    Sums {
        /// Largest sum of magnitudes.
        magnitude: u32,
        /// Roundings on the way.
        roundings: u32,
    },
}

/// A tensor map over one of the buffers.
#[derive(Clone, Copy, Debug)]
pub enum Map {
    /// Over `IN`; the address is filled in.
    Input(Descriptor),
    /// Over `OUT`.
    Output(Descriptor),
}

/// One kernel.
#[derive(Clone, Debug)]
pub struct Case {
    /// Says what is tested.
    pub name: String,
    /// Oldest compute capability that has the instruction; 9.0 means exactly that.
    pub compute_capability: (u32, u32),
    /// Threads of a block.
    pub threads: u32,
    /// Blocks, all of one cluster.
    pub cluster: u32,
    /// PTX.
    pub body: String,
    /// Contents of `IN`.
    pub input: Vec<u8>,
    /// What `OUT` holds before.
    pub before: Vec<u8>,
    /// What `OUT` holds afterwards.
    pub expected: Vec<u8>,
    /// How close results must be.
    pub agreement: Agreement,
    /// The tensor map, if one is used.
    pub map: Option<Map>,
}

impl Case {
    /// A case of one warp whose result must be right bit by bit.
    fn new(
        name: impl Into<String>,
        compute_capability: (u32, u32),
        body: String,
        input: Vec<u8>,
        expected: Vec<u8>,
    ) -> Case {
        Case {
            name: name.into(),
            compute_capability,
            threads: 32,
            cluster: 1,
            body,
            input,
            before: vec![0; expected.len()],
            expected,
            agreement: Agreement::Bits,
            map: None,
        }
    }

    /// A PTX module with the kernel `case`.
    pub fn ptx(&self) -> String {
        let (major, minor) = self.compute_capability;
        let suffix = if major >= 9 { "a" } else { "" };
        let map = if self.map.is_some() { ",\n\t.param .align 64 .b8 case_map[128]" } else { "" };
        let map_address =
            if self.map.is_some() { "\tmov.b64 MAP, case_map;\n\tcvta.param.u64 MAP, MAP;\n" } else { "" };
        format!(
            ".version 8.3\n.target sm_{major}{minor}{suffix}\n.address_size 64\n\n.visible .entry case(\n\
             \t.param .u64 case_in,\n\
             \t.param .u64 case_out{map}\n)\n.maxntid {}, 1, 1\n{{\n\t.reg .b64 IN, OUT, MAP;\n\
             \tld.param.u64 IN, [case_in];\n\
             \tld.param.u64 OUT, [case_out];\n\tcvta.to.global.u64 IN, IN;\n\tcvta.to.global.u64 OUT, OUT;\n\
             {map_address}{}\n\tret;\n}}\n",
            self.threads, self.body
        )
    }

    /// Whether a device has the instructions: those of 9.0 are of that architecture alone.
    pub fn runs_on(&self, compute_capability: (u32, u32)) -> bool {
        if self.compute_capability == (9, 0) {
            compute_capability == (9, 0)
        } else {
            compute_capability >= self.compute_capability
        }
    }

    /// A CUDA kernel with the same body. It takes the tensor map in any case.
    pub fn cuda(&self, kernel: &str) -> String {
        let mut body = self.body.replace('%', "%%").replace("OUT", "%1").replace("IN", "%0").replace("MAP", "%2");
        body = body.lines().map(|line| format!("        \"{}\\n\"\n", line.trim())).collect();
        format!(
            "extern \"C\" __global__ void __launch_bounds__({}) {kernel}(const void* in, void* out, \
             const __grid_constant__ Map map) \
             {{\n    asm volatile(\n        \"{{\\n\"\n{body}        \"}}\"\n        \
             :: \"l\"(in), \"l\"(out), \"l\"(&map) : \"memory\");\n}}\n",
            self.threads
        )
    }

    /// Whether two contents of `OUT` agree; a sentence if they do not.
    pub fn compare(&self, found: &[u8], expected: &[u8]) -> Result<(), String> {
        let words = |bytes: &[u8]| -> Vec<u32> {
            bytes.chunks_exact(4).map(|word| u32::from_le_bytes([word[0], word[1], word[2], word[3]])).collect()
        };
        let (found, expected) = (words(found), words(expected));
        assert_eq!(found.len(), expected.len(), "{}", self.name);
        for (index, (&found, &expected)) in found.iter().zip(&expected).enumerate() {
            let close = match self.agreement {
                Agreement::Bits => false,
                Agreement::Sums { magnitude, roundings } => {
                    let bound = magnitude as f32 * f32::EPSILON * roundings as f32;
                    (f32::from_bits(found) - f32::from_bits(expected)).abs() <= bound
                }
            };
            if found != expected && !close {
                return Err(format!("{}: word {index} is {found:#010x} instead of {expected:#010x}", self.name));
            }
        }
        Ok(())
    }
}

/// CUDA source of kernels `case_0`, `case_1`, ... for a device that has their instructions, and their cases.
pub fn cuda(compute_capability: (u32, u32)) -> (String, Vec<Case>) {
    let cases: Vec<Case> = all().into_iter().filter(|case| case.runs_on(compute_capability)).collect();
    let mut text = "struct alignas(64) Map { unsigned long long opaque[16]; };\n".to_string();
    for (index, case) in cases.iter().enumerate() {
        text += &format!("// {}\n{}", case.name, case.cuda(&format!("case_{index}")));
    }
    (text, cases)
}

/// All cases.
pub fn all() -> Vec<Case> {
    let mut cases = matrices::cases();
    cases.extend(copies::cases());
    cases.extend(barriers::cases());
    cases.extend(clusters::cases());
    cases
}

/// Bytes of words.
fn bytes(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// Numbers without a pattern, the same on every machine.
fn noise(seed: u32, count: usize) -> Vec<u32> {
    let mut state = u64::from(seed).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..count)
        .map(|_| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 32) as u32
        })
        .collect()
}

/// Small values with few bits: sums of a few products of them are exact in f32, in any order.
fn small(seed: u32, count: usize) -> Vec<f32> {
    noise(seed, count).into_iter().map(|bits| ((bits >> 8) % 33) as f32 * 0.25 - 4.0).collect()
}

/// `t` is the thread, `from` and `to` the addresses of its words in `IN` and `OUT`.
const PROLOGUE: &str = "\t.reg .b32 t;\n\t.reg .b64 from, to;\n\tmov.u32 t, %tid.x;\n\tmul.wide.u32 to, t, 4;\n\
                        \tadd.u64 from, IN, to;\n\tadd.u64 to, OUT, to;\n";
