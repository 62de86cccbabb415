//! Bank conflicts of shared memory and sectors of global memory, as counts.
//!
//! Shared memory has 32 banks of 4 bytes that answer one row each in a pass (a wavefront). A request of a warp is served in
//! groups of lanes that ask for at most 128 bytes together: all 32 lanes for accesses of up to 4 bytes, halves for 8 bytes,
//! quarters for 16 bytes. Lanes of a group that ask for the same word share it; different words of one bank take a pass each
//! (CUDA C++ programming guide, shared memory of compute capability 5.x and later).

/// Banks of shared memory.
pub const BANKS: u32 = 32;
/// Bytes of a bank's word.
pub const WORD_BYTES: u32 = 4;
/// Bytes of a sector, the smallest transfer of global memory.
pub const SECTOR_BYTES: u64 = 32;

/// Passes over the banks that a warp's request needs. `addresses` holds each lane's address in shared memory, `lanes` the
/// mask of those that take part, `bytes` the size of each lane's access: 1, 2, 4, 8 or 16.
pub fn shared_wavefronts(addresses: &[u32; 32], lanes: u32, bytes: u32) -> u32 {
    let group = (128 / bytes.max(WORD_BYTES)) as usize;
    let mut buffer = [0; 32];
    (0..32)
        .step_by(group)
        .map(|first| {
            let mut count = 0;
            for lane in (first..first + group).filter(|lane| lanes >> lane & 1 == 1) {
                buffer[count] = addresses[lane];
                count += 1;
            }
            group_wavefronts(&buffer[..count], bytes)
        })
        .sum()
}

/// The fewest passes that as many different words could need in the same groups: what [`shared_wavefronts`] is held against.
pub fn ideal_wavefronts(addresses: &[u32; 32], lanes: u32, bytes: u32) -> u32 {
    let group = (128 / bytes.max(WORD_BYTES)) as usize;
    (0..32)
        .step_by(group)
        .map(|first| {
            let mut words: Vec<u32> = (first..first + group)
                .filter(|lane| lanes >> lane & 1 == 1)
                .flat_map(|lane| words_of(addresses[lane], bytes))
                .collect();
            words.sort_unstable();
            words.dedup();
            (words.len() as u32).div_ceil(BANKS)
        })
        .sum()
}

/// Passes that the rows of one 8x8 matrix of ldmatrix or stmatrix need: `rows` are the addresses of its 16-byte rows.
pub fn matrix_wavefronts(rows: &[u32]) -> u32 {
    group_wavefronts(rows, 16)
}

/// 32-byte sectors of global memory that a warp's request touches.
pub fn global_sectors(addresses: &[u64; 32], lanes: u32, bytes: u32) -> u32 {
    let mut sectors = [0u64; 64];
    let mut count = 0;
    for lane in (0..32).filter(|lane| lanes >> lane & 1 == 1) {
        let first = addresses[lane] / SECTOR_BYTES;
        let last = (addresses[lane] + u64::from(bytes) - 1) / SECTOR_BYTES;
        for sector in [first, last] {
            // Neighbouring lanes mostly share a sector: look at the newest one first.
            if !sectors[..count].iter().rev().any(|&seen| seen == sector) {
                sectors[count] = sector;
                count += 1;
            }
        }
    }
    count as u32
}

fn words_of(address: u32, bytes: u32) -> impl Iterator<Item = u32> {
    address / WORD_BYTES..=(address + bytes - 1) / WORD_BYTES
}

/// The fullest bank of one group of at most 32 words.
fn group_wavefronts(addresses: &[u32], bytes: u32) -> u32 {
    let mut words = [0u32; 64];
    let mut count = 0;
    let mut load = [0u32; BANKS as usize];
    for word in addresses.iter().flat_map(|&address| words_of(address, bytes)) {
        if !words[..count].contains(&word) {
            words[count] = word;
            count += 1;
            load[(word % BANKS) as usize] += 1;
        }
    }
    load.into_iter().max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lanes(address: impl Fn(u32) -> u32) -> [u32; 32] {
        std::array::from_fn(|lane| address(lane as u32))
    }

    #[test]
    fn strides_of_words_conflict_by_their_common_factor_with_the_banks() {
        for stride in 1..=33u32 {
            let greatest_common_divisor = (1..=32).filter(|d| 32 % d == 0 && stride % d == 0).max().unwrap();
            let addresses = lanes(|lane| lane * stride * 4);
            assert_eq!(shared_wavefronts(&addresses, u32::MAX, 4), greatest_common_divisor, "stride {stride}");
            assert_eq!(ideal_wavefronts(&addresses, u32::MAX, 4), 1);
        }
    }

    #[test]
    fn one_word_is_broadcast_and_parts_of_a_word_are_shared() {
        assert_eq!(shared_wavefronts(&[512; 32], u32::MAX, 4), 1);
        assert_eq!(shared_wavefronts(&lanes(|lane| lane), u32::MAX, 1), 1);
        assert_eq!(shared_wavefronts(&lanes(|lane| lane * 2), u32::MAX, 2), 1);
        assert_eq!(shared_wavefronts(&lanes(|lane| lane * 128), 0, 4), 0);
        assert_eq!(shared_wavefronts(&lanes(|lane| lane * 128), 0b101, 4), 2);
    }

    #[test]
    fn wide_accesses_go_in_halves_and_quarters() {
        for (bytes, groups) in [(8, 2), (16, 4)] {
            assert_eq!(shared_wavefronts(&lanes(|lane| lane * bytes), u32::MAX, bytes), groups);
            assert_eq!(ideal_wavefronts(&lanes(|lane| lane * bytes), u32::MAX, bytes), groups);
        }
        // Rows of 128 bytes read down a column of 16-byte parts: each quarter meets one group of banks eight times.
        assert_eq!(shared_wavefronts(&lanes(|lane| lane * 128), u32::MAX, 16), 32);
        // The same with the 128-byte swizzle.
        let swizzled = lanes(|lane| lane * 128 + ((lane % 8) << 4));
        assert_eq!(shared_wavefronts(&swizzled, u32::MAX, 16), 4);
    }

    #[test]
    fn a_matrix_is_one_pass_without_conflicts_and_eight_at_worst() {
        let rows = |pitch: u32| (0..8).map(|row| row * pitch).collect::<Vec<_>>();
        assert_eq!([16, 144, 32, 64, 128].map(|pitch| matrix_wavefronts(&rows(pitch))), [1, 1, 2, 4, 8]);
    }

    #[test]
    fn sectors_are_counted_once() {
        let at = |address: fn(u64) -> u64| std::array::from_fn::<u64, 32, _>(|lane| address(lane as u64));
        assert_eq!(global_sectors(&at(|lane| 4096 + lane * 4), u32::MAX, 4), 4);
        assert_eq!(global_sectors(&at(|lane| 4112 + lane * 4), u32::MAX, 4), 5);
        assert_eq!(global_sectors(&at(|lane| lane * 256), u32::MAX, 4), 32);
        assert_eq!(global_sectors(&at(|lane| lane * 16), u32::MAX, 16), 16);
        assert_eq!(global_sectors(&at(|_| 64), u32::MAX, 8), 1);
        assert_eq!(global_sectors(&at(|lane| lane * 256), 0, 4), 0);
    }
}
