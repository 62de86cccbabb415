//! Products of the crates `gemm` and `matrixmultiply`, in f32; no other type of theirs is ours.

use super::{Field, Peer, PeerCase, Work};
use crate::Result;
use crate::lab::measure::{Contestant, Runs};
use engine::{DType, Queue};
use kernels::case::Array;

/// C, A, B and the sizes of a product, each operand with the distances from one row and one column to the next.
struct Product {
    threads: usize,
    sizes: (usize, usize, usize),
    a: (Vec<f32>, [isize; 2]),
    b: (Vec<f32>, [isize; 2]),
    c: Vec<f32>,
}

/// A crate.
struct Crate {
    name: &'static str,
    queue: Queue,
    threads: usize,
    cases: Vec<Option<PeerCase>>,
    multiply: fn(&mut Product),
}

/// Adds both crates to the field, where they run on as many threads as the queue.
pub(super) fn open(queue: &Queue, cases: &[Option<PeerCase>], field: &mut Field) {
    let threads = match queue.cpu("gemm") {
        Ok(cpu) => cpu.threads(),
        Err(error) => return field.absent.push(error.to_string()),
    };
    let entry = |name, multiply| Crate { name, queue: queue.clone(), threads, cases: cases.to_vec(), multiply };
    field.peers.push(Box::new(entry("gemm 0.19", gemm as fn(&mut Product))));
    // It reads its number of threads from the environment alone, and has at most four.
    if std::env::var("MATMUL_NUM_THREADS").is_ok_and(|count| count == threads.to_string()) && threads <= 4 {
        field.peers.push(Box::new(entry("matrixmultiply 0.3", matrixmultiply)));
    } else if threads > 4 {
        field.absent.push("matrixmultiply does not take part: it has at most 4 threads".into());
    } else {
        let fix = format!("set MATMUL_NUM_THREADS={threads} for it to run on as many threads as ours");
        field.absent.push(format!("matrixmultiply does not take part: {fix}"));
    }
}

impl Peer for Crate {
    fn name(&self) -> &str {
        self.name
    }

    fn contestant<'a>(&'a mut self, place: usize, values: &[Array]) -> Result<Option<Box<dyn Contestant + 'a>>> {
        let Some(Some(PeerCase { work, dtype: DType::F32, backward: false })) = self.cases.get(place) else {
            return Ok(None);
        };
        let &Work::Product { m, n, k, a_transposed, b_transposed } = work else { return Ok(None) };
        let operand = |index: usize, transposed: bool, (rows, columns): (usize, usize)| {
            let strides = if transposed { [1, rows as isize] } else { [columns as isize, 1] };
            (values[index].data.iter().map(|&value| value as f32).collect(), strides)
        };
        let mut product = Product {
            threads: self.threads,
            sizes: (m, n, k),
            a: operand(0, a_transposed, (m, k)),
            b: operand(1, b_transposed, (k, n)),
            c: vec![0.0; m * n],
        };
        let multiply = self.multiply;
        Ok(Some(Box::new(Runs {
            queue: self.queue.clone(),
            run: move || {
                multiply(&mut product);
                Ok(())
            },
        })))
    }
}

fn gemm(product: &mut Product) {
    let ((m, n, k), threads) = (product.sizes, product.threads);
    let parallelism = if threads > 1 { gemm::Parallelism::Rayon(threads) } else { gemm::Parallelism::None };
    let ((a, a_strides), (b, b_strides), c) = (&product.a, &product.b, &mut product.c);
    // SAFETY: pointers and strides are those of whole matrices of these sizes, and C is no part of A and B.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            c.as_mut_ptr(),
            1,
            n as isize,
            false,
            a.as_ptr(),
            a_strides[1],
            a_strides[0],
            b.as_ptr(),
            b_strides[1],
            b_strides[0],
            0.0,
            1.0,
            false,
            false,
            false,
            parallelism,
        );
    }
}

fn matrixmultiply(product: &mut Product) {
    let (m, n, k) = product.sizes;
    let ((a, [a_row, a_column]), (b, [b_row, b_column])) = (&product.a, &product.b);
    let c = product.c.as_mut_ptr();
    // SAFETY: pointers and strides are those of whole matrices of these sizes, and C is no part of A and B.
    unsafe {
        let (a, b) = (a.as_ptr(), b.as_ptr());
        matrixmultiply::sgemm(m, k, n, 1.0, a, *a_row, *a_column, b, *b_row, *b_column, 0.0, c, n as isize, 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::cases::products;
    use kernels::case::values;

    #[test]
    fn crates_compute_what_we_do() {
        for subject in products((20, 30, 40)).into_iter().take(3) {
            let Some(PeerCase { work: Work::Product { m, n, k, a_transposed, b_transposed }, .. }) =
                PeerCase::of(&subject)
            else {
                panic!("{} is a product", subject.name)
            };
            let inputs = values(&subject.inputs, 1);
            let exact = &subject.reference.as_ref().unwrap().forward(&inputs)[0].data;
            let f32s = |index: usize| inputs[index].data.iter().map(|&value| value as f32).collect::<Vec<f32>>();
            let strides = |transposed: bool, rows: usize, columns: usize| {
                if transposed { [1, rows as isize] } else { [columns as isize, 1] }
            };
            for multiply in [gemm as fn(&mut Product), matrixmultiply] {
                let mut product = Product {
                    threads: 2,
                    sizes: (m, n, k),
                    a: (f32s(0), strides(a_transposed, m, k)),
                    b: (f32s(1), strides(b_transposed, k, n)),
                    c: vec![f32::NAN; m * n],
                };
                multiply(&mut product);
                let worst = product.c.iter().zip(exact).map(|(&own, exact)| (f64::from(own) - exact).abs());
                assert!(worst.fold(0.0, f64::max) < 1e-4, "{}", subject.name);
            }
        }
    }
}
