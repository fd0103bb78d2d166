"""Quantised weights written from the formats' definitions, bit by bit in numpy, with the numbers they stand for.

Each writer takes a matrix [out, in] and gives the stored tensors by suffix, and the numbers as float32.
"""

import json

import numpy as np
import torch
from safetensors.torch import load_file, save_file

E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)
GROUP = 8
"""Inputs in a group, of what chooses its group freely."""


def pack(codes, bits):
    """int32 words [rows, ceil(n bits / 32)] of unsigned codes [rows, n]: a stream of bits, the lowest first."""
    rows = len(codes)
    stream = ((codes[:, :, None].astype(np.int64) >> np.arange(bits)) & 1).reshape(rows, -1)
    stream = np.pad(stream, ((0, 0), (0, -stream.shape[1] % 32))).reshape(rows, -1, 32)
    words = (stream << np.arange(32)).sum(-1).astype(np.uint32)
    return torch.from_numpy(words.view(np.int32).copy())


def grid(weight, group_of, bits, symmetric, rng):
    """Scales and zero points [out, groups] in float16, and codes [out, in], all of them used by some writer."""
    groups = int(group_of.max()) + 1
    top = (1 << bits) - 1
    scales = (np.abs(weight).max() / top * rng.uniform(1.5, 3, (len(weight), groups))).astype(np.float16)
    middle = (top + 1) // 2
    zeros = np.full(scales.shape, middle) if symmetric else rng.integers(0, top + 1, scales.shape)
    codes = np.clip(np.round(weight / scales[:, group_of]) + zeros[:, group_of], 0, top).astype(np.int64)
    numbers = (codes - zeros[:, group_of]).astype(np.float32) * scales[:, group_of].astype(np.float32)
    return scales, zeros, codes, numbers


def column_groups(into, group, rng=None):
    """The group of each input; with rng in any order."""
    groups = np.arange(into) // group
    return groups if rng is None else rng.permutation(groups)


def gptq(weight, rng, *, bits=4, symmetric=True, ordered=False, version=1, group=GROUP):
    into = weight.shape[1]
    group = into if group == -1 else group
    group_of = column_groups(into, group, rng if ordered else None)
    scales, zeros, codes, numbers = grid(weight, group_of, bits, symmetric, rng)
    words = pack(zeros.T, bits)
    if version == 1:  # one is taken from every field of a word, in one subtraction
        ones = pack(np.ones((1, 32 // bits), np.int64), bits).numpy().view(np.uint32)[0, 0]
        words = torch.from_numpy((words.numpy().view(np.uint32) - ones).view(np.int32))
    parts = {".qweight": pack(codes, bits).T, ".qzeros": words, ".scales": torch.from_numpy(scales.T.copy())}
    if ordered:
        parts[".g_idx"] = torch.from_numpy(group_of.astype(np.int32))
    return parts, numbers


def awq(weight, rng, *, group=GROUP):
    into = weight.shape[1]
    scales, zeros, codes, numbers = grid(weight, column_groups(into, into if group == -1 else group), 4, False, rng)

    def interleaved(numbers_IO):
        eights = numbers_IO.reshape(len(numbers_IO), -1, 8)
        return pack(eights[:, :, [0, 2, 4, 6, 1, 3, 5, 7]].reshape(len(numbers_IO), -1), 4)

    parts = {".qweight": interleaved(codes.T), ".qzeros": interleaved(zeros.T)}
    return {**parts, ".scales": torch.from_numpy(scales.T.copy())}, numbers


def packed_integers(weight, rng, *, bits=4, symmetric=True, ordered=False, group=GROUP, plain_zeros=False):
    out, into = weight.shape
    group = into if group == -1 else group
    group_of = column_groups(into, group, rng if ordered else None)
    scales, zeros, codes, numbers = grid(weight, group_of, bits, symmetric, rng)
    parts = {
        ".weight_packed": pack(codes, bits),
        ".weight_scale": torch.from_numpy(scales),
        ".weight_shape": torch.tensor([out, into]),
    }
    if not symmetric:
        signed = torch.from_numpy((zeros - (1 << bits - 1)).astype(np.int8))
        parts[".weight_zero_point"] = signed if plain_zeros else pack(zeros.T, bits).T
    if ordered:
        parts[".weight_g_idx"] = torch.from_numpy(group_of.astype(np.int32))
    return parts, numbers


def fp8_codes(weight, scales):
    """E4M3 codes of weight / scales, and the numbers that they stand for before the scale."""
    codes = torch.from_numpy((weight / scales).astype(np.float32)).clamp(-448, 448).to(torch.float8_e4m3fn)
    raw = codes.view(torch.uint8).numpy().astype(np.int64)
    sign, exponent, mantissa = np.where(raw >> 7, -1.0, 1.0), raw >> 3 & 15, raw & 7
    stands = np.where(exponent == 0, mantissa / 8 * 2.0**-6, (1 + mantissa / 8) * 2.0 ** (exponent - 7))
    return codes, (sign * stands).astype(np.float32)


def fp8(weight, rng, *, by="channel", block=(48, 24), suffix=".weight_scale"):
    out, into = weight.shape
    if by == "block":
        shape = (-(-out // block[0]), -(-into // block[1]))
        scales = rng.uniform(0.001, 0.004, shape).astype(np.float32)
        spread = scales[np.arange(out)[:, None] // block[0], np.arange(into) // block[1]]
    else:
        shape = {"channel": (out, 1), "vector": (out,), "tensor": (), "one": (1,)}[by]
        scales = rng.uniform(0.001, 0.004, shape).astype(np.float32)
        spread = np.broadcast_to(scales.reshape(-1, 1), weight.shape)
    codes, stands = fp8_codes(weight, spread)
    return {".weight": codes, suffix: torch.from_numpy(np.asarray(scales))}, stands * spread


def int8(weight, rng, *, symmetric=True):
    scales = rng.uniform(0.004, 0.008, (len(weight), 1)).astype(np.float32)
    zeros = np.zeros(scales.shape, np.int8) if symmetric else rng.integers(-50, 50, scales.shape).astype(np.int8)
    codes = np.clip(np.round(weight / scales) + zeros, -128, 127).astype(np.int8)
    parts = {".weight": torch.from_numpy(codes), ".weight_scale": torch.from_numpy(scales)}
    if not symmetric:
        parts[".weight_zero_point"] = torch.from_numpy(zeros)
    return parts, (codes.astype(np.float32) - zeros) * scales


def fp4_codes(weight, spread):
    """E2M1 codes of weight / spread, two in a byte, the first in the low half."""
    codes = np.abs((weight / spread)[:, :, None] - E2M1).argmin(-1)
    return torch.from_numpy((codes[:, 0::2] | codes[:, 1::2] << 4).astype(np.uint8)), codes


def nvfp4(weight, rng, *, divides):
    out, into = weight.shape
    blocks = torch.from_numpy(rng.uniform(50, 400, (out, into // 16))).to(torch.float8_e4m3fn)
    whole = np.float32(2e4 if divides else 1 / 2e4)
    scale = blocks.float().numpy() / whole if divides else blocks.float().numpy() * whole
    spread = np.repeat(scale, 16, axis=1)
    packed, codes = fp4_codes(weight, spread)
    names = (".weight_packed", ".weight_global_scale") if divides else (".weight", ".weight_scale_2")
    shape = (1,) if divides else ()
    parts = {names[0]: packed, ".weight_scale": blocks, names[1]: torch.full(shape, float(whole))}
    return parts, E2M1[codes] * spread


def mxfp4(weight, rng):
    out, into = weight.shape
    exponents = rng.integers(118, 126, (out, into // 32)).astype(np.uint8)
    spread = np.repeat(2.0 ** (exponents.astype(np.float64) - 127), 32, axis=1).astype(np.float32)
    packed, codes = fp4_codes(weight, spread)
    return {".weight_packed": packed, ".weight_scale": torch.from_numpy(exponents)}, E2M1[codes] * spread


def table_codes(weight, rng, *, kind="nf4", block=64, nested=False, storage=torch.uint8):
    """bitsandbytes' 4 bits, of a table of any 16 numbers."""
    table = np.sort(rng.uniform(-1, 1, 16)).astype(np.float32)
    flat = weight.reshape(-1)
    blocks = -(-flat.size // block)
    state = {"quant_type": kind, "blocksize": block, "shape": list(weight.shape), "dtype": "bfloat16"}
    parts = {}
    if nested:
        steps, bytes_ = np.sort(rng.uniform(-0.5, 1, 256)).astype(np.float32), rng.integers(0, 256, blocks)
        largest_of = rng.uniform(0.1, 0.2, -(-blocks // 4)).astype(np.float32)
        absmax = steps[bytes_] * largest_of[np.arange(blocks) // 4] + np.float32(0.25)
        state |= {"nested_blocksize": 4, "nested_offset": 0.25, "nested_dtype": "float32"}
        parts[".weight.absmax"] = torch.from_numpy(bytes_.astype(np.uint8))
        parts |= {".weight.nested_absmax": torch.from_numpy(largest_of)}
        parts |= {".weight.nested_quant_map": torch.from_numpy(steps)}
    else:
        absmax = rng.uniform(0.2, 0.5, blocks).astype(np.float32)
        parts[".weight.absmax"] = torch.from_numpy(absmax)
    spread = absmax[np.arange(flat.size) // block]
    codes = np.abs((flat / spread)[:, None] - table).argmin(-1)
    numbers = table[codes] * spread
    halves = np.pad(codes, (0, -codes.size % 2)).reshape(-1, 2)
    raw = torch.from_numpy((halves[:, 0] << 4 | halves[:, 1]).astype(np.uint8))[:, None]
    parts[".weight"] = raw.view(-1).view(storage)[:, None] if storage != torch.uint8 else raw
    parts[".weight.quant_map"] = torch.from_numpy(table)
    parts[f".weight.quant_state.bitsandbytes__{kind}"] = torch.tensor(
        list(json.dumps(state).encode()), dtype=torch.uint8
    )
    return parts, numbers.reshape(weight.shape)


def llm_int8(weight, rng):
    scales = np.abs(weight).max(1).astype(np.float32) + np.float32(0.01)
    codes = np.round(weight * 127 / scales[:, None]).astype(np.int8)
    numbers = codes.astype(np.float32) * scales[:, None] * np.float32(1 / 127)
    layout = torch.zeros((), dtype=torch.uint8)
    return {".weight": torch.from_numpy(codes), ".SCB": torch.from_numpy(scales), ".weight_format": layout}, numbers


def scheme(kind="int", bits=4, **others):
    return {"targets": ["Linear"], "weights": {"num_bits": bits, "type": kind, **others}, "input_activations": None}


def compressed(format, *schemes):
    groups = {f"group_{number}": each for number, each in enumerate(schemes)}
    return {"quant_method": "compressed-tensors", "format": format, "config_groups": groups, "ignore": ["lm_head"]}


GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": GROUP, "sym": True, "desc_act": False}
BNB4 = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
GROUPED = {"strategy": "group", "group_size": GROUP}
CASES = {
    "gptq": (gptq, {}, GPTQ),
    "gptq-v2": (gptq, {"version": 2, "symmetric": False}, {**GPTQ, "sym": False, "checkpoint_format": "gptq_v2"}),
    "gptq-asymmetric": (gptq, {"symmetric": False}, {**GPTQ, "sym": False}),
    "gptq-ordered": (gptq, {"ordered": True}, {**GPTQ, "desc_act": True}),
    "gptq-one-group": (gptq, {"group": -1}, {**GPTQ, "group_size": -1}),
    "gptq-8-bits": (gptq, {"bits": 8, "symmetric": False}, {**GPTQ, "bits": 8, "sym": False}),
    "gptq-2-bits": (gptq, {"bits": 2}, {**GPTQ, "bits": 2}),
    "gptq-ragged-groups": (gptq, {"group": 40}, {**GPTQ, "group_size": 40}),
    "awq": (awq, {}, {"quant_method": "awq", "bits": 4, "group_size": GROUP, "version": "GEMM", "zero_point": True}),
    "awq-one-group": (awq, {"group": -1}, {"quant_method": "awq", "bits": 4, "group_size": -1, "version": "gemm"}),
    "ct-int4": (packed_integers, {}, compressed("pack-quantized", scheme(**GROUPED))),
    "ct-int4-asymmetric": (
        packed_integers,
        {"symmetric": False},
        compressed("pack-quantized", scheme(symmetric=False, **GROUPED)),
    ),
    "ct-int4-plain-zeros": (
        packed_integers,
        {"symmetric": False, "plain_zeros": True},
        compressed("pack-quantized", scheme(symmetric=False, **GROUPED)),
    ),
    "ct-int4-ordered": (
        packed_integers,
        {"ordered": True},
        compressed("pack-quantized", scheme(actorder="group", **GROUPED)),
    ),
    "ct-int8-channel": (
        packed_integers,
        {"bits": 8, "group": -1},
        compressed("pack-quantized", scheme(bits=8, strategy="channel")),
    ),
    "ct-w8a8": (int8, {}, compressed("int-quantized", scheme(bits=8, strategy="channel"))),
    "ct-w8a8-asymmetric": (
        int8,
        {"symmetric": False},
        compressed("int-quantized", scheme(bits=8, strategy="channel", symmetric=False)),
    ),
    "ct-fp8": (fp8, {}, compressed("float-quantized", scheme("float", 8, strategy="channel"))),
    "ct-fp8-tensor": (fp8, {"by": "one"}, compressed("float-quantized", scheme("float", 8, strategy="tensor"))),
    "ct-fp8-block": (
        fp8,
        {"by": "block"},
        compressed("float-quantized", scheme("float", 8, strategy="block", block_structure=[48, 24])),
    ),
    "ct-nvfp4": (
        nvfp4,
        {"divides": True},
        compressed("nvfp4-pack-quantized", scheme("float", 4, strategy="tensor_group", group_size=16)),
    ),
    "ct-mxfp4": (mxfp4, {}, compressed("mxfp4-pack-quantized", scheme("float", 4, strategy="group", group_size=32))),
    "fp8-static": (fp8, {"by": "tensor"}, {"quant_method": "fp8", "activation_scheme": "static"}),
    "fp8-inverse": (fp8, {"by": "tensor", "suffix": ".weight_scale_inv"}, {"quant_method": "fp8"}),
    "fbgemm": (fp8, {}, {"quant_method": "fbgemm_fp8", "activation_scale_ub": 1200.0}),
    "modelopt-fp8": (fp8, {"by": "tensor"}, {"quant_method": "modelopt", "quant_algo": "FP8"}),
    "modelopt-fp8-channel": (
        fp8,
        {"by": "vector"},
        {"quant_method": "modelopt", "quant_algo": "FP8_PER_CHANNEL_PER_TOKEN"},
    ),
    "modelopt-fp8-block": (
        fp8,
        {"by": "block", "block": (128, 128)},
        {"quant_method": "modelopt", "quant_algo": "FP8_PB_WO"},
    ),
    "modelopt-nvfp4": (
        nvfp4,
        {"divides": False},
        {"quant_method": "modelopt", "quant_algo": "NVFP4", "group_size": 16},
    ),
    "bnb-nf4": (table_codes, {}, BNB4),
    "bnb-nf4-nested": (table_codes, {"nested": True}, {**BNB4, "bnb_4bit_use_double_quant": True}),
    "bnb-fp4": (table_codes, {"kind": "fp4"}, {**BNB4, "bnb_4bit_quant_type": "fp4"}),
    "bnb-nf4-in-bfloat16": (
        table_codes,
        {"storage": torch.bfloat16},
        {**BNB4, "bnb_4bit_quant_storage": "bfloat16"},
    ),
    "bnb-int8": (llm_int8, {}, {"quant_method": "bitsandbytes", "load_in_8bit": True}),
}
"""Name -> writer, its arguments, quantization_config."""


def write_folder(folder, plain_folder, quantization, case_of):
    """Turn the folder of a model (matrices in float32) into a quantised one, and into one of what it stands for.

    case_of: name of a matrix -> the case that writes it, or None where it stays plain.
    """
    rng, packed, plain = np.random.default_rng(5), {}, {}
    for name, tensor in load_file(folder / "model.safetensors").items():
        case = case_of(name) if tensor.dim() == 2 and name.endswith(".weight") else None
        if case is None:
            packed[name] = plain[name] = tensor
            continue
        writer, arguments, _ = CASES[case]
        parts, numbers = writer(tensor.float().numpy(), rng, **arguments)
        packed |= {name.removesuffix(".weight") + suffix: part.contiguous() for suffix, part in parts.items()}
        plain[name] = torch.from_numpy(np.ascontiguousarray(numbers))
    plain_folder.mkdir()
    config = json.loads((folder / "config.json").read_text())
    for place, tensors in ((folder, packed), (plain_folder, plain)):
        (place / "model.safetensors").unlink(missing_ok=True)
        save_file(tensors, place / "model.safetensors", metadata={"format": "pt"})
        said = {"quantization_config": quantization} if place == folder else {}
        (place / "config.json").write_text(json.dumps({**config, **said}))
