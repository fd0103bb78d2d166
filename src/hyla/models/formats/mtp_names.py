"""Where published formats keep their multi-token prediction modules."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace

from hyla.models.formats.names import Rule, weights


@dataclass(frozen=True)
class MTPNames:
    """Where a format keeps its multi-token prediction modules.

    Prefixes and the published names of `own` are templates: `{module}` is the module's number, `{layer}` the published
    layer within it, `{last}` the last of these, `{after}` the number of published layers of the trunk plus the
    module's.
    """

    prefix: str
    """Before the names of `own`, e.g. "mtp." or "model.layers.{after}."."""
    own: tuple[Rule, ...]
    """Published names <-> embed_norm, hidden_norm, merge, norm (and embed, head where the module has its own)."""
    layer_prefix: str
    """Before the names of the sublayers, e.g. "mtp.layers.{layer}."."""
    names: Mapping[str, tuple[Rule, ...]] = field(default_factory=dict)
    """Rules by sublayer kind, only where they differ from the trunk's."""
    layer_norms: tuple[str, ...] | None = None
    """The norms before the sublayers of one published layer; None: the trunk's."""

    def own_rules(self, places: Mapping[str, int], ours: str) -> list[Rule]:
        """The bound rules of `own` for one module, whose names of ours start with `ours`."""
        rules = [rule.with_prefixes(self.prefix, ours) for rule in self.own]
        return [replace(rule, published=tuple(name.format(**places) for name in rule.published)) for rule in rules]

    def is_uncounted(self, name: str, num_layers: int, count: int, stored: Collection[str]) -> bool:
        """Whether a published tensor belongs to a module beyond the `count` that the config has.

        num_layers: published layers of the trunk. stored: all names of the folder; a module shows by its projection.
        """
        pattern = re.escape(self.prefix).replace(r"\{after\}", r"(\d+)").replace(r"\{module\}", r"(\d+)")
        found = re.match(pattern, name)
        merge = next(rule.published[0] for rule in self.own if rule.ours == ("merge.weight",))
        if found is None or found[0] + merge not in stored:
            return False
        number = int(found[1]) if found.groups() else 0
        return number - (num_layers if "{after}" in self.prefix else 0) >= count


IN = ("enorm embed_norm", "hnorm hidden_norm", "eh_proj merge")
"""The usual names of what stands before the sublayers."""
OUT = "final_layernorm norm"

PAST_THE_LAST_LAYER = "model.layers.{after}."
BAILING = MTPNames(PAST_THE_LAST_LAYER, weights("", *IN, OUT), PAST_THE_LAST_LAYER)
"""Ling and Ring, all versions."""
DEEPSEEK = replace(
    BAILING, own=weights("", *IN, "shared_head.norm norm", "embed_tokens embed", "shared_head.head head")
)
"""DeepSeek-V3 and V3.2: each module repeats the embedding and the head."""
MIMO_V2 = MTPNames(
    "model.mtp.layers.{module}.",
    weights("", *IN, OUT),
    "model.mtp.layers.{module}.",
    layer_norms=("input_layernorm.weight", "pre_mlp_layernorm.weight"),
)
NEMOTRON_3 = MTPNames(
    "mtp.layers.",
    (*weights("0.", *IN), *weights("{last}.", OUT)),
    "mtp.layers.{layer}.",
)
"""One published layer per sublayer; what stands before and after the sublayers belongs to the first and the last."""
