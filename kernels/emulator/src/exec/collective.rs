//! Exchanges between the lanes of a warp: shuffles, votes, matches, reductions, elections.
use super::lanes::{Words, lanes};
use super::turn::Flow;
use super::warp::Warp;
use super::{Machine, Place};
use crate::op::{Op, Reduce, Reg, Shuffle, Vote};
use crate::{Fault, FaultKind};

impl Machine<'_> {
    /// Whether all the members that an instruction names are here; sets the group aside when some are not.
    fn members(&self, warp: &mut Warp, register: Reg, mask: u32) -> Result<Option<u32>, Fault> {
        warp.need_word(register, mask)?;
        let words = &warp.words[register as usize];
        let first = words[mask.trailing_zeros() as usize];
        let fail = |message: String| Err(Fault::new(FaultKind::Divergence, message));
        if let Some(lane) = lanes(mask).find(|&lane| words[lane] != first) {
            return fail(format!("lane {lane} names the members {:#010x}, others name {first:#010x}", words[lane]));
        }
        if mask & !first != 0 {
            return fail(format!(
                "lanes {:#010x} execute it and are not among the members {first:#010x}",
                mask & !first
            ));
        }
        // Those that have returned are not waited for (CUDA programming guide, warp shuffle and vote functions).
        let wanted = first & warp.live;
        if wanted & !mask == 0 {
            return Ok(Some(wanted));
        }
        if mask != warp.active {
            return fail(format!(
                "a predicate keeps the members {:#010x} from executing it",
                wanted & warp.active & !mask
            ));
        }
        warp.block()?;
        Ok(None)
    }

    pub(super) fn collective(&mut self, place: Place, warp: &mut Warp, op: &Op, mask: u32) -> Result<Flow, Fault> {
        let members = match *op {
            Op::ActiveMask { d } => {
                warp.set_word(d, &[mask; 32], mask);
                return Ok(Flow::Next);
            }
            Op::Shuffle { members, .. }
            | Op::Vote { members, .. }
            | Op::Match { members, .. }
            | Op::ReduceWarp { members, .. }
            | Op::Elect { members, .. }
            | Op::WarpBarrier { members } => self.members(warp, members, mask)?,
            _ => unreachable!("`step` sends every other instruction elsewhere"),
        };
        let Some(members) = members else { return Ok(Flow::Blocked) };
        match *op {
            Op::Shuffle { how, d, valid, a, b, c, .. } => {
                warp.need_word(a, mask)?;
                warp.need_word(b, mask)?;
                warp.need_word(c, mask)?;
                let w = &warp.words;
                let (value, inside) = shuffle(how, &w[a as usize], &w[b as usize], &w[c as usize], mask)?;
                warp.set_word(d, &value, mask);
                warp.set_predicate(valid, inside, mask);
            }
            Op::Vote { how, d, p, .. } => {
                warp.need_predicate(p, mask)?;
                let holds = warp.holds(p) & mask;
                match how {
                    Vote::Ballot => warp.set_word(d, &[holds; 32], mask),
                    Vote::All => warp.set_predicate(d, all_or_none(holds == mask), mask),
                    Vote::Any => warp.set_predicate(d, all_or_none(holds != 0), mask),
                    Vote::Uniform => warp.set_predicate(d, all_or_none(holds == mask || holds == 0), mask),
                }
            }
            Op::Match { all, d, valid, a, wide, .. } => {
                let values: [u64; 32] = if wide {
                    warp.need_long(a, mask)?;
                    warp.longs[a as usize]
                } else {
                    warp.need_word(a, mask)?;
                    warp.words[a as usize].map(u64::from)
                };
                let same =
                    |lane: usize| lanes(mask).filter(|&other| values[other] == values[lane]).fold(0, |m, l| m | 1 << l);
                let mut result = [0u32; 32];
                for lane in lanes(mask) {
                    result[lane] = same(lane);
                }
                if all {
                    let equal = result[mask.trailing_zeros() as usize] == mask;
                    warp.set_word(d, &[if equal { mask } else { 0 }; 32], mask);
                    warp.set_predicate(valid, all_or_none(equal), mask);
                } else {
                    warp.set_word(d, &result, mask);
                }
            }
            Op::ReduceWarp { how, d, a, .. } => {
                warp.need_word(a, mask)?;
                let words = &warp.words[a as usize];
                let value = lanes(mask).map(|lane| words[lane]).reduce(|x, y| reduce(how, x, y)).unwrap_or(0);
                warp.set_word(d, &[value; 32], mask);
            }
            Op::Elect { d, p, .. } => {
                let leader = members.trailing_zeros();
                warp.set_word(d, &[leader; 32], mask);
                warp.set_predicate(p, 1 << leader, mask);
            }
            Op::WarpBarrier { .. } => {
                self.counters.barrier_arrivals += 1;
                if let Some(races) = self.clusters[place.cluster].races.as_mut() {
                    races.warp_sync(place.race());
                }
            }
            _ => unreachable!("checked above"),
        }
        Ok(Flow::Next)
    }
}

fn all_or_none(holds: bool) -> u32 {
    if holds { u32::MAX } else { 0 }
}

fn reduce(how: Reduce, x: u32, y: u32) -> u32 {
    match how {
        Reduce::Add => x.wrapping_add(y),
        Reduce::MinUnsigned => x.min(y),
        Reduce::MaxUnsigned => x.max(y),
        Reduce::MinSigned => (x as i32).min(y as i32) as u32,
        Reduce::MaxSigned => (x as i32).max(y as i32) as u32,
        Reduce::And => x & y,
        Reduce::Or => x | y,
        Reduce::Xor => x ^ y,
    }
}

/// The value that each lane gets, and the lanes whose source is inside their segment. The clamp c holds the last lane
/// of a segment in bits 0 to 4 and the mask of the segment in bits 8 to 12.
fn shuffle(how: Shuffle, a: &Words, b: &Words, c: &Words, mask: u32) -> Result<(Words, u32), Fault> {
    let mut value = [0; 32];
    let mut valid = 0;
    for lane in lanes(mask) {
        let (at, by, clamp, segment) = (lane as i32, b[lane] & 31, (c[lane] & 31) as i32, ((c[lane] >> 8) & 31) as i32);
        let by = by as i32;
        let last = (at & segment) | (clamp & !segment);
        let source = match how {
            Shuffle::Up => at - by,
            Shuffle::Down => at + by,
            Shuffle::Butterfly => at ^ by,
            Shuffle::Index => (at & segment) | (by & !segment),
        };
        let inside = if how == Shuffle::Up { source >= last } else { source <= last };
        let source = if inside { source as usize } else { lane };
        if mask >> source & 1 == 0 {
            let message = format!("lane {lane} takes the value of lane {source}, which does not take part");
            return Err(super::access::fault_at(FaultKind::Divergence, lane, message));
        }
        value[lane] = a[source];
        valid |= u32::from(inside) << lane;
    }
    Ok((value, valid))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shuffles_stay_inside_their_segment() {
        let a: Words = std::array::from_fn(|lane| lane as u32 * 10);
        let run = |how, by: u32, c: u32| shuffle(how, &a, &[by; 32], &[c; 32], u32::MAX).unwrap();
        let (value, valid) = run(Shuffle::Butterfly, 16, 0x1f);
        assert!((0..32).all(|lane| value[lane] == a[lane ^ 16]));
        assert_eq!(valid, u32::MAX);
        // Width 8: segment mask 0x18, clamp 7.
        let (value, valid) = run(Shuffle::Down, 3, 0x1807);
        assert_eq!((value[0], value[4], value[5], value[8]), (30, 70, 50, 110));
        assert_eq!(valid & 0xff, 0x1f);
        let (value, valid) = run(Shuffle::Up, 2, 0x1800);
        assert_eq!((value[0], value[2], value[9], value[10]), (0, 0, 90, 80));
        assert_eq!(valid & 0xff, 0xfc);
        let (value, _) = run(Shuffle::Index, 2, 0x1c1f);
        assert_eq!((value[0], value[5], value[31]), (20, 60, 300));
        assert!(shuffle(Shuffle::Index, &a, &[9; 32], &[0x1f; 32], 0xff).is_err());
    }
}
