"""docs/cost.md says what the code computes."""

import doctest
import importlib
import re
from pathlib import Path

import pytest
from cost_page import device_table, rank_table

from bench import cost_claims
from hyla.cost.device import EFFICIENCIES
from hyla.cost.formulas import formulas_of

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "cost.md").read_text(encoding="utf-8")


def test_the_table_of_claims_is_the_computed_one():
    for line in cost_claims.table().splitlines():
        assert line in PAGE


def test_every_claim_has_its_conditions_and_both_numbers():
    found = cost_claims.claims()
    assert len(found) > 25 and all(claim.ours and claim.reason for claim in found)
    assert {"Kimi Linear", "Ring-linear", "Qwen3-Next", "DeepSeek-V3.2"} <= {claim.source for claim in found}


def test_the_table_of_devices_is_the_one_in_use():
    assert device_table() in PAGE


def test_the_table_of_ranks_is_the_computed_one():
    assert rank_table() in PAGE


@pytest.mark.parametrize("name", ["hyla.cost", "hyla.cli.cost", "hyla.cli.cost_tables"])
def test_the_examples_in_docstrings_are_right(name):
    result = doctest.testmod(importlib.import_module(name))
    assert result.attempted >= 1 and result.failed == 0


def test_the_example_of_the_library_runs(capsys):
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    exec(compile(code, "docs/cost.md", "exec"), {})
    lines = capsys.readouterr().out.splitlines()
    assert [int(line.split()[0]) for line in lines] == [107, 28]


def test_the_stated_flops_and_efficiencies_are_those_in_use():
    dims = {"key_dim": 128, "value_dim": 128}
    stated = {
        "lightning": formulas_of("lightning").flops_per_token(num_heads=1, **dims),
        "gated delta": formulas_of("gated_delta").flops_per_token(num_key_heads=1, num_value_heads=1, **dims),
        "KDA": formulas_of("kda").flops_per_token(num_heads=1, **dims),
    }
    for name, flops in stated.items():
        assert re.search(rf"^\| {name}.*\| {flops:,} ", PAGE, re.MULTILINE), (name, flops)
    assert formulas_of("ssd").flops_per_token(num_groups=1, num_heads=1, **dims) == stated["lightning"]
    for name, operator in (("projections", "projection"), ("experts", "experts"), ("recurrences", "kda")):
        part = EFFICIENCIES[operator]
        assert f"{name} {part.compute:.2f} and {part.memory:.2f}" in PAGE


def test_the_predictions_met_their_targets():
    median, worst = (float(text) for text in re.search(r"Median error ([\d.]+)%, largest ([\d.]+)%", PAGE).groups())
    assert median < 20 and worst < 40
