"""Where PEFT finds our matrices: the modules of transformers' models, by path. Needs no PyTorch.

A published matrix is a module there under its published name, but for the prefixes of `RENAMED`, where transformers
(5.23) calls modules otherwise than the checkpoints that it reads. Routed experts are one module there, "<..>.experts",
with two parameters of three dimensions: gate over up (`gate_up_proj`, or `up_proj` without a gate) and `down_proj`.
When both have terms, PEFT calls those of the first "<..>.experts.base_layer".
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from hyla.adapters.targets import is_adaptable, places
from hyla.layers.parameters import by_name
from hyla.models.config import ModelConfig
from hyla.models.formats.names import Rule
from hyla.models.formats.registry import family_of
from hyla.models.parameters import model_parameters

_BLOCK = ((".block_sparse_moe.", ".mlp."),)
_FORGET = tuple((f"self_attn.{name}_proj.", f"self_attn.forget_gate.{name}_proj.") for name in ("f", "f_a", "f_b"))
_LING = ((".attention.", ".self_attn."), (".self_attn.dense.", ".self_attn.o_proj."), *_FORGET)
RENAMED: Mapping[str, tuple[tuple[str, str], ...]] = {
    "bailing_hybrid": (*_LING, ("model.word_embeddings.", "model.embed_tokens.")),
    "bailing_hybrid_3": (*_LING, ("model.word_embeddings.", "model.embed_tokens.")),
    "kimi_linear": (*_BLOCK, *_FORGET),
    "minimax": _BLOCK,
    "minimax_m2": _BLOCK,
    "nemotron_h": (("backbone.", "model."),),
}
"""By family: what stands in published names, and in those of transformers' modules."""

MISREAD = frozenset(
    {"qwen3_next", "qwen3_moe", "deepseek_v3", "deepseek_v32", "minimax", "minimax_m2", "mimo_v2_flash"}
)
"""Families in whose mixtures PEFT 0.21 takes the names of `MISREAD_LEAVES` for the routed experts', anywhere."""
REFUSED = {"nemotron_h": (".out_proj",)}
"""By family: modules for which PEFT 0.21 takes no terms, since kernels of theirs read the weight past the module."""
MISREAD_LEAVES = ("gate", "gate_proj", "up_proj", "down_proj", "w1", "w2", "w3")


def theirs(family: str, published: str) -> str:
    """A published name as transformers' module has it.

    >>> theirs("nemotron_h", "backbone.layers.3.mixer.in_proj")
    'model.layers.3.mixer.in_proj'
    """
    published += "."  # so that the last name of a path ends as the others do
    for before, after in RENAMED.get(family, ()):
        published = published.replace(before, after)
    return published[:-1]


@dataclass(frozen=True)
class Matrix:
    """A published matrix as one of PEFT's modules."""

    path: str
    """In transformers' model, e.g. "model.layers.0.self_attn.q_proj"."""
    published: str
    """The same path as published."""
    rule: Rule


@dataclass(frozen=True)
class Experts:
    """The routed experts of one mixture, as PEFT sees them."""

    path: str
    """Of their module, or of one stack that is a module by itself (the format `hyla`)."""
    parameter: str
    """Of the module: gate_up_proj, up_proj or down_proj; "" where the path is the stack's own."""
    ours: tuple[str, ...]
    """Our stacks whose rows are over one another in it."""

    @property
    def target(self) -> str:
        """What PEFT calls it in `target_parameters`."""
        return f"{self.path}.{self.parameter}" if self.parameter else self.path

    @property
    def is_inner(self) -> bool:
        """Whether PEFT calls it base_layer beside the other."""
        return self.parameter in ("gate_up_proj", "up_proj")


@dataclass(frozen=True)
class Layout:
    """All of a model's matrices that can have terms, as PEFT finds them."""

    matrices: tuple[Matrix, ...]
    experts: tuple[Experts, ...]
    rules: Mapping[str, Rule]
    """The rule of each of our parameters."""


def layout(config: ModelConfig) -> Layout:
    """Where each matrix of a model is in PEFT's files."""
    rows = by_name(model_parameters(config))
    rules = {name: rule for rule in family_of(config.family).rules(config, rows) for name in rule.ours}
    adaptable = {name: place for name, place in places(config).items() if is_adaptable(place)}
    matrices, stacks = {}, {}
    for name, place in adaptable.items():
        rule = rules[name]
        if place.is_expert:
            stacks.setdefault(name.rpartition(".")[0], []).append(name)
        elif len(rule.published) == 1:
            published = rule.published[0].removesuffix(".weight")
            matrices[rule.ours] = Matrix(theirs(config.family, published), published, rule)
    experts = [entry for names in stacks.values() for entry in _experts(config.family, names, rules)]
    return Layout(tuple(matrices.values()), tuple(experts), rules)


def _experts(family: str, ours: Iterable[str], rules: Mapping[str, Rule]) -> Iterator[Experts]:
    """The stacks of one mixture, in the order gate, up, down."""
    names = {name.rpartition("_")[2]: name for name in ours}
    into = tuple(names[part] for part in ("gate", "up") if part in names)
    module, is_inside, _ = rules[into[-1]].published[0].partition(".experts.")
    if not is_inside:
        for name in (*into, names["down"]):
            yield Experts(theirs(family, rules[name].published[0]), "", (name,))
        return
    path = theirs(family, f"{module}.experts.").removesuffix(".")
    yield Experts(path, "gate_up_proj" if len(into) == 2 else "up_proj", into)
    yield Experts(path, "down_proj", (names["down"],))
