"""Makes `folders/`: a tiny Qwen3 quantised by the libraries themselves, and what each library says the numbers are.

Run once, by hand, in an environment of its own (the suite needs none of these):
    pip install compressed-tensors==0.20.1 bitsandbytes==0.50.2 nvidia-modelopt==0.47.0 accelerate transformers
    pip install --no-deps auto-gptq==0.7.1; pip download --no-deps autoawq==0.2.9   (unpacked: --awq FOLDER)
    BUILD_CUDA_EXT=0 pip install --no-build-isolation gptqmodel==7.7.0
    pip download --no-deps auto-round==0.16.1   (unpacked: --auto-round FOLDER)
    python make_folders.py --awq autoawq-0.2.9 --auto-round auto_round-0.16.1

Each folder gets config.json and model.safetensors as the library writes them, and expected.json: for every quantised
weight the dtype in which the library dequantises it, and the SHA-256 of those bytes (of zeros without a sign).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import sys
import types
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

HERE = Path(__file__).parent / "folders"
SIZES = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 128,
    "tie_word_embeddings": False,
}


def plain_model(dtype=torch.bfloat16, **sizes):
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(5)
    model = Qwen3ForCausalLM(Qwen3Config(**{**SIZES, **sizes}, architectures=["Qwen3ForCausalLM"]))
    for parameter in model.parameters():
        parameter.data.normal_(0.0, 0.3) if parameter.dim() > 1 else parameter.data.normal_(1.0, 0.1)
    return model.to(dtype).eval()


def linears(model):
    return {
        name: part for name, part in model.named_modules() if isinstance(part, torch.nn.Linear) and name != "lm_head"
    }


def write(name, tensors, quantization, expected, dtype=torch.bfloat16):
    """The folder, from the library's tensors."""
    model = plain_model(dtype)
    folder = HERE / name
    folder.mkdir(parents=True, exist_ok=True)
    model.config.save_pretrained(folder)
    packed = {key.rpartition(".")[0] for key in tensors}
    rest = {key: value for key, value in model.state_dict().items() if key.rpartition(".")[0] not in packed}
    finish(folder, {**rest, **tensors}, expected, quantization, dtype)


def finish(folder, tensors, expected, quantization=None, dtype=torch.bfloat16):
    tensors = {key: value.contiguous() for key, value in tensors.items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    config["dtype"] = str(dtype).removeprefix("torch.")
    if quantization is not None:
        config["quantization_config"] = quantization
    (folder / "config.json").write_text(json.dumps(config, indent=1, sort_keys=True) + "\n")
    told = {key: [str(value.dtype).removeprefix("torch."), digest(value)] for key, value in expected.items()}
    (folder / "expected.json").write_text(json.dumps(told, indent=1, sort_keys=True) + "\n")


def digest(tensor):
    """Of the bits, where a zero has no sign: some libraries have tables with one."""
    return hashlib.sha256((tensor + 0.0).contiguous().view(torch.uint8).numpy().tobytes()).hexdigest()


def compressed_tensors():
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import QuantizationArgs, QuantizationConfig, QuantizationScheme
    from compressed_tensors.quantization.utils import calculate_qparams, generate_gparam

    token = QuantizationArgs(num_bits=8, dynamic=True, strategy="token", type="int", symmetric=True)
    ftoken = QuantizationArgs(num_bits=8, dynamic=True, strategy="token", type="float", symmetric=True)
    local = QuantizationArgs(num_bits=4, type="float", strategy="tensor_group", group_size=16, dynamic="local")
    schemes = {
        "ct-int4-group": ("pack-quantized", {"num_bits": 4, "strategy": "group", "group_size": 16}, None),
        "ct-int4-asymmetric": (
            "pack-quantized",
            {"num_bits": 4, "strategy": "group", "group_size": 16, "symmetric": False},
            None,
        ),
        "ct-int8-channel": ("pack-quantized", {"num_bits": 8, "strategy": "channel"}, None),
        "ct-w8a8": ("int-quantized", {"num_bits": 8, "strategy": "channel"}, token),
        "ct-fp8-channel": ("float-quantized", {"num_bits": 8, "type": "float", "strategy": "channel"}, ftoken),
        "ct-fp8-tensor": ("float-quantized", {"num_bits": 8, "type": "float", "strategy": "tensor"}, ftoken),
        "ct-nvfp4": (
            "nvfp4-pack-quantized",
            {"num_bits": 4, "type": "float", "strategy": "tensor_group", "group_size": 16},
            local,
        ),
        "ct-mxfp4": (
            "mxfp4-pack-quantized",
            {"num_bits": 4, "type": "float", "strategy": "group", "group_size": 32, "scale_dtype": torch.uint8},
            None,
        ),
    }
    for name, (kind, args, activations) in schemes.items():
        args = QuantizationArgs(**args)
        scheme = QuantizationScheme(targets=["Linear"], weights=args, input_activations=activations, format=kind)
        compressor, tensors, expected = BaseCompressor.get_value_from_registry(kind), {}, {}
        for module, linear in linears(plain_model()).items():
            state = observed(linear.weight.data, args, calculate_qparams, generate_gparam)
            packed = compressor.compress(dict(state), scheme)
            back = compressor.decompress(dict(packed), scheme)
            tensors |= {f"{module}.{key}": value for key, value in packed.items()}
            expected[f"{module}.weight"] = back["weight"]
        config = QuantizationConfig(config_groups={"group_0": scheme}, format=kind, ignore=["lm_head"])
        config.quantization_status = "compressed"
        write(name, tensors, json.loads(config.model_dump_json()), expected)


def observed(weight, args, calculate_qparams, generate_gparam):
    """A weight with the scales that the library chooses for its extremes."""
    out, into = weight.shape
    size = {"group": args.group_size, "tensor_group": args.group_size, "channel": into, "tensor": None}[args.strategy]
    grouped = weight.reshape(1, -1) if size is None else weight.reshape(out, -1, size)
    low, high = grouped.amin(-1), grouped.amax(-1)
    state = {"weight": weight}
    whole = None
    if args.strategy == "tensor_group":
        whole = generate_gparam(weight.amin(), weight.amax())
        state["weight_global_scale"] = whole.reshape(1)
    scale, zero = calculate_qparams(low, high, args, global_scale=whole)
    state["weight_scale"] = scale.to(weight.dtype) if args.strategy not in ("tensor_group",) else scale
    state["weight_zero_point"] = zero
    return state


def bitsandbytes():
    import bitsandbytes as bnb
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    plain = HERE / "plain"
    plain_model(hidden_size=64, head_dim=32).save_pretrained(plain)  # its CPU kernel wants rows of whole blocks of 64
    kinds = {
        "bnb-int8": BitsAndBytesConfig(load_in_8bit=True),
        "bnb-nf4": BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4"),
        "bnb-nf4-nested": BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True
        ),
        "bnb-fp4": BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="fp4"),
    }
    for name, config in kinds.items():
        model = AutoModelForCausalLM.from_pretrained(
            plain, quantization_config=config, device_map="cpu", dtype=torch.bfloat16
        )
        folder = HERE / name
        model.save_pretrained(folder)
        expected = {}
        for module, part in model.named_modules():
            if isinstance(part, bnb.nn.Linear4bit):
                state = part.weight.quant_state
                state.dtype = torch.float32
                expected[f"{module}.weight"] = bnb.functional.dequantize_4bit(part.weight.data, state)
            elif isinstance(part, bnb.nn.Linear8bitLt):
                scales = part.weight.SCB if part.weight.SCB is not None else part.state.SCB
                expected[f"{module}.weight"] = bnb.functional.int8_vectorwise_dequant(part.weight.data, scales)
        finish(folder, load_file(folder / "model.safetensors"), expected)
        for extra in folder.iterdir():
            if extra.name not in ("config.json", "model.safetensors", "expected.json"):
                extra.unlink()
    shutil.rmtree(plain)


def gptq():
    import transformers.pytorch_utils

    if not hasattr(transformers.pytorch_utils, "Conv1D"):
        transformers.pytorch_utils.Conv1D = type("Conv1D", (), {})
    package = types.ModuleType("auto_gptq")
    package.__path__ = [str(Path(p) / "auto_gptq") for p in sys.path if (Path(p) / "auto_gptq").is_dir()]
    sys.modules["auto_gptq"] = package  # its own __init__ wants libraries that are not needed here
    for below in ("nn_modules", "nn_modules.qlinear"):
        part = types.ModuleType(f"auto_gptq.{below}")
        part.__path__ = [f"{root}/{below.replace('.', '/')}" for root in package.__path__]
        sys.modules[part.__name__] = part
    from auto_gptq.nn_modules.qlinear.qlinear_cuda import QuantLinear

    for name, bits, symmetric, order in (
        ("gptq-int4", 4, True, False),
        ("gptq-int4-asymmetric-ordered", 4, False, True),
        ("gptq-int8", 8, True, False),
        ("gptq-int3", 3, True, False),
    ):
        tensors, expected = {}, {}
        for module, linear in linears(plain_model(torch.float16)).items():
            linear = linear.float()
            out, into = linear.weight.shape
            groups = torch.arange(into) // 16
            if order:
                groups = groups[torch.randperm(into, generator=torch.Generator().manual_seed(into))]
            scales, zeros = grid(linear.weight.data, groups, bits, symmetric)
            packed = QuantLinear(bits, 16, into, out, False, weight_dtype=torch.float16)
            packed.pack(linear.half().float(), scales.half().float(), zeros.float(), groups.int())
            packed.scales = packed.scales.half()
            packed.autogptq_cuda_available = False
            tensors |= {f"{module}.{key}": getattr(packed, key) for key in ("qweight", "qzeros", "scales", "g_idx")}
            expected[f"{module}.weight"] = packed(torch.eye(into, dtype=torch.float16)).T
        quantization = {
            "bits": bits,
            "group_size": 16,
            "damp_percent": 0.1,
            "desc_act": order,
            "static_groups": False,
            "sym": symmetric,
            "true_sequential": True,
            "model_name_or_path": None,
            "model_file_base_name": "model",
            "is_marlin_format": False,
            "quant_method": "gptq",
        }
        write(name, tensors, quantization, expected, torch.float16)


def gptqmodel():
    """Zero points of 0 are among these, which the first format stores with a borrow."""
    from gptqmodel.nn_modules.qlinear.torch import TorchLinear
    from gptqmodel.quantization.config import FORMAT, QuantizeConfig
    from gptqmodel.utils.model import convert_gptq_v2_to_v1_format_module

    for name, kind in (("gptqmodel-v2-asymmetric", FORMAT.GPTQ_V2), ("gptqmodel-v1-asymmetric", FORMAT.GPTQ)):
        said = QuantizeConfig(bits=4, group_size=16, sym=False, desc_act=True, format=kind, offload_to_disk=False)
        tensors, expected = {}, {}
        for module, linear in linears(plain_model(torch.float16)).items():
            out, into = linear.weight.shape
            groups = (torch.arange(into) // 16)[torch.randperm(into, generator=torch.Generator().manual_seed(into))]
            scales, zeros = grid(linear.weight.data.float(), groups, 4, False, least=0)
            zeros[::3] = 0
            packed = TorchLinear(4, 16, False, True, into, out, format=FORMAT.GPTQ_V2)
            packed.pack(linear.float(), scales.float(), zeros.float(), groups.int())
            packed.post_init()
            expected[f"{module}.weight"] = packed.dequantize_weight().T.half()
            if kind == FORMAT.GPTQ:
                convert_gptq_v2_to_v1_format_module(packed, said)
            tensors |= {f"{module}.{key}": getattr(packed, key) for key in ("qweight", "qzeros", "scales", "g_idx")}
        write(name, tensors, json.loads(json.dumps(said.to_dict(), default=str)), expected, torch.float16)


def auto_round(place):
    """The package's packing modules alone; the rest of it wants a card."""
    package, utils = types.ModuleType("auto_round"), types.ModuleType("auto_round.utils")
    package.__path__, utils.__path__ = [str(place / "auto_round")], [str(place / "auto_round" / "utils")]
    utils.get_packing_device = lambda device: "cpu"
    sys.modules |= {"auto_round": package, "auto_round.utils": utils}
    sys.path.insert(0, str(place))
    from auto_round_extension.torch import qlinear_torch, qlinear_torch_zp

    kinds = {
        "auto-round-gptq": (qlinear_torch_zp.QuantLinear, "auto_round:auto_gptq", 1),
        "auto-round-own": (qlinear_torch.QuantLinear, "auto_round", 0),
    }
    for name, (kind, packing, least) in kinds.items():
        tensors, expected = {}, {}
        for module, linear in linears(plain_model(torch.float16)).items():
            out, into = linear.weight.shape
            scales, zeros = grid(linear.weight.data.float(), torch.arange(into) // 16, 4, False, least)
            packed = kind(4, 16, into, out, False)
            packed.device = torch.device("cpu")
            packed.pack(linear.float(), scales.half().float(), zeros, None)
            tensors |= {f"{module}.{key}": getattr(packed, key) for key in ("qweight", "qzeros", "scales")}
            expected[f"{module}.weight"] = packed(torch.eye(into, dtype=torch.float16)).T
        quantization = {
            "autoround_version": "0.16.1",
            "bits": 4,
            "data_type": "int",
            "group_size": 16,
            "iters": 0,
            "packing_format": packing,
            "quant_method": "auto-round",
            "sym": False,
        }
        write(name, tensors, quantization, expected, torch.float16)


def grid(weight, groups, bits, symmetric, least=1):
    """Scales and zero points [out, groups] of each group's extremes; no zero point is 0, as AutoGPTQ's format wants."""
    top = 2**bits - 1
    scales, zeros = [], []
    for group in range(int(groups.max()) + 1):
        part = weight[:, groups == group]
        low, high = part.amin(1).clamp(max=0), part.amax(1).clamp(min=0)
        if symmetric:
            scales.append(2 * torch.maximum(-low, high) / top)
            zeros.append(torch.full_like(low, (top + 1) // 2))
        else:
            scales.append((high - low) / top)
            zeros.append(torch.round(-low / scales[-1]).clamp(least, top))
    return torch.stack(scales, 1), torch.stack(zeros, 1)


def awq(place):
    root = types.ModuleType("awq")
    root.__path__ = [str(Path(place) / "awq")]
    sys.modules["awq"] = root
    from awq.modules.linear.gemm import WQLinear_GEMM
    from awq.utils.packing_utils import dequantize_gemm

    tensors, expected = {}, {}
    for module, linear in linears(plain_model(torch.float16)).items():
        groups = torch.arange(linear.in_features) // 16
        scales, zeros = grid(linear.weight.data.float(), groups, 4, False)
        packed = WQLinear_GEMM.from_linear(linear, 4, 16, False, scales.half().T.contiguous(), zeros.T.contiguous())
        tensors |= {f"{module}.{key}": getattr(packed, key) for key in ("qweight", "qzeros", "scales")}
        expected[f"{module}.weight"] = dequantize_gemm(packed.qweight, packed.qzeros, packed.scales, 4, 16).T
    quantization = {
        "bits": 4,
        "group_size": 16,
        "modules_to_not_convert": None,
        "quant_method": "awq",
        "version": "gemm",
        "zero_point": True,
    }
    write("awq-int4", tensors, quantization, expected, torch.float16)


def modelopt():
    import modelopt.torch.quantization as mtq
    from modelopt.torch.export import export_hf_checkpoint
    from modelopt.torch.quantization.qtensor import NVFP4QTensor

    ids = torch.arange(48).reshape(2, 24)
    for name, config in (("modelopt-fp8", mtq.FP8_DEFAULT_CFG), ("modelopt-nvfp4", mtq.NVFP4_DEFAULT_CFG)):
        model = mtq.quantize(plain_model(), config, lambda model: model(ids))
        folder = HERE / name
        export_hf_checkpoint(model, dtype=torch.bfloat16, export_dir=folder)
        tensors, expected = load_file(folder / "model.safetensors"), {}
        for key, value in tensors.items():
            if key.endswith(".weight") and value.dtype == torch.float8_e4m3fn:
                expected[key] = value.float() * tensors[key + "_scale"]
            elif key.endswith(".weight") and value.dtype == torch.uint8:
                shape = torch.Size((value.shape[0], value.shape[1] * 2))
                packed = NVFP4QTensor(shape, torch.float32, value)
                scales = {"scale": tensors[key + "_scale"], "double_scale": tensors[key + "_scale_2"]}
                expected[key] = packed.dequantize(dtype=torch.float32, block_sizes={-1: 16}, **scales)
        finish(folder, tensors, expected)
        for extra in folder.iterdir():
            if extra.name not in ("config.json", "model.safetensors", "expected.json", "hf_quant_config.json"):
                extra.unlink()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--awq", type=Path)
    parser.add_argument("--auto-round", type=Path)
    parser.add_argument("--only", nargs="*", default=[])
    given = parser.parse_args()
    makers = {
        "ct": compressed_tensors,
        "bnb": bitsandbytes,
        "gptq": gptq,
        "awq": lambda: awq(given.awq),
        "mo": modelopt,
        "gptqmodel": gptqmodel,
        "ar": lambda: auto_round(given.auto_round),
    }
    for short, maker in makers.items():
        if not given.only or short in given.only:
            maker()
