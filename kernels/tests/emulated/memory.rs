//! What the kernels ask of the memory: sectors and bank conflicts.

use crate::machines::{AMPERE, HOPPER, Machine, Shared, machine};
use engine::cuda::compiler_or_skip;
use engine::{DType, Meta, Op, Tape};
use kernels::activation::{Activate, Activation};
use kernels::attention::{Attention, AttentionBackward, Length, Source, Visibility};
use kernels::columns::{JoinColumns, SplitColumns};
use kernels::contrastive::Contrastive;
use kernels::cross_entropy::{CrossEntropy, CrossEntropyBackward};
use kernels::elementwise::{Add, Cast};
use kernels::embed::{EmbedPatches, EmbedPatchesBackward};
use kernels::layer_norm::{LayerNorm, LayerNormBackward};
use kernels::matmul::{ColumnSum, Layout, Matmul};
use kernels::normalize::Normalize;
use kernels::patchify::Patchify;
use kernels::rows::TakeRows;
use ptxemu::Counters;
use std::sync::Arc;
use std::time::Instant;

/// Counters of one op on zeros, and the bytes of its inputs and outputs. Says how fast the emulator was.
fn count(machine: &Machine, op: impl Op + Clone + 'static, inputs: &[Meta]) -> (Counters, u64, u64) {
    let mut tape = Tape::eager(machine.queue.clone());
    let tensors: Vec<_> = inputs.iter().map(|&meta| tape.input("input", meta).expect("input")).collect();
    // The first run compiles and loads.
    tape.push(op.clone(), &tensors).expect("push");
    machine.emulator.take_counters();
    let (started, name) = (Instant::now(), op.name());
    let outputs = tape.push(op, &tensors).expect("push");
    let seconds = started.elapsed().as_secs_f64();
    let bytes = |metas: &mut dyn Iterator<Item = Meta>| metas.map(|meta| meta.bytes() as u64).sum();
    let (read, written) = (bytes(&mut inputs.iter().copied()), bytes(&mut outputs.iter().map(|output| output.meta())));
    let counters = machine.emulator.take_counters();
    let speed = counters.lane_instructions as f64 / seconds / 1e6;
    println!("{name} on {}: {speed:.1} M lane-instructions a second, checks included", machine.place);
    (counters, read, written)
}

fn bf16(sizes: [usize; 2]) -> Meta {
    Meta::new(sizes, DType::BF16)
}

fn f32(size: usize) -> Meta {
    Meta::new([size], DType::F32)
}

#[test]
fn element_wise_kernels_touch_each_sector_once() {
    let Some(compiler) = compiler_or_skip("element_wise_kernels_touch_each_sector_once") else { return };
    let machine = machine(&Shared(Arc::new(compiler)), AMPERE, 3);
    let x = bf16([32, 768]);
    let counted = [
        count(&machine, Add, &[x, x]),
        count(&machine, Cast(DType::F32), &[x]),
        count(&machine, Cast(DType::BF16), &[Meta { dtype: DType::F32, ..x }]),
        count(&machine, Activate(Activation::Gelu), &[x]),
    ];
    for (counters, read, written) in counted {
        assert_eq!((counters.global_load_sectors, counters.global_store_sectors), (read / 32, written / 32));
        assert_eq!(counters.shared_requests, 0);
    }
}

#[test]
fn layer_norm_reads_each_row_once() {
    let Some(compiler) = compiler_or_skip("layer_norm_reads_each_row_once") else { return };
    let machine = machine(&Shared(Arc::new(compiler)), AMPERE, 4);
    let (rows, n) = (64, 768);
    let (x, sectors_of_x) = (bf16([rows, n]), (rows * n * 2 / 32) as u64);
    // Of weight and bias a lane takes 32 bytes in two loads, each of which touches all sectors of the warp: from the L1
    // cache, twice 3 packs of 32 lanes.
    let weights = |reads: u64| rows as u64 * reads * 2 * 3 * 32;
    let op = LayerNorm { epsilon: 1e-5, residual: false };
    let (counters, ..) = count(&machine, op, &[x, f32(n), f32(n)]);
    assert_eq!(counters.global_load_sectors, sectors_of_x + weights(2));
    // Besides y, two statistics a row.
    assert_eq!(counters.global_store_sectors, sectors_of_x + 2 * rows as u64);

    let (counters, ..) = count(&machine, LayerNormBackward, &[x, f32(n), f32(rows), f32(rows), x]);
    let blocks = rows as u64 / 8;
    let parts = blocks * 2 * n as u64 * 4 / 32;
    assert_eq!(counters.global_load_sectors, 2 * sectors_of_x + weights(2) + 2 * rows as u64 + parts);
    assert_eq!(counters.global_store_sectors, sectors_of_x + parts + 2 * n as u64 * 4 / 32);
    // Only the sums of each warp, written once as quads with a gap of one between lanes, conflict: two ways.
    let excess = counters.shared_wavefronts - counters.shared_ideal_wavefronts;
    assert_eq!(excess, 8 * parts / 4, "{counters:?}");
}

#[test]
fn column_sums_touch_each_sector_once() {
    let Some(compiler) = compiler_or_skip("column_sums_touch_each_sector_once") else { return };
    let compiler = Shared(Arc::new(compiler));
    for capability in [AMPERE, HOPPER] {
        let machine = machine(&compiler, capability, 5);
        for dtype in [DType::BF16, DType::F32] {
            // On the second device four or two blocks share the rows of a strip.
            let (counters, read, written) = count(&machine, ColumnSum, &[Meta::new([2100, 64], dtype)]);
            assert_eq!(counters.global_load_sectors, read / 32);
            // Each block, or the first of a cluster, stores 32 or 16 sums.
            assert_eq!(counters.global_store_sectors, written / 32);
            assert_eq!(counters.shared_wavefronts, counters.shared_ideal_wavefronts, "{dtype}");
        }
    }
}

#[test]
fn rows_and_columns_touch_each_sector_once() {
    let Some(compiler) = compiler_or_skip("rows_and_columns_touch_each_sector_once") else { return };
    let machine = machine(&Shared(Arc::new(compiler)), AMPERE, 7);
    let (rows, n) = (16, 384);
    let x = bf16([rows, n]);
    let index = Meta::new([rows], DType::I32);
    let counted = [
        count(&machine, JoinColumns, &[x, x]),
        count(&machine, SplitColumns { first: n }, &[bf16([rows, 2 * n])]),
        // Besides the row an index, of zeros: the same row each time.
        count(&machine, TakeRows, &[x, index]),
    ];
    for ((counters, read, written), indices) in counted.into_iter().zip([0, 0, rows as u64]) {
        let values = read - indices * 4;
        assert_eq!(counters.global_load_sectors, values / 32 + indices);
        assert_eq!(counters.global_store_sectors, written / 32);
    }
    // Two passes over a row of f32, the second from the L1 cache; an inverse norm a row.
    let x = Meta::new([rows, n], DType::F32);
    let (counters, read, _) = count(&machine, Normalize, &[x]);
    assert_eq!(counters.global_load_sectors, 2 * read / 32);
    assert_eq!(counters.global_store_sectors, read / 32 + rows as u64);
}

#[test]
fn patches_are_written_in_whole_sectors() {
    let Some(compiler) = compiler_or_skip("patches_are_written_in_whole_sectors") else { return };
    let machine = machine(&Shared(Arc::new(compiler)), AMPERE, 8);
    for dtype in [DType::BF16, DType::F32] {
        let op = Patchify { patch_size: 32, mean: [0.5; 3], std: [0.25; 3], dtype };
        let (counters, read, written) = count(&machine, op, &[Meta::new([2, 32, 32, 3], DType::U8)]);
        // Each of a thread's three loads touches the sectors of all.
        assert_eq!(counters.global_load_sectors, 3 * read / 32, "{dtype}");
        assert_eq!(counters.global_store_sectors, written / 32, "{dtype}");
    }
}

#[test]
fn embeddings_touch_each_sector_once() {
    let Some(compiler) = compiler_or_skip("embeddings_touch_each_sector_once") else { return };
    let machine = machine(&Shared(Arc::new(compiler)), AMPERE, 9);
    let (images, per_image, n) = (8, 4, 256);
    let positions = Meta::new([per_image + 1, n], DType::F32);
    let rows = images * (per_image + 1);
    let (counters, _, written) = count(&machine, EmbedPatches, &[bf16([images * per_image, n]), positions, f32(n)]);
    assert_eq!(counters.global_store_sectors, written / 32);
    // Patches, or the class row of each image, and a position of each row.
    let (patches, tables) = (images * per_image * n * 2, (images + rows) * n * 4);
    assert_eq!(counters.global_load_sectors, ((patches + tables) / 32) as u64);

    let op = EmbedPatchesBackward { dtype: DType::BF16, class: true };
    let (counters, _, written) = count(&machine, op, &[bf16([rows, n]), positions]);
    assert_eq!(counters.global_load_sectors, (rows * n * 2 / 32) as u64);
    assert_eq!(counters.global_store_sectors, written / 32);
    assert_eq!(counters.shared_wavefronts, counters.shared_ideal_wavefronts);
}

#[test]
fn products_have_no_bank_conflicts_and_store_whole_sectors() {
    let Some(compiler) = compiler_or_skip("products_have_no_bank_conflicts_and_store_whole_sectors") else { return };
    let compiler = Shared(Arc::new(compiler));
    let (m, n, k) = (128, 256, 128);
    for capability in [AMPERE, HOPPER] {
        let machine = machine(&compiler, capability, 6);
        for (layout, a, b) in [(Layout::Nn, [m, k], [k, n]), (Layout::Nt, [m, k], [n, k]), (Layout::Tn, [k, m], [k, n])]
        {
            for dtype in [DType::BF16, DType::F32] {
                let (a, b) = (Meta::new(a, dtype), Meta::new(b, dtype));
                let (counters, _, written) = count(&machine, Matmul::new(layout, dtype), &[a, b]);
                let name = format!("{layout:?} {dtype} on {}: {counters:?}", machine.place);
                assert_eq!(counters.shared_wavefronts, counters.shared_ideal_wavefronts, "{name}");
                assert_eq!(counters.global_store_sectors, written / 32, "{name}");
                assert_eq!(counters.global_store_bytes, written, "{name}");
                if dtype == DType::BF16 {
                    assert_eq!(counters.matrix_flops, 2 * (m * n * k) as u64, "{name}");
                }
            }
        }
    }
}

#[test]
fn attention_reads_its_operands_once_and_has_no_bank_conflicts() {
    let Some(compiler) = compiler_or_skip("attention_reads_its_operands_once_and_has_no_bank_conflicts") else {
        return;
    };
    let machine = machine(&Shared(Arc::new(compiler)), AMPERE, 7);
    let (sequences, heads) = (2, 2);
    let shapes = [(DType::BF16, 32), (DType::BF16, 64), (DType::BF16, 96), (DType::F32, 32)].map(|shape| (shape, 64));
    // The last has more keys than a warp of the backward kernel has in one group.
    for ((dtype, dim), length) in shapes.into_iter().chain([((DType::BF16, 64), 128)]) {
        let rows = sequences * length;
        let (source, length) = (Source::Packed, Length::Fixed(length));
        let op = Attention { heads, source, queries: length, keys: length, visibility: Visibility::All };
        let matrix = |columns: usize| Meta::new([rows, columns], dtype);
        let (qkv, result) = (matrix(3 * heads * dim), matrix(heads * dim));
        let statistics = Meta::new([rows, heads], DType::F32);
        let (counters, read, _) = count(&machine, op, &[qkv]);
        let name = format!("{dtype}, heads of {dim}: {counters:?}");
        // One block has all queries of a sequence, so that each sector is read once.
        assert_eq!((counters.asynchronous_load_bytes, counters.global_load_sectors), (read, read / 32), "{name}");
        assert_eq!(counters.shared_wavefronts, counters.shared_ideal_wavefronts, "{name}");
        // Log-sum-exps of one head and 8 rows lie in two sectors.
        assert_eq!(counters.global_store_sectors, (result.bytes() / 32 + rows * heads / 4) as u64, "{name}");

        let backward = AttentionBackward { of: op };
        let (counters, _, written) = count(&machine, backward, &[qkv, result, statistics, result]);
        let name = format!("backward, {dtype}, heads of {dim}: {counters:?}");
        // Queries, keys, values and the gradient, by one kernel or by each of two.
        let kernels = if dtype == DType::BF16 && dim <= 64 { 1 } else { 2 };
        assert_eq!(counters.asynchronous_load_bytes, kernels * (qkv.bytes() + result.bytes()) as u64, "{name}");
        assert_eq!(counters.shared_wavefronts, counters.shared_ideal_wavefronts, "{name}");
        assert_eq!(counters.global_store_sectors, written / 32, "{name}");
    }
}

#[test]
fn cross_entropy_reads_each_row_once() {
    let Some(compiler) = compiler_or_skip("cross_entropy_reads_each_row_once") else { return };
    let machine = machine(&Shared(Arc::new(compiler)), AMPERE, 7);
    let (rows, n) = (32, 1024);
    let (logits, labels) = (Meta::new([rows, n], DType::F32), Meta::new([rows], DType::I32));
    let sectors = (rows * n * 4 / 32) as u64;
    // Each of a row's two warps reads its label, the label's logit, the first logit and, for the gradient, the share; then
    // a warp for 32 rows sums them up.
    let singles = |reads: u64| rows as u64 * 2 * reads + 16;
    let smoothing = 0.1;
    let (forward, ..) = count(&machine, CrossEntropy { smoothing }, &[logits, labels]);
    assert!((sectors..=sectors + singles(4)).contains(&forward.global_load_sectors), "{forward:?}");
    assert_eq!(forward.global_store_sectors, rows as u64 + 1);
    let (backward, ..) = count(&machine, CrossEntropyBackward { smoothing }, &[logits, labels, f32(1)]);
    assert!((sectors..=sectors + singles(5)).contains(&backward.global_load_sectors), "{backward:?}");
    assert_eq!(backward.global_store_sectors, sectors + 1);
    for counters in [forward, backward] {
        assert_eq!(counters.shared_wavefronts, counters.shared_ideal_wavefronts, "{counters:?}");
    }
}

#[test]
fn contrastive_has_no_bank_conflicts_and_stores_similarities_once() {
    let test = "contrastive_has_no_bank_conflicts_and_stores_similarities_once";
    let Some(compiler) = compiler_or_skip(test) else { return };
    let machine = machine(&Shared(Arc::new(compiler)), AMPERE, 8);
    let (batch, chunk) = (128, 64);
    let features = Meta::new([batch, 16], DType::F32);
    let (counters, ..) = count(&machine, Contrastive { chunk }, &[features, features, f32(1)]);
    let (batch, chunks) = (batch as u64, (batch / chunk) as u64);
    // Besides similarities: two values of each row, three of each column after each chunk, the loss.
    let statistics = 2 * batch + chunks * 3 * batch / 8 + 1;
    assert_eq!(counters.global_store_sectors, batch * batch / 8 + statistics);
    assert_eq!(counters.shared_wavefronts, counters.shared_ideal_wavefronts, "{counters:?}");
}
