//! Loops over the 32 lanes of a warp, written so that the compiler makes vector code of them.

/// A 32-bit register of a warp: one word for each lane.
pub type Words = [u32; 32];

/// A 64-bit register of a warp.
pub type Longs = [u64; 32];

/// Applies a function to each lane of four registers.
#[inline(always)]
pub fn map(a: &Words, b: &Words, c: &Words, e: &Words, f: impl Fn(u32, u32, u32, u32) -> u32) -> Words {
    let mut result = [0; 32];
    for i in 0..32 {
        result[i] = f(a[i], b[i], c[i], e[i]);
    }
    result
}

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
