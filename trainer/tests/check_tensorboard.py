"""Reads a run's event files with TensorBoard itself and compares every scalar with metrics.jsonl.

    pip install tensorboard
    COCA_TEST_ROOT=/tmp/run cargo test -p trainer write_a_resumed_run -- --ignored   # or any run folder of `coca train`
    python trainer/tests/check_tensorboard.py /tmp/run
"""

import json
import pathlib
import struct
import sys

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

TAGS = {
    "loss/total": "loss",
    "loss/contrastive": "contrastive_loss",
    "loss/caption": "caption_loss",
    "optimizer/learning_rate": "learning_rate",
    "optimizer/grad_norm": "grad_norm",
    "optimizer/logit_scale": "logit_scale",
    "speed/images_per_second": "images_per_second",
    "speed/tokens_per_second": "tokens_per_second",
    "speed/gflops": "gflops",
    "speed/data_wait_seconds": "data_wait_seconds",
}


def as_f32(value):
    return float("nan") if value is None else struct.unpack("f", struct.pack("f", value))[0]


def main():
    run = pathlib.Path(sys.argv[1])
    steps = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    events = EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0})
    events.Reload()
    # What evaluation.every adds has no counterpart in metrics.jsonl.
    tags = [tag for tag in events.Tags()["scalars"] if not tag.startswith("evaluation/")]
    assert sorted(tags) == sorted(TAGS), tags
    for tag, key in TAGS.items():
        found = [(event.step, event.value) for event in events.Scalars(tag)]
        wanted = [(step["step"], as_f32(step[key])) for step in steps]
        assert repr(found) == repr(wanted), f"{tag}: {found} is not {wanted}"
    print(f"{len(steps)} steps, {len(TAGS)} scalars each: equal")


main()
