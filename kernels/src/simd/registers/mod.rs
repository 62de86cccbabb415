//! Vector registers of f32 for each instruction set, for products that keep their sums in them.

#[cfg(target_arch = "x86_64")]
mod x86;

use super::Float;
use engine::cpu::Isa;
use half::bf16;

/// A vector of f32 and what a register tile does with it.
///
/// # Safety
/// The functions need the CPU to have the instruction set; loads and stores touch `COUNT` elements.
pub(crate) trait Registers: Copy {
    /// Elements of a vector.
    const COUNT: usize;
    /// Vectors beside each other in a register tile.
    const TILE_VECTORS: usize;

    unsafe fn splat(value: f32) -> Self;
    unsafe fn load(from: *const f32) -> Self;
    /// Of bf16, widened.
    unsafe fn load_bf16(from: *const bf16) -> Self;
    unsafe fn store(self, to: *mut f32);
    unsafe fn add(self, other: Self) -> Self;
    /// `self * factor + sum`.
    unsafe fn multiply_add(self, factor: Self, sum: Self) -> Self;
}

/// What passes over rows do besides.
///
/// # Safety
/// As [`Registers`].
pub(crate) trait Lanes: Registers {
    unsafe fn multiply(self, other: Self) -> Self;
    /// The larger of each lane; `other` where one is NaN.
    unsafe fn max(self, other: Self) -> Self;
    /// The first `count` lanes, then those of `other`.
    unsafe fn first(self, count: usize, other: Self) -> Self;
    /// The nearest integer.
    unsafe fn round(self) -> Self;
    /// Times two to the power of an integer, at least -151 and at most 127. What is not normal may become 0.
    unsafe fn scale(self, exponent: Self) -> Self;
    /// The largest lane, of lanes that are no NaN.
    unsafe fn largest(self) -> f32;
    /// The sum of the lanes.
    unsafe fn total(self) -> f32;
    /// Rounded to bf16, ties to even. Subnormal values may become 0.
    unsafe fn store_bf16(self, to: *mut bf16);
}

/// e^x within 2 ulp for x up to 80; below -87.33 what is not normal may be 0, below -104 it is.
///
/// # Safety
/// The CPU has the instruction set.
#[inline(always)]
pub(crate) unsafe fn exp<R: Lanes>(x: R) -> R {
    // SAFETY: the caller's.
    unsafe {
        let bounded = R::splat(-104.2).max(x);
        let n = bounded.multiply(R::splat(std::f32::consts::LOG2_E)).round();
        // ln 2 in two parts; n has at most 8 bits, so n times the first part is exact.
        let r = n.multiply_add(R::splat(-0.693_145_75), bounded);
        let r = n.multiply_add(R::splat(-1.428_606_8e-6), r);
        // Minimax with an error of 2e-9.
        let mut p = R::splat(1.384_770_4e-3);
        for coefficient in [8.374_332e-3, 4.166_794e-2, 0.166_664_29, 0.499_999_94, 1.0, 1.0] {
            p = p.multiply_add(r, R::splat(coefficient));
        }
        p.scale(n)
    }
}

/// What is done with the vectors of an instruction set that is chosen at run time. `run` and what it calls are to be inlined.
pub(crate) trait Kernel {
    /// # Safety
    /// The CPU has the instruction set of these vectors, and what the kernel asks for.
    unsafe fn run<R: Lanes>(self);
}

/// What is done with pairs of bf16, which only products read. As [`Kernel`].
pub(crate) trait Products {
    /// # Safety
    /// As [`Kernel::run`].
    unsafe fn run<R: Registers>(self);
}

/// Runs a kernel with the widest vectors of an instruction set.
///
/// # Safety
/// The CPU has the instruction set, and what the kernel asks for.
#[inline(always)]
pub(crate) unsafe fn run(isa: Isa, kernel: impl Kernel) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{__m256, __m512};
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma")]
        unsafe fn avx512_bf16(kernel: impl Kernel) {
            // SAFETY: the caller's.
            unsafe { kernel.run::<x86::Rounding>() }
        }
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
        unsafe fn avx512(kernel: impl Kernel) {
            // SAFETY: the caller's.
            unsafe { kernel.run::<__m512>() }
        }
        #[target_feature(enable = "avx2,fma")]
        unsafe fn avx2(kernel: impl Kernel) {
            // SAFETY: the caller's.
            unsafe { kernel.run::<__m256>() }
        }
        match isa {
            // SAFETY: the caller's.
            Isa::Avx512Bf16 => return unsafe { avx512_bf16(kernel) },
            // SAFETY: the caller's.
            Isa::Avx512 => return unsafe { avx512(kernel) },
            // SAFETY: the caller's.
            Isa::Avx2 => return unsafe { avx2(kernel) },
            Isa::Scalar => {}
        }
    }
    let _ = isa;
    // SAFETY: the caller's.
    unsafe { kernel.run::<Plain>() }
}

/// Runs a kernel whose factors are pairs of bf16.
///
/// # Safety
/// The CPU has [`Isa::Avx512Bf16`], and what the kernel asks for.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma")]
pub(crate) unsafe fn run_pairs(kernel: impl Products) {
    // SAFETY: the caller's.
    unsafe { kernel.run::<x86::Pairs>() }
}

/// What vectors are loaded from.
pub(crate) trait Stored: Float {
    /// A vector, widened.
    ///
    /// # Safety
    /// As [`Registers::load`].
    unsafe fn load<R: Registers>(from: *const Self) -> R;
    /// A vector, rounded.
    ///
    /// # Safety
    /// As [`Registers::store`].
    unsafe fn store<R: Lanes>(vector: R, to: *mut Self);
}

impl Stored for f32 {
    #[inline(always)]
    unsafe fn load<R: Registers>(from: *const f32) -> R {
        // SAFETY: the caller's.
        unsafe { R::load(from) }
    }
    #[inline(always)]
    unsafe fn store<R: Lanes>(vector: R, to: *mut f32) {
        // SAFETY: the caller's.
        unsafe { vector.store(to) }
    }
}

impl Stored for bf16 {
    #[inline(always)]
    unsafe fn load<R: Registers>(from: *const bf16) -> R {
        // SAFETY: the caller's.
        unsafe { R::load_bf16(from) }
    }
    #[inline(always)]
    unsafe fn store<R: Lanes>(vector: R, to: *mut bf16) {
        // SAFETY: the caller's.
        unsafe { vector.store_bf16(to) }
    }
}

/// Four f32 in plain Rust, which compilers turn into the baseline's vectors.
pub(crate) type Plain = [f32; 4];

impl Registers for Plain {
    const COUNT: usize = 4;
    const TILE_VECTORS: usize = 2;

    #[inline(always)]
    unsafe fn splat(value: f32) -> Plain {
        [value; 4]
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Plain {
        // SAFETY: four elements, by the trait's contract.
        unsafe { from.cast::<Plain>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn load_bf16(from: *const bf16) -> Plain {
        // SAFETY: four elements, by the trait's contract.
        let halves = unsafe { from.cast::<[bf16; 4]>().read_unaligned() };
        std::array::from_fn(|lane| halves[lane].widen())
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: four elements, by the trait's contract.
        unsafe { to.cast::<Plain>().write_unaligned(self) }
    }
    #[inline(always)]
    unsafe fn add(self, other: Plain) -> Plain {
        std::array::from_fn(|lane| self[lane] + other[lane])
    }
    #[inline(always)]
    unsafe fn multiply_add(self, factor: Plain, sum: Plain) -> Plain {
        std::array::from_fn(|lane| self[lane] * factor[lane] + sum[lane])
    }
}

impl Lanes for Plain {
    #[inline(always)]
    unsafe fn multiply(self, other: Plain) -> Plain {
        std::array::from_fn(|lane| self[lane] * other[lane])
    }
    #[inline(always)]
    unsafe fn max(self, other: Plain) -> Plain {
        std::array::from_fn(|lane| if self[lane] > other[lane] { self[lane] } else { other[lane] })
    }
    #[inline(always)]
    unsafe fn first(self, count: usize, other: Plain) -> Plain {
        std::array::from_fn(|lane| if lane < count { self[lane] } else { other[lane] })
    }
    #[inline(always)]
    unsafe fn round(self) -> Plain {
        // Adding 1.5 * 2^23 leaves no bits behind the point.
        self.map(|value| value + 12_582_912.0 - 12_582_912.0)
    }
    #[inline(always)]
    unsafe fn scale(self, exponent: Plain) -> Plain {
        std::array::from_fn(|lane| self[lane] * f32::from_bits(((exponent[lane] as i32 + 127).max(0) << 23) as u32))
    }
    #[inline(always)]
    unsafe fn largest(self) -> f32 {
        self.into_iter().fold(f32::NEG_INFINITY, f32::max)
    }
    #[inline(always)]
    unsafe fn total(self) -> f32 {
        (self[0] + self[2]) + (self[1] + self[3])
    }
    #[inline(always)]
    unsafe fn store_bf16(self, to: *mut bf16) {
        // SAFETY: four elements, by the trait's contract.
        unsafe { to.cast::<[bf16; 4]>().write_unaligned(self.map(bf16::narrow)) }
    }
}
