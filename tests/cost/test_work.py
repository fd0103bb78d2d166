"""FLOPs and bytes of whole calls: against a counted run of the model, and how they grow."""

import pytest
import torch
from counting import CountProducts

from hyla.cost import formulas
from hyla.cost.call import ARITHMETICS, Step, decode, prefill
from hyla.cost.formulas import formulas_of
from hyla.cost.memory import model_memory
from hyla.cost.work import arithmetic_intensity, by_kind, decoded_cache_bytes, step_work, total_bytes, total_flops
from hyla.errors import ConfigError
from hyla.models.formats.presets import find_preset, presets
from hyla.models.formats.registry import families
from hyla.models.initialize import initialize
from hyla.models.trunk import Model
from hyla.ops.batch import Batch

TOKENS = 128


def preset(name):
    return find_preset(name)[1].preset(name)


def counted_flops(config, length):
    """Matrix products of the model over one sequence, its experts' included, in float64, where nothing is padded."""
    model = initialize(Model(config), 0).double()
    with torch.no_grad(), CountProducts() as count:
        hidden_TD = model(torch.arange(length) % config.vocab_size, Batch.packed([length]))
        model.head_logits(hidden_TD[-1:])
    return count.flops


def test_attention_is_counted_by_the_pairs_that_are_seen_and_pages_are_counted_whole():
    config = next(family.tiny for family in families() if family.name == "qwen3")
    works = step_work(config, prefill(TOKENS), arithmetic="hyla")
    attention = sum(work.flops for work in works if work.operator == "attention")
    layers = len(config.mixers)
    mixer = config.mixers[0]
    assert attention == layers * mixer.num_heads * 4 * mixer.head_dim * TOKENS * (TOKENS + 1) // 2
    # The run multiplies whole pages of 64 keys: 64 rows with one, 64 with two.
    whole_pages = layers * mixer.num_heads * 4 * mixer.head_dim * (64 * 64 + 64 * 128)
    assert counted_flops(config, TOKENS) == total_flops(works) - attention + whole_pages


def without(config, *kinds):
    kept = tuple(sub for sub in config.sublayers if sub.module.kind not in kinds)
    return config.model_copy(update={"sublayers": kept, "mtp": ()})


@pytest.mark.parametrize("name", ["qwen3_next", "kimi_linear", "bailing_moe_linear", "nemotron_h", "minimax"])
def test_a_run_without_attention_multiplies_exactly_what_is_counted(name):
    config = without(next(family.tiny for family in families() if family.name == name), "softmax", "mla")
    works = step_work(config, prefill(TOKENS), arithmetic="hyla")
    apart = 0  # convolutions, and KDA's own blocks, are element-wise
    for mixer in config.mixers:
        taps = getattr(mixer, "conv_len", 0)
        if mixer.kind == "kda":
            apart += formulas_of("kda").own_block_flops_per_token(num_heads=mixer.num_heads, key_dim=mixer.key_dim)
            channels = mixer.num_heads * (2 * mixer.key_dim + mixer.value_dim)
        elif mixer.kind == "gated_delta":
            channels = 2 * mixer.num_key_heads * mixer.key_dim + mixer.num_value_heads * mixer.value_dim
        elif mixer.kind == "mamba2":
            channels = mixer.num_heads * mixer.head_dim + 2 * mixer.num_groups * mixer.state_dim
        else:
            continue
        apart += formulas.short_conv.flops_per_token(channels, taps)
    assert counted_flops(config, TOKENS) == total_flops(works) - TOKENS * apart


@pytest.mark.parametrize("arithmetic", ARITHMETICS)
@pytest.mark.parametrize("name", presets())
def test_every_preset_costs_more_the_longer_it_is_and_its_parts_make_up_the_whole(name, arithmetic):
    config = preset(name)
    for make in (prefill, decode):
        works = [step_work(config, make(tokens), arithmetic=arithmetic) for tokens in (1000, 100_000)]
        assert 0 < total_flops(works[0]) <= total_flops(works[1])
        assert 0 < total_bytes(works[0]) <= total_bytes(works[1])
        flops, nbytes = (sum(part) for part in zip(*by_kind(works[1]).values()))
        assert flops == pytest.approx(total_flops(works[1])) and nbytes == pytest.approx(total_bytes(works[1]))
    assert arithmetic_intensity(step_work(config, prefill(100_000))) > arithmetic_intensity(works[1])


def test_pieces_of_a_prompt_multiply_as_much_as_the_whole():
    for name in ("Kimi-Linear-48B-A3B", "MiMo-V2-Flash", "DeepSeek-V3.2", "Qwen3-Next-80B-A3B"):
        config = preset(name)
        whole = step_work(config, prefill(8192), arithmetic="hyla")
        parts = [step_work(config, Step(1, start, 2048), arithmetic="hyla") for start in range(0, 8192, 2048)]
        head = whole[-1].flops  # each piece computes the logits of its last row
        assert sum(map(total_flops, parts)) - 3 * head == pytest.approx(total_flops(whole))


def test_a_batch_reads_its_weights_once_and_its_caches_apart():
    config = preset("Qwen3.5-9B")
    alone, together = (step_work(config, decode(4096, count)) for count in (1, 8))
    assert sum(w.weight_bytes for w in together) == sum(w.weight_bytes for w in alone)
    assert sum(w.cache_bytes for w in together) == 8 * sum(w.cache_bytes for w in alone)
    assert total_flops(together) == 8 * total_flops(alone)


def test_more_tokens_touch_more_experts_but_never_more_than_there_are():
    config = preset("Kimi-Linear-48B-A3B")
    read = [
        sum(work.weight_bytes for work in step_work(config, decode(100, count)) if work.operator == "experts")
        for count in (1, 16, 4096)
    ]
    one = 3 * 2304 * 1024 * 2 * 26  # an expert of each of 26 layers
    assert read[0] == pytest.approx(8 * one) and read[0] < read[1] < read[2]
    assert read[2] == pytest.approx(256 * one, rel=1e-6)


def test_a_decoded_token_reads_the_cache_that_is_kept():
    config = preset("Qwen3-32B")
    for arithmetic in ARITHMETICS:
        read = decoded_cache_bytes(config, 64 * 100, weights="bf16", arithmetic=arithmetic)
        kept = model_memory(config).published_bytes(64 * 100)
        assert read == kept + model_memory(config).kv_bytes_per_token  # and its own row is written
    hybrid = preset("Qwen3.5-9B")
    usual, ours = (decoded_cache_bytes(hybrid, 64, weights="bf16", arithmetic=name) for name in ("usual", "hyla"))
    # Other engines read and write the state; this one reads the anchor and the open rows.
    assert usual > 2 * model_memory(hybrid).state_bytes and ours < usual


def test_mla_is_expanded_in_the_usual_prefill_only():
    config = preset("DeepSeek-V3")
    expanded, absorbed = (total_flops(step_work(config, prefill(65536), arithmetic=a)) for a in ("usual", "hyla"))
    assert 2.5 < absorbed / expanded < (576 + 512) / (192 + 128)
    assert total_flops(step_work(config, decode(65536), arithmetic="usual")) == total_flops(
        step_work(config, decode(65536), arithmetic="hyla")
    )


def test_an_unknown_arithmetic_is_an_error():
    with pytest.raises(ConfigError, match="there are hyla, usual"):
        step_work(preset("Qwen3-0.6B"), decode(5), arithmetic="exact")
