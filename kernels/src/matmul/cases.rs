//! The plain reference of matmul, and its cases.

use super::{Activation, ColumnSum, Layout, Matmul, Sizes};
use crate::activation::{activate_f64, derivative_f64};
use crate::case::{Array, Case, Draw, Fill, Input, Reference, Tolerance, round};
use engine::rng::Philox;
use engine::{DType, Op};
use std::sync::Arc;

fn element(layout: Layout, a: &Array, b: &Array, i: usize, j: usize, k: usize) -> (usize, usize) {
    let (a_columns, b_columns) = (a.shape.columns(), b.shape.columns());
    match layout {
        Layout::Nn => (i * a_columns + k, k * b_columns + j),
        Layout::Nt => (i * a_columns + k, j * b_columns + k),
        Layout::Tn => (k * a_columns + i, k * b_columns + j),
    }
}

impl Matmul {
    /// The operand a, made anew of the pre-activation that it is the activation of.
    fn operand(&self, inputs: &[Array]) -> Array {
        let (Some(kind), Some(pre_activation)) = (self.activated_input, inputs.last()) else { return inputs[0].clone() };
        let data = pre_activation.data.iter().map(|&x| activate_f64(kind, x)).collect();
        Array { shape: pre_activation.shape, data }
    }

    /// The product and the bias, before anything else: `[m, n]`.
    fn product(&self, inputs: &[Array]) -> Array {
        let (a, b) = (inputs[0].shape, inputs[1].shape);
        let sizes = self.sizes(a, b).expect("a case that infers");
        let mut c = Array::zeros(self.output_shape(a, sizes).expect("a case that infers"));
        let operand = self.operand(inputs);
        for (index, value) in c.data.iter_mut().enumerate() {
            *value = self.product_at(inputs, |x| operand.data[x], sizes, index);
        }
        c
    }

    /// Element `index` of it, given the elements of the operand a.
    fn product_at(&self, inputs: &[Array], a: impl Fn(usize) -> f64, sizes: Sizes, index: usize) -> f64 {
        let (i, j) = (index / sizes.n, index % sizes.n);
        let bias = if self.bias { inputs[2].data[j] } else { 0.0 };
        let terms = (0..sizes.k).map(|k| element(self.layout, &inputs[0], &inputs[1], i, j, k));
        bias + terms.map(|(x, y)| a(x) * inputs[1].data[y]).sum::<f64>()
    }

    /// What follows the product and the bias at this place of the result.
    fn epilogue(&self, inputs: &[Array], index: usize, product: f64) -> f64 {
        let activated = self.activation.map_or(product, |kind| activate_f64(kind, product));
        let factor = match (self.activation_backward, inputs.last()) {
            (Some(kind), Some(kept)) => derivative_f64(kind, kept.data[index]),
            _ => 1.0,
        };
        let residual = if self.residual { inputs[2 + usize::from(self.bias)].data[index] } else { 0.0 };
        activated * factor + residual
    }
}

impl Reference for Matmul {
    fn forward(&self, inputs: &[Array]) -> Vec<Array> {
        let mut c = self.product(inputs);
        let pre_activation = c.clone();
        for (index, value) in c.data.iter_mut().enumerate() {
            *value = self.epilogue(inputs, index, *value);
        }
        if self.activation.is_some() { vec![c, pre_activation] } else { vec![c] }
    }

    fn element(&self, inputs: &[Array], output: usize, index: usize) -> Option<f64> {
        let sizes = self.sizes(inputs[0].shape, inputs[1].shape).ok()?;
        let product = match (self.activated_input, inputs.last()) {
            (Some(kind), Some(kept)) => {
                self.product_at(inputs, |x| activate_f64(kind, kept.data[x]), sizes, index)
            }
            _ => self.product_at(inputs, |x| inputs[0].data[x], sizes, index),
        };
        Some(if output == 0 { self.epilogue(inputs, index, product) } else { product })
    }

    fn gradients(&self, inputs: &[Array], outputs: &[Array]) -> Vec<Option<Array>> {
        let (a, b) = (&self.operand(inputs), &inputs[1]);
        let sizes = self.sizes(a.shape, b.shape).expect("a case that infers");
        let mut gradient = outputs[0].clone();
        if let Some(kind) = self.activation {
            let pre_activation = self.product(inputs);
            for (index, value) in gradient.data.iter_mut().enumerate() {
                *value *= derivative_f64(kind, pre_activation.data[index]);
                *value += outputs.get(1).map_or(0.0, |direct| direct.data[index]);
            }
        }
        let (mut da, mut db) = (Array::zeros(a.shape), Array::zeros(b.shape));
        let mut dbias = Array::zeros([sizes.n]);
        for i in 0..sizes.m {
            for j in 0..sizes.n {
                let g = gradient.data[i * sizes.n + j];
                dbias.data[j] += g;
                for k in 0..sizes.k {
                    let (x, y) = element(self.layout, a, b, i, j, k);
                    da.data[x] += g * b.data[y];
                    db.data[y] += g * a.data[x];
                }
            }
        }
        let mut gradients = vec![Some(da), Some(db)];
        if self.bias {
            gradients.push(Some(dbias));
        }
        if self.residual {
            gradients.push(Some(outputs[0].clone()));
        }
        if let (Some(kind), Some(pre_activation)) = (self.activated_input, inputs.last()) {
            let mut passed_on = gradients[0].take();
            for (value, &x) in passed_on.iter_mut().flat_map(|array| &mut array.data).zip(&pre_activation.data) {
                *value *= derivative_f64(kind, x);
            }
            gradients.push(passed_on);
        }
        gradients
    }
}

impl Reference for ColumnSum {
    fn forward(&self, inputs: &[Array]) -> Vec<Array> {
        let mut sums = Array::zeros([inputs[0].shape.columns()]);
        for row in 0..inputs[0].shape.rows() {
            sums.data.iter_mut().zip(inputs[0].row(row)).for_each(|(sum, value)| *sum += value);
        }
        vec![sums]
    }

    fn gradients(&self, _inputs: &[Array], _outputs: &[Array]) -> Vec<Option<Array>> {
        vec![None]
    }
}

fn case(op: Matmul, (m, n, k): (usize, usize, usize), dtype: DType, used: Option<usize>) -> Case {
    let (a, b) = match op.layout {
        Layout::Nn => ([m, k], [k, n]),
        Layout::Nt => ([m, k], [n, k]),
        Layout::Tn => ([k, m], [k, n]),
    };
    let op = Matmul { output: if op.output == DType::F32 { DType::F32 } else { dtype }, ..op };
    let mut inputs = vec![Input::variable(a, dtype), Input::parameter(b, dtype)];
    if op.bias {
        inputs.push(Input::parameter([n], DType::F32));
    }
    if op.residual {
        inputs.push(Input::variable([m, n], op.output));
    }
    if op.activation_backward.is_some() {
        inputs.push(Input::data([m, n], op.output, Fill::Normal(2.0)));
    }
    if op.layout == Layout::Tn {
        inputs[1] = Input::variable(b, dtype);
    }
    if let Some(kind) = op.activated_input {
        let mut random = Philox::new(k as u64, m as u64);
        let values: Vec<f64> = (0..m * k).map(|_| round(1.5 * random.normal(), dtype)).collect();
        let activated = values.iter().map(|&x| activate_f64(kind, x)).collect();
        inputs[0] = Input::data(a, dtype, Fill::Values(activated));
        inputs.push(Input::variable(a, dtype).fill(Fill::Values(values)));
    }
    if let Some(used) = used {
        // The op takes no offsets; the case hangs them on as a last input that `Ragged` hides from the op.
        let offsets = inputs.len();
        inputs.push(Input::integers(&[0, used as i32]));
        for (index, input) in inputs.iter_mut().enumerate().take(offsets) {
            let pre_activation = op.activated_input.is_some() && index + 1 == offsets;
            let follows = index == 0
                || (op.layout == Layout::Tn && index == 1)
                || input.meta.shape == [m, n].into()
                || pre_activation;
            if follows && !(index == 1 && op.layout != Layout::Tn) {
                input.ragged = Some(offsets);
            }
        }
    }
    let scale = (k as f64).sqrt();
    let name = format!("{} {dtype} to {} {m}x{n}x{k} {op:?} rows {used:?}", op.name(), op.output);
    let ragged = used.is_some();
    Case {
        name,
        op: if ragged { Arc::new(Ragged(op)) } else { Arc::new(op) },
        reference: if ragged { Arc::new(Ragged(op)) } else { Arc::new(op) },
        inputs,
        results: usize::from(op.activation_backward.is_none()),
        // The pre-activation is rounded before the activation reads it.
        forward: Tolerance::sum_of(k).roundings(2.0).scale(scale),
        // The gradient passes through the rounded pre-activation's gradient; sums run over n (for a), m (for b).
        backward: Tolerance::sum_of(n.max(m)).roundings(4.0).scale((n.max(m) as f64).sqrt()),
        bench_only: false,
    }
}

/// A matmul whose last input, the row offsets of the case, is not the op's own.
#[derive(Clone, Copy, Debug)]
struct Ragged(Matmul);

impl Op for Ragged {
    fn name(&self) -> &'static str {
        self.0.name()
    }
    fn infer(&self, inputs: &[engine::Meta]) -> engine::Result<Vec<engine::Meta>> {
        self.0.infer(&inputs[..inputs.len() - 1])
    }
    fn run(
        &self,
        queue: &engine::Queue,
        inputs: &[engine::View<'_>],
        outputs: &mut [engine::Out<'_>],
    ) -> engine::Result<()> {
        self.0.run(queue, &inputs[..inputs.len() - 1], outputs)
    }
    fn backward(
        &self,
        tape: &mut engine::Tape,
        node: &engine::Recorded,
        gradients: &[Option<engine::Tensor>],
    ) -> engine::Result<()> {
        let mut node = node.clone();
        node.inputs.pop();
        self.0.backward(tape, &node, gradients)
    }
    fn cost(&self, inputs: &[engine::Meta]) -> engine::Cost {
        self.0.cost(&inputs[..inputs.len() - 1])
    }
    fn rows_from(&self, output: usize) -> Option<usize> {
        self.0.rows_from(output)
    }
}

impl Reference for Ragged {
    fn forward(&self, inputs: &[Array]) -> Vec<Array> {
        self.0.forward(&inputs[..inputs.len() - 1])
    }
    fn gradients(&self, inputs: &[Array], outputs: &[Array]) -> Vec<Option<Array>> {
        let mut gradients = self.0.gradients(&inputs[..inputs.len() - 1], outputs);
        gradients.push(None);
        gradients
    }
}

fn column_sum(rows: usize, columns: usize, dtype: DType) -> Case {
    Case {
        name: format!("column_sum {dtype}[{rows}, {columns}]"),
        op: Arc::new(ColumnSum),
        reference: Arc::new(ColumnSum),
        inputs: vec![Input::variable([rows, columns], dtype)],
        results: 0,
        forward: Tolerance::sum_of(rows).roundings(0.0),
        backward: Tolerance::sum_of(1),
        bench_only: false,
    }
}

/// Products of coca_ViT-B-32 (batch 8, 12 tokens a caption) and square ones, for benches.
const MODEL_SIZES: &[(usize, usize, usize)] =
    &[(1024, 1024, 1024), (400, 2304, 768), (400, 3072, 768), (400, 768, 3072), (2048, 512, 512), (112, 2048, 512)];

/// A plain product of `m` x `n` x `k` for benches, its result in the dtype of its operands.
pub fn bench_case(layout: Layout, (m, n, k): (usize, usize, usize), dtype: DType) -> Case {
    let case = case(Matmul::new(layout, DType::BF16), (m, n, k), dtype, None);
    Case { name: format!("{} {m}x{n}x{k} {dtype}", case.op.name()), bench_only: true, ..case }
}

/// Products of a training step of coca_ViT-B-32 with 256 pairs, and square ones: forward, gradients of inputs and of weights,
/// and the two that are fused with GELU.
pub(crate) fn gpu_cases() -> Vec<Case> {
    use Layout::{Nn, Nt, Tn};
    let mut cases = Vec::new();
    let products = [
        (Nt, [(12800, 2304, 768), (12800, 768, 3072), (19200, 1536, 512), (19200, 512, 512), (8192, 8192, 8192)]),
        (Nn, [(12800, 768, 2304), (12800, 768, 3072), (19200, 512, 2048), (19200, 512, 512), (4096, 4096, 4096)]),
        (Tn, [(2304, 768, 12800), (768, 3072, 12800), (512, 2048, 19200), (512, 512, 19200), (1024, 512, 65280)]),
    ];
    for (layout, sizes) in products {
        // Their backward are the others.
        cases.extend(sizes.map(|sizes| Case { results: 0, ..bench_case(layout, sizes, DType::BF16) }));
    }
    let gelu = Some(Activation::Gelu);
    let forward = Matmul { bias: true, activation: gelu, ..Matmul::new(Nt, DType::BF16) };
    let backward = Matmul { activation_backward: gelu, ..Matmul::new(Nn, DType::BF16) };
    for (op, (m, n, k)) in [(forward, (12800, 3072, 768)), (backward, (12800, 3072, 768))] {
        let name = format!("{} {m}x{n}x{k} bf16", op.name());
        cases.push(Case { name, bench_only: true, results: 0, ..case(op, (m, n, k), DType::BF16, None) });
    }
    cases.push(Case { bench_only: true, ..column_sum(19200, 512, DType::BF16) });
    cases
}

/// Fixed cases.
pub fn cases() -> Vec<Case> {
    use Activation::{Gelu, QuickGelu};
    use Layout::{Nn, Nt, Tn};
    let mut cases = Vec::new();
    for dtype in [DType::F32, DType::BF16] {
        for layout in [Nn, Nt, Tn] {
            let plain = Matmul::new(layout, DType::BF16);
            cases.push(case(plain, (1, 1, 1), dtype, None));
            cases.push(case(plain, (37, 65, 19), dtype, None));
            cases.push(case(Matmul::new(layout, DType::F32), (17, 70, 33), dtype, None));
            for &sizes in MODEL_SIZES {
                cases.push(bench_case(layout, sizes, dtype));
            }
        }
        // Few rows, as generation has them, in more than one task.
        for layout in [Nn, Nt] {
            cases.push(case(Matmul::new(layout, DType::BF16), (3, 70, 37), dtype, None));
            cases.push(Case { results: 0, ..case(Matmul::new(layout, DType::F32), (8, 600, 21), dtype, None) });
        }
        let activated = Matmul { bias: true, activation: Some(Gelu), ..Matmul::new(Nt, DType::BF16) };
        cases.push(case(activated, (5, 40, 24), dtype, None));
        // Packed rows, ends of tiles within them, and more than one tile of every size along m and n.
        for layout in [Nn, Nt, Tn] {
            cases.push(case(Matmul::new(layout, DType::BF16), (40, 72, 136), dtype, None));
        }
        cases.push(Case { results: 0, ..case(Matmul::new(Nt, DType::BF16), (136, 264, 72), dtype, None) });
        if dtype == DType::BF16 {
            // Pipelines of GPUs that go round several times, also from one tile to the next; so few tiles that blocks share them,
            // once or in turns.
            cases.push(Case { results: 0, ..case(Matmul::new(Nt, DType::BF16), (136, 264, 456), dtype, None) });
            for layout in [Nn, Nt, Tn] {
                cases.push(Case { results: 0, ..case(Matmul::new(layout, DType::F32), (72, 136, 4104), dtype, None) });
            }
            let residual = Matmul { bias: true, residual: true, ..Matmul::new(Nt, DType::BF16) };
            cases.push(Case { results: 0, ..case(residual, (200, 264, 3080), dtype, None) });
            cases.push(case(Matmul::new(Nt, DType::BF16), (520, 136, 40), dtype, None));
        }
        // A k of several blocks, so that partial sums wait outside C.
        cases.push(Case { results: 0, ..case(Matmul::new(Nn, DType::BF16), (15, 33, 9001), dtype, None) });
        // Every epilogue, with and without what may stand before it, on whole and on ragged rows.
        let (project, linear) = (Matmul::new(Nn, DType::BF16), Matmul::new(Nt, DType::BF16));
        let mut epilogues = vec![Matmul { bias: true, ..linear }];
        for bias in [false, true] {
            epilogues.push(Matmul { bias, residual: true, ..linear });
            for kind in [Gelu, QuickGelu].map(Some) {
                epilogues.push(Matmul { bias, activation: kind, ..linear });
                epilogues.push(Matmul { bias, activated_input: kind, ..linear });
                // As the second half of an MLP.
                epilogues.push(Matmul { bias, activated_input: kind, residual: true, ..linear });
            }
        }
        for kind in [Gelu, QuickGelu].map(Some) {
            epilogues.push(Matmul { activation_backward: kind, ..project });
            epilogues.push(Matmul { activated_input: kind, ..project });
        }
        for op in epilogues {
            cases.push(case(op, (9, 40, 21), dtype, None));
            // Rows of whole packs of 16 bytes.
            cases.push(case(op, (20, 32, 16), dtype, Some(13)));
        }
        cases.push(case(Matmul::new(Tn, DType::F32), (24, 32, 16), dtype, Some(0)));
        cases.push(column_sum(41, 131, dtype));
        // Rows enough for several blocks of a GPU to share them, packed and single.
        cases.push(column_sum(2100, 40, dtype));
        cases.push(column_sum(1100, 67, dtype));
    }
    cases
}

/// A random case.
pub fn draw(draw: &mut Draw) -> Case {
    let dtype = draw.float();
    if draw.integer(0, 9) == 9 {
        return column_sum(draw.integer(1, 50), draw.integer(1, 150), dtype);
    }
    let layout = draw.pick(&[Layout::Nn, Layout::Nt, Layout::Tn]);
    let sizes = (draw.integer(1, 40), draw.integer(1, 70), draw.integer(1, 50));
    let mut op = Matmul::new(layout, draw.float());
    if layout != Layout::Tn {
        op.bias = draw.flag();
        let kind = draw.pick(&[Activation::Gelu, Activation::QuickGelu]);
        match draw.integer(0, 5) {
            1 => op.activation = Some(kind),
            2 => op.residual = true,
            3 if !op.bias => op.activation_backward = Some(kind),
            // The operand is rounded to its storage type, which only a result of that type allows for.
            4 => op = Matmul { output: dtype, activated_input: Some(kind), residual: draw.flag(), ..op },
            _ => {}
        }
    }
    let rows = if layout == Layout::Tn { sizes.2 } else { sizes.0 };
    let used = if draw.flag() { Some(draw.integer(0, rows)) } else { None };
    case(op, sizes, dtype, used)
}
