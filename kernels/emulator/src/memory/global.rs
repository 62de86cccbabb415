//! Global memory: allocations that are never next to each other, so that an address belongs to one of them or to none.
use super::{Bits, POISON};
use crate::{Fault, FaultKind};

/// Address of the first allocation.
const FIRST: u64 = 0x10_0000_0000;
/// Alignment of allocations.
const ALIGN: u64 = 256;
/// Bytes after an allocation that belong to nobody.
const GUARD: u64 = 4096;

#[derive(Debug)]
struct Allocation {
    address: u64,
    bytes: Vec<u8>,
    written: Bits,
}

impl Allocation {
    fn end(&self) -> u64 {
        self.address + self.bytes.len() as u64
    }
}

/// A range inside one allocation.
#[derive(Clone, Copy, Debug)]
pub struct Range {
    allocation: usize,
    at: usize,
}

/// Global memory.
#[derive(Debug)]
pub struct Global {
    /// By address.
    allocations: Vec<Allocation>,
    next: u64,
    /// The allocation that was found last: the next access is mostly there too.
    recent: std::cell::Cell<usize>,
}

impl Global {
    /// Empty memory.
    pub fn new() -> Global {
        Global { allocations: Vec::new(), next: FIRST, recent: std::cell::Cell::new(0) }
    }

    /// A new allocation, with undefined contents.
    pub fn allocate(&mut self, bytes: usize) -> u64 {
        let address = self.next;
        self.next = (address + bytes as u64 + GUARD).next_multiple_of(ALIGN);
        self.allocations.push(Allocation { address, bytes: vec![POISON; bytes], written: Bits::new(bytes) });
        address
    }

    /// Frees the allocation that starts at an address; the address is not used again.
    pub fn free(&mut self, address: u64) -> Result<(), Fault> {
        match self.allocations.binary_search_by_key(&address, |allocation| allocation.address) {
            Ok(index) => {
                self.allocations.remove(index);
                self.recent.set(0);
                Ok(())
            }
            Err(_) => Err(Fault::new(FaultKind::OutOfBounds, format!("no allocation starts at {address:#x}"))),
        }
    }

    /// The range of `bytes` bytes at an address.
    #[inline]
    pub fn locate(&self, address: u64, bytes: usize) -> Result<Range, Fault> {
        let recent = self.recent.get();
        if let Some(found) = self.allocations.get(recent).filter(|a| address >= a.address && address < a.end()) {
            return self.inside(recent, found, address, bytes);
        }
        let index = self.allocations.partition_point(|allocation| allocation.address <= address);
        match index.checked_sub(1) {
            Some(index) => {
                self.recent.set(index);
                self.inside(index, &self.allocations[index], address, bytes)
            }
            None => Err(self.outside(address, bytes)),
        }
    }

    #[inline]
    fn inside(&self, allocation: usize, found: &Allocation, address: u64, bytes: usize) -> Result<Range, Fault> {
        if address + bytes as u64 > found.end() {
            return Err(self.outside(address, bytes));
        }
        Ok(Range { allocation, at: (address - found.address) as usize })
    }

    #[cold]
    fn outside(&self, address: u64, bytes: usize) -> Fault {
        let index = self.allocations.partition_point(|allocation| allocation.address <= address);
        let before = index.checked_sub(1).map(|index| {
            let a = &self.allocations[index];
            format!("{} bytes after the start of the {} bytes at {:#x}", address - a.address, a.bytes.len(), a.address)
        });
        let after = self
            .allocations
            .get(index)
            .map(|a| format!("{} bytes before the {} bytes at {:#x}", a.address - address, a.bytes.len(), a.address));
        let near: Vec<String> = before.into_iter().chain(after).collect();
        let near = if near.is_empty() { "nothing is allocated".into() } else { near.join(", ") };
        let message = format!("{bytes} bytes at global address {address:#x} are not in any allocation: {near}");
        Fault::new(FaultKind::OutOfBounds, message)
    }

    /// The bytes of a range.
    #[inline]
    pub fn bytes(&self, range: Range, bytes: usize) -> &[u8] {
        &self.allocations[range.allocation].bytes[range.at..range.at + bytes]
    }

    /// The bytes of a range, to be written; it counts as written.
    #[inline]
    pub fn bytes_mut(&mut self, range: Range, bytes: usize) -> &mut [u8] {
        let allocation = &mut self.allocations[range.allocation];
        allocation.written.insert(range.at, bytes);
        &mut allocation.bytes[range.at..range.at + bytes]
    }

    /// Whether everything in a range was written.
    #[inline]
    pub fn written(&self, range: Range, bytes: usize) -> bool {
        self.allocations[range.allocation].written.contains(range.at, bytes)
    }

    /// Copies within global memory with the state of being written.
    pub fn copy(&mut self, to: u64, from: u64, bytes: usize) -> Result<(), Fault> {
        let (to, from) = (self.locate(to, bytes)?, self.locate(from, bytes)?);
        let data = self.bytes(from, bytes).to_vec();
        let bits = self.allocations[from.allocation].written.clone();
        let target = &mut self.allocations[to.allocation];
        target.bytes[to.at..to.at + bytes].copy_from_slice(&data);
        target.written.copy_from(to.at, &bits, from.at, bytes);
        Ok(())
    }

    /// Makes the contents of an allocation undefined again.
    pub fn poison(&mut self, address: u64, bytes: usize) -> Result<(), Fault> {
        let range = self.locate(address, bytes)?;
        let allocation = &mut self.allocations[range.allocation];
        allocation.bytes[range.at..range.at + bytes].fill(POISON);
        allocation.written.remove(range.at, bytes);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn allocations_know_their_bounds() {
        let mut memory = Global::new();
        let (a, b) = (memory.allocate(100), memory.allocate(8));
        assert_eq!(a % 256, 0);
        assert_eq!(b % 256, 0);
        let range = memory.locate(a + 96, 4).unwrap();
        assert!(!memory.written(range, 4));
        memory.bytes_mut(range, 4).copy_from_slice(&[1, 2, 3, 4]);
        assert!(memory.written(range, 4));
        assert_eq!(memory.bytes(range, 4), [1, 2, 3, 4]);
        for (address, bytes) in [(a + 97, 4), (a - 4, 4), (b + 8, 1), (0, 1), (b - 1, 2)] {
            let fault = memory.locate(address, bytes).unwrap_err();
            assert_eq!(fault.kind, FaultKind::OutOfBounds, "{fault}");
        }
        memory.copy(b, a + 96, 4).unwrap();
        let copied = memory.locate(b, 8).unwrap();
        assert!(memory.written(copied, 4) && !memory.written(copied, 5));
        memory.free(a).unwrap();
        assert!(memory.locate(a, 1).is_err() && memory.free(a).is_err());
        assert!(memory.locate(b, 8).is_ok());
    }
}
