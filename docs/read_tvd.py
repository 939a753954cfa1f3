#!/usr/bin/env python3
"""A reader of delta files, as docs/format.md describes them: short, not fast; checks lengths, not hashes.

    python read_tvd.py BASE.safetensors X.tvd OUT.safetensors
    read(base_path, tvd_path) -> {name: (dtype, shape, bytes)}    (a base may be a folder; no chains, no lossy files)
"""
import io, json, math, struct, sys  # noqa: E401
from pathlib import Path
import numpy as np
from safetensors import deserialize, safe_open
from zstandard import ZstdDecompressor

BLOCK = 1 << 17
DTYPES = "F64 F32 F16 BF16 F8_E4M3 F8_E5M2 I64 I32 I16 I8 U64 U32 U16 U8 BOOL".split()
SIZES = dict(zip(DTYPES, [8, 4, 2, 2, 1, 1, 8, 4, 2, 1, 8, 4, 2, 1, 1]))
WORDS = {dtype: np.dtype(f"u{size}").type for dtype, size in SIZES.items()}
MANTISSA = {"F64": 52, "F32": 23, "F16": 10, "BF16": 7, "F8_E4M3": 3, "F8_E5M2": 2}  # bits of it, for all floats
LARGE = {"BF16": (127, 0x7F80), "F8_E4M3": (7, 0x7F), "F8_E5M2": (15, 0x7C)}  # bias of the exponent, code of too large

def number(data, at=0, size=8):
    return int.from_bytes(data[at:at + size], "little")

def convert(dtype, to, x):
    """The bits of floats, widened to F32 and rounded to another dtype. (The bits of a NaN may be others.)"""
    if SIZES[dtype] == 1:  # to F16; E4M3 lacks the highest bit of the exponent, and is multiplied by 256 below
        x = (x & 0x80).astype("u2") << 8 | (x & 0x7F).astype("u2") << 10 - MANTISSA[dtype]
    value = (x.astype("u4") << 16).view("f4") if dtype == "BF16" else x.view(f"f{x.itemsize}").astype("f4")
    value = np.where(x & 0x7FFF == 0x7F << 7, np.float32(np.nan), value * 256) if dtype == "F8_E4M3" else value
    if to not in LARGE:
        return value.astype(f"f{SIZES[to]}").view(WORDS[to])
    (bias, large), cut = LARGE[to], 52 - MANTISSA[to]
    bits = (abs(value).astype("f8") * 2.0 ** (bias - 1023)).view("i8")  # F64 with the exponent field of the result
    code = np.minimum(bits + (1 << cut - 1) - 1 + (bits >> cut & 1) >> cut, large)
    nan = value.view("u4") >> 16 & 0x7FFF | 0x40 if to == "BF16" else 0x7F
    return (np.where(np.isnan(value), nan, code) | np.signbit(value) << 8 * SIZES[to] - 1).astype(WORDS[to])

def exact(data, n, frame=False):
    data = ZstdDecompressor().decompress(data, max_output_size=n, allow_extra_data=False) if frame else data
    assert len(data) == n, "something is shorter or longer than it must be"
    return np.frombuffer(data, np.uint8)
def take(block, n):
    return exact(block.read(n), n)
def stream(block, m):
    head = number(take(block, 3)) if m else 0
    data = take(block, head & 0x7FFFFF).tobytes()
    return exact(bytes.fromhex("28b52ffd0038") + data if head >> 23 else data, m, head >> 23)
def planes(block, m, count, word):
    return sum((stream(block, m).astype(word) << word(8 * i) for i in range(count)), np.zeros(m, word))
def spread(packed, width):
    return np.concatenate([packed >> at & (1 << width) - 1 for at in range(0, 8, width)])

def s2(block, key, word):
    """z in natural order, from groups of a range of keys each; S1 has one group."""
    order, z, escapes = np.argsort(key, kind="stable"), np.zeros(len(key), word), []
    lasts, modes = take(block, 2 * int(take(block, 1)[0])).reshape(-1, 2).T.astype(int)
    ends = [0, *np.searchsorted(key[order], lasts, side="right").tolist()]
    assert all(np.diff(lasts) > 0) and ends[-1] == len(key), "the groups do not hold all elements"
    assert max(modes & 15) <= 4 and max(modes >> 4) < 2 * z.itemsize, "a group has an impossible mode"
    for first, end, code, shift in zip(ends, ends[1:], modes & 15, (modes >> 4) * 4):
        m, part, width = end - first, z[first:end], 1 << max(code - 1, 0)
        if shift % 8:
            part |= spread(take(block, (m + 1) // 2), 4)[:m]
        for at in range(shift % 8, shift, 8):
            part |= take(block, m).astype(word) << word(at)
        if code:
            v = spread(stream(block, (m * width + 7) // 8), width)
        else:
            gaps = stream(block, number(take(block, 3))).astype(int)
            v = np.bincount((np.cumsum(gaps + (gaps < 255)) - 1)[gaps < 255], minlength=m)
        places = np.flatnonzero(v == (1 << width) - 1)
        assert not v[m:].any(), "symbols after the end of a group"
        by_byte = places % max(len(v) * width // 8, 1) if code else places
        escapes.append(first + places[np.argsort(by_byte, kind="stable")])
        part |= v[:m].astype(word) << word(shift)
    escapes, width, shifts = np.concatenate(escapes), int(take(block, 1)[0]), np.repeat((modes >> 4) * 4, np.diff(ends))
    assert width <= z.itemsize, "the escapes are too wide"
    z[escapes] += planes(block, len(escapes), width, word) << shifts[escapes].astype(word)
    return z[np.argsort(order)]

def decode_block(kind, dtype, x, stored):
    """The elements of one block; x are those of its base."""
    method, half, block = kind & 15, {1: "BF16", 2: "F16"}.get(kind >> 4), io.BytesIO(stored)
    assert method <= 5 and (kind < 16 or half and dtype == "F32"), f"kind {kind} is reserved, or lossy"
    key = x << 1 >> MANTISSA[dtype] + 1 if method == 4 and dtype in MANTISSA else 0 * x
    key = np.clip(key, 896, 1151) - 896 if dtype == "F64" else key
    x = convert("F32", "F16", x) if half == "F16" else (x >> 16).astype("u2") if half else x
    n, word, size, sign = len(x), x.dtype.type, x.itemsize, 8 * x.itemsize - 1
    z = s2(block, key, word) if method in (3, 4) else np.zeros(n, word)
    if method == 5:
        count = number(take(block, 3))
        assert count <= n // 512, "too many changes"
        places = np.cumsum(planes(block, count, 3, np.uint32) + 1) - 1
        z[places] = planes(block, count, size, word)
    lower = word((1 << sign) - 1 if dtype in MANTISSA else 0)  # bits that are inverted in negative floats
    y = (x ^ (x >> sign) * lower) + (z >> 1 ^ word(0) - (z & 1))  # what grows with the value, and the difference
    y = x ^ z if dtype == "BOOL" else y ^ (y >> sign) * lower
    if method in (1, 2):
        y = take(block, n * size).view(word) if method == 1 else planes(block, n, size, word)
    y = y >> 1 | y << sign if method == 2 and dtype in MANTISSA and size > 1 else y
    assert not block.read(), "bytes after the end of a block"
    return convert(half, "F32", y) if half else y

def section(payload):
    length, packed, _ = struct.unpack("<3Q", payload[:24])
    assert length <= 256 << 20 and 24 + packed <= len(payload) and not any(payload[24 + packed:]), "a bad section"
    return exact(payload[24:24 + packed], length, frame=True).tobytes()

def load(path):
    tensors = (t for p in sorted(Path(path).glob("*.safetensors")) or [Path(path)] for t in deserialize(p.read_bytes()))
    return {name: (t["dtype"], list(t["shape"]), bytes(t["data"])) for name, t in tensors}

def read(base_path, tvd_path):
    """The tensors of the result, in the order of its files: {name: (dtype, shape, bytes)}."""
    bases, payloads, result = load(base_path), load(tvd_path), {}
    index, metadata = json.loads(section(payloads["#index"][2])), safe_open(tvd_path, "np").metadata()
    assert index["metadata"] == metadata and metadata["format"] == "taskvec-delta", "not a delta file"
    assert int(metadata["min_reader"]) <= 1 and not metadata["features_required"], "needs a newer reader, or is lossy"
    for name, dtype, shape, base in ((t["name"], t["dtype"], t["shape"], t["base"]) for t in index["tensors"]):
        n, common, at, (old, was, data) = math.prod(shape), 0, 0, bases[name] if base else (None, None, b"")
        assert not base or [old, was] == [base["dtype"], base["shape"]], "another base"
        x, blocks = np.zeros(n, WORDS[dtype]), -(-n // BLOCK)  # x: first the base's elements, then the result's
        if base and (len(was), was[1:]) == (len(shape), shape[1:]) and (old == dtype or {old, dtype} <= {*MANTISSA}):
            common = min(n, math.prod(was))
            known = np.frombuffer(data, WORDS[old], common)
            x[:common] = known if old == dtype else convert(old, dtype, known)
        table, stored = bytes(17 * blocks), b""
        if name + "#d0" in payloads:
            payload = payloads[name + "#d0"][2]
            *head, length, version, histogram = struct.unpack("<4sH4BHI4Q2I8x", payload[:64])
            same = [b"TVDP", 1, 0, 17, DTYPES.index(dtype), DTYPES.index(old) if base else 255, 0, 0, n, common, blocks]
            assert head == same and version <= 1 and length <= len(payload), "a payload that is lossy or damaged"
            table, stored = payload[64:64 + len(table)], payload[64 + len(table):length - histogram]
        for first, (end, kind) in zip(range(0, n, BLOCK), struct.iter_unpack("<QB8x", table)):
            part = x[first:first + BLOCK]
            assert at <= end <= at + part.nbytes and (first < common or kind & 15 in (1, 2)), "no place or no base"
            part[:], at = decode_block(kind, dtype, part, stored[at:end]), end
        assert at == len(stored), "the blocks do not fill the payload"
        result[name] = dtype, shape, x.tobytes()
    return result

if __name__ == "__main__":
    tensors, payloads = read(*sys.argv[1:3]), load(sys.argv[2])
    kept = [f["kept_bytes"] for f in json.loads(section(payloads["#index"][2]))["files"] if f["kept"] == "header"]
    assert len(kept) == 1, "the result has several weight files: use read()"
    Path(sys.argv[3]).write_bytes(section(payloads["#files"][2])[:kept[0]] + b"".join(t[2] for t in tensors.values()))
