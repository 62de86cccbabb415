//! CPU code of the largest elements: one pass over a row that keeps the best so far in order, in the outputs
//! themselves.

use engine::{CpuQueue, Out, Result, Shared, View};

pub(super) fn run(queue: &CpuQueue, inputs: &[View<'_>], outputs: &mut [Out<'_>]) -> Result<()> {
    let [values, columns] = outputs else { unreachable!("declared by infer") };
    let (rows, n, count) = (inputs[0].shape().rows(), inputs[0].shape().columns(), values.shape().columns());
    let x = inputs[0].slice::<f32>()?;
    let (values, columns) = (Shared::new(values.slice_mut::<f32>()?), Shared::new(columns.slice_mut::<i32>()?));
    queue.parallel(rows, |row| {
        let span = row * count..(row + 1) * count;
        // SAFETY: tasks have rows of their own.
        let (values, columns) = unsafe { (values.part(span.clone()), columns.part(span)) };
        largest(&x[row * n..(row + 1) * n], values, columns);
    });
    Ok(())
}

/// Fills `values` and `columns` with the largest of `x` in falling order.
fn largest(x: &[f32], values: &mut [f32], columns: &mut [i32]) {
    let mut held = 0;
    for (column, &value) in x.iter().enumerate() {
        if held == values.len() && value.total_cmp(&values[held - 1]).is_le() {
            continue;
        }
        held = (held + 1).min(values.len());
        // Behind those that are as large: they have lower columns.
        let place = values[..held - 1].partition_point(|other| other.total_cmp(&value).is_ge());
        values.copy_within(place..held - 1, place + 1);
        columns.copy_within(place..held - 1, place + 1);
        (values[place], columns[place]) = (value, column as i32);
    }
}
