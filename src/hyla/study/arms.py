"""Arms: what is compared. Which mixer stands in which layer, and single fields that differ."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from hyla.errors import ConfigError
from hyla.models.config import Config, ModelConfig
from hyla.models.formats.registry import family_of
from hyla.study.sizes import Size, mixers_of
from hyla.train.model_source import StackRecipe

RATIO = re.compile(r"(\d+):(\d+)")
MOST_CHARS = 60
"""Of an arm's name."""
MODEL, OF_MODEL = "model", ("init_std",)
"""What changes of the whole model are called by, and its fields that can be changed."""
UNFIT = frozenset("|$`\\")
"""What tables and plots would take for something else."""
Placement = Literal["last", "first", "middle", "front", "back"]
Changes = dict[str, Any]
Names = Annotated[tuple[str, ...], Field(min_length=1)]


class ArmPlan(Config):
    """An arm of your own. Give `layers`, or `like`."""

    layers: Names | None = None
    """Mixers of a group of layers: kda, gated_delta, mamba2, lightning, linear, gla, softmax, window, mla, or a name of
    `modules`. The group is repeated up to the depth."""
    like: str | None = None
    """Another arm, whose layers and changes this one has besides its own changes."""
    changes: Changes = Field(default_factory=dict)
    """By module and field, what differs from the study's modules, e.g. { "softmax.output_gate" = false }. Fields are
    those of `models.config`; a field that the module does not have is an error. `false` takes a table out: of
    "softmax.rope", "softmax.qk_norm". Of the whole model, "model.init_std": a number, or "width", 1 / sqrt(width)."""

    @model_validator(mode="after")
    def _one(self):
        if (self.layers is None) == (self.like is None):
            raise ValueError("an arm has either layers or like")
        return self


class Grid(Config):
    """Arms by rule: every mixer in every ratio and placement."""

    mixers: Names
    """Of the layers that are not full."""
    ratios: Names
    """Linear to full layers, "3:1" and the like; "0:1" is full attention everywhere (once, whatever the mixer), "1:0"
    has none of it."""
    placements: Annotated[tuple[Placement, ...], Field(min_length=1)] = ("last",)
    """Where the full layers stand. In every group of layers: "last" (Kimi Linear, Qwen3-Next), "first" (MiMo-V2),
    "middle". Of the whole stack: all in "front", all at the "back"."""
    full: str = "softmax"
    """The mixer of the full layers."""

    @model_validator(mode="after")
    def _ratios_are(self):
        for ratio in self.ratios:
            linear_and_full(ratio)
        return self

    def arms(self) -> dict[str, tuple[Names, Placement]]:
        """By name, a group of layers and where its full ones stand."""
        found: dict[str, tuple[Names, Placement]] = {}
        for mixer in self.mixers:
            for ratio in self.ratios:
                linear, full = linear_and_full(ratio)
                for placement in self.placements if linear and full else self.placements[:1]:
                    where = f" {placement}" if len(self.placements) > 1 and linear and full else ""
                    name = f"{mixer} {ratio}{where}" if linear else f"{self.full} only"
                    found[name] = (_group(mixer, self.full, linear, full, placement), placement)
        return found


def linear_and_full(ratio: str) -> tuple[int, int]:
    """ "3:1" as (3, 1). Raises ConfigError."""
    found = RATIO.fullmatch(ratio)
    linear, full = (int(found[1]), int(found[2])) if found else (0, 0)
    if not linear + full or linear + full > 64:
        raise ConfigError(f'a ratio is linear to full layers, "3:1" for instance, of at most 64, not {ratio!r}')
    return linear, full


def _group(mixer: str, full_mixer: str, linear: int, full: int, placement: Placement) -> Names:
    before = {"first": 0, "middle": linear // 2}.get(placement, linear)
    return (mixer,) * before + (full_mixer,) * full + (mixer,) * (linear - before)


class Arm(Config):
    """An arm, ready to be made at any size."""

    name: str
    group: Names
    placement: Placement = "last"
    changes: Changes = Field(default_factory=dict)

    def layers(self, size: Size) -> tuple[str, ...]:
        """The mixer of each layer. Raises ConfigError where the depth is no multiple of the group."""
        if size.num_layers % len(self.group):
            raise ConfigError(
                f"arm {self.name!r} cannot be matched: {size.num_layers} layers are no multiple of its group of "
                f"{len(self.group)}; choose another size or ratio"
            )
        stack = self.group * (size.num_layers // len(self.group))
        if self.placement in ("front", "back"):
            full = self.group[-1]
            ordered = sorted(stack, key=lambda name: (name == full) == (self.placement == "back"))
            return tuple(ordered)
        return stack


def arms_of(grid: Grid | None, own: Mapping[str, ArmPlan]) -> tuple[Arm, ...]:
    """All arms of a study, the grid's first. Raises ConfigError for an arm that is like none, and for names that do not
    fit or are the same in files."""
    found: dict[str, Arm] = {}
    for name, (group, placement) in ({} if grid is None else grid.arms()).items():
        found[name] = Arm(name=name, group=group, placement=placement)
    for name, plan in own.items():
        if name in found:
            raise ConfigError(f"arm {name!r} is one of the grid's already; give yours another name")
        if plan.layers is not None:
            found[name] = Arm(name=name, group=plan.layers, changes=plan.changes)
            continue
        if plan.like not in found:
            raise ConfigError(f"arm {name!r} is like {plan.like!r}, which is none of {', '.join(found)} before it")
        base = found[plan.like]
        found[name] = base.model_copy(update={"name": name, "changes": {**base.changes, **plan.changes}})
    check_names(found)
    return tuple(found.values())


def check_names(names: Iterable[str]) -> None:
    """Raise ConfigError for arms' names that cannot stand in files' names, in tables and beside plots."""
    by_file: dict[str, str] = {}
    for name in names:
        if not name.strip() or len(name) > MOST_CHARS or not name.isprintable() or set(name) & UNFIT:
            raise ConfigError(
                f"an arm is called {name!r}; names have 1 to {MOST_CHARS} printable characters, but none of "
                f"{' '.join(sorted(UNFIT))}"
            )
        other = by_file.setdefault(file_name(name).lower(), name)
        if other != name:
            raise ConfigError(
                f"arms {other!r} and {name!r} are one name in files; let letters or digits tell them apart"
            )


def file_name(arm: str) -> str:
    """An arm's name as part of a file's."""
    return "".join(c if c.isalnum() else "-" for c in arm)


def modules_of(size: Size, own: Mapping[str, Mapping[str, Any]], changes: Changes) -> dict[str, dict[str, Any]]:
    """The modules of an arm: those of its size, the study's own over them, then what the arm changes.

    own: by name; a table with another `kind` replaces the size's module. `false` in the place of a table takes it out.
    Raises ConfigError for a change of nothing.
    """
    found = mixers_of(size)
    for name, table in own.items():
        base = found.get(name, {})
        kept = {} if table.get("kind", base.get("kind")) != base.get("kind") else base
        found[name] = kept | {field: _or_off(value, kept, field) for field, value in table.items()}
    for key, value in changes.items():
        name, dot, field = key.partition(".")
        if not dot or not field:
            raise ConfigError(f'a change is named module.field, "kda.conv_len" for instance, not {key!r}')
        if name == MODEL:
            continue  # `changes_of_model`
        if name not in found:
            raise ConfigError(f"change {key!r}: {name!r} is none of {', '.join(found)}")
        found[name] = {**found[name], field: _or_off(value, found[name], field)}
    return {name: {key: value for key, value in table.items() if value is not None} for name, table in found.items()}


def changes_of_model(size: Size, changes: Changes) -> dict[str, Any]:
    """What an arm changes of the whole model, at a size. Raises ConfigError for what cannot be changed."""
    found = {key.partition(".")[2]: value for key, value in changes.items() if key.partition(".")[0] == MODEL}
    if wrong := set(found) - set(OF_MODEL):
        raise ConfigError(f"change {MODEL}.{min(wrong)}: of the whole model, {', '.join(OF_MODEL)} can be changed")
    return {field: size.hidden_dim**-0.5 if value == "width" else value for field, value in found.items()}


def _or_off(value: Any, table: Mapping[str, Any], field: str) -> Any:
    """None, which leaves the field out, for `false` in the place of a table, or of one that is out already."""
    return None if value is False and field in table and isinstance(table[field], dict | None) else value


def arm_config(
    size: Size,
    layers: tuple[str, ...],
    own: Mapping[str, Mapping[str, Any]],
    changes: Changes,
    vocab_size: int,
    max_len: int,
) -> ModelConfig:
    """An arm's model at a size: own are the study's modules, changes the arm's. Raises ConfigError as the parts do."""
    of_model = changes_of_model(size, changes)
    return model_config_of(size, layers, modules_of(size, own, changes), vocab_size, max_len, of_model)


def model_config_of(
    size: Size,
    layers: tuple[str, ...],
    modules: Mapping[str, Mapping[str, Any]],
    vocab_size: int,
    max_len: int,
    of_model: Mapping[str, Any] | None = None,
) -> ModelConfig:
    """A model: in each layer its mixer and the channel mixer. of_model: `changes_of_model`. Raises ConfigError for
    fields that are unknown."""
    missing = sorted({*layers, "mlp"} - set(modules))
    if missing:
        raise ConfigError(f"layers name {missing[0]!r}, which is none of {', '.join(sorted(modules))}")
    used = {name: dict(modules[name]) for name in dict.fromkeys((*layers, "mlp"))}
    stack = StackRecipe(hidden_dim=size.hidden_dim, modules=used, layers=tuple(f"{name} mlp" for name in layers))
    keys = {**stack.keys(), "vocab_size": vocab_size, "max_len": max_len, **(of_model or {})}
    return family_of("hyla").config_from_hf(keys)
