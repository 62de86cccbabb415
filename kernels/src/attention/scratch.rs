//! Scratch memory of one thread: grown to the largest task it has seen, handed out in aligned parts.

use std::cell::RefCell;

/// One cache line.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
struct Line([f32; LINE]);

const LINE: usize = 16;

thread_local! {
    static LINES: RefCell<Vec<Line>> = const { RefCell::new(Vec::new()) };
}

/// Calls `body` with one slice of scratch for each of `sizes` (in elements), each starting a cache line. The contents
/// are whatever was there.
pub(super) fn with_scratch<const N: usize, R>(sizes: [usize; N], body: impl FnOnce([&mut [f32]; N]) -> R) -> R {
    LINES.with_borrow_mut(|lines| {
        let total: usize = sizes.iter().map(|size| size.div_ceil(LINE)).sum();
        if lines.len() < total {
            lines.resize(total, Line([0.0; LINE]));
        }
        // SAFETY: a line is 16 f32 without padding.
        let mut rest = unsafe { std::slice::from_raw_parts_mut(lines.as_mut_ptr().cast::<f32>(), lines.len() * LINE) };
        body(sizes.map(|size| {
            let (part, after) = std::mem::take(&mut rest).split_at_mut(size.next_multiple_of(LINE));
            rest = after;
            &mut part[..size]
        }))
    })
}
