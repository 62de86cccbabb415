//! Accesses of a whole warp to one run of bytes, lane after lane: the common case, served without a look at each lane.
use super::lanes::Longs;

/// The first address, if all 32 lanes take part and lane i accesses the `bytes` bytes at first + i * bytes, aligned.
#[inline]
pub fn run_of(addresses: &Longs, mask: u32, bytes: u32) -> Option<u64> {
    let first = addresses[0];
    let mut run = mask == u32::MAX && first.is_multiple_of(u64::from(bytes));
    for lane in 0..32 {
        run &= addresses[lane] == first.wrapping_add(lane as u64 * u64::from(bytes));
    }
    run.then_some(first)
}

/// 32-byte sectors of a run.
pub fn sectors(first: u64, bytes: u32) -> u64 {
    let sector = crate::banks::SECTOR_BYTES;
    (first + 32 * u64::from(bytes) - 1) / sector - first / sector + 1
}

/// The elements of all lanes from the bytes of a run: `values[i][lane]` is element i.
pub fn gather(data: &[u8], element: usize, values: &mut [[u64; 32]]) {
    fn each<const BYTES: usize>(data: &[u8], values: &mut [[u64; 32]], number: impl Fn([u8; BYTES]) -> u64) {
        let (elements, _) = data.as_chunks::<BYTES>();
        let count = elements.len() / 32;
        for (i, value) in values.iter_mut().enumerate().take(count) {
            for lane in 0..32 {
                value[lane] = number(elements[lane * count + i]);
            }
        }
    }
    match element {
        1 => each(data, values, |[byte]| byte.into()),
        2 => each(data, values, |bytes| u16::from_le_bytes(bytes).into()),
        4 => each(data, values, |bytes| u32::from_le_bytes(bytes).into()),
        _ => each(data, values, u64::from_le_bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_recognised_and_taken_apart() {
        let run: Longs = std::array::from_fn(|lane| 0x1010 + 8 * lane as u64);
        assert_eq!(run_of(&run, u32::MAX, 8), Some(0x1010));
        assert_eq!(sectors(0x1010, 8), 9);
        assert_eq!(run_of(&run, u32::MAX, 4), None);
        assert_eq!(run_of(&run, u32::MAX >> 1, 8), None);
        assert_eq!(run_of(&run.map(|address| address + 4), u32::MAX, 8), None, "misaligned");
        let data: Vec<u8> = (0..64u32).flat_map(u32::to_le_bytes).collect();
        let mut values = [[0; 32]; 8];
        gather(&data, 4, &mut values);
        assert!((0..32).all(|lane| values[0][lane] == 2 * lane as u64 && values[1][lane] == 2 * lane as u64 + 1));
        assert_eq!(values[2], [0; 32]);
    }
}
