"""One training step at a time, for the bench `step`: forward, losses, backward, clipping, AdamW; of open_clip's CoCa, or of timm's
Vision Transformer as a classifier.

    python torch_step.py CONFIG.json TASK BATCH SIZE DTYPE MODE THREADS DEVICE

CONFIG.json is an open_clip_config.json. TASK is coca, whose SIZE are the ids of every caption, or classes, of which there are SIZE and
for which the sizes of the image encoder alone count. DTYPE is f32 or bf16 (autocast), MODE eager, compile or max-autotune, DEVICE cpu
or cuda. Prints {"ready": true} when the model stands; answers a line "step" with {"seconds": …} and "memory" with {"bytes": …}.
"""

import json
import resource
import sys
import time

import torch


def coca(config, images, ids_of_caption):
    """open_clip's CoCa, and the sum of its losses given it or what compiles it."""
    from open_clip.coca_model import CoCa
    from open_clip.loss import CoCaLoss

    model = CoCa(**{key: value for key, value in config.items() if key != "custom_text"})
    with torch.no_grad():  # open_clip leaves the head uninitialised
        torch.nn.init.normal_(model.text_decoder.text_projection, std=0.02)
    text = config["text_cfg"]
    ids = torch.zeros(len(images), text["context_length"], dtype=torch.long, device=images.device)
    ids[:, :ids_of_caption] = torch.randint(1, text["vocab_size"], (len(images), ids_of_caption), device=images.device)
    loss = CoCaLoss(caption_loss_weight=2.0, clip_loss_weight=1.0, pad_id=0)
    return model, lambda forward: sum(loss(**forward(images, ids)))


def classes(config, images, count):
    """timm's Vision Transformer of the image encoder's sizes, and its loss."""
    from timm.models.vision_transformer import VisionTransformer

    vision = config["vision_cfg"]
    model = VisionTransformer(
        img_size=vision["image_size"],
        patch_size=vision["patch_size"],
        num_classes=count,
        embed_dim=vision["width"],
        depth=vision["layers"],
        num_heads=vision["width"] // vision.get("head_width", 64),
        mlp_ratio=vision.get("mlp_ratio", 4.0),
        pre_norm=True,  # CLIP's encoder, as ours, has a LayerNorm in front of its blocks
    )
    labels = torch.randint(count, (len(images),), device=images.device)
    return model, lambda forward: torch.nn.functional.cross_entropy(forward(images).float(), labels)


def part_threads():
    """Work of 50 ms that is not timed, as ours has: threads that slept are woken on one core, and part after milliseconds."""
    square, end = torch.randn(512, 512), time.perf_counter() + 0.05
    while time.perf_counter() < end:
        torch.mm(square, square)


def main():
    path, task, batch, count, dtype, mode, threads, device = sys.argv[1:]
    torch.set_num_threads(int(threads))
    # On the CPU: oneDNN's f32 in place of MKL's, which is faster. On a GPU f32 is f32, as ours is, and no TF32.
    torch.set_float32_matmul_precision("highest" if device == "cuda" else "medium")
    torch.manual_seed(0)
    config = json.load(open(path))["model_cfg"]
    size = config["vision_cfg"]["image_size"]
    images = torch.randn(int(batch), 3, size, size, device=device)
    model, loss = {"coca": coca, "classes": classes}[task](config, images, int(count))
    model = model.train().to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    forward = {
        "eager": lambda: model,
        "compile": lambda: torch.compile(model),
        "max-autotune": lambda: torch.compile(model, mode="max-autotune-no-cudagraphs"),
    }[mode]()

    def step():
        optimizer.zero_grad()
        with torch.autocast(device, torch.bfloat16, enabled=dtype == "bf16"):
            total = loss(forward)
        total.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if task == "coca":
            with torch.no_grad():
                model.logit_scale.clamp_(0, 4.6052)
        if device == "cuda":
            torch.cuda.synchronize()

    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        if line.strip() == "step":
            if device == "cpu":
                part_threads()
            start = time.perf_counter()
            step()
            answer = {"seconds": time.perf_counter() - start}
        elif device == "cuda":
            answer = {"bytes": torch.cuda.max_memory_allocated()}
        else:
            answer = {"bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}
        print(json.dumps(answer), flush=True)


main()
