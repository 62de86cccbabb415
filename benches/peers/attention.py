"""PyTorch's attention on the shapes of attention_rate.rs: scaled_dot_product_attention and bmm + softmax + bmm.

Milliseconds, best of many runs, two threads. Gradients flow to separate q, k, v in [batch, heads, rows, dim], which
spares PyTorch the packing and unpacking that ours includes.
"""

import math
import sys
import time

import torch
import torch.nn.functional as F

torch.set_num_threads(2)

# name, batch, heads, query rows, key rows, head dimension, causal, shared query
SHAPES = [
    ("default image", 64, 6, 37, 37, 32, False, False),
    ("default cross", 64, 6, 12, 32, 32, False, False),
    ("default pooler", 64, 6, 32, 37, 32, False, True),
    ("B-32 image", 8, 12, 50, 50, 64, False, False),
    ("B-32 text, padded", 8, 8, 77, 77, 64, True, False),
    ("B-32 cross", 8, 8, 76, 255, 64, False, False),
    ("B-32 pooler", 8, 8, 256, 50, 64, False, True),
    ("B-16 image", 8, 12, 197, 197, 64, False, False),
    ("L-14 image", 8, 16, 257, 257, 64, False, False),
    ("long", 1, 12, 1024, 1024, 64, False, False),
]


def math_attention(q, k, v, mask):
    scores = q @ k.transpose(-1, -2) * (1 / math.sqrt(q.shape[-1]))
    return (scores if mask is None else scores + mask).softmax(-1) @ v


def best(call, flops):
    call()
    times = []
    for _ in range(int(min(max(3e10 / flops, 5), 300))):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times) * 1e3


for dtype in (torch.float32, torch.bfloat16):
    for name, batch, heads, rows, keys, dim, causal, shared in SHAPES:
        if len(sys.argv) > 1 and sys.argv[1] not in name:
            continue
        q = torch.randn(1 if shared else batch, heads, rows, dim, dtype=dtype, requires_grad=True)
        k = torch.randn(batch, heads, keys, dim, dtype=dtype, requires_grad=True)
        v = torch.randn(batch, heads, keys, dim, dtype=dtype, requires_grad=True)
        mask = torch.full((rows, keys), float("-inf"), dtype=dtype).triu(1) if causal else None
        seed = torch.ones(batch, heads, rows, dim, dtype=dtype)
        flops = 14 * batch * heads * rows * keys * dim
        query = lambda: q.expand(batch, -1, -1, -1)
        ways = {
            "sdpa": lambda: F.scaled_dot_product_attention(query(), k, v, is_causal=causal),
            "math": lambda: math_attention(query(), k, v, mask),
        }
        line = f"{name} {str(dtype)[6:]}"
        for way, call in ways.items():
            with torch.no_grad():
                forward = best(call, flops)
            both = best(lambda: torch.autograd.grad(call(), (q, k, v), seed), flops)
            line += f"  {way}: forward {forward:.3f} ms, forward + backward {both:.3f} ms"
        print(line, flush=True)
