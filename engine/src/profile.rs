//! The profiler: time of every node and span, GFLOP/s, GB/s and percent of the roofline, as a table, JSON lines and a
//! Chrome trace.

use crate::observer::{Observer, StepView};
use crate::op::Cost;
use crate::{Phase, Result};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Instant;

/// The machine's measured ceilings.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Roofline {
    /// Floating-point operations a second in the compute type.
    pub flops_per_second: f64,
    /// Bytes a second from memory.
    pub bytes_per_second: f64,
}

impl Roofline {
    /// The least time in seconds that work of this cost can take.
    pub fn seconds(&self, cost: Cost) -> f64 {
        (cost.flops / self.flops_per_second).max(cost.bytes / self.bytes_per_second)
    }
}

/// One timed node.
#[derive(Clone, Debug, Serialize)]
pub struct Event {
    /// Name of the op.
    pub op: &'static str,
    /// `forward`, `backward` or `recompute`.
    pub phase: &'static str,
    /// Span path of the model code.
    pub span: String,
    /// Span and source line.
    pub place: String,
    /// Shapes and dtypes of the inputs.
    pub inputs: String,
    /// Microseconds since the profiler was made.
    pub start_us: f64,
    /// Microseconds that the node took.
    pub duration_us: f64,
    /// Billions of floating-point operations a second.
    pub gflops: f64,
    /// Billions of bytes a second, counting each operand once.
    pub gbytes: f64,
    /// Percent of the roofline: 100 if the node took the least time that the machine allows.
    pub roofline_percent: f64,
}

/// Records every node of the runs that it observes.
#[derive(Debug)]
pub struct Profiler {
    roofline: Roofline,
    origin: Instant,
    started: Instant,
    events: Vec<Event>,
    runs: usize,
}

impl Profiler {
    /// A profiler that compares with these ceilings.
    pub fn new(roofline: Roofline) -> Profiler {
        let now = Instant::now();
        Profiler { roofline, origin: now, started: now, events: Vec::new(), runs: 0 }
    }

    /// Starts a run: all that is observed until the next one, in one program or in several.
    pub fn start_run(&mut self) {
        self.runs += 1;
    }

    /// Runs that were started.
    pub fn runs(&self) -> usize {
        self.runs
    }

    /// What was recorded, in order.
    pub fn events(&self) -> &[Event] {
        &self.events
    }

    /// One JSON object a node.
    pub fn json_lines(&self) -> String {
        let mut text = String::new();
        for event in &self.events {
            text += &serde_json::to_string(event).unwrap_or_default();
            text.push('\n');
        }
        text
    }

    /// A trace for `chrome://tracing` or Perfetto.
    pub fn chrome_trace(&self) -> String {
        let events: Vec<_> = (self.events.iter())
            .map(|event| {
                serde_json::json!({
                    "name": event.op, "cat": event.phase, "ph": "X", "pid": 1, "tid": 1,
                    "ts": event.start_us, "dur": event.duration_us,
                    "args": {
                        "span": event.span, "place": event.place, "inputs": event.inputs,
                        "gflops": event.gflops, "gbytes": event.gbytes, "roofline_percent": event.roofline_percent,
                    },
                })
            })
            .collect();
        serde_json::json!({ "traceEvents": events, "displayTimeUnit": "ms" }).to_string()
    }

    /// Time by op and by span (cut to `depth` dotted parts), largest first, per run.
    pub fn table(&self, depth: usize) -> String {
        let runs = self.runs.max(1) as f64;
        let total: f64 = self.events.iter().map(|event| event.duration_us).sum();
        let nodes = self.events.len() / self.runs.max(1);
        let mut text = format!("{} runs, {:.2} ms a run in {nodes} nodes\n", self.runs, total / runs / 1e3);
        let by_op = |event: &Event| format!("{} {}", event.phase, event.op);
        let by_span = |event: &Event| {
            let parts: Vec<&str> = event.span.split('.').filter(|part| !part.is_empty()).take(depth).collect();
            if parts.is_empty() { "(outside spans)".to_owned() } else { parts.join(".") }
        };
        let groupings: [(&str, &dyn Fn(&Event) -> String); 2] = [("op", &by_op), ("span", &by_span)];
        for (title, key) in groupings {
            let mut groups: BTreeMap<String, (f64, f64, f64, f64, usize)> = BTreeMap::new();
            for event in &self.events {
                let group = groups.entry(key(event)).or_default();
                group.0 += event.duration_us;
                group.1 += event.gflops * event.duration_us;
                group.2 += event.gbytes * event.duration_us;
                group.3 += event.roofline_percent * event.duration_us;
                group.4 += 1;
            }
            let mut rows: Vec<_> = groups.into_iter().collect();
            rows.sort_by(|a, b| b.1.0.total_cmp(&a.1.0));
            let _ = writeln!(
                text,
                "\n{title:<44} {:>7} {:>10} {:>6} {:>9} {:>8} {:>9}",
                "calls", "ms a run", "%", "GFLOP/s", "GB/s", "roofline"
            );
            for (name, (time, work, traffic, percent, calls)) in rows {
                let _ = writeln!(
                    text,
                    "{name:<44} {:>7} {:>10.3} {:>6.1} {:>9.1} {:>8.1} {:>8.0}%",
                    calls / self.runs.max(1),
                    time / runs / 1e3,
                    100.0 * time / total,
                    work / time,
                    traffic / time,
                    percent / time
                );
            }
        }
        text
    }
}

impl Observer for Profiler {
    fn before(&mut self, _: &StepView<'_>) -> Result<()> {
        self.started = Instant::now();
        Ok(())
    }

    fn after(&mut self, step: &StepView<'_>) -> Result<()> {
        let seconds = self.started.elapsed().as_secs_f64().max(1e-9);
        let inputs = step.inputs.iter().map(|view| view.meta().to_string()).collect::<Vec<_>>().join(", ");
        self.events.push(Event {
            op: step.op.name(),
            phase: match step.phase {
                Phase::Forward => "forward",
                Phase::Backward => "backward",
                Phase::Recompute => "recompute",
            },
            span: step.span.to_owned(),
            place: step.place.to_owned(),
            inputs,
            start_us: self.started.duration_since(self.origin).as_secs_f64() * 1e6,
            duration_us: seconds * 1e6,
            gflops: step.cost.flops / seconds / 1e9,
            gbytes: step.cost.bytes / seconds / 1e9,
            roofline_percent: 100.0 * self.roofline.seconds(step.cost) / seconds,
        });
        Ok(())
    }
}
