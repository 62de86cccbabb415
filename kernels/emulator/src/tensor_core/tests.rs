//! The instructions against naive products, with fragments and layouts written down once more from the manual.
use super::*;
use crate::tensor_map::{Descriptor, ElementType, Fill, Swizzle};

/// A small generator, so that cases can be repeated.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        self.0 >> 33
    }

    /// A value that all element types hold: few bits and a small exponent, so that sums in f64 are exact.
    fn value(&mut self) -> f32 {
        let magnitude = (128 + self.next() % 128) as f32 / 128.0 * f32::exp2((self.next() % 6) as f32 - 3.0);
        if self.next().is_multiple_of(2) { magnitude } else { -magnitude }
    }

    fn matrix(&mut self, rows: usize, columns: usize) -> Vec<Vec<f32>> {
        (0..rows).map(|_| (0..columns).map(|_| self.value()).collect()).collect()
    }
}

/// The bytes of a value.
fn encode(element: Element, value: f32) -> Vec<u8> {
    match element {
        Element::Bf16 => half::bf16::from_f32(value).to_le_bytes().to_vec(),
        Element::F16 => half::f16::from_f32(value).to_le_bytes().to_vec(),
        // The low bits are noise that must be ignored.
        Element::Tf32 => (value.to_bits() | 0x1357).to_le_bytes().to_vec(),
    }
}

fn product(a: &[Vec<f32>], b: &[Vec<f32>], row: usize, column: usize, start: f32) -> f32 {
    let terms = a[row].iter().zip(b).map(|(&a, b)| f64::from(a) * f64::from(b[column]));
    (terms.sum::<f64>() + f64::from(start)) as f32
}

/// Puts a value into element `index` of a fragment, counted as in the manual's figures: a0, a1, ...
fn put(element: Element, registers: &mut [Register], index: usize, lane: usize, value: f32) {
    let bytes = encode(element, value);
    let bits = bytes.iter().rev().fold(0u32, |bits, &byte| bits << 8 | u32::from(byte));
    let packed = 4 / bytes.len();
    registers[index / packed][lane] |= bits << (16 * (index % packed));
}

/// Row and column of a_i, written after the lists under the figures of each shape.
fn a_place(element: Element, k: usize, i: usize, lane: usize) -> (usize, usize) {
    let (group, thread) = (lane >> 2, lane % 4);
    match (element, k) {
        (Element::Tf32, 4) => (if i == 0 { group } else { group + 8 }, thread),
        (Element::Tf32, _) => {
            (if i == 0 || i == 2 { group } else { group + 8 }, if i < 2 { thread } else { thread + 4 })
        }
        (_, 8) => (if i < 2 { group } else { group + 8 }, thread * 2 + (i & 1)),
        _ => {
            let row = if i < 2 || (4..6).contains(&i) { group } else { group + 8 };
            (row, thread * 2 + (i & 1) + if i < 4 { 0 } else { 8 })
        }
    }
}

/// Row and column of b_i.
fn b_place(element: Element, i: usize, lane: usize) -> (usize, usize) {
    let (group, thread) = (lane >> 2, lane % 4);
    match element {
        Element::Tf32 => (if i == 0 { thread } else { thread + 4 }, group),
        _ => (thread * 2 + (i & 1) + if i < 2 { 0 } else { 8 }, group),
    }
}

#[test]
fn mma_is_the_product_of_the_fragments_in_the_manual() {
    let shapes = [
        (Element::Bf16, 8),
        (Element::Bf16, 16),
        (Element::F16, 8),
        (Element::F16, 16),
        (Element::Tf32, 4),
        (Element::Tf32, 8),
    ];
    let mut random = Random(1);
    for (element, k) in shapes {
        let mma = Mma::new(element, k as u32).unwrap();
        let (a, b, c) = (random.matrix(16, k), random.matrix(k, 8), random.matrix(16, 8));
        let mut a_registers = vec![[0; 32]; mma.a_registers()];
        let mut b_registers = vec![[0; 32]; mma.b_registers()];
        let mut c_registers = [[0; 32]; 4];
        let c_place = |i: usize, lane: usize| (lane / 4 + if i < 2 { 0 } else { 8 }, lane % 4 * 2 + (i & 1));
        for lane in 0..32 {
            for i in 0..16 * k / 32 {
                let (row, column) = a_place(element, k, i, lane);
                put(element, &mut a_registers, i, lane, a[row][column]);
            }
            for i in 0..8 * k / 32 {
                let (row, column) = b_place(element, i, lane);
                put(element, &mut b_registers, i, lane, b[row][column]);
            }
            for i in 0..4 {
                let (row, column) = c_place(i, lane);
                c_registers[i][lane] = c[row][column].to_bits();
            }
        }
        let d = mma.run(&a_registers, &b_registers, &c_registers);
        for lane in 0..32 {
            for i in 0..4 {
                let (row, column) = c_place(i, lane);
                let expected = product(&a, &b, row, column, c[row][column]);
                assert_eq!(f32::from_bits(d[i][lane]), expected, "{element:?} k{k} d{i} of lane {lane}");
            }
        }
    }
    assert!(Mma::new(Element::Bf16, 4).is_err() && Mma::new(Element::Tf32, 16).is_err());
}

/// A canonical layout of the manual: `((T, W, m), (8, k)) : ((1, T, x), (W T, y))` MN-major and
/// `((8, m), (T, 2 k)) : ((W T, y), (1, x))` K-major, in elements, with the swizzle on the byte address.
#[derive(Clone, Copy, Debug)]
struct Layout {
    element: Element,
    major: Major,
    swizzle: Swizzle,
    start: u32,
    leading: u32,
    stride: u32,
}

impl Layout {
    fn address(&self, mn: u32, k: u32) -> u32 {
        let bytes = self.element.bytes();
        let t = 16 / bytes;
        let w = match self.swizzle {
            Swizzle::None => 1,
            Swizzle::B32 => 2,
            Swizzle::B64 => 4,
            Swizzle::B128 => 8,
        };
        let (leading, stride) = (self.leading / bytes, self.stride / bytes);
        let linear = match (self.major, self.swizzle) {
            (Major::K, Swizzle::None) => mn % 8 * t + mn / 8 * stride + k % t + k / t * leading,
            (Major::K, _) => mn % 8 * w * t + mn / 8 * stride + k % t + k / t * t,
            (Major::Mn, Swizzle::None) => mn % t + mn / t * stride + k % 8 * t + k / 8 * leading,
            (Major::Mn, _) => mn % t + mn / t % w * t + mn / t / w * leading + k % 8 * w * t + k / 8 * stride,
        };
        let mut address = self.start + linear * bytes;
        // Swizzle<B, 4, 3>: bit 4 + i is flipped by bit 7 + i for the lowest B of them.
        for i in 0..w.ilog2() {
            if address >> (7 + i) & 1 == 1 {
                address ^= 1 << (4 + i);
            }
        }
        address
    }

    fn descriptor(&self) -> MatrixDescriptor {
        let Layout { start, leading, stride, swizzle, .. } = *self;
        let bits = MatrixDescriptor { start, leading, stride, swizzle }.encode();
        MatrixDescriptor::decode(bits).unwrap()
    }

    /// A layout for `mn` x `k` elements from `start` on that does not overlap itself; `variant` chooses among the possible.
    fn new(element: Element, major: Major, swizzle: Swizzle, start: u32, mn: u32, variant: u32) -> Layout {
        let span = swizzle.span();
        let even = variant.is_multiple_of(2);
        let (leading, stride, start) = match (major, swizzle) {
            (Major::K, Swizzle::None) if even => (128, 256, start),
            (Major::K, Swizzle::None) => (mn * 16 + 64, 128, start + 48),
            // The leading offset is not used; a step along K within the row is part of the start.
            (Major::K, _) => (16, 8 * span + variant % 2 * 1024, start + 32 * (variant % (span / 32))),
            (Major::Mn, Swizzle::None) if even => (128, 256, start),
            (Major::Mn, Swizzle::None) => (128 * mn.div_ceil(8), 128, start + 16),
            (Major::Mn, _) if even => (16 * span, 8 * span, start),
            (Major::Mn, _) => (8 * span, 8 * span * (mn * 2).div_ceil(span), start),
        };
        Layout { element, major, swizzle, start, leading, stride }
    }
}

const BASE: u32 = 0x400;

/// Runs all four warps and compares with the naive product. What the layouts do not cover is NaN.
fn check_wgmma(wgmma: Wgmma, a: Layout, b: Layout, from_registers: bool, accumulate: bool, random: &mut Random) {
    wgmma.validate().unwrap();
    let (n, k, element) = (wgmma.n as usize, wgmma.k() as usize, wgmma.element);
    let (a_matrix, b_matrix) = (random.matrix(64, k), random.matrix(k, n));
    let mut bytes = vec![0xffu8; 0x30000];
    let mut chunks = [std::collections::BTreeSet::new(), std::collections::BTreeSet::new()];
    let mut store = |layout: &Layout, operand: usize, mn: usize, depth: usize, value: f32| {
        let address = layout.address(mn as u32, depth as u32);
        let value = encode(element, value);
        let place = &mut bytes[(address - BASE) as usize..][..value.len()];
        assert!(place.iter().all(|&byte| byte == 0xff), "{layout:?} overlaps itself at {mn}, {depth}");
        place.copy_from_slice(&value);
        chunks[operand].insert((address / 16 * 16, if operand == 0 { mn / 16 } else { 0 }));
    };
    for depth in 0..k {
        (0..64).for_each(|m| store(&a, 0, m, depth, a_matrix[m][depth]));
        (0..n).for_each(|column| store(&b, 1, column, depth, b_matrix[depth][column]));
    }
    let shared = Shared { base: BASE, bytes: &bytes };
    let sign = if wgmma.negate_a != wgmma.negate_b { -1.0 } else { 1.0 };
    for warp in 0..4 {
        let d_place =
            |i: usize, lane: usize| (lane / 4 + 16 * warp + 8 * (i / 2 % 2), 8 * (i / 4) + lane % 4 * 2 + i % 2);
        let before = |i: usize, lane: usize| (i as f32) - (lane as f32) * 0.5;
        let mut d: Vec<Register> = (0..n / 2).map(|i| std::array::from_fn(|lane| before(i, lane).to_bits())).collect();
        let mut fragment = [[0; 32]; 4];
        for (lane, i) in (0..32).flat_map(|lane| (0..16 * k / 32).map(move |i| (lane, i))) {
            let (row, column) = a_place(element, k, i, lane);
            put(element, &mut fragment, i, lane, a_matrix[16 * warp + row][column]);
        }
        let operand = if from_registers { OperandA::Registers(&fragment) } else { OperandA::Shared(a.descriptor()) };
        let mut reads = Vec::new();
        wgmma.run(warp as u32, operand, b.descriptor(), accumulate, shared, &mut d, &mut reads).unwrap();
        for (lane, i) in (0..32).flat_map(|lane| (0..n / 2).map(move |i| (lane, i))) {
            let (row, column) = d_place(i, lane);
            let start = if accumulate { before(i, lane) } else { 0.0 };
            let expected = sign * product(&a_matrix, &b_matrix, row, column, sign * start);
            assert_eq!(f32::from_bits(d[i][lane]), expected, "{wgmma:?} {a:?} {b:?} d{i} of lane {lane}, warp {warp}");
        }
        let mut expected: Vec<u32> = chunks[1].iter().map(|&(address, _)| address).collect();
        if !from_registers {
            expected.extend(chunks[0].iter().filter(|(_, of)| *of == warp).map(|&(address, _)| address));
        }
        reads.sort_unstable();
        expected.sort_unstable();
        assert_eq!(reads, expected, "chunks read by warp {warp} of {wgmma:?}");
    }
}

#[test]
fn wgmma_is_the_product_for_every_width_layout_and_swizzle() {
    let mut random = Random(2);
    let mut variant = 0;
    for n in (8..=256).step_by(8) {
        for swizzle in Swizzle::ALL {
            for (a_major, b_major) in
                [(Major::K, Major::K), (Major::K, Major::Mn), (Major::Mn, Major::K), (Major::Mn, Major::Mn)]
            {
                variant += 1;
                let elements: &[Element] = if (a_major, b_major) == (Major::K, Major::K) {
                    &[Element::Bf16, Element::F16, Element::Tf32]
                } else {
                    &[Element::Bf16, Element::F16][variant as usize / 4 % 2..][..1]
                };
                for &element in elements {
                    let wgmma =
                        Wgmma { n, element, a_major, b_major, negate_a: variant % 3 == 0, negate_b: variant % 5 == 0 };
                    // A has another swizzle than B.
                    let a_swizzle = Swizzle::ALL[(variant as usize / 2) % 4];
                    let a = Layout::new(element, a_major, a_swizzle, BASE, 64, variant / 3);
                    let b = Layout::new(element, b_major, swizzle, 0x10000, n, variant / 2);
                    check_wgmma(wgmma, a, b, variant % 4 == 3, variant % 7 > 0, &mut random);
                }
            }
        }
    }
}

/// Copies a box of 16-bit elements with a tensor map: `columns` fastest, both a multiple of 8.
fn copy_box(
    shared: &mut [u8],
    at: u32,
    matrix: &dyn Fn(usize, usize) -> f32,
    columns: u32,
    rows: u32,
    swizzle: Swizzle,
) {
    let descriptor = Descriptor {
        address: 16,
        element: ElementType::Bf16,
        rank: 2,
        sizes: [columns.into(), rows.into(), 0, 0, 0],
        strides: [u64::from(columns) * 2, 0, 0, 0],
        box_sizes: [columns, rows, 0, 0, 0],
        swizzle,
        fill: Fill::Zero,
    };
    for piece in descriptor.pieces(&[0, 0], at).unwrap() {
        for byte in (0..piece.bytes).step_by(2) {
            let index = (piece.global.unwrap() - 16) as usize / 2 + byte as usize / 2;
            let value = matrix(index / columns as usize, index % columns as usize);
            shared[(piece.shared + byte - BASE) as usize..][..2].copy_from_slice(&encode(Element::Bf16, value));
        }
    }
}

/// The descriptors that public kernels use for tiles that TMA brought: K-major tiles of 64 along K with SBO = 1024 and 32
/// bytes a step, MN-major tiles of 64 along MN with SBO = 1024 for the next 8 along K and LBO for the next tile.
#[test]
fn tiles_of_tensor_maps_are_read_with_the_usual_descriptors() {
    let mut random = Random(3);
    let (n, depth) = (128usize, 64usize);
    let (a, b) = (random.matrix(64, depth), random.matrix(depth, n));
    for (a_major, b_major) in [(Major::K, Major::K), (Major::Mn, Major::Mn)] {
        let mut bytes = vec![0xffu8; 0x20000];
        let (a_at, b_at) = (BASE, 0x8000);
        let half_tile = 64 * 2 * depth as u32;
        match a_major {
            Major::K => copy_box(&mut bytes, a_at, &|row, column| a[row][column], 64, 64, Swizzle::B128),
            Major::Mn => copy_box(&mut bytes, a_at, &|row, column| a[column][row], 64, depth as u32, Swizzle::B128),
        }
        match b_major {
            Major::K => copy_box(&mut bytes, b_at, &|row, column| b[column][row], 64, n as u32, Swizzle::B128),
            Major::Mn => (0..2).for_each(|tile| {
                let at = b_at + tile * half_tile;
                copy_box(
                    &mut bytes,
                    at,
                    &|row, column| b[row][64 * tile as usize + column],
                    64,
                    depth as u32,
                    Swizzle::B128,
                );
            }),
        }
        let wgmma = Wgmma { n: n as u32, element: Element::Bf16, a_major, b_major, negate_a: false, negate_b: false };
        let descriptor =
            |start: u32, leading: u32| MatrixDescriptor { start, leading, stride: 1024, swizzle: Swizzle::B128 };
        let mut d = vec![[0; 32]; n / 2];
        for step in 0..depth as u32 / 16 {
            let advance = |major| if major == Major::K { 32 * step } else { 16 * 128 * step };
            let a = OperandA::Shared(descriptor(a_at + advance(a_major), half_tile));
            let b = descriptor(b_at + advance(b_major), half_tile);
            let shared = Shared { base: BASE, bytes: &bytes };
            wgmma.run(2, a, b, step > 0, shared, &mut d, &mut Vec::new()).unwrap();
        }
        for (i, register) in d.iter().enumerate() {
            for (lane, &word) in register.iter().enumerate() {
                let (row, column) = (32 + lane / 4 + 8 * (i / 2 % 2), 8 * (i / 4) + 2 * (lane % 4) + i % 2);
                let (value, expected) = (f32::from_bits(word), product(&a, &b, row, column, 0.0));
                // Four roundings to f32 on the way.
                assert!((value - expected).abs() <= 1e-4, "{a_major:?}: {value} instead of {expected}");
            }
        }
    }
}

#[test]
fn what_the_hardware_would_not_take_is_a_fault() {
    let wgmma =
        Wgmma { n: 8, element: Element::Tf32, a_major: Major::K, b_major: Major::K, negate_a: false, negate_b: false };
    assert!(wgmma.validate().is_ok());
    for n in [0, 4, 12, 264] {
        assert!(Wgmma { n, ..wgmma }.validate().is_err());
    }
    assert!(Wgmma { b_major: Major::Mn, ..wgmma }.validate().is_err());
    assert!(MatrixDescriptor::decode(1 << 49).unwrap_err().message.contains("base offset 1"));
    assert!(MatrixDescriptor::decode(1 << 14).is_err() && MatrixDescriptor::decode(1 << 52).is_err());
    let outside = MatrixDescriptor { start: 0x600, leading: 128, stride: 256, swizzle: Swizzle::None };
    let shared = Shared { base: BASE, bytes: &[0; 0x210] };
    let mut d = vec![[0; 32]; 4];
    let fault = wgmma.run(0, OperandA::Registers(&[[0; 32]; 4]), outside, true, shared, &mut d, &mut Vec::new());
    let fault = fault.unwrap_err();
    assert_eq!(fault.kind, FaultKind::OutOfBounds);
    assert!(fault.message.contains("leads to 0x680") && fault.message.contains("0x400 to 0x610"), "{fault}");
}
