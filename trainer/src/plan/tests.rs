use super::*;
use crate::data::Batch;
use crate::run::Stepper;
use crate::{machine, test_child};
use engine::Queue;
use kernels::optimizer::Step;
use model::flops::Flops;
use std::time::Instant;

const CHILD: &str = "plan::tests::train_one_step";
const BATCH: usize = 128;
/// Twelve layers of images: enough that the program's own pages, which no plan counts, are a few percent.
const DEEP: &str = "model.overrides={ vision = { layers = 12 } }";

fn config(sets: &[&str]) -> Config {
    let sets: Vec<String> = sets.iter().map(|&set| set.to_owned()).collect();
    Config::load(None, &sets).unwrap()
}

/// Bytes of memory that this process holds.
fn resident() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = text.split_whitespace().nth(1).unwrap().parse().unwrap();
    pages * 4096
}

/// One step of training with full texts, in a process of its own; prints by how much its memory grew at most.
#[test]
#[ignore = "the child process of the test below"]
fn train_one_step() {
    let config = config(&[DEEP, &format!("compute.dtype={}", std::env::var("COCA_TEST_DTYPE").unwrap())]);
    let queue = Queue::cpu_from_env().unwrap();
    let before = resident();
    let planner = Planner::new(&config).unwrap();
    let model = &planner.model;
    model.initialize(1).unwrap();
    let settings = AdamWSettings { beta1: 0.9, beta2: 0.98, epsilon: 1e-6, weight_decay: 0.1 };
    let rule = |_: &Parameter| Rule { decay: true, learning_rate_scale: 1.0 };
    let mut optimizer = AdamW::new(settings, model.parameters(), rule).unwrap();
    let mut step = planner.step(planner.at_capacity(BATCH)).unwrap();
    let text = planner.text();
    let ids: Vec<Vec<i32>> =
        (0..BATCH).map(|i| (0..text.context_length).map(|j| 1 + ((i * 37 + j * 11) % 2000) as i32).collect()).collect();
    let texts = PackedText::new(&ids, text).unwrap();
    assert!(texts.rows() == step.plan().text_rows && texts.decoder_rows.len() == step.plan().decoder_rows);
    step.write(&vec![100; BATCH * planner.image_bytes()], &texts).unwrap();
    step.run(&queue, 1.0, 2.0, false, &mut []).unwrap();
    let update = Step { number: 1, learning_rate: 1e-3, gradient_factor: 1.0 };
    optimizer.step(&queue, model.parameters(), update).unwrap();
    println!("GROWTH {}", machine::peak_memory() - before);
}

#[test]
#[cfg(target_os = "linux")]
fn the_planned_peak_is_what_a_step_really_takes() {
    for dtype in ["f32", "bf16"] {
        let planned = peak_bytes(&config(&[DEEP, &format!("compute.dtype={dtype}")]), BATCH).unwrap();
        // The child neither evaluates nor prepares batches.
        let wanted = PlanBytes { encoding: 0, batches: 0, ..planned }.total();
        let output = test_child(CHILD).env("COCA_TEST_DTYPE", dtype).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let grown = text.split("GROWTH ").nth(1).and_then(|rest| rest.split_whitespace().next());
        let grown: u64 = grown.unwrap_or_else(|| panic!("{text}{output:?}")).parse().unwrap();
        let ratio = grown as f64 / wanted as f64;
        println!("{dtype}: planned {}, measured {}, ratio {ratio:.3}", bytes(wanted), bytes(grown));
        assert!((0.9..1.1).contains(&ratio), "{dtype}: planned {wanted}, measured {grown}, ratio {ratio:.3}");
    }
}

#[test]
fn the_largest_batch_fits_and_one_more_does_not() {
    let config = config(&["data.prefetch=1", "evaluation.batch_size=1"]);
    let memory = 400 << 20;
    let (best, total) = Planner::new(&config).unwrap().largest_batch(memory).unwrap().unwrap();
    let at = |batch| peak_bytes(&config, batch).unwrap().total();
    assert_eq!(at(best), total);
    assert!(at(best) <= memory && memory < at(best + 1), "{best}: {} and {}", at(best), at(best + 1));
    assert_eq!(Planner::new(&config).unwrap().largest_batch(1 << 20).unwrap(), None);
    let most = Planner::new(&config).unwrap().largest_batch(u64::MAX).unwrap().unwrap();
    assert_eq!(most.0, MOST_BATCH);
}

#[test]
fn settings_move_the_bytes_they_are_meant_to() {
    let peak = |sets: &[&str]| peak_bytes(&config(sets), 8).unwrap();
    let plain = peak(&[]);
    let elements = Coca::new(config(&[]).architecture().unwrap(), DType::F32, false).unwrap().parameters().elements();
    let arena = 4 * elements as u64;
    assert_eq!([plain.master, plain.gradients, plain.optimizer], [arena, arena, 2 * arena]);
    assert_eq!([plain.bf16_copy, plain.average, plain.features], [0; 3]);
    assert!(plain.workspace_lower_bound <= plain.workspace);
    let bf16 = peak(&["compute.dtype=bf16", "ema.decay=0.99"]);
    assert_eq!([bf16.bf16_copy, bf16.average], [arena / 2, arena]);
    assert!(bf16.workspace < plain.workspace);
    assert!(peak(&["optimizer.kind=adafactor"]).optimizer < 3 * arena / 2);
    assert!(peak(&["compute.checkpointing=block"]).workspace < plain.workspace);
    let accumulated = peak(&["batch.accumulation=3"]);
    assert_eq!(accumulated.features, 8 * 4 * 24 * 128);
    assert_eq!(accumulated.batches - plain.batches, 2 * 8 * 24 * 24 * 3);
    let shorter =
        StepPlan { text_rows: 8 * 10, decoder_rows: 8 * 8, ..Planner::new(&config(&[])).unwrap().at_capacity(8) };
    assert!(plan_bytes(&config(&[]), shorter).unwrap().workspace < plain.workspace);
    assert!(peak_bytes(&config(&[]), 0).is_err());
}

#[test]
fn the_work_is_that_of_the_formula() {
    let config = config(&["batch.size=4"]);
    let planner = Planner::new(&config).unwrap();
    let flops = planner.flops(&planner.step(planner.at_capacity(4)).unwrap()).unwrap();
    let context = planner.text().context_length;
    let formula = 4.0 * Flops::forward(planner.model.config(), context, context - 1).training() as f64;
    // The formula counts full attention matrices, the ops only what causality leaves; they count norms and the like.
    assert!((0.9..1.1).contains(&(flops / formula)), "{flops:e} and {formula:e}");
}

#[test]
fn a_large_model_is_planned_at_once_and_in_no_memory() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/configs/coca_vit_b32.toml");
    let config = Config::load(Some(file.as_ref()), &[]).unwrap();
    let (before, begin) = (resident(), Instant::now());
    let text = report(&config, Some(16 << 30)).unwrap();
    println!("{text}{:?}, {} more in memory", begin.elapsed(), bytes(resident().saturating_sub(before)));
    // Its arenas alone are 3.8 GiB; other tests run beside this one.
    assert!(resident() < before + (1 << 30));
    for part in ["coca_ViT-B-32, 2", "128 pairs: 16 passes of 8, in bf16", "(capacity)", "GFLOP a step", "adamw"] {
        assert!(text.contains(part), "{part} is not in\n{text}");
    }
    assert!(text.contains(" pairs a pass in 16.0 GiB, ") && text.contains("largest tensors alive at the peak"));
    assert!(report(&config, Some(1 << 30)).unwrap().contains("not even one pair a pass fits in 1.0 GiB"));
}

#[test]
fn a_step_in_parts_works_as_planned() {
    let config = config(&["batch.size=4", "batch.accumulation=2"]);
    let planner = Planner::new(&config).unwrap();
    planner.model.initialize(1).unwrap();
    let planned = planner.flops(&planner.step(planner.at_capacity(4)).unwrap()).unwrap();
    let batch = Batch {
        images: vec![100; 4 * planner.image_bytes()],
        texts: vec![vec![1; planner.text().context_length]; 4],
        ..Batch::default()
    };
    let mut stepper = Stepper::new(&config).unwrap();
    let queue = Queue::cpu_from_env().unwrap();
    let done = stepper.run(&queue, &planner.model, &[batch.clone(), batch], &mut []).unwrap();
    assert_eq!(done.flops, planned);
}
