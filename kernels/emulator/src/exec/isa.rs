//! The arithmetic tables compiled for the CPU at hand, chosen once: with AVX2 and FMA where it has them, else
//! for any CPU.
use super::lanes::{Longs, Words};
use super::{long, word};

/// The entry points of the tables.
#[derive(Clone, Copy, Debug)]
pub struct Isa {
    pub word: fn(word::Kind, &Words, &Words, &Words, &Words) -> Words,
    pub long: fn(long::Kind, &Longs, &Longs, &Longs, &Words, &Words) -> Longs,
    pub compare_word: fn(word::Compare, &Words, &Words) -> u32,
    pub compare_long: fn(long::Compare, &Longs, &Longs) -> u32,
}

impl Isa {
    /// The fastest that this machine can run.
    pub fn detect() -> Isa {
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            return x86::AVX2;
        }
        Isa {
            word: |kind, a, b, c, e| kind.run(a, b, c, e),
            long: |kind, a, b, c, x, y| kind.run(a, b, c, x, y),
            compare_word: |kind, a, b| kind.run(a, b),
            compare_long: |kind, a, b| kind.run(a, b),
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::*;

    /// Only to be used where AVX2 and FMA were detected.
    pub const AVX2: Isa = Isa {
        // SAFETY: `Isa::detect` hands these out only after it found AVX2 and FMA.
        word: |kind, a, b, c, e| unsafe { run_word(kind, a, b, c, e) },
        // SAFETY: as above.
        long: |kind, a, b, c, x, y| unsafe { run_long(kind, a, b, c, x, y) },
        // SAFETY: as above.
        compare_word: |kind, a, b| unsafe { compare_word(kind, a, b) },
        // SAFETY: as above.
        compare_long: |kind, a, b| unsafe { compare_long(kind, a, b) },
    };

    #[target_feature(enable = "avx2,fma")]
    fn run_word(kind: word::Kind, a: &Words, b: &Words, c: &Words, e: &Words) -> Words {
        kind.run(a, b, c, e)
    }

    #[target_feature(enable = "avx2,fma")]
    fn run_long(kind: long::Kind, a: &Longs, b: &Longs, c: &Longs, x: &Words, y: &Words) -> Longs {
        kind.run(a, b, c, x, y)
    }

    #[target_feature(enable = "avx2,fma")]
    fn compare_word(kind: word::Compare, a: &Words, b: &Words) -> u32 {
        kind.run(a, b)
    }

    #[target_feature(enable = "avx2,fma")]
    fn compare_long(kind: long::Compare, a: &Longs, b: &Longs) -> u32 {
        kind.run(a, b)
    }
}
