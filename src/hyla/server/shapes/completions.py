"""OpenAI's answers of /v1/completions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from hyla.answers.protocol import ToolDelta
from hyla.engine import TokenEvent, TokenLogprob, Usage
from hyla.engine.requests.text import REPLACEMENT
from hyla.server.shapes.openai import OpenAIShape

Entry = tuple[int, TokenLogprob | None]
"""A token with its numbers; without for a text's first token, which nothing predicts."""


def _entries(logprobs: Iterable[TokenLogprob]) -> list[Entry]:
    return [(entry.token_id, entry) for entry in logprobs]


class CompletionShape(OpenAIShape):
    """One answer of /v1/completions while it grows.

    echoes: the text of each prompt, where the request wants it before each of its answers.

    num_echo_top: how many of the most likely ids each echoed token is told with; None: the text is echoed alone.
    num_kept: choices of each prompt that are told, the most likely ones per token (`best_of`); None: all.
    """

    kind = chunk_kind = "text_completion"

    def __init__(
        self,
        *args,
        echoes: Sequence[str] = (),
        num_echo_top: int | None = None,
        num_kept: int | None = None,
        **more,
    ):
        super().__init__(*args, **more)
        self._num_kept = self.choices_per_prompt if num_kept is None else num_kept
        self._echoes, self._num_echo_top = list(echoes), num_echo_top
        self._text_lengths = [0] * len(self.choices)
        """Characters of each choice's tokens so far, for `text_offset`."""
        self._held: dict[int, list[tuple[int, TokenEvent]]] = {}
        """Events of the other choices of each prompt whose log-probabilities are still to come and to be told first."""

    def answer(self):
        whole = super().answer()
        if self._num_kept < self.choices_per_prompt:
            kept = [
                index for start in range(0, len(self.choices), self.choices_per_prompt) for index in self._best(start)
            ]
            whole["choices"] = [{**whole["choices"][index], "index": n} for n, index in enumerate(kept)]
        return whole

    def _best(self, start: int) -> list[int]:
        """The choices of one prompt with the highest log-probability per token, in their order."""

        def mean(index: int) -> float:
            values = [entry.logprob for entry in self.choices[index].logprobs]
            return sum(values) / max(len(values), 1)

        ranked = sorted(range(start, start + self.choices_per_prompt), key=lambda index: (-mean(index), index))
        return sorted(ranked[: self._num_kept])

    def without_answers(self) -> dict[str, Any]:
        """The body when nothing is to be computed: the prompts' texts alone."""
        for index, choice in enumerate(self.choices):
            choice.finish_reason = "length"
            choice.usage = Usage(len(self.prompt_ids[index // self.choices_per_prompt]), 0)
        return self.answer()

    def _prefix(self, index: int) -> tuple[str, list[Entry]]:
        """The echoed prompt of a choice, its first token without numbers."""
        prompt = index // self.choices_per_prompt
        text = self._echoes[prompt] if self._echoes else ""
        scored = self.scored_prompts[prompt]
        if self._num_echo_top is None or scored is None:
            return text, []
        _, *rest = scored
        entries = [replace(entry, top=entry.top[: self._num_echo_top]) for entry in rest if entry is not None]
        return text, [(self.prompt_ids[prompt][0], None), *_entries(entries)]

    def _of_prompt(self, index: int) -> dict[str, Any]:
        prompt = index // self.choices_per_prompt
        return self.ids_of_prompt(prompt) | self.scores_of_prompt(prompt)

    def _told(self, index):
        return {**super()._told(index), **self._of_prompt(index)}

    def _choice(self, index):
        choice = self.choices[index]
        text, logprobs = self._prefix(index)
        return {
            "index": index,
            "text": text + choice.text,
            "logprobs": self._logprobs(index, [*logprobs, *_entries(choice.logprobs)]),
            "finish_reason": choice.finish_reason,
        }

    def opening(self):
        is_scored = self.num_prompt_top is not None or self._num_echo_top is not None
        for prompt in range(len(self.scored_prompts)):
            if is_scored:
                self._held[prompt] = []
            else:
                yield from self._opening_of(prompt)

    def _opening_of(self, prompt: int) -> Iterable[bytes]:
        """What the choices of one prompt begin with."""
        first = prompt * self.choices_per_prompt
        for index in range(first, first + self.choices_per_prompt):
            text, logprobs = self._prefix(index)
            fields = self._of_prompt(index)
            if text or logprobs or fields:
                body = {
                    "index": index,
                    "text": text,
                    "logprobs": self._logprobs(index, logprobs),
                    "finish_reason": None,
                }
                yield self._chunk([{**body, **fields}])

    def updates(self, index, event):
        prompt = index // self.choices_per_prompt
        if prompt in self._held:
            if index % self.choices_per_prompt:
                self._held[prompt].append((index, event))
                return
            self.keep_scores(index, event)
            yield from self._opening_of(prompt)
            for held in self._held.pop(prompt):
                yield from self._updates(*held)
        yield from self._updates(index, event)

    def _updates(self, index: int, event: TokenEvent) -> Iterable[bytes]:
        text = "".join(delta.text for delta in self.add(index, event) if not isinstance(delta, ToolDelta))
        if not (text or event.logprobs or event.finish_reason or self.wants_ids):
            return
        logprobs = self._logprobs(index, _entries(event.logprobs)) if event.logprobs else None
        body = {
            "index": index,
            "text": text,
            "logprobs": logprobs,
            "finish_reason": self.choices[index].finish_reason,
        }
        yield self._chunk([{**body, **self._ids_of(event)}])

    def _logprobs(self, index: int, entries: Sequence[Entry]) -> dict[str, Any] | None:
        if not self.wants_logprobs:
            return None
        body = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
        for token_id, entry in entries:
            text = self.token_text(token_id)
            offset = self._text_lengths[index]
            self._text_lengths[index] = offset + len(text)
            body["tokens"].append(text)
            body["token_logprobs"].append(entry and entry.logprob)
            body["top_logprobs"].append(entry and self._top(entry))
            body["text_offset"].append(offset)
        if any(entry is not None and entry.sampled is not None for _, entry in entries):
            body["sampled_logprobs"] = [entry and entry.sampled for _, entry in entries]
        return body

    def _top(self, entry: TokenLogprob) -> dict[str, float]:
        # The token itself belongs to the list, as in OpenAI's; several broken characters would share one name.
        return {self._name(token): logprob for token, logprob in (*entry.top, (entry.token_id, entry.logprob))}

    def _name(self, token_id: int) -> str:
        text = self.token_text(token_id)
        return f"token_id:{token_id}" if REPLACEMENT in text else text
