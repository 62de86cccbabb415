//! Loops over the 32 lanes of a warp, written so that the compiler makes vector code of them.

/// A 32-bit register of a warp: one word for each lane.
pub type Words = [u32; 32];

/// A 64-bit register of a warp.
pub type Longs = [u64; 32];

/// A table of operations on lanes: an enum, and `run`, which computes one of them for all lanes.
///
/// A body must be total: it also runs for lanes that are masked off, on whatever their registers hold.
macro_rules! operations {
    (
        $(#[$meta:meta])* $name:ident $operands:tt -> $result:ty { $($kind:ident => $body:expr,)* }
    ) => {
        // Each kind takes the operands along: a name that repeats cannot be used within another repetition.
        operations! { @table $(#[$meta])* $name $operands -> $result { $($kind $operands => $body,)* } }
    };
    (
        @table $(#[$meta:meta])* $name:ident($($operand:ident: $type:ty),*) -> $result:ty {
            $($kind:ident($($name_of:ident: $type_of:ty),*) => $body:expr,)*
        }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name { $($kind),* }

        impl $name {
            /// Computes all lanes, in vectors of the instructions that this is compiled for.
            #[inline(always)]
            #[allow(unused_variables)]
            pub fn run(self, $($operand: &[$type; 32]),*) -> [$result; 32] {
                let mut result = [0; 32];
                match self {
                    $($name::$kind => for lane in 0..32 {
                        $(let $name_of: $type_of = $name_of[lane];)*
                        result[lane] = $body;
                    }),*
                }
                result
            }
        }
    };
}
pub(super) use operations;

/// A table of comparisons: as [`operations`], but `run` gives the mask of lanes for which one holds.
macro_rules! comparisons {
    ($(#[$meta:meta])* $name:ident($a:ident, $b:ident: $type:ty) { $($kind:ident => $body:expr,)* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name { $($kind),* }

        impl $name {
            /// The lanes for which it holds.
            #[inline(always)]
            pub fn run(self, a: &[$type; 32], b: &[$type; 32]) -> u32 {
                match self {
                    $($name::$kind => $crate::exec::lanes::ballot(|lane| {
                        let ($a, $b) = (a[lane], b[lane]);
                        $body
                    })),*
                }
            }
        }
    };
}
pub(super) use comparisons;

/// The mask of lanes for which a condition holds.
#[inline(always)]
pub fn ballot(f: impl Fn(usize) -> bool) -> u32 {
    let mut bits = [0u32; 32];
    for i in 0..32 {
        bits[i] = u32::from(f(i)) << i;
    }
    bits.iter().fold(0, |mask, bit| mask | bit)
}

/// Writes the lanes of a mask.
#[inline(always)]
pub fn blend_words(target: &mut Words, value: &Words, mask: u32) {
    if mask == u32::MAX {
        *target = *value;
        return;
    }
    for i in 0..32 {
        let keep = ((mask >> i) & 1).wrapping_sub(1);
        target[i] = (target[i] & keep) | (value[i] & !keep);
    }
}

/// Writes the lanes of a mask.
#[inline(always)]
pub fn blend_longs(target: &mut Longs, value: &Longs, mask: u32) {
    if mask == u32::MAX {
        *target = *value;
        return;
    }
    for i in 0..32 {
        let keep = u64::from((mask >> i) & 1).wrapping_sub(1);
        target[i] = (target[i] & keep) | (value[i] & !keep);
    }
}

/// The lanes of a mask, from the lowest.
pub fn lanes(mut mask: u32) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let lane = mask.trailing_zeros();
        mask &= mask.wrapping_sub(1);
        (lane < 32).then_some(lane as usize)
    })
}
