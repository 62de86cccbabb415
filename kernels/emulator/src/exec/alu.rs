//! Arithmetic of a warp: sources are checked, computed for all lanes, and written for the lanes that take part.
use super::float::{Kind as RoundedKind, Round};
use super::half;
use super::isa::Isa;
use super::lanes::{Words, lanes};
use super::warp::Warp;
use super::word::{CarryKind, Compare, Kind};
use crate::Fault;
use crate::op::{Combine, Form, HalfKind, Logic, Op, Predicate, Reg};

/// Executes an arithmetic instruction for the lanes of `mask`. Returns false for any other instruction.
#[inline]
pub fn execute(isa: &Isa, warp: &mut Warp, op: &Op, mask: u32) -> Result<bool, Fault> {
    match *op {
        Op::Word { f, form, d, a, b, c, e } => {
            let ready = |r: Reg| warp.word_ready[r as usize];
            if ready(a) & ready(b) & ready(c) & ready(e) & mask != mask {
                if f == Kind::Move && form == Form::Plain && warp.move_accumulator(d, a) {
                    return Ok(true);
                }
                for r in [a, b, c, e] {
                    warp.need_word(r, mask)?;
                }
            }
            let w = &warp.words;
            let (a, b, c, e) = (&w[a as usize], &w[b as usize], &w[c as usize], &w[e as usize]);
            let value = if form == Form::Plain { (isa.word)(f, a, b, c, e) } else { formed(isa, f, form, a, b, c, e) };
            warp.set_word(d, &value, mask);
        }
        Op::Long { f, d, a, b, c, x, y } => {
            let long = |r: Reg| warp.long_ready[r as usize];
            let word = |r: Reg| warp.word_ready[r as usize];
            if long(a) & long(b) & long(c) & word(x) & word(y) & mask != mask {
                for r in [a, b, c] {
                    warp.need_long(r, mask)?;
                }
                warp.need_word(x, mask)?;
                warp.need_word(y, mask)?;
            }
            let (l, w) = (&warp.longs, &warp.words);
            let value = (isa.long)(f, &l[a as usize], &l[b as usize], &l[c as usize], &w[x as usize], &w[y as usize]);
            warp.set_long(d, &value, mask);
        }
        Op::Narrow { f, d, a, b } => {
            warp.need_long(a, mask)?;
            warp.need_long(b, mask)?;
            let value = f.run(&warp.longs[a as usize], &warp.longs[b as usize]);
            warp.set_word(d, &value, mask);
        }
        Op::CompareWord { f, form, combine, d, q, a, b } => {
            warp.need_word(a, mask)?;
            warp.need_word(b, mask)?;
            let (x, y) = (&warp.words[a as usize], &warp.words[b as usize]);
            let holds = if form == Form::Plain { (isa.compare_word)(f, x, y) } else { compare(isa, f, form, x, y) };
            set_comparison(warp, combine, d, q, holds, mask)?;
        }
        Op::CompareLong { f, combine, d, q, a, b } => {
            warp.need_long(a, mask)?;
            warp.need_long(b, mask)?;
            let holds = (isa.compare_long)(f, &warp.longs[a as usize], &warp.longs[b as usize]);
            set_comparison(warp, combine, d, q, holds, mask)?;
        }
        Op::SelectWord { d, a, b, p } => {
            warp.need_predicate(p, mask)?;
            let holds = warp.holds(p);
            warp.need_word(a, mask & holds)?;
            warp.need_word(b, mask & !holds)?;
            let mut value = warp.words[b as usize];
            super::lanes::blend_words(&mut value, &warp.words[a as usize], holds);
            warp.set_word(d, &value, mask);
        }
        Op::SelectLong { d, a, b, p } => {
            warp.need_predicate(p, mask)?;
            let holds = warp.holds(p);
            warp.need_long(a, mask & holds)?;
            warp.need_long(b, mask & !holds)?;
            let mut value = warp.longs[b as usize];
            super::lanes::blend_longs(&mut value, &warp.longs[a as usize], holds);
            warp.set_long(d, &value, mask);
        }
        Op::Logic { f, d, a, b } => {
            warp.need_predicate(a, mask)?;
            warp.need_predicate(b, mask)?;
            let value = logic(f, warp.holds(a), warp.holds(b));
            warp.set_predicate(d, value, mask);
        }
        Op::Set { d, p, one } => {
            let holds = warp.predicates[p as usize];
            let value = std::array::from_fn(|lane| if holds >> lane & 1 == 1 { one } else { 0 });
            warp.set_word(d, &value, mask);
        }
        Op::Rounded { f, round, form, d, a, b, c } => {
            for r in [a, b, c] {
                warp.need_word(r, mask)?;
            }
            let w = &warp.words;
            let value = rounded(f, round, form, &w[a as usize], &w[b as usize], &w[c as usize]);
            warp.set_word(d, &value, mask);
        }
        Op::Carry { f, d, a, b, c } => carry(warp, f, d, [a, b, c], mask)?,
        _ => return Ok(false),
    }
    Ok(true)
}

fn logic(f: Logic, a: u32, b: u32) -> u32 {
    match f {
        Logic::And => a & b,
        Logic::Or => a | b,
        Logic::Xor => a ^ b,
    }
}

fn set_comparison(warp: &mut Warp, combine: Combine, d: Reg, q: Reg, holds: u32, mask: u32) -> Result<(), Fault> {
    let (first, second) = match combine {
        Combine::None => (holds, !holds),
        Combine::With(f, p) => {
            warp.need_predicate(p, mask)?;
            let other = warp.holds(p);
            (logic(f, holds, other), logic(f, !holds, other))
        }
    };
    warp.set_predicate(d, first, mask);
    if q != 1 {
        warp.set_predicate(q, second, mask);
    }
    Ok(())
}

fn carry(warp: &mut Warp, f: CarryKind, d: Reg, sources: [Reg; 3], mask: u32) -> Result<(), Fault> {
    for r in sources {
        warp.need_word(r, mask)?;
    }
    let [a, b, c] = sources.map(|r| warp.words[r as usize]);
    let mut value = [0; 32];
    for lane in lanes(mask) {
        let (result, flag) = f.run(a[lane], b[lane], c[lane], warp.carry >> lane & 1 == 1);
        value[lane] = result;
        if f.carry_out {
            warp.carry = (warp.carry & !(1 << lane)) | (u32::from(flag) << lane);
        }
    }
    warp.set_word(d, &value, mask);
    Ok(())
}

fn each(words: &Words, f: impl Fn(u32) -> u32) -> Words {
    std::array::from_fn(|lane| f(words[lane]))
}

/// What a narrow or flushed operand looks like to a 32-bit operation.
fn read(form: Form, words: &Words) -> Words {
    match form {
        Form::Signed(bits) => {
            let shift = 32 - u32::from(bits);
            each(words, |v| (((v << shift) as i32) >> shift) as u32)
        }
        Form::Unsigned(bits) => each(words, |v| v & low(bits)),
        Form::F32 { flush: true, .. } => each(words, flushed),
        Form::Half(kind) => each(words, |v| widen(kind, v as u16)),
        Form::Plain | Form::F32 { .. } | Form::Halves(_) => *words,
    }
}

/// The result of a 32-bit operation as it is written.
fn write(form: Form, words: &Words) -> Words {
    match form {
        Form::Signed(bits) | Form::Unsigned(bits) => each(words, |v| v & low(bits)),
        Form::F32 { flush, saturate } => each(words, |v| {
            let v = if flush { flushed(v) } else { v };
            if saturate { saturated(v) } else { v }
        }),
        Form::Half(kind) => each(words, |v| u32::from(narrow(kind, v))),
        Form::Plain | Form::Halves(_) => *words,
    }
}

#[inline(never)]
fn formed(isa: &Isa, f: Kind, form: Form, a: &Words, b: &Words, c: &Words, e: &Words) -> Words {
    if let Form::Halves(kind) = form {
        let half = |upper: bool| {
            let pick = |words: &Words| each(words, |v| widen(kind, if upper { (v >> 16) as u16 } else { v as u16 }));
            (isa.word)(f, &pick(a), &pick(b), &pick(c), &pick(e))
        };
        let (low, high) = (half(false), half(true));
        return std::array::from_fn(|i| u32::from(narrow(kind, low[i])) | (u32::from(narrow(kind, high[i])) << 16));
    }
    let value = (isa.word)(f, &read(form, a), &read(form, b), &read(form, c), &read(form, e));
    write(form, &value)
}

fn compare(isa: &Isa, f: Compare, form: Form, a: &Words, b: &Words) -> u32 {
    (isa.compare_word)(f, &read(form, a), &read(form, b))
}

fn rounded(f: RoundedKind, round: Round, form: Form, a: &Words, b: &Words, c: &Words) -> Words {
    let (a, b, c) = (read(form, a), read(form, b), read(form, c));
    write(form, &std::array::from_fn(|i| f.run(round, a[i], b[i], c[i])))
}

fn low(bits: u8) -> u32 {
    (1 << bits) - 1
}

fn flushed(v: u32) -> u32 {
    if v & 0x7f80_0000 == 0 { v & 0x8000_0000 } else { v }
}

fn saturated(v: u32) -> u32 {
    let x = f32::from_bits(v);
    if x.is_nan() || x <= 0.0 { 0 } else { x.min(1.0).to_bits() }
}

fn widen(kind: HalfKind, bits: u16) -> u32 {
    if kind.brain { half::from_brain(bits).to_bits() } else { half::from_half(bits).to_bits() }
}

fn narrow(kind: HalfKind, bits: u32) -> u16 {
    let bits = if kind.saturate { saturated(bits) } else { bits };
    let bits = if kind.relu && bits >> 31 == 1 && !f32::from_bits(bits).is_nan() { 0 } else { bits };
    let value = f32::from_bits(bits);
    if kind.brain { half::to_brain(value, false) } else { half::to_half(f64::from(value), false) }
}

/// A predicate that is always true needs no check.
pub fn guarded(warp: &Warp, guard: Predicate) -> Result<u32, Fault> {
    if guard.register == 0 {
        return Ok(warp.active);
    }
    warp.need_predicate(guard, warp.active)?;
    Ok(warp.active & warp.holds(guard))
}
