"""GB/s of PyTorch's fused AdamW on the arenas of the bench `optimizer`, which hands this script to an interpreter.

    python adamw.py DEVICE THREADS

50 f32 matrices of 2048 x 1000 on cpu or cuda. Of each element 16 bytes are read and 12 written. Ours writes 2 more where it
keeps a bf16 copy, which this has not.
"""

import sys
import time

import torch

device, threads = sys.argv[1], int(sys.argv[2])
torch.set_num_threads(threads)
parameters = [torch.randn(2048, 1000, device=device, requires_grad=True) for _ in range(50)]
for parameter in parameters:
    parameter.grad = torch.randn_like(parameter)
optimizer = torch.optim.AdamW(parameters, lr=1e-3, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.1, fused=True)


def seconds():
    if device == "cpu":
        start = time.perf_counter()
        optimizer.step()
        return time.perf_counter() - start
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    optimizer.step()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / 1e3


best = min(seconds() for _ in range(8))
rate = 28 * sum(parameter.numel() for parameter in parameters) / best / 1e9
print(f"torch {torch.__version__.split('+')[0]} fused adamw   {best * 1e3:7.1f} ms {rate:6.1f} GB/s")
