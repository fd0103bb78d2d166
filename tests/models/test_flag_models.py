"""Whole models with the flags of ablations: written and read, counted, costed, and decoded by recorded steps."""

import json

import pytest
import torch
from counting import CountProducts
from flagged import FLAGGED as MIXERS
from matrix.mixers import FLAGGED, config_of

from hyla.caches import Cache
from hyla.checkpoints import load_model, save_model
from hyla.cli import inspect
from hyla.cost.call import prefill
from hyla.cost.formulas import formulas_of, short_conv
from hyla.cost.memory import mixer_memory
from hyla.cost.work import step_work, total_flops
from hyla.errors import ConfigError
from hyla.models.config import ModelConfig, SublayerConfig
from hyla.models.formats.registry import family_of
from hyla.models.initialize import initialize
from hyla.models.parameters import sublayer_parameters
from hyla.models.recording import StepForward
from hyla.models.stack import Sublayer
from hyla.models.state import NamedWeights
from hyla.models.summary import ablations, footprint
from hyla.models.trunk import Model
from hyla.ops import backends, native
from hyla.ops.batch import Batch

D, TOKENS = 24, 128
IDS = list(range(40)) * 4
each = pytest.mark.parametrize("name", MIXERS)
IN_PYTHON = {
    "flags": set(),
    "more flags": {"gla", "kda"},
    "narrow states": {"gated_delta", "gla", "kda", "lightning", "linear", "mamba2"},
}
"""What leaves a recorded step for PyTorch: GLA, as ever; of the KDAs the one with a decay for each head; roundings."""


@pytest.mark.parametrize("name", FLAGGED)
def test_a_model_with_flags_is_written_and_read_bit_for_bit(tmp_path, name):
    model = initialize(Model(config_of(name)), 4, std=0.2)
    save_model(model, tmp_path / "m")
    back = load_model(tmp_path / "m")
    assert back.config == model.config
    first, second = NamedWeights(model), NamedWeights(back)
    assert first.shapes == second.shapes
    assert all(torch.equal(first.read(each), second.read(each)) for each in first.shapes)
    with torch.inference_mode():
        assert torch.equal(back.logits([IDS])[0], model.logits([IDS])[0])


@each
def test_a_flag_s_parameters_and_bytes_are_those_of_its_module(name):
    sublayer = SublayerConfig(module=MIXERS[name])
    with torch.device("meta"):
        module = Sublayer(sublayer, D)
    shapes = {row.name: row.shape for row in sublayer_parameters(sublayer, D)}
    assert shapes == {name: tuple(parameter.shape) for name, parameter in module.named_parameters()}
    memory, kept = mixer_memory(sublayer, 4), footprint(module)
    assert memory.slot_bytes == kept.resident_state_bytes
    assert (memory.state_bytes, memory.conv_bytes) == (kept.published_state_bytes, kept.published_conv_bytes)
    assert ("short_conv" in module.module.operators) == (getattr(MIXERS[name], "conv_len", 0) > 0)


def counted_apart(mixer) -> int:
    """FLOPs of a token that are no matrix products: convolutions, blocks of 16 rows with a decay per channel."""
    found, taps = 0, getattr(mixer, "conv_len", 0)
    if mixer.kind in ("kda", "gla"):
        found += formulas_of(mixer.kind).own_block_flops_per_token(num_heads=mixer.num_heads, key_dim=mixer.key_dim)
    if not taps:
        return found
    channels = {
        "kda": lambda: mixer.num_heads * (2 * mixer.key_dim + mixer.value_dim),
        "gated_delta": lambda: 2 * mixer.num_key_heads * mixer.key_dim + mixer.num_value_heads * mixer.value_dim,
        "mamba2": lambda: mixer.num_heads * mixer.head_dim + 2 * mixer.num_groups * mixer.state_dim,
    }
    return found + short_conv.flops_per_token(channels[mixer.kind](), taps)


@pytest.mark.parametrize("name", [name for name, mixer in MIXERS.items() if mixer.kind != "softmax"])
def test_a_flag_multiplies_exactly_what_is_counted(name):
    """In float64, where nothing is padded."""
    sublayers = (SublayerConfig(module=MIXERS[name]),)
    config = ModelConfig(family="hyla", vocab_size=17, hidden_dim=D, max_len=256, sublayers=sublayers)
    model = initialize(Model(config), 1).double()
    with CountProducts() as count, torch.no_grad():
        hidden_TD = model(torch.arange(TOKENS) % 17, Batch.packed([TOKENS]))
        model.head_logits(hidden_TD[-1:])
    works = step_work(config, prefill(TOKENS), arithmetic="hyla")
    assert count.flops == total_flops(works) - TOKENS * counted_apart(MIXERS[name])


@pytest.mark.skipif(native.why_missing() is not None, reason="no kernels on this machine")
@pytest.mark.parametrize("name", FLAGGED)
def test_recorded_steps_of_a_model_with_flags_have_the_ordinary_bits(name):
    backends.use("native")
    try:
        model = initialize(Model(config_of(name)), 5, std=0.2).pack()
        found, reports = [], []
        for is_on in (True, False):
            rows, report = decoded(model, is_on)
            found.append(rows)
            reports.append(report)
    finally:
        backends.use("auto")
    assert torch.equal(*found) and (reports[0]["replayed"], reports[1]["replayed"]) == (5, 0)
    assert set(reports[0]["in_python"]) == IN_PYTHON[name]
    if name == "more flags":
        assert reports[0]["in_python"]["kda"] == ["contiguous"]


@torch.inference_mode()
def decoded(model: Model, is_on: bool):
    """Rows of a prompt and seven steps over the end of a page; what the steps say of themselves."""
    cache = Cache(model.cache_specs(), num_pages=8, num_slots=3)
    forward, sequence, rows = StepForward(model, is_on=is_on), cache.open(), []
    ids_T = torch.randint(model.config.vocab_size, (68,), generator=torch.Generator().manual_seed(1))
    for first, last in ((0, 61), *((place, place + 1) for place in range(61, 68))):
        batch = cache.batch([(sequence, last - first)], certain=[last - first])
        rows.append(forward(ids_T[first:last], batch, cache.layers).head_TD)
        cache.commit(sequence, last - first)
    return torch.cat(rows), forward.report()


@pytest.mark.parametrize(
    "family, fields",
    [
        ("kimi_linear", {"kda": {"output_gate": "silu"}}),
        ("kimi_linear", {"kda": {"conv_len": 0}}),
        ("qwen3_next", {"gated_delta": {"negative_eigenvalues": True}}),
        ("qwen3_next", {"softmax": {"gate_activation": "silu"}}),
        ("nemotron_h", {"mamba2": {"output_gate": "none"}}),
        ("minimax", {"lightning": {"output_gate": "silu"}}),
    ],
)
def test_a_published_format_that_cannot_say_a_flag_refuses_it_and_ours_can(family, fields):
    config = family_of(family).tiny
    assert family_of(family).config_from_hf(family_of(family).config_to_hf(config)) == config
    sublayers = tuple(
        sublayer.model_copy(update={"module": sublayer.module.model_copy(update=fields.get(sublayer.module.kind, {}))})
        for sublayer in config.sublayers
    )
    flagged = config.model_copy(update={"sublayers": sublayers})
    assert flagged != config
    with pytest.raises(ConfigError, match=r"cannot describe this model|short_conv_kernel_size = 0"):
        family_of(family).config_to_hf(flagged)
    ours, own = family_of("hyla"), flagged.model_copy(update={"family": "hyla"})
    assert ours.config_from_hf(json.loads(json.dumps(ours.config_to_hf(own)))) == own


def test_inspect_says_which_flags_a_model_has(tmp_path):
    save_model(initialize(Model(config_of("flags")), 4), tmp_path / "m")
    report, _ = inspect._report(str(tmp_path / "m"), None, "cpu")
    told = {flags["mixer"]: {name: flags[name] for name in flags if name != "mixer"} for flags in report["ablations"]}
    assert told["KDA"] == {"conv_len": 0, "output_gate": "none", "negative_eigenvalues": True}
    assert told["attention"] == {"gate_activation": "silu"}
    lines = [text for name, text in inspect._lines(report) if name == "ablation"]
    assert "KDA: conv_len = 0, negative_eigenvalues = True, output_gate = none" in lines
    assert ablations(family_of("kimi_linear").tiny.mixers[0]) == {}
