#!/usr/bin/env python3
"""OpenBLAS and AMD's BLIS as peers of `coca bench --peer benches/peers/blas.py`, by the protocol that torch_ops.py describes.

Both come from PyPI (`scipy-openblas32` and `aoclda`) and must be there for the python3 of PATH; what is missing is left out.
Products in f32, forward. Unset OPENBLAS_CORETYPE where it is set: it would choose kernels of another processor.
"""

import ctypes
import glob
import importlib.util
import json
import os
import random
import sys
import time
from array import array
from pathlib import Path

# Their threads wait awake for the next product; as long as our turns are apart at most, or they would take part in ours.
os.environ.setdefault("KMP_BLOCKTIME", "5")  # milliseconds
os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "23")  # 2^23 cycles

ROW_MAJOR, PLAIN, TRANSPOSED = 101, 111, 112


def say(answer):
    print(json.dumps(answer), flush=True)


def openblas(threads):
    """The function `sgemm` of C's interface to OpenBLAS, on these threads."""
    folder = Path(importlib.util.find_spec("scipy_openblas32").origin).parent
    library = ctypes.CDLL(str(folder / "lib/libscipy_openblas.so"))
    library.scipy_openblas_set_num_threads(threads)
    return library.scipy_cblas_sgemm


def aocl(threads):
    """The same of AMD's BLIS."""
    folder = Path(importlib.util.find_spec("aoclda").origin).parent.parent / "aoclda.libs"
    for path in [path for path in glob.glob(f"{folder}/*.so*") if "libblis" not in path]:
        try:
            ctypes.CDLL(path, mode=ctypes.RTLD_GLOBAL)
        except OSError:
            pass  # what it depends on comes later in the list, and is found beside it
    library = ctypes.CDLL(glob.glob(f"{folder}/libblis-mt*")[0])
    library.bli_thread_set_num_threads(ctypes.c_int64(threads))
    return library.cblas_sgemm


def floats(count):
    values = array("f", (random.gauss(0, 1) for _ in range(min(count, 1 << 16))))
    values = (values * -(-count // max(len(values), 1)))[:count]
    return (ctypes.c_float * count).from_buffer(values)


def prepare(sgemm, case):
    m, n, k = case["m"], case["n"], case["k"]
    a, b, c = floats(m * k), floats(k * n), floats(m * n)
    a_order, b_order = (TRANSPOSED if case[name] else PLAIN for name in ("a_transposed", "b_transposed"))
    a_stride, b_stride = (m if case["a_transposed"] else k), (k if case["b_transposed"] else n)
    one, zero = ctypes.c_float(1), ctypes.c_float(0)
    return lambda: sgemm(ROW_MAJOR, a_order, b_order, m, n, k, one, a, a_stride, b, b_stride, zero, c, n)


request = json.loads(sys.stdin.readline())
cases, libraries, missing = request["cases"], {}, []
for library in (openblas, aocl) if request["device"] == "cpu" else ():
    try:
        libraries[library.__name__] = library(request["threads"])
    except (AttributeError, IndexError, OSError) as error:
        missing.append(f"{library.__name__}: {error}")
if not libraries:
    say({"error": "; ".join(missing) or "they have no GPU"})
    sys.exit()
products = [case and case["op"] == "product" and case["dtype"] == "f32" and not case["backward"] for case in cases]
say({"name": "blas", "ways": list(libraries), "has": [[bool(one)] * len(libraries) for one in products]})
current, prepared = None, {}
for line in sys.stdin:
    asked = json.loads(line)
    if current != asked["case"]:
        current, prepared = asked["case"], {}
    way = asked["way"]
    if way not in prepared:
        prepared[way] = prepare(list(libraries.values())[way], cases[current])
    start = time.perf_counter()
    for _ in range(asked["count"]):
        prepared[way]()
    say({"seconds": time.perf_counter() - start})
