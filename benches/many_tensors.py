#!/usr/bin/env python3
"""Two families of the same bytes: 300 tensors and 60,000 (as a mixture of experts has): many_tensors.py OUT [ELEMENTS] (numpy).

OUT/few and OUT/many get a base and three experts e0 to e2 each, bf16, model.safetensors with ELEMENTS (default 300 million)
elements in all."""
import json
import pathlib
import struct
import sys

import numpy as np

out, elements = pathlib.Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 300_000_000
values = np.random.default_rng(1)


def bf16(x):
    return (x.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)


base = values.standard_normal(1 << 22, np.float32) * 0.02
for family, tensors in [("few", 300), ("many", 60_000)]:
    each = elements // tensors
    for model in ["base", "e0", "e1", "e2"]:
        folder = out / family / model
        folder.mkdir(parents=True, exist_ok=True)
        header = {}
        for t in range(tensors):
            name = f"model.layers.{t // 250}.mlp.experts.{t % 250}.weight"
            header[name] = {"dtype": "BF16", "shape": [each], "data_offsets": [2 * t * each, 2 * (t + 1) * each]}
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        with open(folder / "model.safetensors", "wb") as file:
            file.write(struct.pack("<Q", len(text)) + text)
            left = tensors * each
            while left:
                piece = base[: min(left, len(base))]
                moved = piece if model == "base" else piece + values.standard_normal(1, np.float32) * 1e-3 * piece
                file.write(bf16(moved).tobytes())
                left -= len(piece)
