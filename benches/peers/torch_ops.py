"""PyTorch's ops as a peer of `coca bench --peers`, which hands this script to the interpreter that --python names.

Reads {"threads": …, "cases": [case or null, …]} from the first line of stdin and answers {"name": …, "has": [bool, …]}, or
{"error": …} where torch is not there. Then each line {"case": place, "count": runs} is answered with {"seconds": …} for all
runs together. A case has its op's name in "op", its shapes, "dtype" (f32 or bf16), and "backward": whether the gradients of
its inputs, from gradients of 1, are part of a run.
"""

import json
import sys
import time


def say(answer):
    print(json.dumps(answer), flush=True)


request = json.loads(sys.stdin.readline())
try:
    import torch
    import torch.nn.functional as F
except ImportError as error:
    say({"error": str(error)})
    sys.exit()

torch.set_num_threads(request["threads"])
torch.set_float32_matmul_precision("medium")  # on the CPU: oneDNN's f32 in place of MKL's, which is faster
torch.manual_seed(0)


def product(case, new):
    a = new(case["k"], case["m"]).t() if case["a_transposed"] else new(case["m"], case["k"])
    b = new(case["n"], case["k"]).t() if case["b_transposed"] else new(case["k"], case["n"])
    return lambda: a @ b, (a, b)


def layer_norm(case, new):
    x, columns = new(case["rows"], case["columns"]), case["columns"]
    weight, bias = new(columns), new(columns)
    return lambda: F.layer_norm(x, (columns,), weight, bias), (x, weight, bias)


def gelu(case, new):
    x = new(case["elements"])
    return lambda: F.gelu(x), (x,)


def attention(case, new):
    sequences, heads, dim = case["sequences"], case["heads"], case["head_dim"]
    q = new(1 if case["shared_query"] else sequences, heads, case["queries"], dim)
    k, v = (new(sequences, heads, case["keys"], dim) for _ in range(2))
    causal = case["causal"]
    return lambda: F.scaled_dot_product_attention(q.expand(sequences, -1, -1, -1), k, v, is_causal=causal), (q, k, v)


def cross_entropy(case, new):
    logits, labels = new(case["rows"], case["classes"]), torch.randint(case["classes"], (case["rows"],))
    return lambda: F.cross_entropy(logits, labels, label_smoothing=case["smoothing"]), (logits,)


def linear_cross_entropy(case, new):
    hidden, weight = new(case["rows"], case["width"]), new(case["width"], case["vocabulary"])
    labels = torch.randint(case["vocabulary"], (case["rows"],))
    return lambda: F.cross_entropy(hidden @ weight, labels), (hidden, weight)


OPS = {op.__name__: op for op in (product, layer_norm, gelu, attention, cross_entropy, linear_cross_entropy)}


def prepare(case):
    """What runs a case once."""
    dtype = {"f32": torch.float32, "bf16": torch.bfloat16}[case["dtype"]]
    forward, inputs = OPS[case["op"]](case, lambda *sizes: torch.randn(*sizes, dtype=dtype))
    if not case["backward"]:

        def run():
            with torch.no_grad():
                forward()

        return run
    for tensor in inputs:
        tensor.requires_grad_()
    seed = torch.ones_like(forward())
    return lambda: torch.autograd.grad(forward(), inputs, seed)


has = [case is not None and case["op"] in OPS for case in request["cases"]]
say({"name": "torch " + torch.__version__.split("+")[0], "has": has})
prepared = None, None
for line in sys.stdin:
    asked = json.loads(line)
    if prepared[0] != asked["case"]:
        prepared = None, None  # free the tensors of the case before
        prepared = asked["case"], prepare(request["cases"][asked["case"]])
    start = time.perf_counter()
    for _ in range(asked["count"]):
        prepared[1]()
    say({"seconds": time.perf_counter() - start})
