//! `mma.sync`, `ldmatrix`, `stmatrix` and `wgmma`.
use super::{Agreement, Case, PROLOGUE, bytes, noise, small};
use ptxemu::tensor_core::{
    Element, Major, MatrixDescriptor, Mma, OperandA, Register, Shared, Wgmma, load_matrices, store_matrices,
};
use ptxemu::tensor_map::Swizzle;

pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (element, depths) in [(Element::Bf16, [8, 16]), (Element::F16, [8, 16]), (Element::Tf32, [4, 8])] {
        cases.extend(depths.into_iter().flat_map(|k| [mma(element, k, true), mma(element, k, false)]));
    }
    for count in [1, 2, 4] {
        for transpose in [false, true] {
            cases.push(ldmatrix(count, transpose));
            cases.push(stmatrix(count, transpose));
        }
    }
    for n in (8..=256).step_by(8) {
        cases.push(wgmma(plain(n, Element::Bf16), Swizzle::B128, Swizzle::B128, false, true));
    }
    for swizzle in Swizzle::ALL {
        for (a_major, b_major) in
            [(Major::K, Major::K), (Major::K, Major::Mn), (Major::Mn, Major::K), (Major::Mn, Major::Mn)]
        {
            for element in [Element::Bf16, Element::F16] {
                cases.push(wgmma(Wgmma { a_major, b_major, ..plain(96, element) }, swizzle, swizzle, false, true));
            }
        }
        cases.push(wgmma(plain(64, Element::Tf32), swizzle, swizzle, false, true));
        cases.push(wgmma(plain(32, Element::Tf32), Swizzle::None, swizzle, true, true));
    }
    let signs = Wgmma { negate_a: true, ..plain(40, Element::Bf16) };
    cases.push(wgmma(signs, Swizzle::None, Swizzle::B64, false, true));
    cases.push(wgmma(Wgmma { negate_a: false, negate_b: true, ..signs }, Swizzle::None, Swizzle::B64, true, true));
    cases.push(wgmma(signs, Swizzle::None, Swizzle::B64, true, false));
    cases
}

fn plain(n: u32, element: Element) -> Wgmma {
    Wgmma { n, element, a_major: Major::K, b_major: Major::K, negate_a: false, negate_b: false }
}

fn name(element: Element) -> &'static str {
    match element {
        Element::Bf16 => "bf16",
        Element::F16 => "f16",
        Element::Tf32 => "tf32",
    }
}

/// Words that hold values of a type.
fn packed(element: Element, values: &[f32]) -> Vec<u32> {
    let pair = |bits: fn(f32) -> u16| {
        values.chunks_exact(2).map(move |pair| u32::from(bits(pair[0])) | u32::from(bits(pair[1])) << 16).collect()
    };
    match element {
        Element::Bf16 => pair(|value| half::bf16::from_f32(value).to_bits()),
        Element::F16 => pair(|value| half::f16::from_f32(value).to_bits()),
        Element::Tf32 => values.iter().map(|value| value.to_bits()).collect(),
    }
}

/// `x0, x1, ...`.
fn list(prefix: &str, count: usize) -> String {
    let names: Vec<String> = (0..count).map(|i| format!("{prefix}{i}")).collect();
    format!("{{{}}}", names.join(", "))
}

/// Registers of a warp from words that lie register by register.
fn registers(words: &[u32]) -> Vec<Register> {
    words.as_chunks::<32>().0.to_vec()
}

/// With values whose products and sums are exact in f32, or with any.
fn mma(element: Element, k: u32, exact: bool) -> Case {
    let mma = Mma::new(element, k).expect("a shape");
    let (a, b) = (mma.a_registers(), mma.b_registers());
    let mut body = format!("{PROLOGUE}\t.reg .b32 a<{a}>, b<{b}>;\n\t.reg .f32 c<4>, d<4>;\n");
    for (prefix, first, count) in [("a", 0, a), ("b", a, b), ("c", a + b, 4)] {
        for i in 0..count {
            body += &format!("\tld.global.b32 {prefix}{i}, [from+{}];\n", 128 * (first + i));
        }
    }
    body += &format!(
        "\tmma.sync.aligned.m16n8k{k}.row.col.f32.{0}.{0}.f32 {1}, {2}, {3}, {4};\n",
        name(element),
        list("d", 4),
        list("a", a),
        list("b", b),
        list("c", 4)
    );
    (0..4).for_each(|i| body += &format!("\tst.global.f32 [to+{}], d{i};\n", 128 * i));
    let per_word = 4 / element.bytes() as usize;
    let values = |seed, count| if exact { small(seed, count) } else { rounded(seed, count) };
    let mut words = packed(element, &values(k, 32 * (a + b) * per_word));
    words.extend(values(k + 1, 128).iter().map(|value| value.to_bits()));
    let input = registers(&words);
    let c: [Register; 4] = input[a + b..].try_into().expect("four registers");
    let d = mma.run(&input[..a], &input[a..a + b], &c);
    let name = format!("mma.m16n8k{k} {}{}", name(element), if exact { "" } else { ", rounded" });
    // The tensor cores may cut terms off instead of rounding: one last place of the whole sum for each.
    let agreement = if exact { Agreement::Bits } else { Agreement::Sums { magnitude: 16 * k + 4, roundings: k + 1 } };
    Case { agreement, ..Case::new(name, (8, 0), body, bytes(&words), bytes(d.as_flattened())) }
}

/// Values below 4 in magnitude with all bits of an f32.
fn rounded(seed: u32, count: usize) -> Vec<f32> {
    noise(seed, count).into_iter().map(|bits| (bits as i32) as f32 * f32::exp2(-29.0)).collect()
}

/// Row that a lane addresses: not in order.
fn row_of(lane: usize) -> usize {
    lane * 5 % 32
}

const ROW: &str = "\tmul.lo.u32 row, t, 5;\n\tand.b32 row, row, 31;\n\tshl.b32 row, row, 4;\n\tmov.u32 base, buffer;\n\
                   \tadd.u32 row, base, row;\n";

/// Copies 512 bytes to shared memory. `row` is then the address of a lane's row there, `w` that of its word.
fn in_shared() -> String {
    let mut body = format!(
        "{PROLOGUE}\t.reg .b32 x<4>, w, row, base;\n\t.shared .align 128 .b8 buffer[512];\n{ROW}\tshl.b32 w, t, 2;\n\
         \tadd.u32 w, base, w;\n"
    );
    for i in 0..4 {
        body += &format!("\tld.global.b32 x{i}, [from+{0}];\n\tst.shared.b32 [w+{0}], x{i};\n", 128 * i);
    }
    body + "\tbar.sync 0;\n"
}

fn ldmatrix(count: usize, transpose: bool) -> Case {
    let trans = if transpose { ".trans" } else { "" };
    let mut body = in_shared();
    body += &format!("\tldmatrix.sync.aligned.m8n8.x{count}{trans}.shared.b16 {}, [row];\n", list("x", count));
    (0..count).for_each(|i| body += &format!("\tst.global.b32 [to+{}], x{i};\n", 128 * i));
    let input = bytes(&noise(count as u32, 128));
    let rows: Vec<[u8; 16]> =
        (0..8 * count).map(|lane| *input[16 * row_of(lane)..].first_chunk().expect("a row")).collect();
    let expected = bytes(load_matrices(&rows, transpose)[..count].as_flattened());
    Case::new(format!("ldmatrix.x{count}{trans}"), (8, 0), body, input, expected)
}

fn stmatrix(count: usize, transpose: bool) -> Case {
    let trans = if transpose { ".trans" } else { "" };
    // The rows that no matrix is stored to keep what the input says.
    let mut body = in_shared();
    body += &format!(
        "\tstmatrix.sync.aligned.m8n8.x{count}{trans}.shared.b16 [row], {};\n\tbar.sync 0;\n",
        list("x", count)
    );
    for i in 0..4 {
        body += &format!("\tld.shared.b32 x{i}, [w+{0}];\n\tst.global.b32 [to+{0}], x{i};\n", 128 * i);
    }
    let words = noise(10 + count as u32, 128);
    let input = bytes(&words);
    let mut expected = input.clone();
    for (lane, row) in store_matrices(&registers(&words)[..count], transpose)[..8 * count].iter().enumerate() {
        expected[16 * row_of(lane)..][..16].copy_from_slice(row);
    }
    Case::new(format!("stmatrix.x{count}{trans}"), (9, 0), body, input, expected)
}

/// Strides of a dense operand of `mn` rows or columns, as (leading, stride, bytes).
fn strides(major: Major, swizzle: Swizzle, mn: u32) -> (u32, u32, u32) {
    let span = swizzle.span();
    match (major, swizzle) {
        (Major::K, Swizzle::None) => (mn * 16, 128, mn * 32),
        (Major::K, _) => (16, 8 * span, mn * span),
        (Major::Mn, Swizzle::None) => (128, 256, mn * 32),
        (Major::Mn, _) => (16 * span, 8 * span, 16 * span * (mn * 2).div_ceil(span)),
    }
}

/// The image of both operands is copied to shared memory as it is; the product is read back from the accumulators.
fn wgmma(wgmma: Wgmma, a_swizzle: Swizzle, b_swizzle: Swizzle, from_registers: bool, accumulate: bool) -> Case {
    let (n, element) = (wgmma.n, wgmma.element);
    let (a_leading, a_stride, a_bytes) = strides(wgmma.a_major, a_swizzle, 64);
    let (b_leading, b_stride, b_bytes) = strides(wgmma.b_major, b_swizzle, n);
    let b_at = a_bytes.next_multiple_of(1024);
    let image_bytes = b_at + b_bytes;
    let words = (image_bytes / 4).next_multiple_of(128) as usize;
    let descriptor = |start, leading, stride, swizzle| MatrixDescriptor { start, leading, stride, swizzle };
    let d_registers = wgmma.d_registers();

    let mut body = format!(
        "{PROLOGUE}\t.reg .b32 w, base, x, i;\n\t.reg .b32 a<4>;\n\t.reg .f32 d<{d_registers}>;\n\
         \t.reg .b64 a_desc, b_desc, start;\n\
         \t.reg .pred p;\n\t.shared .align 1024 .b8 image[{}];\n\tmov.u32 base, image;\n\tshl.b32 w, t, 2;\n\
         \tadd.u32 w, base, w;\n\
         \tmov.u32 i, 0;\nCOPY:\n\tld.global.b32 x, [from];\n\tst.shared.b32 [w], x;\n\tadd.u64 from, from, 512;\n\
         \tadd.u32 w, w, 512;\n\tadd.u32 i, i, 1;\n\tsetp.lt.u32 p, i, {};\n\t@p bra COPY;\n",
        4 * words,
        words / 128
    );
    for i in 0..4 {
        body += &format!("\tld.global.b32 a{i}, [from+{}];\n", 512 * i);
    }
    for i in 0..d_registers {
        body += &format!("\tld.global.f32 d{i}, [from+{}];\n", 512 * (4 + i));
    }
    let a_bits = descriptor(0, a_leading, a_stride, a_swizzle).encode();
    let b_bits = descriptor(b_at, b_leading, b_stride, b_swizzle).encode();
    let sign = |negated| if negated { -1 } else { 1 };
    let transpose = |major| u32::from(major == Major::Mn);
    let transposes = match (element, from_registers) {
        (Element::Tf32, _) => String::new(),
        (_, true) => format!(", {}", transpose(wgmma.b_major)),
        (_, false) => format!(", {}, {}", transpose(wgmma.a_major), transpose(wgmma.b_major)),
    };
    body += &format!(
        "\tfence.proxy.async.shared::cta;\n\tbar.sync 0;\n\tshr.u32 x, base, 4;\n\tcvt.u64.u32 start, x;\n\
         \tadd.u64 a_desc, start, {a_bits:#x};\n\tadd.u64 b_desc, start, {b_bits:#x};\n\tsetp.ne.u32 p, {}, 0;\n\
         \twgmma.fence.sync.aligned;\n\twgmma.mma_async.sync.aligned.m64n{n}k{}.f32.{ty}.{ty} {}, {}, \
         b_desc, p, {}, {}{transposes};\n\
         \twgmma.commit_group.sync.aligned;\n\twgmma.wait_group.sync.aligned 0;\n",
        u32::from(accumulate),
        wgmma.k(),
        list("d", d_registers),
        if from_registers { list("a", 4) } else { "a_desc".into() },
        sign(wgmma.negate_a),
        sign(wgmma.negate_b),
        ty = name(element),
    );
    for i in 0..d_registers {
        body += &format!("\tst.global.f32 [to+{}], d{i};\n", 512 * i);
    }

    let per_word = 4 / element.bytes() as usize;
    let image = packed(element, &small(n, words * per_word));
    let a = packed(element, &small(n + 1, 4 * 128 * per_word));
    let d: Vec<u32> = small(n + 2, d_registers * 128).iter().map(|value| value.to_bits()).collect();
    let image_bytes = bytes(&image);
    let mut expected = vec![0u32; d.len()];
    for warp in 0..4 {
        // Words of thread t of register i lie at 128 i + t.
        let of_warp = |words: &[u32]| -> Vec<Register> {
            words.chunks_exact(128).map(|register| *register[32 * warp..].first_chunk().expect("a warp")).collect()
        };
        let fragment: [Register; 4] = of_warp(&a).try_into().expect("four registers");
        let operand = if from_registers {
            OperandA::Registers(&fragment)
        } else {
            OperandA::Shared(descriptor(0x400, a_leading, a_stride, a_swizzle))
        };
        let b = descriptor(0x400 + b_at, b_leading, b_stride, b_swizzle);
        let shared = Shared { base: 0x400, bytes: &image_bytes };
        let mut accumulators = of_warp(&d);
        wgmma.run(warp as u32, operand, b, accumulate, shared, &mut accumulators, &mut Vec::new()).expect("in bounds");
        for (to, from) in expected.chunks_exact_mut(128).zip(&accumulators) {
            to[32 * warp..][..32].copy_from_slice(from);
        }
    }
    let place = if from_registers { "registers".into() } else { format!("{a_swizzle:?} {:?}-major", wgmma.a_major) };
    let name = format!(
        "wgmma.m64n{n}k{} {}, A {place}, B {b_swizzle:?} {:?}-major, negated {} {}, accumulate {accumulate}",
        wgmma.k(),
        name(element),
        wgmma.b_major,
        wgmma.negate_a,
        wgmma.negate_b
    );
    let input = bytes(&[image, a, d].concat());
    Case { threads: 128, ..Case::new(name, (9, 0), body, input, bytes(&expected)) }
}
