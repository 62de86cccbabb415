"""PyTorch's ops as a peer of `coca bench --peers`, which hands this script to the interpreter that --python names. Any
other program that answers as it does is a peer by `coca bench --peer PROGRAM`, and has the threads in RAYON_NUM_THREADS too.

Reads {"threads": …, "device": "cpu" or "cuda", "cases": [case or null, …]} from the first line of stdin and answers {"name": …,
"ways": ["", …], "has": [[bool, …], …]}, for each case whether it can be run in each way, or {"error": …} where torch or the
device is not there. Then each line {"case": place, "way": place, "count": runs} is answered with {"seconds": …} for all runs
together (a count of 0 only prepares them), or {"absent": …} if that way cannot run the case. A case has its op's name in "op",
its shapes, "dtype" (f32 or bf16), and "backward": whether the gradients of its inputs, from gradients of 1, are part of a run.

On a GPU there are further ways: torch.compile, and each backend of attention; TORCH_WAYS=flash,cudnn names those that
are wanted beside the plain one. As with ours, copies of all buffers, together
twice as large as the L2 cache, take turns; the runs are captured in a CUDA graph and timed by events.
"""

import contextlib
import json
import os
import sys
import time


def say(answer):
    print(json.dumps(answer), flush=True)


request = json.loads(sys.stdin.readline())
device = request["device"]
try:
    import torch
    import torch.nn.functional as F
    from torch.nn.attention import SDPBackend, sdpa_kernel
except ImportError as error:
    say({"error": str(error)})
    sys.exit()
if device == "cuda" and not torch.cuda.is_available():
    say({"error": "this torch sees no GPU"})
    sys.exit()

torch.set_num_threads(request["threads"])
# On the CPU: oneDNN's f32 in place of MKL's, which is faster. On a GPU f32 is f32, as ours is, and no TF32.
torch.set_float32_matmul_precision("highest" if device == "cuda" else "medium")
torch.manual_seed(0)

BACKENDS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "math": SDPBackend.MATH,
}
WAYS = ["", "compile", *BACKENDS] if device == "cuda" else [""]
if "TORCH_WAYS" in os.environ:
    WAYS = ["", *(way for way in WAYS[1:] if way in os.environ["TORCH_WAYS"].split(","))]
GRAPH_SECONDS = 1e-3  # of the runs in one graph, about
MOST_COPIES = 128


# Each op: a function of its inputs, and its inputs.


def product(case, new):
    a = new(case["k"], case["m"]).t() if case["a_transposed"] else new(case["m"], case["k"])
    b = new(case["n"], case["k"]).t() if case["b_transposed"] else new(case["k"], case["n"])
    return torch.matmul, (a, b)


def layer_norm(case, new):
    x, columns = new(case["rows"], case["columns"]), case["columns"]
    return lambda x, weight, bias: F.layer_norm(x, (columns,), weight, bias), (x, new(columns), new(columns))


def gelu(case, new):
    return F.gelu, (new(case["elements"]),)


def attention(case, new):
    sequences, heads, dim = case["sequences"], case["heads"], case["head_dim"]
    q = new(1 if case["shared_query"] else sequences, heads, case["queries"], dim)
    k, v = (new(sequences, heads, case["keys"], dim) for _ in range(2))
    causal = case["causal"]
    attend = F.scaled_dot_product_attention
    return lambda q, k, v: attend(q.expand(sequences, -1, -1, -1), k, v, is_causal=causal), (q, k, v)


def cross_entropy(case, new):
    labels = torch.randint(case["classes"], (case["rows"],), device=device)
    smoothing = case["smoothing"]
    return lambda logits: F.cross_entropy(logits, labels, label_smoothing=smoothing), (new(case["rows"], case["classes"]),)


def linear_cross_entropy(case, new):
    hidden, weight = new(case["rows"], case["width"]), new(case["width"], case["vocabulary"])
    labels = torch.randint(case["vocabulary"], (case["rows"],), device=device)
    return lambda hidden, weight: F.cross_entropy(hidden @ weight, labels), (hidden, weight)


OPS = {op.__name__: op for op in (product, layer_norm, gelu, attention, cross_entropy, linear_cross_entropy)}


def has(case, way):
    if case is None or case["op"] not in OPS:
        return False
    if way in BACKENDS:
        # These two have no kernel for f32.
        return case["op"] == "attention" and (case["dtype"] == "bf16" or way not in ("flash", "cudnn"))
    # cuBLAS is all there is to compile a product to.
    return way == "" or case["op"] != "product"


def within(way):
    return sdpa_kernel(BACKENDS[way]) if way in BACKENDS else contextlib.nullcontext()


def one_run(case, function, inputs):
    """What runs a case once on these inputs, and returns its results."""
    if not case["backward"]:

        def run():
            with torch.no_grad():
                return function(*inputs)

        return run
    for tensor in inputs:
        tensor.requires_grad_()
    seed = torch.ones_like(function(*inputs))
    return lambda: torch.autograd.grad(function(*inputs), inputs, seed)


def bytes_of(tensors):
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def timed_on_gpu(runs):
    """What runs all of `runs` again and again in one graph, so many times that launches do not count."""

    def seconds(work):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        work()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / 1e3

    def all_runs():
        return [run() for run in runs]

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            all_runs()
    torch.cuda.current_stream().wait_stream(side)
    rounds = int(min(max(GRAPH_SECONDS / max(seconds(all_runs), 1e-9), 1), 64))
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(rounds):
            kept = all_runs()  # results of their own for each copy, as ours have
    in_graph = rounds * len(runs)

    def measure(count, kept=kept):
        replays = -(-count // in_graph)
        return seconds(lambda: [graph.replay() for _ in range(replays)]) * count / (replays * in_graph)

    return measure


def timed_on_cpu(run):
    def measure(count):
        start = time.perf_counter()
        for _ in range(count):
            run()
        return time.perf_counter() - start

    return measure


def prepare(case, way):
    """A function of a number of runs that gives their seconds."""
    dtype = {"f32": torch.float32, "bf16": torch.bfloat16}[case["dtype"]]
    new = lambda *sizes: torch.randn(*sizes, dtype=dtype, device=device)
    function, inputs = OPS[case["op"]](case, new)
    if way == "compile":
        function = torch.compile(function)
    run = one_run(case, function, inputs)
    if device == "cpu":
        return timed_on_cpu(run)
    with within(way):
        results = run()
        results = results if isinstance(results, tuple) else (results,)
        cache = torch.cuda.get_device_properties(0).L2_cache_size
        copies = min(max(-(-2 * cache // (bytes_of(inputs) + bytes_of(results))), 1), MOST_COPIES)
        more = (OPS[case["op"]](case, new)[1] for _ in range(copies - 1))
        return timed_on_gpu([run, *(one_run(case, function, inputs) for inputs in more)])


cases = request["cases"]
say(
    {
        "name": "torch " + torch.__version__.split("+")[0],
        "ways": WAYS,
        "has": [[has(case, way) for way in WAYS] for case in cases],
    }
)
current, prepared = None, {}
for line in sys.stdin:
    asked = json.loads(line)
    if current != asked["case"]:
        current, prepared = asked["case"], {}  # free the tensors of the case before
        if device == "cuda":
            if "compile" in WAYS:
                torch.compiler.reset()
            torch.cuda.empty_cache()
    try:
        if asked["way"] not in prepared:
            prepared[asked["way"]] = prepare(cases[current], WAYS[asked["way"]])
        say({"seconds": prepared[asked["way"]](asked["count"]) if asked["count"] else 0.0})
    except Exception as error:  # a backend refuses shapes in ways of its own
        if asked["count"]:
            raise
        say({"absent": f"{type(error).__name__}: {error}".split("\n")[0]})
