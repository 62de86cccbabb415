//! `atom`, `red`, and the element operations of bulk reductions.
use super::access::{fault_at, in_lane};
use super::half;
use super::lanes::lanes;
use super::warp::Warp;
use super::{Machine, Place};
use crate::banks;
use crate::op::{Atomic, AtomicKind, AtomicOp, Order, Space};
use crate::race::{self, Strong};
use crate::{Fault, FaultKind};

impl Machine<'_> {
    pub(super) fn atomic(&mut self, place: Place, warp: &mut Warp, atomic: &Atomic, mask: u32) -> Result<(), Fault> {
        self.counters.memory_instructions += 1;
        self.events += 1;
        let element = usize::from(atomic.bytes);
        let bytes = element * atomic.values.len();
        let addresses = self.addresses(warp, atomic.address, mask)?;
        let (addresses, parts) = self.spaces(atomic.space, &addresses, mask);
        for &register in &atomic.values {
            if atomic.wide { warp.need_long(register, mask)? } else { warp.need_word(register, mask)? }
        }
        if atomic.op == AtomicOp::CompareExchange {
            if atomic.wide { warp.need_long(atomic.swap, mask)? } else { warp.need_word(atomic.swap, mask)? }
        }
        let line = self.line(warp);
        let strong = Strong {
            writes: true,
            reads: !atomic.old.is_empty(),
            acquire: matches!(atomic.order, Order::Acquire | Order::AcquireRelease),
            release: matches!(atomic.order, Order::Release | Order::AcquireRelease),
        };
        let mut old = [[0u64; 32]; 8];
        for (space, mask) in parts.into_iter().filter(|(_, mask)| *mask != 0) {
            let shared = matches!(space, Space::Shared | Space::Cluster);
            if !shared && space != Space::Global {
                return Err(Fault::new(FaultKind::OutOfBounds, "atomics work on global and shared memory only"));
            }
            let mut local = [0u32; 32];
            for lane in lanes(mask) {
                let address = addresses[lane];
                if !address.is_multiple_of(bytes as u64) {
                    let message = format!("address {address:#x} is not a multiple of the {bytes} bytes of the access");
                    return Err(fault_at(FaultKind::Misaligned, lane, message));
                }
                let target = if shared {
                    let (rank, at) = self.shared_address(place, space, address).map_err(in_lane(lane))?;
                    local[lane] = at;
                    if let Some(races) = self.clusters[place.cluster].races.as_mut() {
                        let one = [u64::from(at); 32];
                        let space = race::Space::Shared(rank as u32);
                        let result = races.strong(place.race(), line, space, 1 << lane, &one, bytes as u32, strong);
                        result.map_err(|race| self.race(*race))?;
                    }
                    let shared = &mut self.clusters[place.cluster].blocks[rank].shared;
                    let offset = shared.locate(at, bytes).map_err(in_lane(lane))?;
                    if self.config.checks.uninitialised && !shared.written.contains(offset, bytes) {
                        let message = format!("an atomic on shared memory at {at:#x}, and nothing was written there");
                        return Err(fault_at(FaultKind::Uninitialised, lane, message));
                    }
                    shared.written.insert(offset, bytes);
                    &mut shared.bytes[offset..offset + bytes]
                } else {
                    let range = self.memory.locate(address, bytes).map_err(in_lane(lane))?;
                    if self.config.checks.uninitialised && !self.memory.written(range, bytes) {
                        let message =
                            format!("an atomic on global memory at {address:#x}, and nothing was written there");
                        return Err(fault_at(FaultKind::Uninitialised, lane, message));
                    }
                    self.memory.bytes_mut(range, bytes)
                };
                for (i, bytes) in target.chunks_exact_mut(element).enumerate() {
                    let read = |register: u16| {
                        if atomic.wide {
                            warp.longs[register as usize][lane]
                        } else {
                            warp.words[register as usize][lane].into()
                        }
                    };
                    let before = number(bytes);
                    old[i][lane] = before;
                    let value = read(atomic.values[i]);
                    let after = if atomic.op == AtomicOp::CompareExchange {
                        let same = before == value & (u64::MAX >> (64 - 8 * element));
                        if same { read(atomic.swap) } else { before }
                    } else {
                        combine(atomic.op, atomic.kind, atomic.bytes, before, value)
                    };
                    bytes.copy_from_slice(&after.to_le_bytes()[..element]);
                }
            }
            if shared {
                self.count_shared(&local, mask, bytes as u32);
            } else {
                self.counters.global_store_requests += 1;
                self.counters.global_store_sectors += u64::from(banks::global_sectors(&addresses, mask, bytes as u32));
                self.counters.global_store_bytes += bytes as u64 * u64::from(mask.count_ones());
                if let Some(races) = self.clusters[place.cluster].races.as_mut() {
                    let space = race::Space::Global;
                    let result = races.strong(place.race(), line, space, mask, &addresses, bytes as u32, strong);
                    result.map_err(|race| self.race(*race))?;
                }
            }
        }
        for (&register, value) in atomic.old.iter().zip(&old) {
            if atomic.wide {
                warp.set_long(register, value, mask);
            } else {
                warp.set_word(register, &value.map(|v| v as u32), mask);
            }
        }
        Ok(())
    }
}

fn number(bytes: &[u8]) -> u64 {
    let mut value = [0; 8];
    value[..bytes.len()].copy_from_slice(bytes);
    u64::from_le_bytes(value)
}

/// The new value of an element in memory.
pub fn combine(op: AtomicOp, kind: AtomicKind, bytes: u8, old: u64, value: u64) -> u64 {
    let shift = 64 - 8 * u32::from(bytes);
    let mask = u64::MAX >> shift;
    match kind {
        AtomicKind::Unsigned | AtomicKind::Signed => {
            let signed = |v: u64| ((v << shift) as i64) >> shift;
            let (a, b) = (old & mask, value & mask);
            match op {
                AtomicOp::Add => a.wrapping_add(b),
                AtomicOp::Min if kind == AtomicKind::Signed => signed(a).min(signed(b)) as u64,
                AtomicOp::Max if kind == AtomicKind::Signed => signed(a).max(signed(b)) as u64,
                AtomicOp::Min => a.min(b),
                AtomicOp::Max => a.max(b),
                AtomicOp::And => a & b,
                AtomicOp::Or => a | b,
                AtomicOp::Xor => a ^ b,
                AtomicOp::Increment => {
                    if a >= b {
                        0
                    } else {
                        a + 1
                    }
                }
                AtomicOp::Decrement => {
                    if a == 0 || a > b {
                        b
                    } else {
                        a - 1
                    }
                }
                AtomicOp::Exchange | AtomicOp::CompareExchange => b,
            }
        }
        AtomicKind::F64 => float(op, f64::from_bits(old), f64::from_bits(value)).to_bits(),
        AtomicKind::F32 => {
            let (a, b) = (f32::from_bits(old as u32), f32::from_bits(value as u32));
            u64::from((if op == AtomicOp::Add { a + b } else { float(op, a.into(), b.into()) as f32 }).to_bits())
        }
        AtomicKind::F16 => u64::from(half_of(op, false, old as u16, value as u16)),
        AtomicKind::Bf16 => u64::from(half_of(op, true, old as u16, value as u16)),
        AtomicKind::F16x2 | AtomicKind::Bf16x2 => {
            let brain = kind == AtomicKind::Bf16x2;
            let low = half_of(op, brain, old as u16, value as u16);
            let high = half_of(op, brain, (old >> 16) as u16, (value >> 16) as u16);
            u64::from(low) | (u64::from(high) << 16)
        }
    }
}

fn float(op: AtomicOp, a: f64, b: f64) -> f64 {
    match op {
        AtomicOp::Min => a.min(b),
        AtomicOp::Max => a.max(b),
        AtomicOp::Exchange => b,
        _ => a + b,
    }
}

fn half_of(op: AtomicOp, brain: bool, a: u16, b: u16) -> u16 {
    if brain {
        let value = float(op, half::from_brain(a).into(), half::from_brain(b).into());
        return half::to_brain(half::to_odd(value), false);
    }
    half::to_half(float(op, half::from_half(a).into(), half::from_half(b).into()), false)
}
