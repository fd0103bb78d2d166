"""Name rules: exact in both directions, and strict about what they cover."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hyla.errors import ConfigError
from hyla.models.config import SoftmaxConfig
from hyla.models.formats.family import published_shapes
from hyla.models.formats.names import concat, fuse, rename, reshape, stack
from hyla.models.formats.registry import family_of
from hyla.models.state import NamedWeights
from hyla.models.trunk import Model

sizes = st.integers(1, 5)


def roundtrip(rule, ours):
    """Ours -> published -> ours, checking the derived shapes."""
    published = rule.to_published(ours)
    assert [tuple(tensor.shape) for tensor in published] == published_shapes(rule, [t.shape for t in ours])
    back = rule.to_ours(published, [tensor.shape for tensor in ours])
    assert all(torch.equal(mine, again) for mine, again in zip(ours, back, strict=True))
    return published


def numbers(*shape, start=0):
    count = torch.Size(shape).numel()
    return torch.arange(start, start + count, dtype=torch.float32).reshape(shape)


@settings(max_examples=40)
@given(heads=sizes, first=sizes, second=sizes, inner=sizes)
def test_a_fused_matrix_splits_back_into_its_parts(heads, first, second, inner):
    rule = fuse("qg", ("q", "g"), groups=heads)
    (published,) = roundtrip(rule, [numbers(heads * first, inner), -numbers(heads * second, inner)])
    assert published.shape == (heads * (first + second), inner)


def test_fused_rows_are_grouped_by_head():
    q, gate = numbers(2 * 3, 5), -numbers(2 * 1, 5)
    (published,) = fuse("qg", ("q", "g"), groups=2).to_published([q, gate])
    assert torch.equal(published, torch.cat([q[:3], gate[:1], q[3:], gate[1:]]))


def test_one_group_is_plain_concatenation():
    q, k = numbers(6, 5), -numbers(2, 5)
    (published,) = roundtrip(fuse("qk", ("q", "k")), [q, k])
    assert torch.equal(published, torch.cat([q, k]))


def test_a_latent_expansion_splits_per_head_into_key_and_value():
    k_up, v_up = numbers(3, 2, 7), -numbers(3, 4, 7)
    (published,) = roundtrip(fuse("kv_b", ("k_up", "v_up"), groups=3), [k_up, v_up])
    assert torch.equal(published.view(3, 6, 7)[1], torch.cat([k_up[1], v_up[1]]))


def test_experts_are_stacked_in_order():
    config = family_of("qwen3_next").tiny.sublayers[1].module
    rule = stack("experts.{}.w", "w").bind(config)
    assert rule.published == tuple(f"experts.{number}.w" for number in range(config.num_experts))
    published = roundtrip(rule, [numbers(config.num_experts, 4, 3)])
    assert torch.equal(published[2], numbers(config.num_experts, 4, 3)[2])


def test_convolutions_are_concatenated_and_reshaped():
    ours = numbers(9, 4)
    published = roundtrip(concat(["q", "k", "v"], "conv", (0, 1, -1)), [ours])
    assert [tuple(part.shape) for part in published] == [(3, 1, 4)] * 3
    (single,) = roundtrip(reshape("conv1d", "conv", (0, 1, -1)), [ours])
    assert single.shape == (9, 1, 4)
    (decay,) = roundtrip(reshape("A_log", "A_log", (1, 1, -1, 1)), [numbers(6)])
    assert decay.shape == (1, 1, 6, 1)


def test_a_rename_changes_nothing():
    roundtrip(rename("a", "b"), [numbers(3, 2)])


def test_every_weight_of_every_size_has_exactly_one_published_name():
    hybrids, baselines = (
        ("qwen3_5", "qwen3_next", "kimi_linear"),
        ("llama", "qwen2", "qwen3", "qwen3_moe", "minimax_m2"),
    )
    for model_type in (*hybrids, *baselines, "mimo_v2_flash", "mimo_v2"):
        family = family_of(model_type)
        with torch.device("meta"):
            weights = NamedWeights(Model(family.tiny))
        rules = family.rules(family.tiny, weights.shapes)
        assert sorted(name for rule in rules for name in rule.ours) == sorted(weights.shapes)
        published = [name for rule in rules for name in rule.published]
        assert len(published) == len(set(published))


def test_a_weight_without_a_published_name_is_refused():
    family = family_of("qwen3")
    gated = SoftmaxConfig(num_heads=2, num_kv_heads=1, head_dim=4, output_gate=True)
    sublayers = (family.tiny.sublayers[0].model_copy(update={"module": gated}), *family.tiny.sublayers[1:])
    config = family.tiny.model_copy(update={"sublayers": sublayers})
    with torch.device("meta"):
        weights = NamedWeights(Model(config))
    with pytest.raises(ConfigError, match=r"qwen3 format has no name for .*gate\.weight"):
        family.rules(config, weights.shapes)
