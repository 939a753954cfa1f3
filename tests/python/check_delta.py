#!/usr/bin/env python3
"""Delta files read by another reader, docs/read_tvd.py: every byte of every tensor.  check_delta.py TASKVEC"""
import itertools
import json
import os
import subprocess
import sys
import tempfile

import numpy as np

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "docs"))
import read_tvd  # noqa: E402

BLOCK = read_tvd.BLOCK
ZOO = os.path.join(ROOT, "fixtures", "zoo")


def save(path, tensors):
    header, at = {}, 0
    for name, (dtype, shape, data) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + len(data)]}
        at += len(data)
    text = json.dumps(header).encode()
    with open(path, "wb") as f:
        f.write(len(text).to_bytes(8, "little") + text + b"".join(data for _, _, data in tensors.values()))


def rounded(tensors, dtype, wide=False):
    """All F32 tensors as another dtype, or as F32 that hold its values."""
    out = {}
    for name, (old, shape, data) in tensors.items():
        assert old == "F32"
        bits = read_tvd.convert("F32", dtype, np.frombuffer(data, np.uint32))
        if wide:
            bits = read_tvd.convert(dtype, "F32", bits).view(np.uint32)
        out[name] = ("F32" if wide else dtype, shape, bits.tobytes())
    return out


def odd(seed):
    """Small tensors of all sorts: any bits, no elements, no dimensions, two blocks of which the second has few changes."""
    random, out = np.random.default_rng(seed), {}
    for i, dtype in enumerate(("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2", "I64", "I32", "U8", "BOOL")):
        size = read_tvd.SIZES[dtype]
        same = np.random.default_rng(99 + i)
        for name, shape in (("matrix", [3, 5]), ("scalar", []), ("empty", [0, 4]), ("blocks", [200000])):
            n = int(np.prod(shape))
            bits = same.integers(0, 2 if dtype == "BOOL" else 256, n * size, np.uint8)
            if name == "blocks":
                bits[(BLOCK + random.integers(0, n - BLOCK, 50)) * size] ^= 1
            else:
                bits[random.random(n * size) < 0.3] ^= 1
            out[f"{dtype}.{name}"] = dtype, shape, bits.tobytes()
    return out


def pairs(folder):
    def put(name, tensors):
        path = os.path.join(folder, name + ".safetensors")
        save(path, tensors)
        return path
    base = os.path.join(ZOO, "base", "model.safetensors")
    experts = [os.path.join(ZOO, "experts", e, "model.safetensors") for e in sorted(os.listdir(os.path.join(ZOO, "experts")))]
    for expert in experts:
        yield base, expert
    theta, tensors = read_tvd.load(base), read_tvd.load(experts[0])
    for dtype in ("BF16", "F16", "F8_E4M3", "F8_E5M2"):
        narrow_base, narrow = put(f"base_{dtype}", rounded(theta, dtype)), put(f"expert_{dtype}", rounded(tensors, dtype))
        wide_base, wide = put(f"base_{dtype}_wide", rounded(theta, dtype, True)), put(f"wide_{dtype}", rounded(tensors, dtype, True))
        yield from [(narrow_base, narrow), (base, narrow), (narrow_base, experts[0]), (wide_base, wide), (base, wide)]
    yield put("odd_base", odd(1)), put("odd", odd(2))


def main(taskvec, folder):
    count, kinds = 0, set()
    made = list(pairs(folder))
    for number, ((base, model), codec) in enumerate(itertools.product(made, ("auto", "s1", "s2", "raw"))):
        delta, out = os.path.join(folder, f"{number}.tvd"), os.path.join(folder, "out.safetensors")
        subprocess.run([taskvec, "diff", base, model, "-o", delta, "--codec", codec, "--quiet"], check=True)
        assert read_tvd.read(base, delta) == read_tvd.load(model), (base, model, codec)
        for payload, (_, shape, data) in read_tvd.load(delta).items():
            if not payload.startswith("#"):
                kinds |= {data[64 + 17 * i + 8] for i in range(read_tvd.number(data, 32))}
        if number % 8 == 0:
            subprocess.run([sys.executable, read_tvd.__file__, base, delta, out], check=True)
            with open(out, "rb") as a, open(model, "rb") as b:
                assert a.read() == b.read(), (base, model, codec)
        count += 1
    golden = os.path.join(ROOT, "fixtures", "container", "v1")
    for codec in ("auto", "s1", "s2", "raw"):
        result = read_tvd.read(os.path.join(golden, "base"), os.path.join(golden, codec + ".tvd"))
        assert result == read_tvd.load(os.path.join(golden, "model")), codec
        count += 1
    expected = {0, 1, 2, 3, 4, 5, 0x13, 0x14, 0x23, 0x24}
    assert kinds >= expected, f"kinds {sorted(expected - kinds)} did not occur"
    print(f"{count} delta files of {len(made)} pairs read by docs/read_tvd.py: every byte; kinds {sorted(kinds)}")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        main(sys.argv[1], folder)
