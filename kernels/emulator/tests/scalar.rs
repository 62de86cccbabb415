//! Arithmetic, conversions, memory, control and exchanges within a warp: PTX by hand, results by Rust.
mod harness;

use half::{bf16, f16};
use harness::{A, B, Kernel, run, run_with};
use ptxemu::{FaultKind, Launch};

/// The first lane whose result differs, or nothing.
fn check(body: &str, expected: impl Fn(u32, u32) -> u64) -> Option<String> {
    let found = match run(body) {
        Ok(found) => found,
        Err(fault) => return Some(format!("{body}: {fault}")),
    };
    let lane = (0..32).find(|&lane| found[lane] != expected(A[lane], B[lane]))?;
    let (a, b) = (A[lane], B[lane]);
    Some(format!("{body} with a = {a:#x}, b = {b:#x}: {:#x}, not {:#x}", found[lane], expected(a, b)))
}

type Case = (&'static str, fn(u32, u32) -> u64);

fn check_all(cases: &[Case]) {
    let failures: Vec<String> = cases.iter().filter_map(|(body, expected)| check(body, expected)).collect();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

fn f(bits: u32) -> f32 {
    f32::from_bits(bits)
}

/// A result in f32, with the canonical NaN.
fn of(value: f32) -> u64 {
    u64::from(if value.is_nan() { 0x7fff_ffff } else { value.to_bits() })
}

fn signed(bits: u32) -> i64 {
    i64::from(bits as i32)
}

#[test]
fn integers() {
    check_all(&[
        ("add.s32 %r0, %r1, %r2;", |a, b| a.wrapping_add(b).into()),
        ("add.u32 %r0, %r1, -7;", |a, _| a.wrapping_sub(7).into()),
        ("sub.s32 %r0, %r1, %r2;", |a, b| a.wrapping_sub(b).into()),
        ("add.sat.s32 %r0, %r1, %r2;", |a, b| (a as i32).saturating_add(b as i32) as u32 as u64),
        ("mul.lo.s32 %r0, %r1, %r2;", |a, b| a.wrapping_mul(b).into()),
        ("mul.hi.u32 %r0, %r1, %r2;", |a, b| (u64::from(a) * u64::from(b)) >> 32),
        ("mul.hi.s32 %r0, %r1, %r2;", |a, b| ((signed(a) * signed(b)) >> 32) as u32 as u64),
        ("mul.wide.s32 %d0, %r1, %r2;", |a, b| (signed(a) * signed(b)) as u64),
        ("mul.wide.u32 %d0, %r1, 12;", |a, _| u64::from(a) * 12),
        ("mul.wide.s16 %r0, %h1, %h2;", |a, b| (i32::from(a as i16) * i32::from(b as i16)) as u32 as u64),
        ("mul.lo.s16 %h0, %h1, %h2;", |a, b| u64::from((a as u16).wrapping_mul(b as u16))),
        ("mul.hi.u16 %h0, %h1, %h2;", |a, b| (u64::from(a as u16) * u64::from(b as u16)) >> 16),
        ("mad.lo.s32 %r0, %r1, %r2, 9;", |a, b| a.wrapping_mul(b).wrapping_add(9).into()),
        ("mad.wide.u32 %d0, %r1, %r2, %d1;", |a, b| {
            (u64::from(a) * u64::from(b)).wrapping_add(u64::from(a) | u64::from(b) << 32)
        }),
        ("div.s32 %r0, %r1, 7;", |a, _| (a as i32 / 7) as u32 as u64),
        ("div.u32 %r0, %r1, %r2;", |a, b| a.checked_div(b).unwrap_or(u32::MAX).into()),
        ("rem.s32 %r0, %r1, 7;", |a, _| (a as i32 % 7) as u32 as u64),
        ("rem.u32 %r0, %r1, 10;", |a, _| (a % 10).into()),
        ("min.s32 %r0, %r1, %r2;", |a, b| (a as i32).min(b as i32) as u32 as u64),
        ("max.u32 %r0, %r1, %r2;", |a, b| a.max(b).into()),
        ("max.s16 %h0, %h1, %h2;", |a, b| u64::from((a as i16).max(b as i16) as u16)),
        ("abs.s32 %r0, %r1;", |a, _| (a as i32).unsigned_abs().into()),
        ("neg.s32 %r0, %r1;", |a, _| a.wrapping_neg().into()),
        ("sad.u32 %r0, %r1, %r2, 5;", |a, b| a.abs_diff(b).wrapping_add(5).into()),
        ("and.b32 %r0, %r1, %r2;", |a, b| (a & b).into()),
        ("not.b32 %r0, %r1;", |a, _| (!a).into()),
        ("not.b16 %h0, %h1;", |a, _| u64::from(!(a as u16))),
        ("cnot.b32 %r0, %r1;", |a, _| u64::from(a == 0)),
        ("shl.b32 %r0, %r1, %r2;", |a, b| a.checked_shl(b).unwrap_or(0).into()),
        ("shr.u32 %r0, %r1, %r2;", |a, b| a.checked_shr(b).unwrap_or(0).into()),
        ("shr.s32 %r0, %r1, %r2;", |a, b| ((a as i32) >> b.min(31)) as u32 as u64),
        ("shr.s16 %h0, %h1, 3;", |a, _| u64::from(((a as i16) >> 3) as u16)),
        ("shl.b64 %d0, %d1, 5;", |a, b| (u64::from(a) | u64::from(b) << 32) << 5),
        ("shr.s64 %d0, %d1, 40;", |_, b| (i64::from(b as i32) >> 8) as u64),
        ("shf.l.wrap.b32 %r0, %r1, %r2, 8;", |a, b| u64::from(b << 8 | a >> 24)),
        ("shf.r.clamp.b32 %r0, %r1, %r2, 40;", |_, b| b.into()),
        ("lop3.b32 %r0, %r1, %r2, 0xff00ff00, 0xca;", |a, b| u64::from((a & b) | (!a & 0xff00_ff00))),
        ("prmt.b32 %r0, %r1, %r2, 0x5410;", |a, b| u64::from(a & 0xffff | b << 16)),
        ("prmt.b32 %r0, %r1, %r2, 0xba98;", |a, _| {
            a.to_le_bytes().iter().rev().fold(0, |r, &x| r << 8 | if x & 0x80 != 0 { 255 } else { 0 })
        }),
        ("bfe.u32 %r0, %r1, 4, 8;", |a, _| (a >> 4 & 255).into()),
        ("bfe.s32 %r0, %r1, 4, 8;", |a, _| i32::from((a >> 4) as i8) as u32 as u64),
        ("bfi.b32 %r0, %r1, %r2, 8, 12;", |a, b| u64::from(b & !0xfff00 | (a & 0xfff) << 8)),
        ("popc.b32 %r0, %r1;", |a, _| a.count_ones().into()),
        ("popc.b64 %r0, %d1;", |a, b| (a.count_ones() + b.count_ones()).into()),
        ("clz.b32 %r0, %r1;", |a, _| a.leading_zeros().into()),
        ("brev.b32 %r0, %r1;", |a, _| a.reverse_bits().into()),
        ("bfind.u32 %r0, %r1;", |a, _| a.checked_ilog2().unwrap_or(u32::MAX).into()),
        ("add.cc.u32 %r4, %r1, %r2;\n addc.u32 %r0, 0, 0;", |a, b| u64::from(a.checked_add(b).is_none())),
        ("sub.cc.u32 %r4, %r1, %r2;\n subc.u32 %r0, 5, 0;", |a, b| 5 - u64::from(a < b)),
        ("add.s64 %d0, %d1, 1;", |a, b| (u64::from(a) | u64::from(b) << 32).wrapping_add(1)),
        ("mul.hi.u64 %d0, %d1, %d1;", |a, b| {
            let x = u128::from(u64::from(a) | u64::from(b) << 32);
            ((x * x) >> 64) as u64
        }),
        ("dp4a.s32.s32 %r0, %r1, %r2, 3;", |a, b| {
            let pairs = a.to_le_bytes().into_iter().zip(b.to_le_bytes());
            (3 + pairs.map(|(x, y)| i32::from(x as i8) * i32::from(y as i8)).sum::<i32>()) as u32 as u64
        }),
    ]);
}

#[test]
fn floats() {
    check_all(&[
        ("add.f32 %f0, %f1, %f2;", |a, b| of(f(a) + f(b))),
        ("sub.rn.f32 %f0, %f1, %f2;", |a, b| of(f(a) - f(b))),
        ("mul.f32 %f0, %f1, 0f40490FDB;", |a, _| of(f(a) * std::f32::consts::PI)),
        ("mul.f32 %f0, %f1, 0.5;", |a, _| of(f(a) * 0.5)),
        ("fma.rn.f32 %f0, %f1, %f2, %f1;", |a, b| of(f(a).mul_add(f(b), f(a)))),
        ("fma.rn.sat.f32 %f0, %f1, %f2, %f1;", |a, b| {
            let x = f(a).mul_add(f(b), f(a));
            of(if x.is_nan() || x <= 0.0 { 0.0 } else { x.min(1.0) })
        }),
        ("add.ftz.f32 %f0, %f1, 0f00000000;", |a, _| of(if f(a).is_subnormal() || f(a) == 0.0 { 0.0 } else { f(a) })),
        ("div.rn.f32 %f0, %f1, %f2;", |a, b| of(f(a) / f(b))),
        ("rcp.rn.f32 %f0, %f1;", |a, _| of(1.0 / f(a))),
        ("sqrt.rn.f32 %f0, %f1;", |a, _| of(f(a).sqrt())),
        ("min.f32 %f0, %f1, %f2;", |a, b| of(f(a).min(f(b)))),
        ("max.NaN.f32 %f0, %f1, %f2;", |a, b| {
            of(if f(a).is_nan() || f(b).is_nan() { f32::NAN } else { f(a).max(f(b)) })
        }),
        ("abs.f32 %f0, %f1;", |a, _| (a & 0x7fff_ffff).into()),
        ("neg.f32 %f0, %f1;", |a, _| (a ^ 0x8000_0000).into()),
        ("copysign.f32 %f0, %f1, %f2;", |a, b| (a & 0x8000_0000 | b & 0x7fff_ffff).into()),
        ("add.rz.f32 %f0, %f1, %f2;", |a, b| {
            let (exact, near) = (f64::from(f(a)) + f64::from(f(b)), f(a) + f(b));
            let away = f64::from(near).abs() > exact.abs() || near.is_infinite() && exact.is_finite();
            of(if away { f32::from_bits(near.to_bits() - 1) } else { near })
        }),
        ("cvt.f64.f32 %g1, %f1;\n cvt.f64.f32 %g2, %f2;\n fma.rn.f64 %g0, %g1, %g2, %g1;", |a, b| {
            let x = f64::from(f(a)).mul_add(f64::from(f(b)), f64::from(f(a)));
            if x.is_nan() { 0x7fff_ffff_ffff_ffff } else { x.to_bits() }
        }),
        ("setp.lt.f32 %p0, %f1, %f2;", |a, b| u64::from(f(a) < f(b))),
        ("setp.geu.f32 %p0, %f1, %f2;", |a, b| u64::from(f(a) >= f(b) || f(a).is_nan() || f(b).is_nan())),
        ("setp.ne.f32 %p0, %f1, %f2;", |a, b| u64::from(f(a) < f(b) || f(a) > f(b))),
        ("setp.neu.f32 %p0, %f1, %f2;", |a, b| u64::from(f(a) != f(b))),
        ("setp.nan.f32 %p0, %f1, %f2;", |a, b| u64::from(f(a).is_nan() || f(b).is_nan())),
        ("testp.finite.f32 %p0, %f1;", |a, _| u64::from(f(a).is_finite())),
        ("setp.lt.s32 %p0, %r1, %r2;", |a, b| u64::from((a as i32) < b as i32)),
        ("setp.hi.u32 %p0, %r1, %r2;", |a, b| u64::from(a > b)),
        ("setp.lt.s16 %p0, %h1, %h2;", |a, b| u64::from((a as i16) < b as i16)),
        ("setp.gt.u64 %p0, %d1, 0x100000000;", |a, b| u64::from(b > 1 || b == 1 && a > 0)),
        ("setp.gt.s32 %p1, %r1, 0;\n setp.lt.and.s32 %p0|%p2, %r1, 100, %p1;", |a, _| {
            u64::from((a as i32) > 0 && (a as i32) < 100)
        }),
        ("setp.gt.s32 %p1, %r1, 0;\n setp.lt.and.s32 %p2|%p0, %r1, 100, %p1;", |a, _| u64::from((a as i32) >= 100)),
        ("setp.eq.s32 %p1, %r1, %r2;\n not.pred %p2, %p1;\n xor.pred %p0, %p2, %p1;", |_, _| 1),
        ("setp.gt.s32 %p1, %r1, 0;\n selp.b32 %r0, %r1, %r2, %p1;", |a, b| if (a as i32) > 0 { a } else { b }.into()),
        ("set.lt.f32.s32 %f0, %r1, %r2;", |a, b| if (a as i32) < (b as i32) { 0x3f80_0000 } else { 0 }),
        ("slct.u32.s32 %r0, 7, 8, %r1;", |a, _| if (a as i32) >= 0 { 7 } else { 8 }),
    ]);
}

#[test]
fn conversions() {
    fn clamp(value: f32, low: f64, high: f64) -> i64 {
        if value.is_nan() { 0 } else { f64::from(value).clamp(low, high) as i64 }
    }
    check_all(&[
        ("cvt.rzi.s32.f32 %r0, %f1;", |a, _| clamp(f(a).trunc(), -2147483648.0, 2147483647.0) as u32 as u64),
        ("cvt.rni.s32.f32 %r0, %f1;", |a, _| clamp(f(a).round_ties_even(), -2147483648.0, 2147483647.0) as u32 as u64),
        ("cvt.rmi.u32.f32 %r0, %f1;", |a, _| clamp(f(a).floor(), 0.0, 4294967295.0) as u64),
        ("cvt.rzi.s16.f32 %h0, %f1;", |a, _| clamp(f(a).trunc(), -32768.0, 32767.0) as u16 as u64),
        ("cvt.rzi.s64.f32 %d0, %f1;", |a, _| if f(a).is_nan() { 1 << 63 } else { f(a) as i64 as u64 }),
        ("cvt.rni.f32.f32 %f0, %f1;", |a, _| of(f(a).round_ties_even())),
        ("cvt.rpi.f32.f32 %f0, %f1;", |a, _| of(f(a).ceil())),
        ("cvt.rn.f32.s32 %f0, %r1;", |a, _| of(a as i32 as f32)),
        ("cvt.rz.f32.u32 %f0, %r1;", |a, _| {
            let near = a as f32;
            of(if f64::from(near) > f64::from(a) { near.next_down() } else { near })
        }),
        ("cvt.rn.f32.s64 %f0, %d1;", |a, b| of((u64::from(a) | u64::from(b) << 32) as i64 as f32)),
        ("cvt.rn.f64.u32 %g0, %r1;", |a, _| f64::from(a).to_bits()),
        (
            "cvt.rn.bf16.f32 %h0, %f1;",
            |a, _| if f(a).is_nan() { 0x7fff } else { bf16::from_f32(f(a)).to_bits().into() },
        ),
        ("cvt.rn.f16.f32 %h0, %f1;", |a, _| if f(a).is_nan() { 0x7fff } else { f16::from_f32(f(a)).to_bits().into() }),
        ("cvt.rn.bf16x2.f32 %r0, %f1, %f2;", |a, b| {
            let half = |x: u32| if f(x).is_nan() { 0x7fff } else { u64::from(bf16::from_f32(f(x)).to_bits()) };
            half(a) << 16 | half(b)
        }),
        ("cvt.f32.f16 %f0, %h1;", |a, _| of(f16::from_bits(a as u16).to_f32())),
        ("cvt.f32.bf16 %f0, %h1;", |a, _| u64::from(a << 16)),
        ("cvt.rna.tf32.f32 %r0, %f1;", |a, _| {
            if f(a).is_nan() {
                0x7fff_ffff
            } else if f(a).is_infinite() {
                a.into()
            } else {
                (a.wrapping_add(0x1000) & 0xffff_e000).into()
            }
        }),
        ("cvt.u16.u32 %h0, %r1;", |a, _| u64::from(a as u16)),
        ("cvt.s32.s16 %r0, %h1;", |a, _| i32::from(a as i16) as u32 as u64),
        ("cvt.u32.u16 %r0, %h1;", |a, _| u64::from(a as u16)),
        ("cvt.s32.s8 %r0, %r1;", |a, _| i32::from(a as i8) as u32 as u64),
        ("cvt.u8.u32 %r0, %r1;", |a, _| u64::from(a as u8)),
        ("cvt.s64.s32 %d0, %r1;", |a, _| signed(a) as u64),
        ("cvt.u64.u32 %d0, %r1;", |a, _| a.into()),
        ("cvt.u64.u16 %d0, %h1;", |a, _| u64::from(a as u16)),
        ("cvt.s64.s16 %d0, %h1;", |a, _| i64::from(a as i16) as u64),
        ("cvt.u32.u64 %r0, %d1;", |a, _| a.into()),
        ("cvt.sat.u8.s32 %r0, %r1;", |a, _| signed(a).clamp(0, 255) as u64),
        ("cvt.sat.s16.s32 %h0, %r1;", |a, _| signed(a).clamp(-32768, 32767) as u16 as u64),
        ("mov.b64 {%r3, %r4}, %d1;\n mov.b64 %d0, {%r4, %r3};", |a, b| u64::from(a) << 32 | u64::from(b)),
        ("mov.b32 {%h3, %h4}, %r1;\n mov.b32 %r0, {%h4, %h3};", |a, _| a.rotate_left(16).into()),
        ("mov.b64 {%h3, %h4, %h5, %h6}, %d1;\n mov.b64 %d0, {%h6, %h5, %h4, %h3};", |a, b| {
            let halves = [a as u16, (a >> 16) as u16, b as u16, (b >> 16) as u16];
            halves.into_iter().fold(0, |r, x| r << 16 | u64::from(x))
        }),
    ]);
}

#[test]
fn halves() {
    fn bf(a: u32) -> f64 {
        f64::from(f32::from_bits(a << 16))
    }
    fn hf(a: u32) -> f64 {
        f16::from_bits(a as u16).to_f64()
    }
    fn of_bf(value: f64) -> u64 {
        if value.is_nan() { 0x7fff } else { bf16::from_f64(value).to_bits().into() }
    }
    fn of_hf(value: f64) -> u64 {
        if value.is_nan() { 0x7fff } else { f16::from_f64(value).to_bits().into() }
    }
    check_all(&[
        ("add.rn.bf16 %h0, %h1, %h2;", |a, b| of_bf(bf(a) + bf(b))),
        ("mul.rn.bf16x2 %r0, %r1, %r2;", |a, b| of_bf(bf(a) * bf(b)) | of_bf(bf(a >> 16) * bf(b >> 16)) << 16),
        ("fma.rn.bf16 %h0, %h1, %h2, %h1;", |a, b| of_bf(bf(a).mul_add(bf(b), bf(a)))),
        ("add.rn.f16 %h0, %h1, %h2;", |a, b| of_hf(hf(a) + hf(b))),
        ("fma.rn.f16x2 %r0, %r1, %r2, %r1;", |a, b| {
            let fma = |a, b| of_hf(hf(a).mul_add(hf(b), hf(a)));
            fma(a, b) | fma(a >> 16, b >> 16) << 16
        }),
        ("fma.rn.relu.bf16 %h0, %h1, %h2, %h1;", |a, b| {
            let x = bf(a).mul_add(bf(b), bf(a));
            if x < 0.0 { 0 } else { of_bf(x) & if x == 0.0 { 0x7fff } else { 0xffff } }
        }),
        ("neg.bf16x2 %r0, %r1;", |a, _| u64::from(a ^ 0x8000_8000)),
        ("abs.f16 %h0, %h1;", |a, _| u64::from(a & 0x7fff)),
        ("setp.gt.bf16 %p0, %h1, %h2;", |a, b| u64::from(bf(a) > bf(b))),
        ("max.bf16x2 %r0, %r1, %r1;", |a, _| {
            let same = |x: u32| if bf(x).is_nan() { 0x7fff } else { u64::from(x as u16) };
            same(a) | same(a >> 16) << 16
        }),
    ]);
}

/// Approximations lie within the error that the PTX manual allows, relative to the function in f64.
#[test]
fn approximations() {
    let cases: [(&str, fn(f64) -> f64, f64); 8] = [
        ("ex2.approx.f32 %f0, %f1;", f64::exp2, 2e-7),
        ("ex2.approx.ftz.f32 %f0, %f1;", f64::exp2, 2e-7),
        ("lg2.approx.f32 %f0, %f1;", f64::log2, 2e-7),
        ("rcp.approx.ftz.f32 %f0, %f1;", |x| 1.0 / x, 2e-7),
        ("rsqrt.approx.f32 %f0, %f1;", |x| 1.0 / x.sqrt(), 2e-7),
        ("sqrt.approx.f32 %f0, %f1;", f64::sqrt, 2e-7),
        ("tanh.approx.f32 %f0, %f1;", f64::tanh, 5e-4),
        ("sin.approx.f32 %f0, %f1;", f64::sin, 1e-6),
    ];
    let input: [u32; 32] = std::array::from_fn(|lane| (0.07 + lane as f32 * 0.09).to_bits());
    for (body, function, bound) in cases {
        let found = run_with(body, &input, &input).unwrap();
        for lane in 0..32 {
            let (x, y) = (f64::from(f(input[lane])), f64::from(f(found[lane] as u32)));
            let expected = function(x);
            assert!((y - expected).abs() <= bound * expected.abs().max(1e-2), "{body} of {x}: {y}, not {expected}");
        }
    }
}

#[test]
fn warps_exchange_values() {
    let a = |lane: usize| u64::from(A[lane]);
    let cases: Vec<(&str, Box<dyn Fn(usize) -> u64>)> = vec![
        ("shfl.sync.bfly.b32 %r0, %r1, 5, 31, -1;", Box::new(move |lane| a(lane ^ 5))),
        (
            "shfl.sync.up.b32 %r0|%p1, %r1, 4, 0, 0xffffffff;",
            Box::new(move |lane| a(if lane < 4 { lane } else { lane - 4 })),
        ),
        ("shfl.sync.down.b32 %r4|%p0, %r1, 1, 0x1807, -1;", Box::new(|lane| u64::from(lane % 8 < 7))),
        ("setp.lt.u32 %p1, %r30, 12;\n vote.sync.ballot.b32 %r0, %p1, -1;", Box::new(|_| 0xfff)),
        ("setp.lt.u32 %p1, %r30, 12;\n vote.sync.any.pred %p0, !%p1, -1;", Box::new(|_| 1)),
        ("setp.lt.u32 %p1, %r30, 12;\n vote.sync.all.pred %p0, %p1, -1;", Box::new(|_| 0)),
        ("and.b32 %r4, %r30, 3;\n match.any.sync.b32 %r0, %r4, -1;", Box::new(|lane| 0x1111_1111 << (lane % 4))),
        ("redux.sync.add.s32 %r0, %r30, -1;", Box::new(|_| 496)),
        ("redux.sync.max.u32 %r0, %r30, -1;", Box::new(|_| 31)),
        ("elect.sync %r4|%p0, -1;", Box::new(|lane| u64::from(lane == 0))),
        ("activemask.b32 %r0;", Box::new(|_| 0xffff_ffff)),
        ("mov.u32 %r0, %lanemask_lt;", Box::new(|lane| (1 << lane) - 1)),
        // Lanes part, exchange among themselves, and meet again.
        (
            "setp.lt.u32 %p1, %r30, 16;\n mov.u32 %r0, 7;\n @!%p1 bra ELSE;\n \
             shfl.sync.bfly.b32 %r0, %r30, 1, 31, 0xffff;\n bra END;\n ELSE:\n \
             shfl.sync.bfly.b32 %r0, %r30, 2, 31, 0xffff0000;\n END:\n bar.warp.sync -1;",
            Box::new(|lane| (if lane < 16 { lane ^ 1 } else { lane ^ 2 }) as u64),
        ),
        // A loop that lanes leave one by one.
        (
            "mov.u32 %r0, 0;\n mov.u32 %r4, 0;\n LOOP:\n add.u32 %r0, %r0, %r4;\n add.u32 %r4, %r4, 1;\n \
             setp.le.u32 %p1, %r4, %r30;\n @%p1 bra LOOP;",
            Box::new(|lane| (lane * (lane + 1) / 2) as u64),
        ),
        (
            "and.b32 %r4, %r30, 3;\n mov.u32 %r0, 9;\n TARGETS: .branchtargets CASE0, CASE1, CASE2, DONE;\n \
             brx.idx %r4, TARGETS;\n CASE0: mov.u32 %r0, 100; bra DONE;\n CASE1: mov.u32 %r0, 101; bra DONE;\n \
             CASE2: mov.u32 %r0, 102;\n DONE:",
            Box::new(|lane| [100, 101, 102, 9][lane % 4]),
        ),
        // Two scopes with labels and registers of the same name, as inline assembly makes them.
        (
            "{ .reg .b32 t; mov.u32 t, 3; bra L; mov.u32 t, 4; L: add.u32 %r0, %r30, t; }\n \
             { .reg .b32 t; mov.u32 t, 5; bra L; mov.u32 t, 6; L: add.u32 %r0, %r0, t; }",
            Box::new(|lane| lane as u64 + 8),
        ),
    ];
    for (body, expected) in cases {
        let found = run(body).unwrap_or_else(|fault| panic!("{body}: {fault}"));
        for lane in 0..32 {
            assert_eq!(found[lane], expected(lane), "{body} in lane {lane}");
        }
    }
}

#[test]
fn memory_of_all_spaces() {
    let local = "cvta.local.u64 %d3, %d2;\n";
    let cases: Vec<(String, Box<dyn Fn(usize) -> u64>)> = vec![
        (
            ".shared .align 16 .b8 tile[256];\n mov.u32 %r4, tile;\n shl.b32 %r5, %r30, 2;\n add.u32 %r6, %r4, %r5;\n \
             st.shared.u32 [%r6], %r1;\n bar.sync 0;\n xor.b32 %r5, %r5, 124;\n add.u32 %r6, %r4, %r5;\n \
             ld.shared.u32 %r0, [%r6];"
                .into(),
            Box::new(|lane| A[31 - lane].into()),
        ),
        (
            format!(
                ".local .align 8 .b8 slots[16];\n mov.u64 %d2, slots;\n {local} st.u32 [%d3+4], %r1;\n \
                 st.local.u32 [%d2+8], %r2;\n ld.local.u32 %r4, [%d2+4];\n ld.u32 %r5, [%d3+8];\n add.u32 %r0, %r4, %r5;"
            ),
            Box::new(|lane| A[lane].wrapping_add(B[lane]).into()),
        ),
        (
            // 16-byte stores and loads, bytes, sign extension.
            ".shared .align 16 .b8 tile[512];\n mov.u64 %d2, tile;\n mul.wide.u32 %d3, %r30, 16;\n \
             add.s64 %d2, %d2, %d3;\n cvta.shared.u64 %d4, %d2;\n st.v4.b32 [%d4], {%r1, %r2, %r30, %r1};\n \
             ld.shared.v2.b64 {%d5, %d6}, [%d2];\n ld.shared.s8 %r5, [%d2+3];\n ld.shared.u16 %h3, [%d2+8];\n \
             cvt.u32.u16 %r6, %h3;\n cvt.u32.u64 %r7, %d5;\n xor.b32 %r7, %r7, %r1;\n add.u32 %r0, %r5, %r6;\n \
             add.u32 %r0, %r0, %r7;"
                .into(),
            Box::new(|lane| u64::from((i32::from((A[lane] >> 24) as i8) as u32).wrapping_add(lane as u32))),
        ),
        (
            ".shared .align 4 .b8 sum[4];\n mov.u32 %r4, sum;\n setp.eq.u32 %p1, %r30, 0;\n mov.u32 %r5, 5;\n \
             @%p1 st.shared.u32 [%r4], %r5;\n bar.sync 0;\n atom.shared.add.u32 %r6, [%r4], 1;\n bar.sync 0;\n \
             ld.shared.u32 %r0, [%r4];"
                .into(),
            Box::new(|_| 37),
        ),
        (
            // The old value of a compare-and-swap tells exactly one lane that it was first.
            ".shared .align 4 .b8 lock[4];\n mov.u32 %r4, lock;\n mov.u32 %r5, 0;\n setp.eq.u32 %p1, %r30, 0;\n \
             @%p1 st.shared.u32 [%r4], %r5;\n bar.sync 0;\n atom.shared.cas.b32 %r6, [%r4], 0, 1;\n \
             setp.eq.u32 %p2, %r6, 0;\n vote.sync.ballot.b32 %r7, %p2, -1;\n popc.b32 %r0, %r7;"
                .into(),
            Box::new(|_| 1),
        ),
        (
            "ld.global.nc.L1::no_allocate.v2.u32 {%r4, %r5}, [%in];\n sub.u32 %r0, %r4, %r5;".into(),
            Box::new(|lane| A[lane].wrapping_sub(B[lane]).into()),
        ),
    ];
    for (body, expected) in cases {
        let found = run(&body).unwrap_or_else(|fault| panic!("{body}: {fault}"));
        for lane in 0..32 {
            assert_eq!(found[lane], expected(lane), "{body} in lane {lane}");
        }
    }
}

#[test]
fn functions_and_variables_of_a_module() {
    let module = "
        .global .align 4 .b8 counter[8] = {1, 0, 0, 0, 7};
        .const .align 4 .u32 table[4] = {10, 20, 30, 40};
        .global .align 8 .u64 pointer = generic(counter)+4;
        .func (.param .b32 result) twice(.param .b32 value, .param .align 4 .b8 pair[8]) {
            .reg .b32 %r<4>; .reg .pred %p<2>;
            ld.param.u32 %r0, [value];
            ld.param.u32 %r1, [pair+4];
            setp.gt.u32 %p0, %r0, 15;
            @%p0 bra BIG;
            add.u32 %r2, %r0, %r1;
            st.param.u32 [result], %r2;
            ret;
            BIG: st.param.u32 [result], %r1;
            ret;
        }";
    let body = "
        { .param .b32 value; .param .align 4 .b8 pair[8]; .param .b32 result;
          st.param.u32 [value], %r30; st.param.u32 [pair], 0; st.param.u32 [pair+4], 1000;
          call.uni (result), twice, (value, pair);
          ld.param.u32 %r0, [result]; }
        ld.global.u64 %d2, [pointer]; ld.u32 %r4, [%d2];
        and.b32 %r5, %r30, 3; mul.wide.u32 %d3, %r5, 4; mov.u64 %d4, table; add.s64 %d4, %d4, %d3;
        ld.const.u32 %r6, [%d4];
        add.u32 %r0, %r0, %r4; add.u32 %r0, %r0, %r6;";
    let found = Kernel { module, ..Kernel::new(body) }.run(1).unwrap();
    for lane in 0..32 {
        let called = if lane > 15 { 1000 } else { lane + 1000 };
        assert_eq!(found[lane as usize], called + 7 + 10 * (lane % 4 + 1), "lane {lane}");
    }
}

/// Mistakes are found, and the fault names the line.
#[test]
fn faults() {
    let cases = [
        (FaultKind::Uninitialised, "add.u32 %r0, %r1, %r9;"),
        (FaultKind::Uninitialised, ".shared .align 4 .b8 s[4];\n ld.shared.u32 %r0, [s];"),
        (FaultKind::OutOfBounds, "ld.global.u32 %r0, [%in+100000];"),
        (FaultKind::OutOfBounds, "mov.u32 %r4, 64;\n ld.shared.u32 %r0, [%r4];"),
        (FaultKind::Misaligned, "ld.global.u32 %r0, [%in+2];"),
        (FaultKind::Misaligned, "ld.global.v4.u32 {%r0, %r4, %r5, %r6}, [%in+8];"),
        (FaultKind::Trap, "mov.u32 %r0, 0;\n trap;"),
        (FaultKind::Divergence, "mov.u32 %r0, 0;\n setp.lt.u32 %p1, %r30, 4;\n @%p1 bar.sync 0;"),
        (FaultKind::Divergence, "setp.lt.u32 %p1, %r30, 4;\n @%p1 shfl.sync.bfly.b32 %r0, %r1, 1, 31, -1;"),
        (
            FaultKind::Divergence,
            "mov.u32 %r0, 0;\n setp.lt.u32 %p1, %r30, 4;\n @%p1 bra ELSE;\n bar.sync 0;\n bra END;\n ELSE: bar.sync 1;\n END:",
        ),
        (FaultKind::Barrier, "mov.u32 %r0, 0;\n bar.sync 0, 33;"),
        (FaultKind::Deadlock, "mov.u32 %r0, 0;\n bar.sync 1, 64;"),
        (FaultKind::Unsupported, "frobnicate.b32 %r0, %r1;"),
        (FaultKind::Unsupported, "add.sideways.u32 %r0, %r1, %r2;"),
        (FaultKind::Unsupported, "add.u32 %r0, %r1, %nothing;"),
        (FaultKind::Parse, "add.u32 %r0, %r1, nothing;"),
        (FaultKind::Parse, "add.u32 %r0, %r1;"),
        (FaultKind::Parse, "bra NOWHERE;"),
        (FaultKind::Unsupported, "call.uni vprintf, (%r1);"),
    ];
    for (kind, body) in cases {
        let fault = run(body).expect_err(body);
        assert_eq!(fault.kind, kind, "{body}: {fault}");
        let line = fault.place.line.unwrap_or_else(|| panic!("{body}: no line in {fault}"));
        let first = Kernel::first_line();
        assert!((first..first + 1 + body.matches('\n').count() as u32).contains(&line), "{body}: line {line}, {fault}");
        assert!(fault.place.instruction.is_some(), "{body}: {fault}");
    }
}

#[test]
fn launches_are_checked() {
    let shapes = [
        (Launch { block: [0, 1, 1], ..Kernel::LAUNCH }, "zeros"),
        (Launch { block: [1025, 1, 1], ..Kernel::LAUNCH }, "1024 are the most"),
        (Launch { shared_bytes: 300_000, ..Kernel::LAUNCH }, "at most"),
        (Launch { cluster: [2, 1, 1], ..Kernel::LAUNCH }, "multiple of the cluster"),
    ];
    for (launch, message) in shapes {
        let fault = Kernel { launch, ..Kernel::new("mov.u32 %r0, 0;") }.run(1).unwrap_err();
        assert!(fault.kind == FaultKind::Launch && fault.message.contains(message), "{fault}");
    }
}
