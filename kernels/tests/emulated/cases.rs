//! The cases of the ops, fixed and random.

use crate::machines::{AMPERE, HOPPER, Shared, check, check_all, machines};
use crate::running::sweep;
use engine::DType;
use engine::cuda::compiler_or_skip;
use kernels::case::{Case, Draw};
use proptest::prelude::*;
use std::sync::Arc;

#[test]
fn element_wise_cases() {
    let cases = [kernels::elementwise::cases(), kernels::activation::cases()].concat();
    check_all("element_wise_cases", &[AMPERE, HOPPER], cases);
}

#[test]
fn layer_norm_cases() {
    check_all("layer_norm_cases", &[AMPERE, HOPPER], kernels::layer_norm::cases());
}

#[test]
fn row_and_column_cases() {
    use kernels::{columns, log_sum_exp, normalize, rows, top_k};
    let cases = [columns::cases(), log_sum_exp::cases(), normalize::cases(), rows::cases(), top_k::cases()];
    check_all("row_and_column_cases", &[AMPERE], cases.concat());
}

#[test]
fn patches_and_embeddings() {
    check_all("patches_and_embeddings", &[AMPERE], [kernels::patchify::cases(), kernels::embed::cases()].concat());
}

/// With the same kernels on all devices.
#[test]
fn attention_cases() {
    check_all("attention_cases", &[AMPERE], kernels::attention::cases());
}

/// With one kernel on all devices.
#[test]
fn f32_products() {
    let f32 = |case: &Case| case.inputs[0].meta.dtype == DType::F32;
    check_all("f32_products", &[AMPERE], kernels::matmul::cases().into_iter().filter(f32).collect());
}

/// Where there are clusters, whose blocks share rows; without them they are checked beside the products.
#[test]
fn column_sums_in_clusters() {
    let sums = |case: &Case| case.op.name() == "column_sum";
    check_all("column_sums_in_clusters", &[HOPPER], kernels::matmul::cases().into_iter().filter(sums).collect());
}

#[test]
fn bf16_products() {
    let bf16 = |case: &Case| case.inputs[0].meta.dtype == DType::BF16;
    check_all("bf16_products", &[AMPERE, HOPPER], kernels::matmul::cases().into_iter().filter(bf16).collect());
}

/// Their products are f32: the same kernels on all devices. Without the wide batch, which is there for the CPU's blocks.
#[test]
fn contrastive_cases() {
    let narrow = |case: &Case| case.inputs[0].meta.shape.rows() < 256;
    check_all("contrastive_cases", &[AMPERE], kernels::contrastive::cases().into_iter().filter(narrow).collect());
}

#[test]
fn cross_entropy_cases() {
    check_all("cross_entropy_cases", &[AMPERE], kernels::cross_entropy::cases());
}

/// Products differ from device to device, and so does the shared memory that may hold a row.
#[test]
fn linear_cross_entropy_cases() {
    check_all("linear_cross_entropy_cases", &[AMPERE, HOPPER], kernels::linear_cross_entropy::cases());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 6 * sweep(), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_cases(words in proptest::collection::vec(any::<u32>(), 16), seed in any::<u32>()) {
        let Some(compiler) = compiler_or_skip("random_cases") else { return Ok(()) };
        let machines = machines(&Shared(Arc::new(compiler)), &[AMPERE, HOPPER], [seed.into(), u64::from(seed) + 1]);
        for (_, draw) in kernels::DRAWS {
            check(&draw(&mut Draw::new(words.clone())), &machines);
        }
    }
}
