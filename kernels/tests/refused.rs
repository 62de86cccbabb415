//! What an op cannot do is refused when it is pushed, or when it runs, before it reads or writes memory that is not its own.

use engine::cpu::Isa;
use engine::{CpuQueue, DType, Meta, Op, Queue, Tape, Tensor};
use kernels::attention::{Attention, AttentionBackward, Length, Source, Visibility};
use kernels::embed::TextTables;
use kernels::layer_norm::LayerNormBackward;
use kernels::linear_cross_entropy::{Chunks, LinearCrossEntropyBackward};
use kernels::matmul::{Activation, Layout, Matmul};

fn tape() -> Tape {
    Tape::eager(Queue::Cpu(CpuQueue::new(Isa::best(), 1).expect("a thread")))
}

fn f32s<const RANK: usize>(shape: [usize; RANK]) -> Meta {
    Meta::new(shape, DType::F32)
}

fn refuse(op: impl Op + 'static, metas: &[Meta], text: &str) {
    let mut tape = tape();
    let inputs: Vec<Tensor> = metas.iter().map(|&meta| tape.variable("x", meta).expect("input")).collect();
    let error = tape.push(op, &inputs).expect_err(text).to_string();
    assert!(error.contains(text), "{error}");
}

#[test]
fn lengths_of_attention_must_fit_its_tensors() {
    let attention = |source, queries, keys| Attention { heads: 1, source, queries, keys, visibility: Visibility::All };
    let shared = attention(Source::SharedQuery, Length::Fixed(7), Length::Fixed(4));
    refuse(shared, &[f32s([6, 16]), f32s([8, 32])], "shared ones all 6 rows: got Fixed(7) and Fixed(4)");
    let packed = attention(Source::Packed, Length::Fixed(4), Length::Fixed(8));
    refuse(packed, &[f32s([8, 48])], "packed queries are as long as their keys");
    let of = attention(Source::Packed, Length::Fixed(4), Length::Fixed(4));
    let gradients = [f32s([8, 48]), f32s([8, 16]), f32s([7, 1]), f32s([8, 16])];
    refuse(
        AttentionBackward { of },
        &gradients,
        "expects f32[8, 16], f32[8, 1] and f32[8, 16] after the forward inputs",
    );
}

#[test]
fn backward_ops_check_what_the_forward_left() {
    let layer_norm = [f32s([4, 8]), f32s([8]), f32s([3]), f32s([4]), f32s([4, 8])];
    refuse(LayerNormBackward, &layer_norm, "mean and rstd f32[4]");
    let chunks = Chunks { logits: 4, gradients: 4 };
    let op = LinearCrossEntropyBackward { ignore: -1, chunks, weight_gradient: DType::U8 };
    let inputs = [f32s([4, 8]), f32s([8, 16]), Meta::new([4], DType::I32)];
    refuse(op, &inputs, "the weight's gradient is f32 or bf16, not u8");
}

#[test]
fn a_product_has_no_activation_beside_a_residual() {
    let op = Matmul { activation: Some(Activation::Gelu), residual: true, ..Matmul::new(Layout::Nt, DType::F32) };
    refuse(op, &[f32s([2, 3]), f32s([4, 3]), f32s([2, 4])], "an activation or a residual, not both");
}

#[test]
fn ragged_rows_do_not_pass_to_other_rows() {
    let mut tape = tape();
    let x = tape.input("x", f32s([4, 3, 8])).expect("input");
    let [weight, bias] = ["weight", "bias"].map(|name| tape.input(name, f32s([8])).expect("input"));
    let offsets = tape.input("offsets", Meta::new([2], DType::I32)).expect("input");
    tape.set_ragged(x, offsets).expect("ragged");
    let error = kernels::layer_norm::layer_norm(&mut tape, x, weight, bias, 1e-5).expect_err("12 statistics of 4 rows");
    assert!(error.to_string().contains("f32[12], has other rows than the ragged f32[4, 3, 8]"), "{error}");
}

#[test]
fn ids_are_checked_on_the_way_back_too() {
    let mut tape = tape();
    let ids = tape.input("ids", Meta::new([2], DType::I32)).expect("input");
    let at = tape.input("at", Meta::new([2], DType::I32)).expect("input");
    let [tokens, positions] = [10, 4].map(|rows| tape.variable("table", f32s([rows, 8])).expect("table"));
    let class = tape.variable("class", f32s([8])).expect("class");
    let text = kernels::embed::embed_text(&mut tape, ids, at, TextTables { tokens, positions, class }, DType::F32)
        .expect("embedded");
    tape.write(ids, &[1, 1_000_000]).expect("values");
    let seed = tape.input("seed", text.meta()).expect("seed");
    let error = tape.backward(&[(text, seed)]).expect_err("no such row").to_string();
    assert!(error.contains("id 1000000 of row 1 is not below 10"), "{error}");
}

#[test]
fn a_class_that_is_ruled_out_leaves_the_loss_finite() {
    let mut tape = tape();
    let logits = tape.input("logits", f32s([1, 3])).expect("input");
    tape.write(logits, &[0.0, f32::NEG_INFINITY, 1.0]).expect("values");
    let labels = tape.input("labels", Meta::new([1], DType::I32)).expect("input");
    let loss = kernels::cross_entropy::cross_entropy(&mut tape, logits, labels, 0.0).expect("loss");
    let found = f64::from(tape.read::<f32>(loss).expect("read")[0]);
    assert!((found - (1.0f64.exp() + 1.0).ln()).abs() < 1e-6, "{found}");
}
