//! One warp, a body of PTX, and a result for each lane.
use ptxemu::{Config, Fault, Gpu, Launch, Module};

/// What %r1 holds in each lane (%f1 the same bits, %h1 the lower half; with %r2 it is %d1).
pub const A: [u32; 32] = [
    0,
    1,
    2,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    0x3f80_0000,
    0xbf80_0000,
    0x4048_f5c3,
    0x7f80_0000,
    0xff80_0000,
    0x7fc0_0001,
    0x0000_0400,
    0x8000_0001,
    0x1234_5678,
    0x89ab_cdef,
    37,
    0x3fc0_3e00,
    0xc0a0_c500,
    0x4b00_0001,
    0xcb00_0001,
    0x3f00_0000,
    0x4020_0000,
    0xc020_0000,
    0x4f00_0000,
    0xcf00_0001,
    0x5f00_0000,
    0x3c00_3c00,
    99,
    0x8000,
    0x7f7f_ffff,
    0x0080_0000,
];

/// What %r2 holds.
pub const B: [u32; 32] = [
    0,
    1,
    0xffff_fffe,
    2,
    0x8000_0000,
    1,
    0x3f80_0001,
    0x3f80_0000,
    0x4049_0fdb,
    0x3f80_0000,
    0x7f80_0000,
    0x3f80_0000,
    33,
    5,
    0x8765_4321,
    31,
    6,
    0x4000_4100,
    0x3f80_3c00,
    0x3f00_0000,
    0x3f00_0000,
    0x7fc0_0000,
    0x3e99_999a,
    0x3e99_999a,
    3,
    0x3f80_0000,
    7,
    0x3c01_3c01,
    0xffff_ff9d,
    0x7fff,
    0x7f7f_ffff,
    0x0000_0001,
];

/// A kernel of one warp.
pub struct Kernel<'a> {
    /// Text before the kernel.
    pub module: &'a str,
    /// Its instructions; they leave the result in %r0, %d0, %f0, %g0, %h0 or %p0, whichever comes last in the text.
    pub body: &'a str,
    pub launch: Launch,
}

const HEAD: &str = ".version 8.7
.target sm_90
.address_size 64
";

const START: &str = ".visible .entry k(.param .u64 k_in, .param .u64 k_out) {
.reg .pred %p<8>; .reg .b16 %h<8>; .reg .b32 %r<32>; .reg .f32 %f<8>; .reg .b64 %d<32>; .reg .f64 %g<8>;
.reg .b64 %in; .reg .b64 %out;
ld.param.u64 %in, [k_in]; ld.param.u64 %out, [k_out];
mov.u32 %r30, %laneid; mul.wide.u32 %d31, %r30, 8; add.s64 %in, %in, %d31; add.s64 %out, %out, %d31;
ld.global.u64 %d1, [%in]; mov.b64 {%r1, %r2}, %d1; mov.b32 %f1, %r1; mov.b32 %f2, %r2;
cvt.u16.u32 %h1, %r1; cvt.u16.u32 %h2, %r2;
";

impl<'a> Kernel<'a> {
    /// One warp.
    pub const LAUNCH: Launch = Launch { grid: [1; 3], block: [32, 1, 1], cluster: [1; 3], shared_bytes: 0 };

    pub fn new(body: &'a str) -> Kernel<'a> {
        Kernel { module: "", body, launch: Kernel::LAUNCH }
    }

    /// Line of the PTX that the body begins at, without text before the kernel.
    pub fn first_line() -> u32 {
        (HEAD.matches('\n').count() + START.matches('\n').count()) as u32 + 2
    }

    fn text(&self) -> String {
        let last = ["%r0", "%d0", "%f0", "%g0", "%h0", "%p0"].into_iter().max_by_key(|name| self.body.rfind(name));
        let end = match last {
            Some("%d0") => "",
            Some("%f0") => "mov.b32 %r29, %f0; cvt.u64.u32 %d0, %r29;",
            Some("%g0") => "mov.b64 %d0, %g0;",
            Some("%h0") => "cvt.u64.u16 %d0, %h0;",
            Some("%p0") => "selp.u32 %r29, 1, 0, %p0; cvt.u64.u32 %d0, %r29;",
            _ => "cvt.u64.u32 %d0, %r0;",
        };
        format!("{HEAD}{}\n{START}{}\n{end}\nst.global.u64 [%out], %d0;\nret;\n}}\n", self.module, self.body)
    }

    fn run_on(&self, seed: u64, a: &[u32; 32], b: &[u32; 32]) -> Result<[u64; 32], Fault> {
        let module = Module::parse(&self.text())?;
        let mut gpu = Gpu::new(Config { seed, ..Config::default() });
        let (input, output) = (gpu.allocate(256), gpu.allocate(256));
        let bytes: Vec<u8> = a.iter().zip(b).flat_map(|(a, b)| [a.to_le_bytes(), b.to_le_bytes()].concat()).collect();
        gpu.write(input, &bytes)?;
        let parameters = [input.to_le_bytes(), output.to_le_bytes()].concat();
        gpu.launch(&module, "k", &self.launch, &parameters)?;
        let mut bytes = [0; 256];
        gpu.read(output, &mut bytes)?;
        let (results, _) = bytes.as_chunks::<8>();
        Ok(std::array::from_fn(|lane| u64::from_le_bytes(results[lane])))
    }

    /// The result of each lane.
    pub fn run(&self, seed: u64) -> Result<[u64; 32], Fault> {
        self.run_on(seed, &A, &B)
    }
}

/// Runs a body on [`A`] and [`B`].
pub fn run(body: &str) -> Result<[u64; 32], Fault> {
    Kernel::new(body).run(1)
}

/// Runs a body on other inputs.
pub fn run_with(body: &str, a: &[u32; 32], b: &[u32; 32]) -> Result<[u64; 32], Fault> {
    Kernel::new(body).run_on(1, a, b)
}
