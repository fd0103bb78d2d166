"""A model's card: what it is, what it was trained on and what that was worth. No PyTorch.

`hyla_card.json` in the model's folder is the one that is read. `README.md` beside it says the same to people and hubs;
it is written from the card and never read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from os.path import lexists
from pathlib import Path
from typing import Annotated

from pydantic import Field

from hyla.errors import CheckpointError, ConfigError
from hyla.json_files import read_json, write_json
from hyla.models.config import Config, ModelConfig
from hyla.models.pattern import label
from hyla.whole_files import write_whole

CARD_FILE, README_FILE = "hyla_card.json", "README.md"

Line = Annotated[str, Field(min_length=1, max_length=300)]
Count = Annotated[int, Field(ge=0)]
Kinds = dict[Line, Annotated[int, Field(ge=1)]]
Size = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class TrainingFacts(Config):
    """What a training run did."""

    data: Line
    """What was read, in words; never a whole path."""
    tokens: Count
    """Tokens that the finished steps read, repetitions included."""
    steps: Count
    """Finished steps."""
    planned_steps: Count
    """Steps that the learning rate was planned for; more than `steps` in a run that was stopped."""
    seconds: Size
    """Time of the finished steps."""
    seed: Count
    """Of the start values and of the order of the documents."""


class HeldoutScore(Config):
    """What the model is worth on text that training never saw."""

    bits_per_byte: Size
    """Fewer is better; all bytes, end of text included."""
    num_bytes: Annotated[int, Field(ge=1)]
    """Size of that text."""
    gzip_bits_per_byte: Size | None = None
    """Of `gzip -9` on the same bytes, the better of each file alone and all as one stream."""


class SamplingAdvice(Config):
    """How its answers are best drawn, where neither the reader nor the request says."""

    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    """Lower for small models, which lose their thread soon."""
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    """Share of the probability that is drawn from."""
    top_k: Annotated[int, Field(ge=1)] | None = None
    """Most tokens that are drawn from."""
    repetition_penalty: Annotated[float, Field(gt=0, le=2)] | None = None
    """Above 1 for models that would say the same for ever."""


class ModelCard(Config):
    """A card. Of a model that nobody wrote one for, what its config says (`derived_card`)."""

    family: Line
    """Its `model_type`."""
    parameters: Count
    """All of them, without multi-token prediction."""
    active_parameters: Count
    """Those that work on one token."""
    mixers: Kinds = Field(default_factory=dict)
    """How many layers move information along the text, by kind, as {"KDA": 3, "MLA": 1}."""
    channel_mixers: Kinds = Field(default_factory=dict)
    """How many treat every token alone, by kind."""
    context_len: Annotated[int, Field(ge=1)]
    """Longest context in tokens."""
    licence: Line | None = None
    """An SPDX name as Apache-2.0, if known."""
    training: TrainingFacts | None = None
    """None: not known."""
    heldout: HeldoutScore | None = None
    """None: not measured."""
    sampling: SamplingAdvice = SamplingAdvice()
    """Offered by the page and `hyla chat`; the API's defaults stay OpenAI's."""
    examples: Annotated[tuple[Line, ...], Field(max_length=12)] = ()
    """Beginnings that the model can continue well: for a base model, whose readers cannot ask it anything."""


def derived_card(config: ModelConfig, *, parameters: int, active: int, **known) -> ModelCard:
    """The card that a config gives. parameters, active: counts, as `hyla.cost.count_parameters` gives them.

    known: more fields of the card.
    """
    return ModelCard(
        family=config.family,
        parameters=parameters,
        active_parameters=active,
        mixers=dict(Counter(label(sub.module.kind) for sub in config.sublayers if sub.is_mixer)),
        channel_mixers=dict(Counter(label(sub.module.kind) for sub in config.sublayers if not sub.is_mixer)),
        context_len=config.max_len,
        **known,
    )


def read_card(folder: str | Path) -> ModelCard | None:
    """The card of a model folder; None without one. Raises CheckpointError when it is no card."""
    file = Path(folder) / CARD_FILE
    if not lexists(file):
        return None
    try:
        return ModelCard(**read_json(file))
    except (ConfigError, TypeError) as error:
        raise CheckpointError(f"{file} is no model card: {error}; mend or delete it") from error


def write_card(folder: str | Path, card: ModelCard, *, name: str) -> None:
    """Write the card into an existing folder, and `README.md` from it. name: the readme's title."""
    folder = Path(folder)
    try:
        write_json(folder / CARD_FILE, card.model_dump(mode="json", exclude_none=True))
        write_whole(folder / README_FILE, readme(card, name))
    except OSError as error:
        raise CheckpointError(f"cannot write the card into {folder}: {error}; free some space there") from error


def facts(card: ModelCard) -> Iterator[tuple[str, str]]:
    """(name, text) of each thing the card says, for people; examples are left out."""
    size = f"{card.parameters:,}"
    if card.active_parameters != card.parameters:
        size += f", of which {card.active_parameters:,} work on one token"
    yield "parameters", size
    yield "layers", "; ".join(_listed(kinds) for kinds in (card.mixers, card.channel_mixers) if kinds) or "unknown"
    yield "context", f"{card.context_len:,} tokens"
    if card.training is not None:
        yield "trained on", card.training.data
        yield "training", _training(card.training)
    if card.heldout is not None:
        yield "held out", _heldout(card.heldout)
    if card.licence is not None:
        yield "licence", card.licence
    advice = card.sampling.model_dump(exclude_none=True)
    if advice:
        yield "best drawn with", ", ".join(f"{name} {value:g}" for name, value in advice.items())


def _listed(kinds: dict[str, int]) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in kinds.items())


def _training(training: TrainingFacts) -> str:
    planned = f" of {training.planned_steps:,}" if training.steps < training.planned_steps else ""
    minutes = training.seconds / 60
    return f"{training.steps:,}{planned} steps, {training.tokens:,} tokens, {minutes:.1f} minutes, seed {training.seed}"


def _heldout(heldout: HeldoutScore) -> str:
    rival = f"; gzip -9 needs {heldout.gzip_bits_per_byte:.3f}" if heldout.gzip_bits_per_byte is not None else ""
    return f"{heldout.bits_per_byte:.3f} bits per byte over {heldout.num_bytes:,} bytes{rival}"


def readme(card: ModelCard, name: str) -> str:
    """The card as a hub's README: YAML in front, a table, the examples."""
    front = ["library_name: hyla", "pipeline_tag: text-generation", f"tags: [hyla, {card.family}]"]
    front += [f"license: {card.licence.lower()}"] if card.licence else []
    rows = "\n".join(f"| {key} | {text} |" for key, text in facts(card))
    examples = "".join(f"\n```text\n{example.rstrip()}\n```\n" for example in card.examples)
    text = "---\n" + "\n".join(front) + f"\n---\n\n# {name}\n\n| | |\n|---|---|\n{rows}\n"
    return text + (f"\nBeginnings to try:\n{examples}" if examples else "")
