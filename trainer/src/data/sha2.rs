//! SHA-256 and SHA-512 (FIPS 180-4): the checksums of package registries, and those of the shards that are written. The two
//! differ in the width of a word, the number of rounds and how far words are turned.

/// First 64 bits of the fractional parts of the square roots of the first 8 primes; SHA-256 takes the upper halves.
#[rustfmt::skip]
const SQUARE_ROOTS: [u64; 8] = [
    0x6a09_e667_f3bc_c908, 0xbb67_ae85_84ca_a73b, 0x3c6e_f372_fe94_f82b, 0xa54f_f53a_5f1d_36f1,
    0x510e_527f_ade6_82d1, 0x9b05_688c_2b3e_6c1f, 0x1f83_d9ab_fb41_bd6b, 0x5be0_cd19_137e_2179,
];
/// The same of the cube roots of the first 80 primes.
#[rustfmt::skip]
const CUBE_ROOTS: [u64; 80] = [
    0x428a_2f98_d728_ae22, 0x7137_4491_23ef_65cd, 0xb5c0_fbcf_ec4d_3b2f, 0xe9b5_dba5_8189_dbbc,
    0x3956_c25b_f348_b538, 0x59f1_11f1_b605_d019, 0x923f_82a4_af19_4f9b, 0xab1c_5ed5_da6d_8118,
    0xd807_aa98_a303_0242, 0x1283_5b01_4570_6fbe, 0x2431_85be_4ee4_b28c, 0x550c_7dc3_d5ff_b4e2,
    0x72be_5d74_f27b_896f, 0x80de_b1fe_3b16_96b1, 0x9bdc_06a7_25c7_1235, 0xc19b_f174_cf69_2694,
    0xe49b_69c1_9ef1_4ad2, 0xefbe_4786_384f_25e3, 0x0fc1_9dc6_8b8c_d5b5, 0x240c_a1cc_77ac_9c65,
    0x2de9_2c6f_592b_0275, 0x4a74_84aa_6ea6_e483, 0x5cb0_a9dc_bd41_fbd4, 0x76f9_88da_8311_53b5,
    0x983e_5152_ee66_dfab, 0xa831_c66d_2db4_3210, 0xb003_27c8_98fb_213f, 0xbf59_7fc7_beef_0ee4,
    0xc6e0_0bf3_3da8_8fc2, 0xd5a7_9147_930a_a725, 0x06ca_6351_e003_826f, 0x1429_2967_0a0e_6e70,
    0x27b7_0a85_46d2_2ffc, 0x2e1b_2138_5c26_c926, 0x4d2c_6dfc_5ac4_2aed, 0x5338_0d13_9d95_b3df,
    0x650a_7354_8baf_63de, 0x766a_0abb_3c77_b2a8, 0x81c2_c92e_47ed_aee6, 0x9272_2c85_1482_353b,
    0xa2bf_e8a1_4cf1_0364, 0xa81a_664b_bc42_3001, 0xc24b_8b70_d0f8_9791, 0xc76c_51a3_0654_be30,
    0xd192_e819_d6ef_5218, 0xd699_0624_5565_a910, 0xf40e_3585_5771_202a, 0x106a_a070_32bb_d1b8,
    0x19a4_c116_b8d2_d0c8, 0x1e37_6c08_5141_ab53, 0x2748_774c_df8e_eb99, 0x34b0_bcb5_e19b_48a8,
    0x391c_0cb3_c5c9_5a63, 0x4ed8_aa4a_e341_8acb, 0x5b9c_ca4f_7763_e373, 0x682e_6ff3_d6b2_b8a3,
    0x748f_82ee_5def_b2fc, 0x78a5_636f_4317_2f60, 0x84c8_7814_a1f0_ab72, 0x8cc7_0208_1a64_39ec,
    0x90be_fffa_2363_1e28, 0xa450_6ceb_de82_bde9, 0xbef9_a3f7_b2c6_7915, 0xc671_78f2_e372_532b,
    0xca27_3ece_ea26_619c, 0xd186_b8c7_21c0_c207, 0xeada_7dd6_cde0_eb1e, 0xf57d_4f7f_ee6e_d178,
    0x06f0_67aa_7217_6fba, 0x0a63_7dc5_a2c8_98a6, 0x113f_9804_bef9_0dae, 0x1b71_0b35_131c_471b,
    0x28db_77f5_2304_7d84, 0x32ca_ab7b_40c7_2493, 0x3c9e_be0a_15c9_bebc, 0x431d_67c4_9c10_0d4c,
    0x4cc5_d4be_cb3e_42b6, 0x597f_299c_fc65_7e2a, 0x5fcb_6fab_3ad6_faec, 0x6c44_198c_4a47_5817,
];

/// Defines a digest by its word, the type of its length, its rounds, and the rotations (the last of `$low`: shifts) of its
/// four functions, in the order of the standard.
macro_rules! digest {
    ($(#[$doc:meta])* $name:ident, $word:ty, $length:ty, $rounds:literal, $high:expr, $low:expr) => {
        $(#[$doc])*
        #[derive(Clone, Debug)]
        pub struct $name {
            state: [$word; 8],
            /// What has not filled a block yet.
            rest: Vec<u8>,
            bytes: u64,
        }

        impl Default for $name {
            fn default() -> $name {
                $name { state: SQUARE_ROOTS.map(Self::word), rest: Vec::new(), bytes: 0 }
            }
        }

        impl $name {
            const BLOCK: usize = 16 * size_of::<$word>();

            /// The digest of these bytes.
            #[cfg(test)]
            pub fn of(bytes: &[u8]) -> Vec<u8> {
                let mut digest = $name::default();
                digest.update(bytes);
                digest.finish()
            }

            /// Takes more bytes in.
            pub fn update(&mut self, mut bytes: &[u8]) {
                self.bytes += bytes.len() as u64;
                if !self.rest.is_empty() {
                    let (fill, others) = bytes.split_at(bytes.len().min(Self::BLOCK - self.rest.len()));
                    self.rest.extend(fill);
                    bytes = others;
                    if self.rest.len() == Self::BLOCK {
                        let block = std::mem::take(&mut self.rest);
                        self.block(&block);
                    }
                }
                let blocks = bytes.chunks_exact(Self::BLOCK);
                self.rest.extend(blocks.remainder());
                blocks.for_each(|block| self.block(block));
            }

            /// The digest of all that was taken in.
            pub fn finish(mut self) -> Vec<u8> {
                let bits = self.bytes as $length * 8;
                let mut end = std::mem::take(&mut self.rest);
                end.push(0x80);
                while end.len() % Self::BLOCK != Self::BLOCK - size_of::<$length>() {
                    end.push(0);
                }
                end.extend(bits.to_be_bytes());
                end.chunks_exact(Self::BLOCK).for_each(|block| self.block(block));
                self.state.iter().flat_map(|word| word.to_be_bytes()).collect()
            }

            fn word(root: u64) -> $word {
                (root >> (u64::BITS - <$word>::BITS)) as $word
            }

            fn block(&mut self, block: &[u8]) {
                let high = |word: $word, turns: [u32; 3]| turns.iter().fold(0, |sum, &by| sum ^ word.rotate_right(by));
                let low = |word: $word, [first, second, shift]: [u32; 3]| {
                    word.rotate_right(first) ^ word.rotate_right(second) ^ word >> shift
                };
                let mut words = [0; $rounds];
                for (word, bytes) in words.iter_mut().zip(block.chunks_exact(size_of::<$word>())) {
                    *word = bytes.iter().fold(0, |word: $word, &byte| word << 8 | <$word>::from(byte));
                }
                for at in 16..$rounds {
                    words[at] = low(words[at - 2], $low[1])
                        .wrapping_add(words[at - 7])
                        .wrapping_add(low(words[at - 15], $low[0]))
                        .wrapping_add(words[at - 16]);
                }
                let [mut a, mut b, mut c, mut d, mut e, mut f, mut g, mut h] = self.state;
                for (word, root) in words.into_iter().zip(CUBE_ROOTS) {
                    let first = h
                        .wrapping_add(high(e, $high[1]))
                        .wrapping_add((e & f) ^ (!e & g))
                        .wrapping_add(Self::word(root))
                        .wrapping_add(word);
                    let second = high(a, $high[0]).wrapping_add((a & b) ^ (a & c) ^ (b & c));
                    (h, g, f, e, d, c, b, a) = (g, f, e, d.wrapping_add(first), c, b, a, first.wrapping_add(second));
                }
                for (state, word) in self.state.iter_mut().zip([a, b, c, d, e, f, g, h]) {
                    *state = state.wrapping_add(word);
                }
            }
        }
    };
}

digest! {
    /// SHA-256, 32 bytes.
    Sha256, u32, u64, 64, [[2, 13, 22], [6, 11, 25]], [[7, 18, 3], [17, 19, 10]]
}
digest! {
    /// SHA-512, 64 bytes.
    Sha512, u64, u128, 80, [[28, 34, 39], [14, 18, 41]], [[1, 8, 7], [19, 61, 6]]
}

/// Bytes as hexadecimal digits, in lower case.
pub fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_examples_of_the_standard() {
        // NIST's examples: "abc", and one message of more than a block.
        let long = b"abcdefghbcdefghicdefghijdefghijkefghijklfghijklmghijklmnhijklmnoijklmnopjklmnopqklmnopqrlmnopqrsmnopqrstnopqrstu";
        for (message, sha256, sha512) in [
            (
                &b"abc"[..],
                "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
                "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a\
                 2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f",
            ),
            (
                long,
                "cf5b16a778af8380036ce59e7b0492370b249b11e8f07a51afac45037afee9d1",
                "8e959b75dae313da8cf4f72814fc143f8f7779c6eb9f7fa17299aeadb6889018\
                 501d289e4900f7e4331b99dec4b5433ac7d329eeb6dd26545e96e55b874be909",
            ),
        ] {
            assert_eq!(hexadecimal(&Sha256::of(message)), sha256);
            assert_eq!(hexadecimal(&Sha512::of(message)), sha512);
        }
    }

    #[test]
    fn a_message_in_pieces_has_the_digest_of_the_whole() {
        let message: Vec<u8> = (0..1000u32).map(|at| (at * 7) as u8).collect();
        for piece in [1, 55, 56, 63, 64, 65, 111, 112, 127, 128, 129, 300] {
            let (mut short, mut long) = (Sha256::default(), Sha512::default());
            for part in message.chunks(piece) {
                short.update(part);
                long.update(part);
            }
            assert_eq!((short.finish(), long.finish()), (Sha256::of(&message), Sha512::of(&message)), "{piece}");
        }
        // Lengths around the end of a block, where the length of the message goes into the same block or one more.
        let all: Vec<u8> = (0..260).flat_map(|length| Sha256::of(&message[..length])).collect();
        assert_eq!(hexadecimal(&Sha256::of(&all)), "6ad25299ad8685c24624a03a63f9b8be1d6886cc06667fdc48010505a489b8ef");
        let all: Vec<u8> = (0..260).flat_map(|length| Sha512::of(&message[..length])).collect();
        assert_eq!(
            hexadecimal(&Sha512::of(&all))[..64],
            *"32b2c576a9b8a9f4982768671abe71bddb44213a9cefb359b42757d186dd8fc1"
        );
    }
}
