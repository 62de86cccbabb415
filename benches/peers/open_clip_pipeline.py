"""open_clip's transform and tokenizer, for the bench `pipeline`, on one thread.

    python open_clip_pipeline.py CONFIG.json IMAGE CAPTIONS

Prints {"ready": true}; answers each line, "decode", "resize" (with crop, and as a tensor that is normalised) or "tokenize", with
{"seconds": …} of one picture or caption.
"""

import io
import json
import sys
import time

import torch
from open_clip.tokenizer import SimpleTokenizer
from open_clip.transform import image_transform
from PIL import Image

IMAGES, CAPTIONS = 50, 10_000


def main():
    _, image, captions = sys.argv[1:]
    torch.set_num_threads(1)
    data = open(image, "rb").read()
    lines = open(captions, encoding="utf-8").read().splitlines()
    lines = (lines * -(-CAPTIONS // len(lines)))[:CAPTIONS]
    tokenizer, transform = SimpleTokenizer(), image_transform(224, is_train=False)
    decode = lambda: Image.open(io.BytesIO(data)).convert("RGB")
    picture = decode()
    tasks = {
        "decode": (IMAGES, lambda: [decode() for _ in range(IMAGES)]),
        "resize": (IMAGES, lambda: [transform(picture) for _ in range(IMAGES)]),
        "tokenize": (CAPTIONS, lambda: tokenizer(lines)),
    }
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        count, run = tasks[line.strip()]
        start = time.perf_counter()
        run()
        print(json.dumps({"seconds": (time.perf_counter() - start) / count}), flush=True)


main()
