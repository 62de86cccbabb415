use super::*;

fn case(text: &str, backward: bool) -> Case {
    let text = format!("{{\"op\": {text}, \"dtype\": \"f32\", \"backward\": {backward}}}");
    serde_json::from_str(&text).unwrap()
}

/// Small cases of every op, in every order of storage and with every flag.
fn cases() -> Vec<Case> {
    let mut texts = vec![
        r#""layer_norm", "rows": 5, "columns": 12"#.to_owned(),
        r#""gelu", "elements": 70"#.to_owned(),
        r#""cross_entropy", "rows": 6, "classes": 9, "smoothing": 0.0"#.to_owned(),
        r#""cross_entropy", "rows": 6, "classes": 9, "smoothing": 0.1"#.to_owned(),
        r#""linear_cross_entropy", "rows": 6, "width": 4, "vocabulary": 9"#.to_owned(),
    ];
    for (a, b) in [(false, false), (false, true), (true, false)] {
        let sizes = r#""product", "m": 3, "n": 5, "k": 4"#;
        texts.push(format!(r#"{sizes}, "a_transposed": {a}, "b_transposed": {b}"#));
    }
    for (queries, keys, causal, shared) in [(5, 5, false, false), (5, 5, true, false), (3, 7, false, true)] {
        let sizes = format!(r#""attention", "sequences": 2, "heads": 3, "queries": {queries}, "keys": {keys}"#);
        texts.push(format!(r#"{sizes}, "head_dim": 4, "causal": {causal}, "shared_query": {shared}"#));
    }
    texts.iter().flat_map(|text| [false, true].map(|backward| case(text, backward))).collect()
}

/// The lengths of the inputs of an op.
fn lengths(op: Op) -> Vec<usize> {
    match op {
        Op::Product { m, n, k, .. } => vec![m * k, k * n],
        Op::LayerNorm { rows, columns } => vec![rows * columns, columns, columns],
        Op::Gelu { elements } => vec![elements],
        Op::Attention { sequences, heads, queries, keys, head_dim, shared_query, .. } => {
            let of_keys = sequences * heads * keys * head_dim;
            vec![if shared_query { 1 } else { sequences } * heads * queries * head_dim, of_keys, of_keys]
        }
        Op::CrossEntropy { rows, classes, .. } => vec![rows * classes],
        Op::LinearCrossEntropy { rows, width, vocabulary } => vec![rows * width, width * vocabulary],
    }
}

fn softmax(logits: &[f64]) -> Vec<f64> {
    let sum: f64 = logits.iter().map(|logit| logit.exp()).sum();
    logits.iter().map(|logit| logit.exp() / sum).collect()
}

fn cross_entropy(logits: &[f64], classes: usize, smoothing: f64) -> Vec<f64> {
    let rows = logits.len() / classes;
    let of_row = |(row, logits): (usize, &[f64])| -> f64 {
        let logs = softmax(logits).into_iter().map(f64::ln);
        let mean = logs.clone().sum::<f64>() / classes as f64;
        -(1.0 - smoothing) * logs.clone().nth(label(row, classes)).unwrap() - smoothing * mean
    };
    vec![logits.chunks(classes).enumerate().map(of_row).sum::<f64>() / rows as f64]
}

/// The sum over `terms` of the products of what two functions give.
fn dot(terms: usize, a: impl Fn(usize) -> f64, b: impl Fn(usize) -> f64) -> f64 {
    (0..terms).map(|term| a(term) * b(term)).sum()
}

/// What an op gives, plainly.
fn plain(op: Op, inputs: &[Vec<f64>]) -> Vec<f64> {
    match op {
        Op::Product { m, n, k, a_transposed, b_transposed } => {
            let a = |row: usize, term: usize| inputs[0][if a_transposed { term * m + row } else { row * k + term }];
            let b = |term: usize, column: usize| {
                inputs[1][if b_transposed { column * k + term } else { term * n + column }]
            };
            (0..m * n).map(|at| dot(k, |term| a(at / n, term), |term| b(term, at % n))).collect()
        }
        Op::LayerNorm { columns, .. } => {
            let of_row = |x: &[f64]| -> Vec<f64> {
                let mean = x.iter().sum::<f64>() / columns as f64;
                let variance = x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / columns as f64;
                let normal =
                    |(at, x): (usize, &f64)| (x - mean) / (variance + 1e-5).sqrt() * inputs[1][at] + inputs[2][at];
                x.iter().enumerate().map(normal).collect()
            };
            inputs[0].chunks(columns).flat_map(of_row).collect()
        }
        Op::Gelu { .. } => inputs[0].iter().map(|x| 0.5 * x * (1.0 + libm::erf(x / 2f64.sqrt()))).collect(),
        Op::Attention { sequences, heads, queries, keys, head_dim, causal, shared_query } => {
            let mut result = Vec::new();
            for row in 0..sequences * heads * queries {
                let (head, query) = (row / queries, row % queries);
                let of_query = if shared_query { head % heads * queries + query } else { row };
                let q = |at: usize| inputs[0][of_query * head_dim + at];
                let in_head = |input: usize, key: usize, at: usize| inputs[input][(head * keys + key) * head_dim + at];
                let seen = if causal { query + 1 } else { keys };
                let score = |key| dot(head_dim, q, |at| in_head(1, key, at)) / (head_dim as f64).sqrt();
                let shares = softmax(&(0..seen).map(score).collect::<Vec<_>>());
                result.extend((0..head_dim).map(|at| dot(seen, |key| shares[key], |key| in_head(2, key, at))));
            }
            result
        }
        Op::CrossEntropy { classes, smoothing, .. } => cross_entropy(&inputs[0], classes, smoothing.into()),
        Op::LinearCrossEntropy { rows, width, vocabulary } => {
            let product = Op::Product { m: rows, n: vocabulary, k: width, a_transposed: false, b_transposed: false };
            cross_entropy(&plain(product, inputs), vocabulary, 0.0)
        }
    }
}

/// The derivative of the sum of what an op gives by one element of an input, from differences.
fn slope(op: Op, inputs: &[Vec<f64>], input: usize, at: usize) -> f64 {
    const STEP: f64 = 1e-4;
    let sum = |change: f64| {
        let mut inputs = inputs.to_vec();
        inputs[input][at] += change;
        plain(op, &inputs).iter().sum::<f64>()
    };
    (sum(STEP) - sum(-STEP)) / (2.0 * STEP)
}

#[test]
fn frameworks_compute_what_was_asked_for() {
    let mut seen = Vec::new();
    for framework in [candle::CANDLE, burn::BURN] {
        for (case, way) in cases().iter().flat_map(|case| framework.ways.iter().map(move |way| (case, way))) {
            if !(framework.has)(case, way) {
                continue;
            }
            seen.push((framework.name, *way));
            let inputs: Vec<Vec<f64>> = (lengths(case.op).into_iter().enumerate())
                .map(|(input, length)| values(input as u64, length).into_iter().map(f64::from).collect())
                .collect();
            let mut wanted = vec![plain(case.op, &inputs)];
            if case.backward {
                let of_input = |input: usize| (0..inputs[input].len()).map(move |at| (input, at));
                for input in 0..inputs.len() {
                    wanted.push(of_input(input).map(|(input, at)| slope(case.op, &inputs, input, at)).collect());
                }
            }
            let mut run = (framework.prepare)(case, way).unwrap();
            run.run().unwrap();
            let found = run.results().unwrap();
            assert_eq!(found.len(), wanted.len(), "{} {way} {case:?}", framework.name);
            for (found, wanted) in found.iter().zip(&wanted) {
                assert_eq!(found.len(), wanted.len(), "{} {way} {case:?}", framework.name);
                // A few sums of some ten terms in f32, and differences with an error of the square of their step.
                let worst = found.iter().zip(wanted).map(|(a, b)| (f64::from(*a) - b).abs()).fold(0.0, f64::max);
                assert!(worst < 1e-5, "{} {way} {case:?}: {worst}", framework.name);
            }
        }
    }
    let count = |peer: (&str, &str)| seen.iter().filter(|seen| **seen == peer).count();
    assert_eq!([count(("candle", "")), count(("candle", "flash")), count(("burn", ""))], [20, 3, 22]);
}

#[test]
fn what_is_no_case_is_not_there() {
    let read = |text: &str| serde_json::from_str::<Case>(text).is_ok();
    assert!(read(r#"{"op": "gelu", "elements": 3, "dtype": "f32", "backward": false, "more": 1}"#));
    for text in [
        "null",
        r#"{"op": "convolution", "elements": 3, "dtype": "f32", "backward": false}"#,
        r#"{"op": "gelu", "dtype": "f32", "backward": false}"#,
        r#"{"op": "gelu", "elements": -3, "dtype": "f32", "backward": false}"#,
    ] {
        assert!(!read(text), "{text}");
    }
    let causal = r#""attention", "sequences": 1, "heads": 1, "queries": 2, "keys": 3, "head_dim": 4, "causal": true,
        "shared_query": false"#;
    assert!(!(burn::BURN.has)(&case(causal, false), "") && !(candle::CANDLE.has)(&case(causal, false), "flash"));
}

#[test]
fn refusals_are_told() {
    let error = |work: fn() -> Result<()>| caught(work).unwrap_err().to_string();
    assert_eq!(error(|| Err("no memory".into())), "no memory");
    assert_eq!(error(|| panic!("sizes {}", 3)), "sizes 3");
    assert_eq!(error(|| panic!("sizes")), "sizes");
    let empty = r#""attention", "sequences": 1, "heads": 1, "queries": 1, "keys": 1, "head_dim": 0, "causal": false,
        "shared_query": false"#;
    let refused = caught(|| (burn::BURN.prepare)(&case(empty, false), "")?.run()).unwrap_err().to_string();
    assert!(refused.contains("must be positive"), "{refused}");
}
