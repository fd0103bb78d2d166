"""One tiny model for each kind of mixer, each with a multi-token prediction module."""

from __future__ import annotations

from functools import cache

import torch

from hyla.models.config import (
    GatedDeltaConfig,
    GLAConfig,
    KDAConfig,
    LightningConfig,
    LinearAttentionConfig,
    Mamba2Config,
    MLAConfig,
    MLPConfig,
    ModelConfig,
    MTPConfig,
    NormConfig,
    RopeConfig,
    SoftmaxConfig,
    SparseMLAConfig,
    SublayerConfig,
)
from hyla.models.initialize import initialize
from hyla.models.state import cast
from hyla.models.trunk import Model

place = torch.device("cpu")
"""Where the models are: `place_on`."""

VOCAB = 61
MAX_LEN = 512
ROPE = RopeConfig(rotary_dim=4)
SOFTMAX = SoftmaxConfig(num_heads=4, num_kv_heads=2, head_dim=8, value_dim=6, rope=ROPE)
MLA = {"num_heads": 3, "q_lora_dim": 10, "kv_lora_dim": 12, "nope_dim": 6, "rope_dim": 4, "value_dim": 5, "rope": ROPE}

MIXERS = {
    "softmax": SOFTMAX,
    # The window ends inside a page, so that pages are given back behind it and rows see parts of one.
    "window": SOFTMAX.model_copy(update={"window": 70, "sinks": True, "value_scale": 0.707}),
    "mla": MLAConfig(**MLA),
    # More keys than a page are selected, so that a selection spans pages and leaves keys out.
    "sparse_mla": SparseMLAConfig(**MLA, num_index_heads=3, index_dim=8, num_selected=70),
    "gated_delta": GatedDeltaConfig(num_key_heads=2, num_value_heads=4, key_dim=8, value_dim=6),
    "kda": KDAConfig(num_heads=3, key_dim=8, value_dim=6, gate_rank=5),
    "gla": GLAConfig(num_heads=3, key_dim=6, value_dim=10, gate_rank=5),
    "lightning": LightningConfig(
        num_heads=3, head_dim=8, slopes="bailing", layer=1, num_layers=4, rope=ROPE, qk_norm=NormConfig()
    ),
    "mamba2": Mamba2Config(num_heads=4, head_dim=6, num_groups=2, state_dim=8),
    "linear": LinearAttentionConfig(num_heads=3, key_dim=8, value_dim=6),
}
"""By the names of the matrix."""

FLAGGED = {
    "flags": (
        KDAConfig(num_heads=3, key_dim=8, value_dim=6, conv_len=0, output_gate="none", negative_eigenvalues=True),
        GatedDeltaConfig(
            num_key_heads=2, num_value_heads=4, key_dim=8, value_dim=6, conv_len=0, decay="none", output_gate="sigmoid",
            negative_eigenvalues=True,
        ),
        SoftmaxConfig(
            num_heads=4, num_kv_heads=2, head_dim=8, output_gate=True, gate_activation="silu", qk_norm=NormConfig(),
            window=70, sinks=True,
        ),
        Mamba2Config(num_heads=4, head_dim=6, num_groups=2, state_dim=8, conv_len=0, output_gate="none"),
    ),
    "more flags": (
        KDAConfig(num_heads=3, key_dim=8, value_dim=6, gate_rank=5, decay="head", output_gate="silu"),
        GatedDeltaConfig(num_key_heads=2, num_value_heads=4, key_dim=8, value_dim=6, output_gate="none"),
        GLAConfig(num_heads=3, key_dim=6, value_dim=10, decay="head", output_gate="none"),
        LightningConfig(num_heads=3, head_dim=8, slopes="fla", layer=1, num_layers=4, output_gate="none"),
        KDAConfig(num_heads=3, key_dim=8, value_dim=6, decay="none"),
    ),
    "narrow states": tuple(
        MIXERS[kind].model_copy(update={"state_dtype": "bfloat16"})
        for kind in ("kda", "gated_delta", "gla", "lightning", "mamba2", "linear")
    ),
}  # fmt: skip
"""Models with flags of ablations, some cells of which are tried beside the matrix: their mixers in order."""

MTP_BY_MIXER = {"mla": MLAConfig(**MLA), "sparse_mla": MLAConfig(**MLA)}
"""Attention of the prediction module; softmax for all others."""
TWO_STEPS = ("kda", "mamba2", "window")
"""Mixers whose module is trained for two steps, which takes another path through the drafter."""


def config_of(mixer: str) -> ModelConfig:
    """Two layers of the mixer, or the mixers of `FLAGGED`, with MLPs between them, and a prediction module."""
    mixers = FLAGGED.get(mixer) or (MIXERS[mixer],) * 2
    mlp = SublayerConfig(module=MLPConfig(intermediate_dim=20))
    stack = [sublayer for each in mixers for sublayer in (SublayerConfig(module=each), mlp)][:-1]
    module = MTPConfig(
        sublayers=(SublayerConfig(module=MTP_BY_MIXER.get(mixer, SOFTMAX)), mlp),
        num_steps=2 if mixer in TWO_STEPS else 1,
    )
    return ModelConfig(
        family="hyla", vocab_size=VOCAB, hidden_dim=24, sublayers=tuple(stack), mtp=(module,), max_len=MAX_LEN
    )


@cache
@torch.inference_mode(False)  # whoever asks first: others train it
def model_of(mixer: str, dtype: str, seed: int = 5) -> Model:
    """Random weights, large enough for opinions; not packed."""
    model = initialize(Model(config_of(mixer)), seed, std=0.3)
    return cast(model, getattr(torch, dtype)).to(place).eval()


@cache
@torch.inference_mode(False)
def draft_model() -> Model:
    """Another model of the same vocabulary: right now and then."""
    config = config_of("gated_delta").model_copy(update={"mtp": ()})
    return initialize(Model(config), 11, std=0.3).to(place).eval()


def place_on(device: torch.device) -> None:
    """From here on, models are made there; before any answer is computed."""
    global place
    place = device
    model_of.cache_clear()
    draft_model.cache_clear()
