"""Random requests for the soak, from a pool of distinct ones: common beginnings, all kinds of parameters."""

from __future__ import annotations

import random
from dataclasses import dataclass

from tiny_text import END

from hyla.engine import SamplingParams
from hyla.engine.requests.formats import Choice, JsonSchema, Regex
from hyla.models.config import KDAConfig, MLAConfig, MLPConfig, ModelConfig, MTPConfig, SoftmaxConfig, SublayerConfig
from hyla.models.initialize import initialize
from hyla.models.trunk import Model

CONTEXT_LEN = 384
SOFTMAX = SoftmaxConfig(num_heads=4, num_kv_heads=2, head_dim=8, value_dim=6)
MIXERS = (
    KDAConfig(num_heads=3, key_dim=8, value_dim=6),
    SOFTMAX.model_copy(update={"window": 70, "sinks": True}),
    MLAConfig(num_heads=3, kv_lora_dim=12, nope_dim=6, rope_dim=4, value_dim=5),
)
"""A state, pages behind a window, and pages that stay: all that a pool can hold."""
GRAMMARS = (
    Regex(pattern="[a-f]{3,9}(-[0-9]+)?"),
    Choice(options=("yes", "no", "not at all")),
    JsonSchema(json_schema={"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}),
)
FEW_IDS = (32, 97, 98, 101, END)


def model(*, seed: int = 5, with_mtp: bool = True) -> Model:
    """Three kinds of mixers over bytes, with a prediction module."""
    mlp = SublayerConfig(module=MLPConfig(intermediate_dim=20))
    sublayers = (*(SublayerConfig(module=mixer) for mixer in MIXERS), mlp)
    module = MTPConfig(sublayers=(SublayerConfig(module=SOFTMAX), mlp))
    config = ModelConfig(
        family="hyla",
        vocab_size=END + 3,
        hidden_dim=24,
        sublayers=sublayers,
        mtp=(module,) if with_mtp else (),
        max_len=512,
        eos_token_ids=(END,),
    )
    return initialize(Model(config), seed, std=0.3).eval()


def draft_model() -> Model:
    return model(seed=11, with_mtp=False)


@dataclass(frozen=True)
class Question:
    """What is asked, without who asks it and when."""

    number: int
    prompt: tuple[int, ...]
    params: SamplingParams


def questions(count: int, seed: int) -> list[Question]:
    draw = random.Random(seed)
    beginnings = [tuple(draw.randrange(256) for _ in range(length)) for length in (0, 0, 64, 70, 128, 150, 200)]
    return [_question(number, draw, draw.choice(beginnings)) for number in range(count)]


def _question(number: int, draw: random.Random, beginning: tuple[int, ...]) -> Question:
    own = tuple(draw.randrange(256) for _ in range(draw.randint(1, 120)))
    fields = {
        "max_tokens": draw.randint(1, 30),
        "temperature": draw.choice((0.0, 0.7, 1.0, 1.6)),
        "top_k": draw.choice((0, 0, 5)),
        "top_p": draw.choice((1.0, 1.0, 0.8)),
        "min_p": draw.choice((0.0, 0.0, 0.05)),
        "seed": draw.randrange(1 << 30),
        "n": draw.choice((1, 1, 1, 1, 2, 3)),
        "logprobs": draw.choice((None, 0, 2)),
    }
    kind = draw.choice(("free", "free", "few", "few", "grammar", "penalties", "stop", "scored"))
    if kind == "few":
        fields["allowed_token_ids"] = FEW_IDS
    elif kind == "grammar":
        fields["grammar"] = draw.choice(GRAMMARS)
    elif kind == "penalties":
        fields |= {"repetition_penalty": 1.3, "presence_penalty": 0.5, "frequency_penalty": 0.2}
    elif kind == "stop":
        fields |= {"stop": ("e", "ab"), "stop_token_ids": (32,), "min_tokens": min(2, fields["max_tokens"])}
    elif kind == "scored":
        fields["prompt_logprobs"] = 1
    return Question(number, (*beginning, *own), SamplingParams(**fields))
