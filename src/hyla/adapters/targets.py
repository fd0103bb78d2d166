"""Which of a model's matrices an adapter belongs to: words and patterns -> our parameter names. Needs no PyTorch.

A pattern is a glob (`fnmatch`) over three spellings of a parameter, without ".weight": within its module ("q", "kv_a",
"shared.up", "experts_*"), with the module's kind before it ("kda.f_*", "mlp.down"), or whole
("sublayers.3.module.q", "sublayers.[0-9].*"). `WORDS` are short for some of them.

Terms stand beside the matrices of the trunk's products. Not beside a router, whose choices are made in fp32 of its own;
nor an indexer, which no gradient reaches; nor the head, which is trained whole; nor multi-token prediction.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from hyla.errors import ConfigError
from hyla.layers.parameters import Parameter, by_name
from hyla.models.config import ModelConfig
from hyla.models.formats.names import Rule
from hyla.models.formats.registry import family_of
from hyla.models.parameters import model_parameters


@dataclass(frozen=True)
class Place:
    """Where a parameter stands in a model."""

    row: Parameter
    kind: str
    """Of its module: "kda", "moe", ..."""
    is_mixer: bool
    short: str
    """Its name within the module, without ".weight"."""

    @property
    def is_expert(self) -> bool:
        return self.row.experts > 0

    def spellings(self) -> tuple[str, str, str]:
        return self.short, f"{self.kind}.{self.short}", self.row.name.removesuffix(".weight")


WORDS: Mapping[str, Callable[[Place], bool]] = {
    "all-linear": lambda place: not place.is_expert,
    "mixers": lambda place: place.is_mixer,
    "channel-mixers": lambda place: not place.is_mixer and not place.is_expert,
    "experts": lambda place: place.is_expert,
    "kv": lambda place: place.is_mixer and place.short in ("k", "v", "kv_a", "k_up", "v_up"),
}
"""all-linear: every matrix but the routed experts'. mixers, channel-mixers: those of one half of the layers, with
shared experts and latents. experts: the routed ones. kv: what makes keys and values."""

REASONS: tuple[tuple[Callable[[Place], bool], str], ...] = (
    (lambda place: place.short == "router", "routers choose in fp32 and are not adapted"),
    (lambda place: place.short.startswith("indexer."), "no gradient reaches an indexer"),
    (lambda place: place.row.product is None, "it is no matrix of a product; modules_to_save can train it whole"),
)


def places(config: ModelConfig) -> dict[str, Place]:
    """Every parameter inside the trunk's modules, by name."""
    rows, found = model_parameters(config), {}
    for row in rows:
        parts = row.name.split(".", 3)
        if parts[0] == "sublayers" and parts[2] == "module":
            sublayer = config.sublayers[int(parts[1])]
            short = parts[3].removesuffix(".weight")
            found[row.name] = Place(row, sublayer.module.kind, sublayer.is_mixer, short)
    return found


def is_adaptable(place: Place) -> bool:
    """Whether a term may stand beside it."""
    return not any(applies(place) for applies, _ in REASONS) and not place.row.is_fp32


def matches(pattern: str, place: Place) -> bool:
    """Whether a word or pattern means this parameter."""
    word = WORDS.get(pattern)
    return word(place) if word is not None else any(fnmatchcase(name, pattern) for name in place.spellings())


def select(config: ModelConfig, patterns: Iterable[str]) -> list[str]:
    """Names of the matrices that some words and patterns mean, in the order of the model's table.

    Raises ConfigError for one that means none of them, with what there is.
    """
    known = places(config)
    usable = {name: place for name, place in known.items() if is_adaptable(place)}
    chosen = set()
    for pattern in patterns:
        found = [name for name, place in usable.items() if matches(pattern, place)]
        if not found:
            raise ConfigError(_nothing(pattern, known.values(), usable.values()))
        chosen.update(found)
    return [name for name in known if name in chosen]


def _nothing(pattern: str, known: Iterable[Place], usable: Iterable[Place]) -> str:
    """Why a pattern means no matrix."""
    for place in known:
        if pattern not in WORDS and matches(pattern, place):
            why = next((reason for applies, reason in REASONS if applies(place)), "it is kept in fp32")
            return f"target {pattern!r} matches {place.row.name} only where there is nothing to adapt: {why}"
    if pattern in ("head", "head.weight", "embed", "embed.weight", "lm_head", "embed_tokens"):
        return f"target {pattern!r}: embedding and head are trained whole; put embed or head into modules_to_save"
    names = sorted({f"{place.kind}.{place.short}" for place in usable})
    return f"target {pattern!r} matches nothing; this model has {', '.join(names)}, and the words {', '.join(WORDS)}"


def select_whole(config: ModelConfig, patterns: Sequence[str], adapted: Iterable[str]) -> list[str]:
    """Names of the parameters that are trained whole: "embed", "head", or patterns over what has no term.

    Patterns are globs over whole names ("norm", "sublayers.*.norm"), or names behind their kind ("softmax.q_norm").
    Only what is one published tensor of its own, since it is saved under that name. Raises ConfigError otherwise.
    """
    rows, taken = by_name(model_parameters(config)), set(adapted)
    single = {rule.ours[0] for rule in family_of(config.family).rules(config, rows) if type(rule) is Rule}
    inside = places(config)
    chosen = set()
    for pattern in patterns:
        found = [name for name in rows if _means(pattern, name, inside.get(name)) and not name.startswith("mtp.")]
        if not found:
            tied = pattern == "head" and config.tie_embeddings
            hint = "head and embedding are one here: name embed" if tied else "name embed, head or a norm"
            raise ConfigError(f"modules_to_save: {pattern!r} matches nothing; {hint}")
        for name in found:
            if name in taken:
                raise ConfigError(f"modules_to_save: {pattern!r} means {name}, which a target means, too; choose one")
            if name not in single or not name.endswith(".weight"):
                raise ConfigError(
                    f"modules_to_save: {name} is not one published module of its own; adapt it with a target"
                )
        chosen.update(found)
    return [name for name in rows if name in chosen]


def _means(pattern: str, name: str, place: Place | None) -> bool:
    if place is not None:
        return any(fnmatchcase(name, pattern) for name in place.spellings()[1:])
    return fnmatchcase(name, pattern) or fnmatchcase(name.removesuffix(".weight"), pattern)


@dataclass(frozen=True)
class Group:
    """One published matrix (of routed experts: one stack), whose rows are those of some of our parameters."""

    rule: Rule
    ours: tuple[str, ...]
    """Those that have a term, in the rule's order; one A serves them all."""


def groups(config: ModelConfig, names: Iterable[str]) -> list[Group]:
    """The published matrices that our names belong to, in the family's own layout.

    Raises ConfigError for a parameter that is published as several matrices, to which no term can belong.
    """
    rows, chosen = by_name(model_parameters(config)), set(names)
    found = []
    for rule in family_of(config.family).rules(config, rows):
        ours = tuple(name for name in rule.ours if name in chosen)
        if not ours:
            continue
        if len(rule.published) > 1 and rows[ours[0]].experts == 0:
            raise ConfigError(f"{ours[0]} is published as {len(rule.published)} matrices; leave it out of the targets")
        found.append(Group(rule, ours))
    return found
