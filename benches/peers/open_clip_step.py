"""One training step of open_clip's CoCa at a time, for the bench `step`: forward, CoCaLoss, backward, clipping, AdamW.

    python open_clip_step.py CONFIG.json BATCH TOKENS DTYPE MODE THREADS DEVICE

CONFIG.json is an open_clip_config.json, TOKENS the ids of every caption, DTYPE f32 or bf16 (autocast), MODE eager, compile or
max-autotune, DEVICE cpu or cuda. Prints {"ready": true} when the model stands; answers a line "step" with {"seconds": …} and
"memory" with {"bytes": …}.
"""

import json
import resource
import sys
import time

import torch
from open_clip.coca_model import CoCa
from open_clip.loss import CoCaLoss


def main():
    path, batch, tokens, dtype, mode, threads, device = sys.argv[1:]
    batch, tokens = int(batch), int(tokens)
    torch.set_num_threads(int(threads))
    # On the CPU: oneDNN's f32 in place of MKL's, which is faster. On a GPU f32 is f32, as ours is, and no TF32.
    torch.set_float32_matmul_precision("highest" if device == "cuda" else "medium")
    torch.manual_seed(0)
    config = json.load(open(path))["model_cfg"]
    model = CoCa(**{key: value for key, value in config.items() if key != "custom_text"}).train().to(device)
    with torch.no_grad():  # open_clip leaves the head uninitialised
        torch.nn.init.normal_(model.text_decoder.text_projection, std=0.02)
    size, text = config["vision_cfg"]["image_size"], config["text_cfg"]
    images = torch.randn(batch, 3, size, size, device=device)
    ids = torch.zeros(batch, text["context_length"], dtype=torch.long, device=device)
    ids[:, :tokens] = torch.randint(1, text["vocab_size"], (batch, tokens), device=device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    loss = CoCaLoss(caption_loss_weight=2.0, clip_loss_weight=1.0, pad_id=0)
    forward = {
        "eager": lambda: model,
        "compile": lambda: torch.compile(model),
        "max-autotune": lambda: torch.compile(model, mode="max-autotune-no-cudagraphs"),
    }[mode]()

    def step():
        optimizer.zero_grad()
        with torch.autocast(device, torch.bfloat16, enabled=dtype == "bf16"):
            total = sum(loss(**forward(images, ids)))
        total.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, 4.6052)
        if device == "cuda":
            torch.cuda.synchronize()

    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        if line.strip() == "step":
            start = time.perf_counter()
            step()
            answer = {"seconds": time.perf_counter() - start}
        elif device == "cuda":
            answer = {"bytes": torch.cuda.max_memory_allocated()}
        else:
            answer = {"bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}
        print(json.dumps(answer), flush=True)


main()
