//! Moves head-sized matrices between packed tensors of f32 or bf16 and contiguous f32 scratch: copy, transpose, store.

use super::lanes::{Kernel, Lanes};
use engine::Element;
use half::bf16;

/// A storage type that vectors load and store.
#[allow(clippy::missing_safety_doc)]
pub(super) trait Storage: Element {
    /// # Safety
    /// As `Lanes::load`.
    unsafe fn load<L: Lanes>(from: *const Self) -> L::V;
    /// # Safety
    /// As `Lanes::store`.
    unsafe fn store<L: Lanes>(to: *mut Self, value: L::V);
    fn widen(self) -> f32;
    fn narrow(value: f32) -> Self;
}

impl Storage for f32 {
    #[inline(always)]
    unsafe fn load<L: Lanes>(from: *const f32) -> L::V {
        // SAFETY: the caller's.
        unsafe { L::load(from) }
    }
    #[inline(always)]
    unsafe fn store<L: Lanes>(to: *mut f32, value: L::V) {
        // SAFETY: the caller's.
        unsafe { L::store(to, value) }
    }
    #[inline(always)]
    fn widen(self) -> f32 {
        self
    }
    #[inline(always)]
    fn narrow(value: f32) -> f32 {
        value
    }
}

impl Storage for bf16 {
    #[inline(always)]
    unsafe fn load<L: Lanes>(from: *const bf16) -> L::V {
        // SAFETY: the caller's.
        unsafe { L::load_bf16(from) }
    }
    #[inline(always)]
    unsafe fn store<L: Lanes>(to: *mut bf16, value: L::V) {
        // SAFETY: the caller's.
        unsafe { L::store_bf16(to, value) }
    }
    #[inline(always)]
    fn widen(self) -> f32 {
        self.to_f32()
    }
    #[inline(always)]
    fn narrow(value: f32) -> bf16 {
        bf16::from_f32(value)
    }
}

/// Copies rows into scratch, scaled; columns up to `to_stride` become 0.
#[derive(Clone, Copy, Debug)]
pub(super) struct Load<T> {
    pub from: *const T,
    pub from_stride: usize,
    pub to: *mut f32,
    pub to_stride: usize,
    pub rows: usize,
    pub columns: usize,
    pub scale: f32,
}

impl<T: Storage> Kernel for Load<T> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<L: Lanes>(self) {
        // SAFETY: both matrices have these rows and columns.
        unsafe {
            let scale = L::splat(self.scale);
            let whole = self.columns / L::COUNT * L::COUNT;
            for row in 0..self.rows {
                let (from, to) = (self.from.add(row * self.from_stride), self.to.add(row * self.to_stride));
                for column in (0..whole).step_by(L::COUNT) {
                    L::store(to.add(column), L::multiply(T::load::<L>(from.add(column)), scale));
                }
                for column in whole..self.columns {
                    *to.add(column) = (*from.add(column)).widen() * self.scale;
                }
                for column in self.columns..self.to_stride {
                    *to.add(column) = 0.0;
                }
            }
        }
    }
}

/// Transposes rows `[rows, columns]` into scratch `[columns, to_stride]`; the rest of each scratch row becomes 0.
#[derive(Clone, Copy, Debug)]
pub(super) struct Transpose<T> {
    pub from: *const T,
    pub from_stride: usize,
    pub to: *mut f32,
    pub to_stride: usize,
    pub rows: usize,
    pub columns: usize,
}

/// Side of the square blocks that are transposed at a time.
const SIDE: usize = 8;

impl<T: Storage> Kernel for Transpose<T> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<L: Lanes>(self) {
        let (whole_rows, whole_columns) = (self.rows / SIDE * SIDE, self.columns / SIDE * SIDE);
        // SAFETY: both matrices have these rows and columns.
        unsafe {
            for row in (0..whole_rows).step_by(SIDE) {
                for column in (0..whole_columns).step_by(SIDE) {
                    let from = self.from.add(row * self.from_stride + column);
                    let block: [[f32; SIDE]; SIDE] = std::array::from_fn(|row| {
                        let from = from.add(row * self.from_stride);
                        std::array::from_fn(|column| (*from.add(column)).widen())
                    });
                    let to = self.to.add(column * self.to_stride + row);
                    for column in 0..SIDE {
                        let values: [f32; SIDE] = std::array::from_fn(|row| block[row][column]);
                        to.add(column * self.to_stride).cast::<[f32; SIDE]>().write_unaligned(values);
                    }
                }
            }
            let edge = |row: usize, column: usize| {
                *self.to.add(column * self.to_stride + row) = (*self.from.add(row * self.from_stride + column)).widen();
            };
            for row in 0..self.rows {
                let first = if row < whole_rows { whole_columns } else { 0 };
                (first..self.columns).for_each(|column| edge(row, column));
            }
            for column in 0..self.columns {
                for row in self.rows..self.to_stride {
                    *self.to.add(column * self.to_stride + row) = 0.0;
                }
            }
        }
    }
}

/// Writes scratch rows to a tensor, or adds them to it; each row times `scale` and, if given, its own factor.
#[derive(Clone, Copy, Debug)]
pub(super) struct Store<T> {
    pub from: *const f32,
    pub from_stride: usize,
    pub to: *mut T,
    pub to_stride: usize,
    pub rows: usize,
    pub columns: usize,
    pub scale: f32,
    pub factors: Option<*const f32>,
    pub accumulate: bool,
}

impl<T: Storage> Kernel for Store<T> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<L: Lanes>(self) {
        // SAFETY: both matrices have these rows and columns; there is a factor for each row.
        unsafe {
            let whole = self.columns / L::COUNT * L::COUNT;
            for row in 0..self.rows {
                let (from, to) = (self.from.add(row * self.from_stride), self.to.add(row * self.to_stride));
                let scale = self.scale * self.factors.map_or(1.0, |factors| *factors.add(row));
                let vector = L::splat(scale);
                for column in (0..whole).step_by(L::COUNT) {
                    let mut value = L::multiply(L::load(from.add(column)), vector);
                    if self.accumulate {
                        value = L::add(value, T::load::<L>(to.add(column)));
                    }
                    T::store::<L>(to.add(column), value);
                }
                for column in whole..self.columns {
                    let to = to.add(column);
                    let before = if self.accumulate { (*to).widen() } else { 0.0 };
                    *to = T::narrow(before + *from.add(column) * scale);
                }
            }
        }
    }
}

/// delta = the dot product of each row of the result with its gradient (a scratch matrix).
#[derive(Clone, Copy, Debug)]
pub(super) struct Delta<T> {
    pub result: *const T,
    pub result_stride: usize,
    pub gradient: *const f32,
    pub gradient_stride: usize,
    pub delta: *mut f32,
    pub rows: usize,
    pub columns: usize,
}

impl<T: Storage> Kernel for Delta<T> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<L: Lanes>(self) {
        // SAFETY: both matrices have these rows and columns.
        unsafe {
            let whole = self.columns / L::COUNT * L::COUNT;
            for row in 0..self.rows {
                let (result, gradient) =
                    (self.result.add(row * self.result_stride), self.gradient.add(row * self.gradient_stride));
                let mut sum = L::zero();
                for column in (0..whole).step_by(L::COUNT) {
                    sum = L::multiply_add(T::load::<L>(result.add(column)), L::load(gradient.add(column)), sum);
                }
                let mut total = L::reduce_sum(sum);
                for column in whole..self.columns {
                    total += (*result.add(column)).widen() * *gradient.add(column);
                }
                *self.delta.add(row) = total;
            }
        }
    }
}
