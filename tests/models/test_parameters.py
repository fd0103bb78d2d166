"""Parameters as data: the tables are the modules' parameters, and need no PyTorch."""

import subprocess
import sys

import pytest
import torch

from hyla.models.formats.presets import find_preset, presets
from hyla.models.formats.registry import families
from hyla.models.parameters import model_parameters
from hyla.models.trunk import Model
from hyla.models.weights import Weights

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
    weights = Weights(model)
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
