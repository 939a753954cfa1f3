#!/usr/bin/env python3
"""A reader of delta files, as docs/format.md describes them: short, not fast; checks lengths, not hashes.

    python read_tvd.py BASE.safetensors X.tvd OUT.safetensors
    read(base_path, tvd_path) -> {name: (dtype, shape, bytes)}      (a base may be a folder; no chains)
"""
import glob, io, json, os, sys  # noqa: E401
import numpy as np
import zstandard
from safetensors import deserialize

BLOCK = 1 << 17
DTYPES = "F64 F32 F16 BF16 F8_E4M3 F8_E5M2 I64 I32 I16 I8 U64 U32 U16 U8 BOOL".split()
FLOATS, SIZES = DTYPES[:6], dict(zip(DTYPES, [8, 4, 2, 2, 1, 1, 8, 4, 2, 1, 8, 4, 2, 1, 1]))
EXPONENTS = {"F32": (23, 255), "BF16": (7, 255), "F16": (10, 31), "F8_E4M3": (3, 15), "F8_E5M2": (2, 31)}
FLOAT8 = {"F8_E4M3": (3, 7, 0x7F), "F8_E5M2": (2, 15, 0x7C)}  # bits of the mantissa, bias, first code that is not finite
WORDS = {dtype: np.dtype(f"u{size}").type for dtype, size in SIZES.items()}

def number(data, at, size=8):
    return int.from_bytes(data[at:at + size], "little")

def float8(dtype):
    """The values of codes 0 to 127, as if none were special."""
    (m, bias, _), code = FLOAT8[dtype], np.arange(128)
    return np.ldexp(np.where(code >> m, code & (1 << m) - 1 | 1 << m, code), np.maximum(code >> m, 1) - bias - m)

def convert(dtype, to, x):
    """The bits of floats, widened to F32 and rounded to another dtype. (The bits of a NaN may differ from the format's.)"""
    if dtype in FLOAT8:
        value, special = float8(dtype), FLOAT8[dtype][2]
        value[special:] = ([np.inf] if special == 0x7C else []) + [np.nan] * min(0x80 - special, 3)
        value = np.concatenate([value, -value])[x].astype("f4")
    else:
        value = (x.astype("u4") << 16).view("f4") if dtype == "BF16" else x.view(f"f{x.itemsize}").astype("f4")
    bits, nan = value.view("u4").astype("i8"), np.isnan(value)
    if to == "BF16":
        return np.where(nan, bits >> 16 | 0x40, bits + 0x7FFF + (bits >> 16 & 1) >> 16).astype("u2")
    if to not in FLOAT8:
        return value.astype(f"f{SIZES[to]}").view(WORDS[to])
    known = float8(to)[:FLOAT8[to][2] + 1]
    middle = np.append((known[1:] + known[:-1]) / 2, np.inf)
    code = np.searchsorted(middle[:-1], abs(value))
    code += (middle[code] == abs(value)) & (code & 1 > 0)
    return (np.where(nan, 0x7F, code) | bits >> 31 << 7).astype("u1")

def take(block, n):
    data = block.read(n)
    assert len(data) == n, "the block ends early"
    return np.frombuffer(data, np.uint8)

def stream(block, m):
    head = number(take(block, 3).tobytes(), 0) if m else 0
    data = take(block, head & 0x7FFFFF).tobytes()
    if head >> 23:
        data = zstandard.ZstdDecompressor().decompress(bytes.fromhex("28b52ffd0038") + data, max_output_size=m)
    assert len(data) == m, "a stream has another length than its elements need"
    return np.frombuffer(data, np.uint8)

def planes(block, m, count, word):
    return sum((stream(block, m).astype(word) << word(8 * i) for i in range(count)), np.zeros(m, word))

def group(block, m, mode, word):
    """The elements of one group of S2 but for the escapes, the places of these, and the shift."""
    code, shift, z = mode & 15, (mode >> 4) * 4, np.zeros(m, word)
    if shift % 8:
        both = take(block, (m + 1) // 2)
        z |= np.concatenate([both & 15, both >> 4])[:m]
    for at in range(shift % 8, shift, 8):
        z |= take(block, m).astype(word) << word(at)
    if code == 0:
        gaps = stream(block, number(take(block, 3).tobytes(), 0)).astype(np.int64)
        escapes = (np.cumsum(gaps + (gaps < 255)) - 1)[gaps < 255]
        z[escapes] |= word(1 << shift)
        return z, escapes, shift
    width = 1 << code - 1
    packed = stream(block, (m * width + 7) // 8)
    symbols = np.stack([packed >> at & (1 << width) - 1 for at in range(0, 8, width)])
    byte, slot = np.nonzero(symbols.T == (1 << width) - 1)
    return z | symbols.reshape(-1)[:m].astype(word) << word(shift), slot * len(packed) + byte, shift

def s2(block, key, word):
    order = np.argsort(key, kind="stable")
    z, first, found, groups = np.zeros(len(key), word), 0, [], take(block, 2 * take(block, 1)[0].item()).tolist()
    for last, mode in zip(groups[::2], groups[1::2]):
        end = int(np.searchsorted(key[order], last, side="right"))
        z[first:end], escapes, shift = group(block, end - first, mode, word)
        found, first = found + [(first + escapes, shift)], end
    assert first == len(key), "the groups do not hold all elements"
    width = take(block, 1)[0]
    values = np.split(planes(block, sum(len(p) for p, _ in found), width, word), np.cumsum([len(p) for p, _ in found])[:-1])
    for (places, shift), escapes in zip(found, values):
        z[places] += escapes << word(shift)
    return z[np.argsort(order)]

def decode_block(kind, dtype, base, n, stored):
    """The bytes of one block of n elements; `base` has as many bytes, or is None."""
    method, half, block, x = kind & 15, {1: "BF16", 2: "F16"}.get(kind >> 4), io.BytesIO(stored), None
    assert method <= 5 and (kind < 16 or half and dtype == "F32"), f"kind {kind} is reserved"
    assert base is not None or method in (1, 2), "the block needs a base"
    if base is not None:
        x = np.frombuffer(base, WORDS[dtype])
        shift, mask = EXPONENTS.get(dtype, (0, 0))
        key = np.clip(x >> 52 & 0x7FF, 896, 1151) - 896 if dtype == "F64" else x >> shift & mask
        x = x if not half else (x >> 16).astype(np.uint16) if half == "BF16" else convert("F32", "F16", x)
    dtype = half or dtype
    word, size, top = WORDS[dtype], SIZES[dtype], WORDS[dtype](1 << 8 * SIZES[dtype] - 1)
    if method == 0:
        result = x
    elif method == 1:
        result = take(block, n * size).view(word)
    elif method == 2:
        result = planes(block, n, size, word)
        result = result >> 1 | result << word(8 * size - 1) if dtype in FLOATS and size > 1 else result
    else:
        if method == 5:
            count, z = number(take(block, 3).tobytes(), 0), np.zeros(n, word)
            places = np.cumsum(planes(block, count, 3, np.uint32).astype(np.int64) + 1) - 1
            z[places] = planes(block, count, size, word)
        else:
            z = s2(block, np.zeros(n, np.uint8) if method == 3 else key, word)
        d = z >> 1 ^ word(0) - (z & 1)
        order = np.where(x & top, ~x, x ^ top) + d
        result = np.where(order & top, order ^ top, ~order) if dtype in FLOATS else x ^ z if dtype == "BOOL" else x + d
    assert not block.read(), "bytes after the end of a block"
    if half:
        result = result.astype(np.uint32) << 16 if half == "BF16" else convert("F16", "F32", result)
    return result.tobytes()

def decode_tensor(dtype, shape, payload, base):
    """The bytes of one tensor of the index; `base` is (dtype, shape, bytes), or None."""
    size, n, common, known, out, at = SIZES[dtype], int(np.prod(shape, dtype=object)), 0, b"", [], 0
    blocks, codes = -(-n // BLOCK), (DTYPES.index(dtype), DTYPES.index(base[0]) if base else 255)
    if base and base[1][1:] == shape[1:] and len(base[1]) == len(shape) and (base[0] == dtype or max(codes) < 6):
        common = int(np.prod([min(a, b) for a, b in zip(base[1], shape)], dtype=object))
        known = np.frombuffer(base[2], WORDS[base[0]], common)
        known = (known if base[0] == dtype else convert(base[0], dtype, known)).tobytes()
    if payload:
        assert payload[:16] == b"TVDP\1\0\0\x11" + bytes([*codes, 0, 0, 0, 0, 0, 0]) and number(payload, 48, 4) <= 1
        assert [number(payload, at) for at in (16, 24, 32)] == [n, common, blocks]
    for i in range(blocks):
        entry = payload[64 + 17 * i:][:17] if payload else bytes(17)
        end, count = number(entry, 0), min(BLOCK, n - i * BLOCK)
        part = known[i * BLOCK * size:(i * BLOCK + count) * size].ljust(count * size, b"\0")
        assert at <= end <= at + count * size, f"block {i} has an impossible place"
        stored = payload[64 + 17 * blocks:][at:end] if payload else b""
        out, at = out + [decode_block(entry[8], dtype, part if i * BLOCK < common else None, count, stored)], end
    assert not payload or 64 + 17 * blocks + at + number(payload, 52, 4) == number(payload, 40) <= len(payload)
    return b"".join(out)

def section(payload):
    length, packed = number(payload, 0), number(payload, 8)
    assert length <= 256 << 20 and 24 + packed <= len(payload) and not any(payload[24 + packed:])
    content = zstandard.ZstdDecompressor().decompress(payload[24:24 + packed], max_output_size=length) if length else b""
    assert len(content) == length
    return content

def load(path):
    paths = sorted(glob.glob(os.path.join(path, "*.safetensors"))) if os.path.isdir(path) else [path]
    tensors = [t for p in paths for t in deserialize(open(p, "rb").read())]
    return {name: (t["dtype"], list(t["shape"]), bytes(t["data"])) for name, t in tensors}

def open_delta(path):
    """The payloads and the index."""
    payloads = {name: data for name, (_, _, data) in load(path).items()}
    with open(path, "rb") as f:
        metadata = json.loads(f.read(number(f.read(8), 0)))["__metadata__"]
    index = json.loads(section(payloads["#index"]))
    assert index["metadata"] == metadata and metadata["format"] == "taskvec-delta"
    assert int(metadata["min_reader"]) <= 1 and not metadata["features_required"], "needs a newer reader"
    return payloads, index

def read(base_path, tvd_path):
    base, (payloads, index), result = load(base_path), open_delta(tvd_path), {}
    for t in index["tensors"]:
        other = base[t["name"]] if t["base"] else None
        assert other is None or [*other[:2]] == [t["base"]["dtype"], t["base"]["shape"]], "another base"
        payload = payloads.get(t["name"] + "#d0")
        result[t["name"]] = t["dtype"], t["shape"], decode_tensor(t["dtype"], t["shape"], payload, other)
    return result

if __name__ == "__main__":
    tensors, (payloads, index) = read(*sys.argv[1:3]), open_delta(sys.argv[2])
    weights = [f for f in index["files"] if f["kept"] == "header"]
    assert len(weights) == 1, "the result has several weight files: use read()"
    head = section(payloads["#files"])[:weights[0]["kept_bytes"]]
    places = json.loads(head[8:])
    with open(sys.argv[3], "wb") as f:
        data = [tensors[name][2] for name in sorted(tensors, key=lambda name: places[name]["data_offsets"])]
        f.write(head + b"".join(data))
