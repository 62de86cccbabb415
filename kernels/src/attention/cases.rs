//! Cases of attention: every source, mask and kind of rows on odd shapes, and the shapes of real CoCa towers for benches.

use super::{
    Attention, AttentionReference, Length, SEEN_BY_ITSELF, SEEN_LATER, Source, Visibility, decode,
};
use crate::case::{Case, Draw, Fill, Input, Tolerance};
use engine::DType;
use std::sync::Arc;

/// Rows of one side of a case.
#[derive(Clone, Debug)]
enum Side {
    Fixed { sequences: usize, rows: usize },
    /// Lengths, and spare rows at the end of the tensor.
    Ragged { lengths: Vec<usize>, spare: usize },
}

impl Side {
    fn length(&self) -> Length {
        match self {
            Side::Fixed { rows, .. } => Length::Fixed(*rows),
            Side::Ragged { .. } => Length::Ragged,
        }
    }

    fn rows(&self) -> usize {
        match self {
            Side::Fixed { sequences, rows } => sequences * rows,
            Side::Ragged { lengths, spare } => lengths.iter().sum::<usize>() + spare,
        }
    }

    fn offsets(&self) -> Option<Input> {
        let Side::Ragged { lengths, .. } = self else { return None };
        let mut offsets = vec![0i32];
        for &length in lengths {
            offsets.push(offsets[offsets.len() - 1] + length as i32);
        }
        Some(Input::integers(&offsets))
    }
}

impl From<(usize, usize)> for Side {
    fn from((sequences, rows): (usize, usize)) -> Side {
        Side::Fixed { sequences, rows }
    }
}

impl From<(&[usize], usize)> for Side {
    fn from((lengths, spare): (&[usize], usize)) -> Side {
        Side::Ragged { lengths: lengths.to_vec(), spare }
    }
}

/// What a case attends with.
#[derive(Clone, Debug)]
enum Kind {
    Packed(Side, Visibility),
    Separate(Side, Side),
    SharedQuery(usize, Side),
}

fn case(name: &str, kind: Kind, heads: usize, head_dim: usize, dtype: DType, bits: Vec<u8>) -> Case {
    let width = heads * head_dim;
    let (source, visibility, tensors, sides) = match &kind {
        Kind::Packed(side, visibility) => {
            (Source::Packed, *visibility, vec![(side.rows(), 3 * width)], vec![side.clone()])
        }
        Kind::Separate(queries, keys) => (
            Source::Separate,
            Visibility::All,
            vec![(queries.rows(), width), (keys.rows(), 2 * width)],
            vec![queries.clone(), keys.clone()],
        ),
        Kind::SharedQuery(rows, keys) => (
            Source::SharedQuery,
            Visibility::All,
            vec![(*rows, width), (keys.rows(), 2 * width)],
            vec![Side::from((1, *rows)), keys.clone()],
        ),
    };
    let mut inputs: Vec<Input> = tensors.iter().map(|&(rows, columns)| Input::variable([rows, columns], dtype)).collect();
    for (index, side) in sides.iter().enumerate() {
        if let Some(offsets) = side.offsets() {
            inputs[index] = inputs[index].clone().ragged(inputs.len());
            inputs.push(offsets);
        }
    }
    if visibility == Visibility::KeyBits {
        let values = bits.iter().map(|&bits| f64::from(bits)).collect();
        let ragged = inputs[0].ragged;
        inputs.push(Input { ragged, ..Input::data([tensors[0].0], DType::U8, Fill::Values(values)) });
    }
    let op = Attention {
        heads,
        source,
        queries: sides[0].length(),
        keys: sides[sides.len() - 1].length(),
        visibility,
    };
    let longest = sides.iter().map(Side::rows).max().unwrap_or(0);
    // The exponential passes an error of the scores on: head_dim products of a few units each, relative to 1.
    let terms = 2 * head_dim + longest;
    Case {
        name: format!("attention {name}: {kind:?}, {heads} heads of {head_dim}, {dtype}"),
        op: Arc::new(op),
        reference: Arc::new(AttentionReference(op)),
        inputs,
        results: 1,
        // Roundings to storage: the probabilities and the result. Results are means of values of size 1.
        forward: Tolerance::sum_of(terms).roundings(2.0).scale(1.0),
        // And the result that delta is computed from, the score gradients and the gradient. Where a softmax has one
        // term, gradients of size 1 cancel to 0.
        backward: Tolerance::sum_of(2 * terms).roundings(4.0).scale(2.0),
        bench_only: false,
    }
}

/// Bits of the legacy mask for texts that end in a pad row and CLS, with an id 0 inside where it fits.
fn legacy_bits(lengths: &[usize], spare: usize) -> Vec<u8> {
    let both = SEEN_LATER | SEEN_BY_ITSELF;
    let mut bits = Vec::new();
    for (index, &length) in lengths.iter().enumerate() {
        let hidden = |row: usize| row + 1 == length || (index % 2 == 1 && row == 2);
        bits.extend((0..length).map(|row| if hidden(row) { 0 } else { both }));
    }
    bits.resize(bits.len() + spare, both);
    bits
}

/// The fixed cases.
pub fn cases() -> Vec<Case> {
    use Visibility::{All, Causal, KeyBits};
    let mut cases = Vec::new();
    // Every source with every kind of rows, and self-attention with every mask. Some sequences have no row.
    let (ragged, ragged_keys) = (Side::from((&[5usize, 0, 1, 9, 3][..], 4)), Side::from((&[2usize, 7, 4, 0, 12][..], 3)));
    let (fixed, fixed_keys) = (Side::from((5, 6)), Side::from((5, 11)));
    let packed = [&fixed, &ragged].map(|side| [All, Causal, KeyBits].map(|mask| Kind::Packed(side.clone(), mask)));
    let separate = [&fixed, &ragged]
        .map(|queries| [&fixed_keys, &ragged_keys].map(|keys| Kind::Separate(queries.clone(), keys.clone())));
    let shared = [Side::from((19, 5)), ragged_keys.clone()].map(|keys| Kind::SharedQuery(6, keys));
    let kinds: Vec<Kind> = packed.into_iter().flatten().chain(separate.into_iter().flatten()).chain(shared).collect();
    for dtype in [DType::F32, DType::BF16] {
        let mut add = |name: &str, kind: Kind, heads: usize, head_dim: usize| {
            let bits = match &kind {
                Kind::Packed(Side::Ragged { lengths, spare }, _) => legacy_bits(lengths, *spare),
                Kind::Packed(Side::Fixed { sequences, rows }, _) => legacy_bits(&vec![*rows; *sequences], 0),
                _ => Vec::new(),
            };
            cases.push(case(name, kind, heads, head_dim, dtype, bits));
        };
        for kind in &kinds {
            add("combination", kind.clone(), 2, 16);
        }
        add("head dimension 5", Kind::Packed((1, 7).into(), All), 3, 5);
        add("several blocks", Kind::Packed((1, 121).into(), Causal), 1, 32);
        add("several key tiles", Kind::Separate((1, 7).into(), (1, 531).into()), 1, 24);
        add("several key tiles", Kind::Packed((1, 300).into(), Causal), 1, 16);
        add("several blocks", Kind::SharedQuery(70, (2, 6).into()), 1, 16);
        add("one long sequence", Kind::Packed((&[1usize, 70, 2][..], 1).into(), KeyBits), 1, 16);
        add("head dimension 32", Kind::Packed(ragged.clone(), KeyBits), 2, 32);
        add("head dimension 64", Kind::Separate((3, 4).into(), (3, 19).into()), 2, 64);
        // What one block of a GPU has, with one or more tiles and rounds of both sides.
        for (rows, visibility) in [(1, All), (15, KeyBits), (50, All), (77, KeyBits), (77, Causal), (100, Causal), (145, KeyBits)] {
            add("short", Kind::Packed((1, rows).into(), visibility), 1, 64);
        }
        for (queries, keys) in [(1, 1), (17, 50), (75, 255), (100, 97), (129, 33), (33, 256), (200, 140)] {
            add("short", Kind::Separate((1, queries).into(), (1, keys).into()), 1, 64);
        }
        let uneven = Side::from((&[17usize, 0, 130, 1, 3][..], 2));
        add("uneven", Kind::Packed(uneven.clone(), KeyBits), 1, 64);
        add("uneven", Kind::Packed(uneven.clone(), All), 1, 20);
        add("uneven", Kind::Packed((&[200usize, 120][..], 0).into(), KeyBits), 1, 24);
        add("uneven", Kind::Separate((&[1usize, 0, 100, 16][..], 0).into(), (&[20usize, 256, 0, 3][..], 0).into()), 1, 64);
        add("uneven", Kind::Separate((&[1usize, 0, 100, 16][..], 0).into(), (4, 131).into()), 2, 32);
        add("head dimension 96", Kind::SharedQuery(1, (2, 10).into()), 1, 96);
        add("head dimension 80", Kind::Packed((1, 18).into(), Causal), 1, 80);
        add("head dimension 104", Kind::Packed((1, 18).into(), All), 1, 104);
    }
    cases.extend(decode::cases());
    cases.extend(bench_cases());
    cases
}

/// Shapes of coca_ViT-B-32 with 256 pairs, and of the image tower of L-14.
pub(crate) fn gpu_cases() -> Vec<Case> {
    let case = |name: &str, kind: Kind, heads: usize| {
        let case = case(name, kind, heads, 64, DType::BF16, Vec::new());
        Case { name: format!("attention {name} bf16"), bench_only: true, ..case }
    };
    vec![
        case("B-32 image x256", Kind::Packed((256, 50).into(), Visibility::All), 12),
        case("B-32 text x256", Kind::Packed((256, 77).into(), Visibility::Causal), 8),
        case("B-32 cross x256", Kind::Separate((256, 75).into(), (256, 255).into()), 8),
        case("B-32 pooler x256", Kind::SharedQuery(256, (256, 50).into()), 8),
        case("L-14 image x64", Kind::Packed((64, 257).into(), Visibility::All), 16),
    ]
}

/// Shapes of real towers: image, text, decoder, cross-attention and poolers, batch 8.
fn bench_cases() -> Vec<Case> {
    let text = [12usize, 17, 9, 14, 20, 8, 11, 15];
    let mut cases = Vec::new();
    for dtype in [DType::F32, DType::BF16] {
        let mut add = |name: &str, kind: Kind, heads: usize, head_dim: usize| {
            let bits = legacy_bits(&text, 0);
            let case = case(name, kind, heads, head_dim, dtype, bits);
            cases.push(Case { name: format!("attention {name} {dtype}"), bench_only: true, ..case });
        };
        add("default image", Kind::Packed((64, 37).into(), Visibility::All), 6, 32);
        add("default text", Kind::Packed((&text[..], 0).into(), Visibility::KeyBits), 6, 32);
        add("default cross", Kind::Separate((64, 12).into(), (64, 32).into()), 6, 32);
        add("default pooler", Kind::SharedQuery(32, (64, 37).into()), 6, 32);
        add("B-32 image", Kind::Packed((8, 50).into(), Visibility::All), 12, 64);
        add("B-32 text, padded", Kind::Packed((8, 77).into(), Visibility::Causal), 8, 64);
        add("B-32 text, ragged", Kind::Packed((&text[..], 0).into(), Visibility::KeyBits), 8, 64);
        add("B-32 cross", Kind::Separate((8, 76).into(), (8, 255).into()), 8, 64);
        add("B-32 pooler", Kind::SharedQuery(256, (8, 50).into()), 8, 64);
        add("B-16 image", Kind::Packed((8, 197).into(), Visibility::All), 12, 64);
        add("L-14 image", Kind::Packed((8, 257).into(), Visibility::All), 16, 64);
        add("long", Kind::Packed((1, 1024).into(), Visibility::All), 12, 64);
    }
    cases
}

/// Rows of so many sequences.
fn draw_side(draw: &mut Draw, sequences: usize) -> Side {
    if draw.flag() {
        return Side::from((sequences, draw.integer(1, 40)));
    }
    let mut lengths: Vec<usize> = (0..sequences).map(|_| draw.integer(0, 12)).collect();
    // A tensor needs a row.
    lengths[sequences - 1] = lengths[sequences - 1].max(1);
    Side::Ragged { lengths, spare: draw.integer(0, 3) }
}

/// A random case.
pub fn draw(draw: &mut Draw) -> Case {
    let (heads, head_dim, dtype) = (draw.integer(1, 3), draw.pick(&[16, 32, 3, 20, 64, 96]), draw.float());
    let sequences = draw.integer(1, 5);
    let (kind, bits) = match draw.integer(0, 4) {
        0 | 1 => {
            let side = draw_side(draw, sequences);
            let bits = (0..side.rows()).map(|_| draw.pick(&[3u8, 3, 0, 1, 2])).collect();
            (Kind::Packed(side, draw.pick(&[Visibility::All, Visibility::Causal, Visibility::KeyBits])), bits)
        }
        2 => (Kind::Separate(draw_side(draw, sequences), draw_side(draw, sequences)), Vec::new()),
        3 => (Kind::SharedQuery(draw.integer(1, 20), draw_side(draw, sequences)), Vec::new()),
        _ => return decode::draw(draw),
    };
    case("drawn", kind, heads, head_dim, dtype, bits)
}
