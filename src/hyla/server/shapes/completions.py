"""OpenAI's answers of /v1/completions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hyla.engine import ScoredToken, TokenLogprob, Usage
from hyla.engine.text import REPLACEMENT
from hyla.server.shapes.openai import OpenAIShape


class CompletionShape(OpenAIShape):
    """prefixes: by prompt, its text and log-probabilities where the request wants them echoed.

    num_kept: choices of each prompt that are told, the most likely ones per token (`best_of`); None: all.
    """

    kind = chunk_kind = "text_completion"

    def __init__(
        self,
        *args,
        prefixes: Mapping[int, tuple[str, Sequence[ScoredToken]]] | None = None,
        num_kept: int | None = None,
        **more,
    ):
        super().__init__(*args, **more)
        self._num_kept = self.choices_per_prompt if num_kept is None else num_kept
        self._prefixes = dict(prefixes or {})
        self._text_lengths = [0] * len(self.choices)
        """Characters of each choice's tokens so far, for `text_offset`."""

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
            own = [entry.logprob for entry in self.choices[index].logprobs]
            return sum(own) / max(len(own), 1)

        ranked = sorted(range(start, start + self.choices_per_prompt), key=lambda index: (-mean(index), index))
        return sorted(ranked[: self._num_kept])

    def without_answers(self, prompts: Sequence[Sequence[int]]) -> dict[str, Any]:
        """The body when only the prompts are told (`max_tokens` = 0)."""
        for index, choice in enumerate(self.choices):
            choice.finish_reason = "length"
            choice.usage = Usage(len(prompts[index // self.choices_per_prompt]), 0)
        return self.answer()

    def _prefix(self, index: int) -> tuple[str, list[ScoredToken]]:
        text, logprobs = self._prefixes.get(index // self.choices_per_prompt, ("", ()))
        return text, list(logprobs)

    def _told(self, index):
        return {**super()._told(index), **self.prompt_fields[index // self.choices_per_prompt]}

    def _choice(self, index):
        choice = self.choices[index]
        text, logprobs = self._prefix(index)
        return {
            "index": index,
            "text": text + choice.text,
            "logprobs": self._logprobs(index, [*logprobs, *choice.logprobs]),
            "finish_reason": choice.finish_reason,
        }

    def opening(self):
        for index in range(len(self.choices)):
            text, logprobs = self._prefix(index)
            fields = self.prompt_fields[index // self.choices_per_prompt]
            if text or logprobs or fields:
                own = {"index": index, "text": text, "logprobs": self._logprobs(index, logprobs), "finish_reason": None}
                yield self._chunk([{**own, **fields}])

    def news(self, index, event):
        text = "".join(delta.text for delta in self.add(index, event))
        if not (text or event.logprobs or event.finish_reason or self.wants_ids):
            return
        logprobs = self._logprobs(index, event.logprobs) if event.logprobs else None
        body = {"index": index, "text": text, "logprobs": logprobs, "finish_reason": event.finish_reason}
        yield self._chunk([{**body, **self._ids_of(event)}])

    def _logprobs(self, index: int, logprobs: Sequence[TokenLogprob | ScoredToken]) -> dict[str, Any] | None:
        if not self.wants_logprobs:
            return None
        body = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
        for entry in logprobs:
            text = self.token_text(entry.token_id)
            offset = self._text_lengths[index]
            self._text_lengths[index] = offset + len(text)
            body["tokens"].append(text)
            body["token_logprobs"].append(entry.logprob)
            body["top_logprobs"].append(None if entry.logprob is None else self._top(entry))
            body["text_offset"].append(offset)
        return body

    def _top(self, entry: TokenLogprob | ScoredToken) -> dict[str, float]:
        # The token itself belongs to the list, as in OpenAI's; several broken characters would share one name.
        return {self._name(token): logprob for token, logprob in (*entry.top, (entry.token_id, entry.logprob))}

    def _name(self, token_id: int) -> str:
        text = self.token_text(token_id)
        return f"token_id:{token_id}" if REPLACEMENT in text else text
