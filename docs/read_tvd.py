#!/usr/bin/env python3
"""A reader of delta files, as docs/format.md describes them: short, not fast; checks lengths, not hashes.

    python read_tvd.py BASE.safetensors X.tvd OUT.safetensors
    read(base_path, tvd_path) -> {name: (dtype, shape, bytes)}      (a base may be a folder; no chains)
"""
import glob, json, os, sys  # noqa: E401
import numpy as np
import zstandard
from safetensors import deserialize

BLOCK = 1 << 17
DTYPES = "F64 F32 F16 BF16 F8_E4M3 F8_E5M2 I64 I32 I16 I8 U64 U32 U16 U8 BOOL".split()
SIZES = dict(zip(DTYPES, [8, 4, 2, 2, 1, 1, 8, 4, 2, 1, 8, 4, 2, 1, 1]))
FLOATS = DTYPES[:6]
EXPONENTS = {"F32": (23, 255), "BF16": (7, 255), "F16": (10, 31), "F8_E4M3": (3, 15), "F8_E5M2": (2, 31)}
FLOAT8 = {"F8_E4M3": (3, 7, 0x7F), "F8_E5M2": (2, 15, 0x7C)}  # bits of the mantissa, bias, first code that is not finite
WORDS = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}

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
        value[special:] = [np.inf, np.nan, np.nan, np.nan][-len(value[special:]):]
        value = np.concatenate([value, -value])[x].astype("f4")
    else:
        value = (x.astype("u4") << 16).view("f4") if dtype == "BF16" else x.view(f"f{x.itemsize}").astype("f4")
    bits, nan = value.view("u4").astype("i8"), np.isnan(value)
    if to == "BF16":
        return np.where(nan, bits >> 16 | 0x40, bits + 0x7FFF + (bits >> 16 & 1) >> 16).astype("u2")
    if to not in FLOAT8:
        return value.astype(f"f{SIZES[to]}").view(WORDS[SIZES[to]])
    known = float8(to)[:FLOAT8[to][2] + 1]
    middle = np.append((known[1:] + known[:-1]) / 2, np.inf)
    code = np.searchsorted(middle[:-1], abs(value))
    code += (middle[code] == abs(value)) & (code & 1 > 0)
    return (np.where(nan, 0x7F, code) | bits >> 31 << 7).astype("u1")

class Reader:
    """The bytes of a block that are not read yet."""
    def __init__(self, block):
        self.block, self.at = block, 0
    def take(self, n):
        assert self.at + n <= len(self.block), "the block ends early"
        self.at += n
        return np.frombuffer(self.block, np.uint8, n, self.at - n)
    def number(self, n):
        return number(self.take(n).tobytes(), 0, n)
    def stream(self, m):
        head = self.number(3) if m else 0
        data = self.take(head & 0x7FFFFF).tobytes()
        if head >> 23:
            data = zstandard.ZstdDecompressor().decompress(bytes.fromhex("28b52ffd0038") + data, max_output_size=m)
        assert len(data) == m, "a stream has another length than its elements need"
        return np.frombuffer(data, np.uint8)
    def planes(self, m, count, word):
        return sum((self.stream(m).astype(word) << word(8 * i) for i in range(count)), np.zeros(m, word))

def group(reader, m, mode, word):
    """The elements of one group of S2 but for the escapes, the places of these, and the shift."""
    code, shift, z = mode & 15, (mode >> 4) * 4, np.zeros(m, word)
    if shift % 8:
        both = reader.take((m + 1) // 2)
        z |= np.concatenate([both & 15, both >> 4])[:m]
    for at in range(shift % 8, shift, 8):
        z |= reader.take(m).astype(word) << word(at)
    if code == 0:
        gaps = reader.stream(reader.number(3)).astype(np.int64)
        escapes = (np.cumsum(gaps + (gaps < 255)) - 1)[gaps < 255]
        z[escapes] |= word(1 << shift)
        return z, escapes, shift
    width = 1 << code - 1
    packed = reader.stream((m * width + 7) // 8)
    symbols = np.stack([packed >> at & (1 << width) - 1 for at in range(0, 8, width)])
    byte, slot = np.nonzero(symbols.T == (1 << width) - 1)
    return z | symbols.reshape(-1)[:m].astype(word) << word(shift), slot * len(packed) + byte, shift

def s2(reader, key, word):
    order = np.argsort(key, kind="stable")
    z, first, found, groups = np.zeros(len(key), word), 0, [], reader.take(2 * reader.number(1)).tolist()
    for last, mode in zip(groups[::2], groups[1::2]):
        end = int(np.searchsorted(key[order], last, side="right"))
        z[first:end], escapes, shift = group(reader, end - first, mode, word)
        found, first = found + [(first + escapes, shift)], end
    assert first == len(key), "the groups do not hold all elements"
    width = reader.number(1)
    values = reader.planes(sum(len(places) for places, _ in found), width, word)
    for places, shift in found:
        z[places] += values[:len(places)] << word(shift)
        values = values[len(places):]
    natural = np.empty_like(z)
    natural[order] = z
    return natural

def decode_block(kind, dtype, base, n, block):
    """The bytes of one block of n elements; `base` has as many bytes, or is None."""
    method, half = kind & 15, {1: "BF16", 2: "F16"}.get(kind >> 4)
    assert method <= 5 and (kind < 16 or half and dtype == "F32"), f"kind {kind} is reserved"
    assert base is not None or method in (1, 2), "the block needs a base"
    if method == 0:
        return base
    x = None if base is None else np.frombuffer(base, WORDS[SIZES[dtype]])
    if method == 4:
        shift, mask = EXPONENTS.get(dtype, (0, 0))
        key = np.clip(x >> 52 & 0x7FF, 896, 1151) - 896 if dtype == "F64" else x >> shift & mask
    if half and base is not None:
        x = (x >> 16).astype(np.uint16) if half == "BF16" else convert("F32", "F16", x)
    dtype = half or dtype
    word, bits, reader = WORDS[SIZES[dtype]], 8 * SIZES[dtype], Reader(block)
    top = word(1 << bits - 1)
    if method == 1:
        result = reader.take(n * bits // 8).view(word)
    elif method == 2:
        result = reader.planes(n, bits // 8, word)
        result = result >> 1 | result << word(bits - 1) if dtype in FLOATS and bits > 8 else result
    else:
        if method == 5:
            count, z = reader.number(3), np.zeros(n, word)
            places = np.cumsum(reader.planes(count, 3, np.uint32).astype(np.int64) + 1) - 1
            z[places] = reader.planes(count, bits // 8, word)
        else:
            z = reader.planes(n, bits // 8, word) if method == 3 else s2(reader, key, word)
        d = z >> 1 ^ word(0) - (z & 1)
        order = np.where(x & top, ~x, x ^ top) + d
        result = np.where(order & top, order ^ top, ~order) if dtype in FLOATS else x ^ z if dtype == "BOOL" else x + d
    assert reader.at == len(block), "bytes after the end of a block"
    if half:
        result = result.astype(np.uint32) << 16 if half == "BF16" else convert("F16", "F32", result)
    return result.tobytes()

def decode_tensor(tensor, payload, base):
    """The bytes of one tensor of the index; `base` is (dtype, shape, bytes), or None."""
    dtype, shape, size, common = tensor["dtype"], tensor["shape"], SIZES[tensor["dtype"]], 0
    n = int(np.prod(shape, dtype=object))
    blocks = -(-n // BLOCK)
    if base and base[1][1:] == shape[1:] and len(base[1]) == len(shape):
        if base[0] == dtype or base[0] in FLOATS and dtype in FLOATS:
            common = int(np.prod([min(a, b) for a, b in zip(base[1], shape)], dtype=object))
    known = base[2][:common * SIZES[base[0]]] if base else b""
    if common and base[0] != dtype:
        known = convert(base[0], dtype, np.frombuffer(known, WORDS[SIZES[base[0]]])).tobytes()
    if payload:
        codes = DTYPES.index(dtype), DTYPES.index(base[0]) if base else 255
        assert payload[:8] == b"TVDP\1\0\0\x11" and tuple(payload[8:16]) == (*codes, 0, 0, 0, 0, 0, 0)
        assert [number(payload, at) for at in (16, 24, 32)] == [n, common, blocks] and number(payload, 48, 4) <= 1
    start, out, at = 64 + 17 * blocks, [], 0
    for i in range(blocks):
        entry = payload[64 + 17 * i:][:17] if payload else bytes(17)
        end, count = number(entry, 0), min(BLOCK, n - i * BLOCK)
        assert at <= end and (end - at <= count * size), f"block {i} has an impossible place"
        part = known[i * BLOCK * size:(i * BLOCK + count) * size]
        part = part.ljust(count * size, b"\0") if part else None
        out.append(decode_block(entry[8], dtype, part, count, payload[start + at:start + end] if payload else b""))
        at = end
    assert not payload or start + at + number(payload, 52, 4) == number(payload, 40) <= len(payload)
    return b"".join(out)

def section(payload, cap=256 << 20):
    length, packed = number(payload, 0), number(payload, 8)
    assert length <= cap and 24 + packed <= len(payload) and not any(payload[24 + packed:])
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
    index = json.loads(section(payloads["#index"]))
    with open(path, "rb") as f:
        assert index["metadata"] == json.loads(f.read(number(f.read(8), 0)))["__metadata__"]
    metadata = index["metadata"]
    assert metadata["format"] == "taskvec-delta" and int(metadata["min_reader"]) <= 1 and not metadata["features_required"]
    return payloads, index

def read(base_path, tvd_path):
    base, (payloads, index), result = load(base_path), open_delta(tvd_path), {}
    for t in index["tensors"]:
        other = base[t["name"]] if t["base"] else None
        assert other is None or [*other[:2]] == [t["base"]["dtype"], t["base"]["shape"]], "another base"
        data = decode_tensor(t, payloads.get(t["name"] + "#d0"), other)
        result[t["name"]] = t["dtype"], t["shape"], data
    return result

if __name__ == "__main__":
    tensors, (payloads, index) = read(*sys.argv[1:3]), open_delta(sys.argv[2])
    weights = [f for f in index["files"] if f["kept"] == "header"]
    assert len(weights) == 1, "the result has several weight files: use read()"
    head = section(payloads["#files"])[:weights[0]["kept_bytes"]]
    places = json.loads(head[8:])
    with open(sys.argv[3], "wb") as f:
        f.write(head)
        for name in sorted(tensors, key=lambda name: places[name]["data_offsets"]):
            f.write(tensors[name][2])
