"""Two formats under one `model_type`: a key of config.json tells them apart."""

from dataclasses import replace

import pytest

from hyla.checkpoints import load_model, save_model
from hyla.errors import CheckpointError, ConfigError
from hyla.models.formats import registry
from hyla.models.formats.registry import family_of, family_of_published
from hyla.models.initialize import initialize
from hyla.models.trunk import Model

MARKED = {"model_type": "bailing_hybrid", "short_conv_kernel_size": 4}


@pytest.fixture
def families(monkeypatch):
    """The registry, to be changed at will."""
    found = dict(registry._families())
    monkeypatch.setattr(registry, "_families", lambda: found)
    return found


def test_the_marked_variant_is_found_whether_or_not_the_other_is_there(families):
    marked = family_of("bailing_hybrid_3")
    families.pop("bailing_hybrid", None)
    assert family_of_published(MARKED) is marked
    other = families["bailing_hybrid"] = replace(family_of("kimi_linear"), name="bailing_hybrid")
    assert family_of_published(MARKED) is marked
    assert family_of_published({"model_type": "bailing_hybrid"}) is other
    assert family_of_published({**MARKED, "short_conv_kernel_size": None}) is other
    assert family_of("bailing_hybrid") is other and family_of("bailing_hybrid_3") is marked


def test_a_variant_that_is_not_there_is_not_taken_for_the_other(families):
    families.pop("bailing_hybrid", None)
    with pytest.raises(CheckpointError, match=r"without.*short_conv_kernel_size"):
        family_of_published({"model_type": "bailing_hybrid"})


def test_a_model_type_alone_still_chooses_its_family():
    assert family_of_published({"model_type": "qwen3"}) is family_of("qwen3")
    with pytest.raises(CheckpointError, match=r"unknown model_type \['qwen3'\]"):
        family_of_published({"model_type": ["qwen3"]})


def test_a_saved_model_says_the_shared_model_type_and_is_read_back(tmp_path):
    family = family_of("bailing_hybrid_3")
    save_model(initialize(Model(family.tiny), 0), tmp_path / "m")
    assert family.config_to_hf(family.tiny)["model_type"] == "bailing_hybrid"
    assert load_model(tmp_path / "m").config == family.tiny


class TestLing3:
    family = family_of("bailing_hybrid_3")

    def test_the_last_layer_of_every_group_is_mla(self):
        kinds = [mixer.kind for mixer in self.family.preset("Ling-3.0-Flash").mixers]
        assert kinds == (["kda"] * 5 + ["mla"]) * 7

    def test_reads_the_spelling_of_transformers(self):
        keys = dict(self.family.tiny_config)
        keys["linear_head_dim"], keys["head_dim"] = keys["head_dim"], keys["qk_rope_head_dim"]
        for ours, theirs in (
            ("num_experts", "num_local_experts"),
            ("num_experts_per_token", "num_experts_per_tok"),
            ("num_shared_experts", "n_shared_experts"),
            ("num_expert_group", "n_group"),
            ("model_max_length", "max_position_embeddings"),
        ):
            keys[theirs] = keys.pop(ours)
        assert self.family.config_from_hf(keys) == self.family.tiny

    def test_low_rank_queries_are_not_this_model(self):
        with pytest.raises(ConfigError, match="q_lora_rank = 24"):
            self.family.config_from_hf({**self.family.tiny_config, "q_lora_rank": 24})

    def test_contradicting_heads_are_refused(self):
        with pytest.raises(ConfigError, match="linear_num_heads = 5 must equal num_attention_heads = 3"):
            self.family.config_from_hf({**self.family.tiny_config, "linear_num_heads": 5})
