"""open_clip's CoCa in use, a pass at a time, for the bench `inference`: captions of one image, features of a batch.

    python open_clip_inference.py CONFIG.json BATCH LENGTH DTYPE THREADS

CONFIG.json is an open_clip_config.json, BATCH the images and texts of a pass for features, LENGTH the ids of a caption, DTYPE f32
or bf16 (autocast). Prints {"ready": true} when the model stands; answers each line, "greedy", "beams", "images" or "texts", with
{"seconds": …}.
"""

import json
import sys
import time

import torch
from open_clip.coca_model import CoCa


def part_threads():
    """Work of 50 ms that is not timed, as ours has: threads that slept are woken on one core, and part after milliseconds."""
    square, end = torch.randn(512, 512), time.perf_counter() + 0.05
    while time.perf_counter() < end:
        torch.mm(square, square)


def main():
    path, batch, length, dtype, threads = sys.argv[1:]
    batch, length = int(batch), int(length)
    torch.set_num_threads(int(threads))
    torch.set_float32_matmul_precision("medium")  # oneDNN's f32 in place of MKL's, which is faster
    torch.manual_seed(0)
    config = json.load(open(path))["model_cfg"]
    model = CoCa(**{key: value for key, value in config.items() if key != "custom_text"}).eval()
    with torch.no_grad():  # open_clip leaves the head uninitialised
        torch.nn.init.normal_(model.text_decoder.text_projection, std=0.02)
    size, text = config["vision_cfg"]["image_size"], config["text_cfg"]
    images = torch.randn(batch, 3, size, size)
    ids = torch.randint(1, text["vocab_size"], (batch, text["context_length"]))
    ends = {"seq_len": length, "min_seq_len": length - 1}
    tasks = {
        "greedy": lambda: model.generate(images[:1], generation_type="top_k", top_k=1, **ends),
        "beams": lambda: model.generate(images[:1], generation_type="beam_search", num_beams=6, num_beam_groups=3, **ends),
        "images": lambda: model.encode_image(images),
        "texts": lambda: model.encode_text(ids),
    }
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bf16"):
            part_threads()
            start = time.perf_counter()
            tasks[line.strip()]()
            answer = {"seconds": time.perf_counter() - start}
        print(json.dumps(answer), flush=True)


main()
