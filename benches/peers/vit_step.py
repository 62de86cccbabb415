"""One training step of timm's Vision Transformer at a time, for the bench `step --classes`: forward, cross-entropy, backward,
clipping, AdamW.

    python vit_step.py CONFIG.json BATCH CLASSES DTYPE MODE THREADS DEVICE

CONFIG.json is an open_clip_config.json, of which the image encoder's sizes count. The other arguments and the protocol are those
of open_clip_step.py.
"""

import json
import resource
import sys
import time

import torch
from timm.models.vision_transformer import VisionTransformer


def main():
    path, batch, classes, dtype, mode, threads, device = sys.argv[1:]
    batch, classes = int(batch), int(classes)
    torch.set_num_threads(int(threads))
    # On the CPU: oneDNN's f32 in place of MKL's, which is faster. On a GPU f32 is f32, as ours is, and no TF32.
    torch.set_float32_matmul_precision("highest" if device == "cuda" else "medium")
    torch.manual_seed(0)
    vision = json.load(open(path))["model_cfg"]["vision_cfg"]
    size, width = vision["image_size"], vision["width"]
    model = VisionTransformer(
        img_size=size,
        patch_size=vision["patch_size"],
        num_classes=classes,
        embed_dim=width,
        depth=vision["layers"],
        num_heads=width // vision.get("head_width", 64),
        mlp_ratio=vision.get("mlp_ratio", 4.0),
        pre_norm=True,  # CLIP's encoder, as ours, has a LayerNorm in front of its blocks
    )
    model = model.train().to(device)
    images = torch.randn(batch, 3, size, size, device=device)
    labels = torch.randint(classes, (batch,), device=device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    forward = {
        "eager": lambda: model,
        "compile": lambda: torch.compile(model),
        "max-autotune": lambda: torch.compile(model, mode="max-autotune-no-cudagraphs"),
    }[mode]()

    def step():
        optimizer.zero_grad()
        with torch.autocast(device, torch.bfloat16, enabled=dtype == "bf16"):
            logits = forward(images)
        torch.nn.functional.cross_entropy(logits.float(), labels).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
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
