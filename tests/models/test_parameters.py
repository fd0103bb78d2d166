"""Parameters as data: the tables are the modules' parameters, and need no PyTorch."""

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from hyla.layers import mla
from hyla.layers.softmax import SoftmaxAttention
from hyla.models.formats.presets import find_preset, presets
from hyla.models.formats.registry import families
from hyla.models.parameters import model_parameters
from hyla.models.state import NamedWeights
from hyla.models.trunk import Model

WITHOUT_TORCH = """
import importlib, pkgutil, sys
import hyla.layers.tables, hyla.layers.parameters, hyla.models.parameters
for entry in pkgutil.iter_modules(hyla.layers.tables.__path__):
    importlib.import_module(f"hyla.layers.tables.{entry.name}")
from hyla.models.formats.presets import find_preset
assert hyla.models.parameters.model_parameters(find_preset("Qwen3-0.6B")[1].preset("Qwen3-0.6B"))
assert "torch" not in sys.modules
"""


def on_meta(config):
    with torch.device("meta"):
        return Model(config)


def check(config):
    model = on_meta(config)
    rows = {row.name: row for row in model_parameters(config)}
    assert {name: row.shape for name, row in rows.items()} == {
        name: tuple(parameter.shape) for name, parameter in model.named_parameters()
    }
    weights = NamedWeights(model)
    for name, row in rows.items():
        assert (weights.dtype(name, torch.bfloat16) == torch.float32) == row.is_fp32, name
        assert weights.may_be_quantised(name) == row.is_quantisable, name


@pytest.mark.parametrize("family", families(), ids=lambda family: family.name)
def test_the_table_of_every_tiny_model_is_its_module_s(family):
    check(family.tiny)


@pytest.mark.parametrize("name", presets())
def test_the_table_of_every_published_size_is_its_module_s(name):
    config = find_preset(name)[1].preset(name)
    kinds = {
        sub.module.model_copy(update={"layer": 0} if sub.module.kind == "lightning" else {}): sub
        for sub in config.sublayers
    }
    check(config.model_copy(update={"sublayers": tuple(kinds.values()), "mtp": config.mtp[:1]}))


def test_tables_need_no_torch():
    subprocess.run([sys.executable, "-c", WITHOUT_TORCH], check=True)


NEVER_DECAYED = ("A_log", "dt_bias", "conv_weight", "router_bias", "bias", "embed.weight")
NEVER_ORTHOGONAL = ("router", "conv_weight", "embed.weight", "head.weight")


@pytest.mark.parametrize("family", families(), ids=lambda family: family.name)
def test_the_optimizer_s_groups_are_those_of_names_and_dimensions(family):
    for row in model_parameters(family.tiny):
        num_dims = len(row.shape)
        assert row.is_decayed == (num_dims >= 2 and not row.name.endswith(NEVER_DECAYED)), row.name
        is_orthogonal = (
            num_dims in (2, 3) and row.name.startswith("sublayers.") and not row.name.endswith(NEVER_ORTHOGONAL)
        )
        assert (row.muon is not None) == is_orthogonal, row.name
        if row.muon is not None:
            assert (row.count > 1) == (row.muon != "matrix") or row.shape[0] == 1, row.name


def test_segments_cover_a_fused_parameter_and_every_one_can_be_divided():
    fused = [row for family in families() for row in model_parameters(family.tiny) if row.segments]
    assert {row.name.rpartition(".")[2] for row in fused} == {"conv_weight", "conv_bias"}
    for row in fused:
        assert sum(segment.size for segment in row.segments) == row.shape[0]
        assert row.split_place() == 0


@pytest.mark.parametrize("family", families(), ids=lambda family: family.name)
def test_the_parameters_of_one_product_read_the_same_rows(family):
    found = {}
    for row in model_parameters(family.tiny):
        if row.product is not None:
            place = row.name.rsplit(".", 2)[0] if row.name.endswith(".weight") else row.name.rpartition(".")[0]
            found.setdefault((place, row.product), set()).add((row.in_dim, row.count, row.is_fp32))
    assert found and all(len(reads) == 1 for reads in found.values())


DOCUMENT = Path(__file__).parents[2] / "docs" / "architecture.md"
MLA = {"num_heads": 2, "kv_lora_dim": 4, "nope_dim": 4, "rope_dim": 2, "value_dim": 4, "head_gate": True}
DELTA = {"key_dim": 4, "value_dim": 4, "conv_len": 4}
SPARSE = {"num_index_heads": 2, "index_dim": 4}
EVERY_OPTION = {
    "softmax": [
        dict(num_heads=2, num_kv_heads=1, head_dim=4, has_output_gate=True, qk_norm_scope="head", has_sinks=True),
        dict(num_heads=2, num_kv_heads=1, head_dim=4, qkv_bias=True, out_bias=True),
    ],
    "mla": [{**MLA, "q_lora_dim": rank} for rank in (None, 8)],
    "sparse_mla": [{**MLA, **SPARSE, "q_lora_dim": 8}],
    "gated_delta": [{**DELTA, "num_key_heads": 1, "num_value_heads": 2}],
    "kda": [{**DELTA, "num_heads": 2, "gate_rank": rank} for rank in (None, 4)],
    "lightning": [dict(num_heads=2, head_dim=4, has_qk_norm=True)],
    "mamba2": [dict(num_heads=2, head_dim=4, num_groups=1, state_dim=4, conv_len=4)],
    "linear": [dict(num_heads=2, key_dim=4, value_dim=4)],
    "mlp": [dict(intermediate_dim=8, has_gate=True, has_bias=True)],
    "moe": [
        dict(
            num_experts=2, expert_dim=4, has_gate=True, has_bias=True, shared_dim=4, has_shared_gate=True, latent_dim=4
        )
    ],
}
"""Arguments of each table with which every parameter that the kind can have is there once."""


def documented(kind):
    """Parameter names in a kind's line of the table in docs/architecture.md."""
    (line,) = re.findall(rf"^\| {kind} \| (.*) \|$", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE)
    names = {name for quoted in re.findall(r"`([^`]+)`", line) for name in expanded(quoted.split(" [")[0])}
    return names | documented("mla") - {"q.weight"} if kind == "sparse_mla" else names


def expanded(name):
    """shared.gate/up/down.weight: three names."""
    prefix, _, last = name.rpartition(".")
    head, _, middle = prefix.rpartition(".")
    return [f"{head}.{part}.{last}" for part in middle.split("/")] if "/" in name else [name]


@pytest.mark.parametrize("kind", EVERY_OPTION)
def test_the_documented_names_are_those_of_the_tables(kind):
    parameters = importlib.import_module(f"hyla.layers.tables.{kind}").parameters
    assert documented(kind) == {row.name for options in EVERY_OPTION[kind] for row in parameters(16, **options)}


def test_torch_lists_parameters_in_the_order_that_gradient_norms_were_always_summed_in():
    gated = SoftmaxAttention(
        16,
        num_heads=2,
        num_kv_heads=1,
        head_dim=4,
        has_output_gate=True,
        qk_norm_eps=1e-6,
        qk_norm_zero_centered=False,
        rotary_dim=0,
        rope_theta=1e4,
        has_sinks=True,
    )
    names = ["sinks", "q.weight", "gate.weight", "k.weight", "v.weight", "o.weight", "q_norm.weight", "k_norm.weight"]
    assert [name for name, _ in gated.named_parameters()] == names
    latent = mla.MLA(16, **MLA, q_lora_dim=8, norm_eps=1e-6, rotary_dim=0, rope_theta=1e4)
    leaves = ("kv_a", "kv_norm", "o", "gate", "q_a", "q_b", "q_a_norm")
    assert [name for name, _ in latent.named_parameters()] == ["k_up", "v_up", *(f"{leaf}.weight" for leaf in leaves)]
