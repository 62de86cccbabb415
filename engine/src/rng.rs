//! Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011): random numbers as a function
//! of a key and a counter, so the same bits come out on every device, in any order, and on recomputation.

/// One block of four random words for a counter under a key.
pub fn philox4x32(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for round in 0..10 {
        if round > 0 {
            key = [key[0].wrapping_add(0x9e37_79b9), key[1].wrapping_add(0xbb67_ae85)];
        }
        let first = 0xd251_1f53u64 * u64::from(counter[0]);
        let second = 0xcd9e_8d57u64 * u64::from(counter[2]);
        counter = [
            (second >> 32) as u32 ^ counter[1] ^ key[0],
            second as u32,
            (first >> 32) as u32 ^ counter[3] ^ key[1],
            first as u32,
        ];
    }
    counter
}

/// A stream of random numbers: block 0, 1, 2, … of one (seed, stream) pair. Different streams are independent.
#[derive(Clone, Debug)]
pub struct Philox {
    key: [u32; 2],
    stream: u64,
    block: u64,
    words: [u32; 4],
    left: usize,
}

impl Philox {
    /// Stream `stream` of the generator with this seed.
    pub fn new(seed: u64, stream: u64) -> Philox {
        Philox { key: [seed as u32, (seed >> 32) as u32], stream, block: 0, words: [0; 4], left: 0 }
    }

    /// 32 random bits.
    pub fn next_u32(&mut self) -> u32 {
        if self.left == 0 {
            let (block, stream) = (self.block, self.stream);
            let counter = [block as u32, (block >> 32) as u32, stream as u32, (stream >> 32) as u32];
            self.words = philox4x32(counter, self.key);
            self.block += 1;
            self.left = 4;
        }
        self.left -= 1;
        self.words[3 - self.left]
    }

    /// 64 random bits.
    pub fn next_u64(&mut self) -> u64 {
        u64::from(self.next_u32()) | u64::from(self.next_u32()) << 32
    }

    /// Uniform in [0, 1), a multiple of 2^-53.
    pub fn uniform(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Uniform in `0..bound` without bias (0 if `bound` is 0).
    pub fn below(&mut self, bound: usize) -> usize {
        if bound == 0 {
            return 0;
        }
        let bound = bound as u64;
        let reject = bound.wrapping_neg() % bound;
        loop {
            let product = u128::from(self.next_u64()) * u128::from(bound);
            if product as u64 >= reject {
                return (product >> 64) as usize;
            }
        }
    }

    /// Standard normal, by Box and Muller.
    pub fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.uniform()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.uniform()).cos()
    }

    /// Shuffles in place (Fisher and Yates).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for end in (1..items.len()).rev() {
            items.swap(end, self.below(end + 1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_answers() {
        // The first and last vectors of the Random123 distribution's test file for philox4x32 with 10 rounds.
        assert_eq!(philox4x32([0; 4], [0; 2]), [0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8]);
        assert_eq!(
            philox4x32([0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344], [0xa4093822, 0x299f31d0]),
            [0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1]
        );
    }

    #[test]
    fn moments_and_bounds() {
        let mut random = Philox::new(7, 3);
        let normals: Vec<f64> = (0..20_000).map(|_| random.normal()).collect();
        let mean = normals.iter().sum::<f64>() / normals.len() as f64;
        let variance = normals.iter().map(|x| x * x).sum::<f64>() / normals.len() as f64;
        // Four standard errors of the mean (1/sqrt n) and of the second moment (sqrt(2/n)).
        assert!(mean.abs() < 4.0 / (normals.len() as f64).sqrt(), "{mean}");
        assert!((variance - 1.0).abs() < 4.0 * (2.0 / normals.len() as f64).sqrt(), "{variance}");
        let mut seen = [0; 7];
        (0..7000).for_each(|_| seen[random.below(7)] += 1);
        assert!(seen.iter().all(|&count| (850..1150).contains(&count)), "{seen:?}");
        assert_eq!(random.below(0), 0);
    }

    #[test]
    fn streams_differ_and_repeat() {
        let take = |seed, stream| {
            let mut random = Philox::new(seed, stream);
            [random.next_u64(), random.next_u64()]
        };
        assert_eq!(take(1, 2), take(1, 2));
        assert_ne!(take(1, 2), take(1, 3));
        assert_ne!(take(1, 2), take(2, 2));
    }
}
