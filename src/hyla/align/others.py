"""Others' numbers: another checkpoint's, or another engine's from a file."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from hyla.align.sampling import Answers
from hyla.checkpoints import Tokenizer
from hyla.errors import ConfigError
from hyla.rl.samples import Sample

TokenId = Annotated[int, Field(ge=0)]


class AnswerLine(BaseModel):
    """One line of a file of another engine's answers."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    prompt_token_ids: Annotated[list[TokenId], Field(min_length=1)]
    token_ids: Annotated[list[TokenId], Field(min_length=1)]
    logprobs: list[float]
    """Of each of `token_ids`, natural, under the distribution that it was drawn from."""

    @model_validator(mode="after")
    def _fit(self):
        if len(self.logprobs) != len(self.token_ids):
            raise ValueError(f"{len(self.token_ids)} token_ids and {len(self.logprobs)} logprobs; give as many")
        for value in self.logprobs:
            if not math.isfinite(value) or value > 0:
                raise ValueError(f"logprobs: {value} is no log-probability; give finite numbers that are at most 0")
        return self


def read_answers(file: Path, vocab_size: int, most_tokens: int) -> Answers:
    """The answers of a JSON lines file. vocab_size, most_tokens: the model's vocabulary and context.

    Raises ConfigError that names the line for one that is no answer of this model.
    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--against: {file} cannot be read: {error}") from None
    samples = []
    for number, text in enumerate(lines, start=1):
        if text.strip():
            line = _line(text, f"{file}, line {number}", vocab_size, most_tokens)
            samples.append(_sample(len(samples), line))
    if not samples:
        raise ConfigError(f"--against: {file} has no answer; give prompt_token_ids, token_ids and logprobs a line")
    return Answers(samples)


def _line(text: str, place: str, vocab_size: int, most_tokens: int) -> AnswerLine:
    try:
        found = AnswerLine.model_validate(json.loads(text))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ConfigError(f"{place}: {f'{where}: ' if where else ''}{first['msg']}") from None
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{place} is not JSON: {error}") from None
    ids = [*found.prompt_token_ids, *found.token_ids]
    if max(ids) >= vocab_size:
        raise ConfigError(f"{place}: token id {max(ids)} is not in this model's vocabulary of {vocab_size}")
    if len(ids) > most_tokens:
        raise ConfigError(f"{place}: {len(ids)} tokens are more than this model's context of {most_tokens}")
    return found


def _sample(number: int, line: AnswerLine) -> Sample:
    ids = tuple(line.prompt_token_ids), tuple(line.token_ids)
    return Sample(number, 0, number, *ids, logprobs=tuple(line.logprobs), text="", finish_reason="stop")


def check_same_vocabulary(name: str, ours: Tokenizer, theirs: Tokenizer, sizes: tuple[int, int]) -> None:
    """Raise ConfigError unless two models read and write the same token ids. sizes: of their vocabularies."""
    if sizes[0] != sizes[1]:
        raise ConfigError(f"--against: {name} has a vocabulary of {sizes[1]} tokens, this model {sizes[0]}")
    vocabs = [one.backend.get_vocab(with_added_tokens=True) for one in (ours, theirs)]
    differing = {token for token, _ in vocabs[0].items() ^ vocabs[1].items()}
    if differing:
        raise ConfigError(
            f"--against: the tokenizer of {name} is another: {len(differing)} tokens have other ids, "
            f"{min(differing)!r} among them; compare models of one vocabulary"
        )
