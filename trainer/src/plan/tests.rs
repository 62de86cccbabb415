use super::*;
use crate::data::Batch;
use crate::machine::resident_memory;
use crate::run::PairStepper;
use engine::{DType, Queue};
use model::flops::Flops;
use std::time::Instant;

fn config(sets: &[&str]) -> Config {
    let sets: Vec<String> = sets.iter().map(|&set| set.to_owned()).collect();
    Config::load(None, &sets).unwrap()
}

/// A planner for texts of full length.
fn planner(config: &Config) -> Planner<'_> {
    Planner::new(config, DataView::unknown(&config.architecture().unwrap())).unwrap()
}

fn memory(sets: &[&str]) -> Memory {
    let config = config(&[sets, &["batch.size=8"]].concat());
    let planner = planner(&config);
    planner.memory(&planner.step(8).unwrap()).unwrap()
}

#[test]
fn the_largest_batch_fits_and_one_more_does_not() {
    let config = config(&["data.prefetch=1", "evaluation.batch_size=1"]);
    let planner = planner(&config);
    let limit = planner.fixed.program + (400 << 20);
    let [of_process, on_device]: [fn(&Memory) -> u64; 2] = [|memory| memory.peak().1, Memory::on_device];
    // A GPU does not hold the program and its data.
    for (limit, held) in [(limit, of_process), (200 << 20, on_device)] {
        let (best, total) = planner.largest_batch(limit, held).unwrap().unwrap();
        let at = |batch| held(&planner.memory(&planner.step(batch).unwrap()).unwrap());
        assert_eq!(at(best), total);
        assert!(at(best) <= limit && limit < at(best + 1), "{best}: {} and {}", at(best), at(best + 1));
        assert_eq!(planner.largest_batch(1 << 20, held).unwrap(), None);
        assert_eq!(planner.largest_batch(u64::MAX, held).unwrap().unwrap().0, MOST_BATCH);
    }
}

#[test]
fn a_gpu_holds_weights_state_arena_and_inputs_twice() {
    let memory = Memory { program: 1, master: 10, gradients: 100, arena: 1000, inputs: 10_000, ..Memory::default() };
    assert_eq!(memory.on_device(), 21_110);
    let averaged = Memory { average: 10, evaluation: 5, bf16_copy: 7, ..memory };
    assert_eq!(averaged.on_device(), 21_110 + 7 + 10 + 17);
}

#[test]
fn settings_move_the_bytes_they_are_meant_to() {
    let plain = memory(&[]);
    let elements = Coca::new(config(&[]).architecture().unwrap(), DType::F32, false).unwrap().parameters().elements();
    let arena = 4 * elements as u64;
    assert_eq!([plain.master, plain.gradients, plain.optimizer, plain.saving], [arena, arena, 2 * arena, arena]);
    assert_eq!([plain.bf16_copy, plain.average, plain.features], [0; 3]);
    assert!(plain.lower_bound <= plain.activations);
    let bf16 = memory(&["compute.dtype=bf16", "ema.decay=0.99"]);
    assert_eq!([bf16.bf16_copy, bf16.average], [arena / 2, arena]);
    assert!(bf16.activations < plain.activations);
    // Keys and values of four beams of 128 images in three layers, and of the images' 15 tokens in one, are half as long.
    assert_eq!(plain.captions - bf16.captions, 2 * 2 * 128 * (3 * 4 * 128 * 30 + 128 * 15));
    assert_eq!(bf16.evaluation - bf16.captions, plain.evaluation - plain.captions + arena + arena / 2);
    assert!(memory(&["optimizer.kind=adafactor"]).optimizer < 3 * arena / 2);
    assert!(memory(&["compute.checkpointing=block"]).activations < plain.activations);
    let accumulated = memory(&["batch.accumulation=3"]);
    assert_eq!(accumulated.features, 8 * 4 * 24 * 128);
    assert_eq!(accumulated.batches - plain.batches, 2 * 8 * 16 * 16 * 3);
    assert!(accumulated.inputs > plain.inputs + 8 * 16 * 16 * 3);
    assert_eq!(memory(&["evaluation.captions=0"]).captions, 0);
    assert_eq!(memory(&["logging.report=false"]).evaluation, 0);
    assert!(memory(&["evaluation.every=5"]).evaluation > plain.evaluation);
}

#[test]
fn the_largest_phase_is_the_peak() {
    let memory = Memory { program: 1, master: 10, activations: 50, arena: 70, ..Memory::default() };
    assert_eq!(Memory { batches: 5, ..memory }.peak(), ("training", 86));
    // What training held is kept, up to a limit.
    assert_eq!(Memory { batches: 5, saving: 10, ..memory }.peak(), ("saving", 96));
    assert_eq!(Memory { batches: 5, saving: 10, evaluation: 3, ..memory }.peak(), ("evaluation", 99));
    let large = 100 << 20;
    assert_eq!(Memory { batches: large, saving: 10, ..memory }.peak(), ("training", 81 + large));
}

#[test]
fn rows_are_those_of_the_data_or_of_full_texts() {
    let set = "data.train=emoji:fxemoji";
    let text = report(&config(&[set, "batch.size=32", "evaluation.captions=0"]), Some(1 << 30)).unwrap();
    // 33 rows is the longest text.
    let rows = text.split("text rows").nth(1).and_then(|rest| rest.split_whitespace().next()).unwrap();
    assert!((32 * 4..32 * 16).contains(&rows.parse::<usize>().unwrap()), "{text}");
    assert!(text.contains("by the first 32 texts of the data") && text.contains("the whole process at its peak, in "));
    let text = report(&config(&["data.train=nowhere", "batch.size=4"]), Some(1 << 30)).unwrap();
    let wanted = "text rows           132 and 124 in the decoder: every text of full length, because the data is not there: nowhere";
    assert!(text.contains(wanted), "{text}");
}

#[test]
fn the_work_is_that_of_the_formula() {
    let config = config(&["batch.size=4"]);
    let planner = planner(&config);
    let flops = planner.flops(&planner.step(4).unwrap()).unwrap();
    let context = planner.text().context_length;
    let formula = 4.0 * Flops::forward(planner.model.config(), context, context - 1).training() as f64;
    // The formula counts full attention matrices, the ops only what causality leaves; they count norms and the like.
    assert!((0.9..1.1).contains(&(flops / formula)), "{flops:e} and {formula:e}");
}

#[test]
fn a_large_model_is_planned_at_once_and_in_no_memory() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/configs/coca_vit_b32.toml");
    let config = Config::load(Some(file.as_ref()), &[]).unwrap();
    let (before, begin) = (resident_memory(), Instant::now());
    let text = report(&config, Some(16 << 30)).unwrap();
    println!("{text}{:?}, {} more in memory", begin.elapsed(), bytes(resident_memory().saturating_sub(before)));
    // Its arenas alone are 3.8 GiB; other tests run beside this one.
    assert!(resident_memory() < before + (1 << 30));
    for part in ["coca_ViT-B-32, 2", "128 pairs: 16 passes of 8, in bf16", "not there: pairs.tsv", "adamw"] {
        assert!(text.contains(part), "{part} is not in\n{text}");
    }
    assert!(text.contains(" pairs a pass in 16.0 GiB, ") && text.contains("largest tensors alive at the peak"));
    assert!(text.contains("on a GPU") && text.contains("largest on a GPU    "), "{text}");
    assert!(report(&config, Some(1 << 30)).unwrap().contains("not even one pair a pass fits in 1.0 GiB"));
}

#[test]
fn a_step_in_parts_works_as_planned() {
    let config = config(&["batch.size=4", "batch.accumulation=2"]);
    let planner = planner(&config);
    planner.model.initialize(1).unwrap();
    let planned = planner.flops(&planner.step(4).unwrap()).unwrap();
    let batch = Batch {
        images: vec![100; 4 * image_bytes(&planner.model)],
        texts: vec![vec![1; planner.text().context_length]; 4],
        ..Batch::default()
    };
    let mut stepper = PairStepper::new(&config).unwrap();
    let queue = Queue::cpu_from_env().unwrap();
    let done = stepper.run(&queue, &planner.model, &[batch.clone(), batch], &mut []).unwrap();
    assert_eq!(done.flops, planned);
}

#[test]
fn a_task_is_planned_with_its_head() {
    let sets = ["data.train=emoji:fxemoji", "task.kind=classes", "batch.size=16"];
    let grouped = [&sets[..], &["task.labels=group"]].concat();
    let text = report(&config(&grouped), Some(1 << 30)).unwrap();
    assert!(text.contains("head                classes, 9 classes\n") && !text.contains("text rows"), "{text}");
    let count = |text: &str| -> usize {
        text.split(" parameters").next().unwrap().rsplit(' ').next().unwrap().parse().unwrap()
    };
    // 458 classes more have a row and a bias each.
    let named = report(&config(&sets), Some(1 << 30)).unwrap();
    assert_eq!(count(&named) - count(&text), (467 - 9) * (128 + 1));
    let error = report(&config(&["data.train=nowhere", "task.kind=vqa"]), Some(1 << 30)).unwrap_err().to_string();
    assert!(
        error.contains("the classes of a task are those of its data, which is needed here: ")
            && error.contains("nowhere"),
        "{error}"
    );
    // Of the same batch the optimiser holds the head's state too, and nothing is generated.
    let config = config(&grouped);
    let planner = Planner::new(&config, DataView::open(&config, &config.architecture().unwrap())).unwrap();
    let memory = planner.memory(&planner.step(16).unwrap()).unwrap();
    assert!(memory.captions == 0 && memory.evaluation > 0 && planner.flops(&planner.step(16).unwrap()).unwrap() > 1e6);
}
