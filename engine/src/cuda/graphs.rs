//! The runs of a program that are captured as graphs.

use super::{CudaQueue, Graph};
use crate::Result;
use std::collections::VecDeque;

/// Runs that are remembered. A program of fixed shapes needs one or two; ragged rows make more, of which few come again.
const REMEMBERED: usize = 32;

/// What a captured run has fixed: where the activations lie, the rows in use, and whether gradients are added.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    pub arena: usize,
    pub used: Vec<usize>,
    pub accumulate: bool,
}

/// The runs of late, newest last, with their graphs once they are captured.
#[derive(Debug, Default)]
pub(crate) struct Graphs {
    runs: VecDeque<(Run, Option<Graph>)>,
    /// The queue whose kernels and scalars they use, kept as long as they are.
    queue: Option<CudaQueue>,
}

impl Graphs {
    /// Runs `launches`: as it is for the first time, which also loads what is not loaded; the second time it is captured,
    /// and from then on replayed. A run that never comes again is never captured, which would cost more than it saves.
    pub fn run(&mut self, queue: &CudaQueue, run: Run, launches: &mut dyn FnMut() -> Result<()>) -> Result<()> {
        if !self.queue.as_ref().is_some_and(|known| known.is(queue)) {
            self.runs.clear();
            self.queue = Some(queue.clone());
        }
        let driver = queue.driver();
        let known = self.runs.iter().position(|(known, _)| *known == run).and_then(|index| self.runs.remove(index));
        let graph = match known {
            None => {
                launches()?;
                None
            }
            Some((_, graph)) => {
                let graph = graph.map_or_else(|| driver.capture(launches), Ok)?;
                driver.replay(&graph)?;
                Some(graph)
            }
        };
        if self.runs.len() == REMEMBERED {
            self.runs.pop_front();
        }
        self.runs.push_back((run, graph));
        Ok(())
    }
}
