//! The shape of a launch, and what a device allows.

use super::Properties;
use crate::{Error, Result};

/// The shape of a launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Launch {
    /// Blocks along x, y and z.
    pub grid: [u32; 3],
    /// Threads of a block along x, y and z.
    pub block: [u32; 3],
    /// Blocks of a cluster along x, y and z; all 1 for none, or where the source says `__cluster_dims__`.
    pub cluster: [u32; 3],
    /// Bytes of dynamic shared memory of a block.
    pub shared_bytes: u32,
}

impl Launch {
    /// A launch along x alone, without clusters and dynamic shared memory.
    pub fn linear(blocks: u32, threads: u32) -> Launch {
        Launch { grid: [blocks, 1, 1], block: [threads, 1, 1], cluster: [1; 3], shared_bytes: 0 }
    }

    /// The same launch with `bytes` bytes of dynamic shared memory a block.
    pub fn with_shared(self, bytes: u32) -> Launch {
        Launch { shared_bytes: bytes, ..self }
    }

    /// Checks a launch against the device; the error names the kernel.
    pub fn validate(&self, kernel: &str, properties: &Properties) -> Result<()> {
        let fail = |detail: String| Err(Error::invalid(format!("launch of {kernel}: {detail}")));
        let Launch { grid, block, cluster, shared_bytes } = self;
        let threads: u64 = block.iter().map(|&size| u64::from(size)).product();
        if !(1..=1024).contains(&threads) || block[2] > 64 {
            return fail(format!("a block has 1 to 1024 threads, at most 64 along z, not {block:?}"));
        }
        if grid.contains(&0) || grid[0] > i32::MAX as u32 || grid[1] > 65535 || grid[2] > 65535 {
            return fail(format!("a grid has 1 to 2^31 - 1 blocks along x and 65535 along y and z, not {grid:?}"));
        }
        let blocks: u64 = cluster.iter().map(|&size| u64::from(size)).product();
        let divides = grid.iter().zip(cluster).all(|(&grid, &cluster)| cluster > 0 && grid.is_multiple_of(cluster));
        if !divides || blocks > 8 {
            return fail(format!("a cluster has 1 to 8 blocks and divides the grid {grid:?}, unlike {cluster:?}"));
        }
        if blocks > 1 && properties.compute_capability < (9, 0) {
            let (major, minor) = properties.compute_capability;
            return fail(format!("compute capability {major}.{minor} has no clusters, 9.0 does"));
        }
        let most = properties.shared_bytes_per_block;
        if *shared_bytes > most {
            return fail(format!("a block has at most {most} bytes of shared memory, not {shared_bytes}"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cuda::ImageKind;

    #[test]
    fn launches_are_checked_against_the_device() {
        let properties = |compute_capability| Properties {
            name: "a device".into(),
            compute_capability,
            multiprocessors: 2,
            memory_bytes: 1 << 30,
            l2_bytes: 0,
            shared_bytes_per_block: 1000,
            image: ImageKind::Ptx,
            cuda: None,
        };
        let sound = Launch { grid: [4, 3, 2], block: [32, 4, 1], cluster: [2, 3, 1], shared_bytes: 1000 };
        sound.validate("k", &properties((9, 0))).unwrap();
        Launch::linear(1, 1024).with_shared(7).validate("k", &properties((8, 0))).unwrap();
        let broken: [(Launch, &str); 9] = [
            (Launch { block: [1024, 2, 1], ..sound }, "1 to 1024 threads"),
            (Launch { block: [1, 1, 65], ..sound }, "at most 64 along z, not [1, 1, 65]"),
            (Launch { block: [0, 1, 1], ..sound }, "not [0, 1, 1]"),
            (Launch { grid: [4, 0, 2], ..sound }, "not [4, 0, 2]"),
            (Launch { grid: [4, 65538, 2], ..sound }, "65535 along y and z"),
            (Launch { cluster: [3, 1, 1], ..sound }, "divides the grid [4, 3, 2], unlike [3, 1, 1]"),
            (Launch { cluster: [4, 3, 1], ..sound }, "1 to 8 blocks"),
            (Launch { cluster: [0, 1, 1], ..sound }, "unlike [0, 1, 1]"),
            (Launch { shared_bytes: 1001, ..sound }, "at most 1000 bytes of shared memory, not 1001"),
        ];
        for (launch, text) in broken {
            let error = launch.validate("k", &properties((9, 0))).expect_err(text).to_string();
            assert!(error.starts_with("launch of k: ") && error.contains(text), "{error}");
        }
        let error = sound.validate("k", &properties((8, 9))).unwrap_err().to_string();
        assert!(error.contains("compute capability 8.9 has no clusters"), "{error}");
    }
}
