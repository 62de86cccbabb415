//! What every method of generation shares: a caption that grows id by id.

use super::candidates::Candidates;
use engine::Result;

/// A caption.
#[derive(Clone, Debug, PartialEq)]
pub struct Generated {
    /// Token ids: the prompt's, the generated, and the end if it was reached. No padding.
    pub ids: Vec<i32>,
    /// Sum of the log-probabilities (natural, of the model's own softmax) of the generated ids.
    pub log_probability: f32,
}

/// A row of the next step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Next {
    /// The row of the last step that it continues.
    pub parent: usize,
    /// The id to append.
    pub id: i32,
}

/// The caption or captions that grow for one image.
pub(super) trait Search {
    /// Takes what may follow each open row and says which rows to compute next; none when it is done. `logit` gives the
    /// logit of any id after the first open row.
    fn advance(&mut self, following: &[&Candidates], logit: &dyn Fn(i32) -> Result<f32>) -> Result<Vec<Next>>;

    /// The captions that were found, at least one, the best first.
    fn finish(&mut self) -> Vec<Generated>;
}
