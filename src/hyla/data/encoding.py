"""Records as token ids, and which of a conversation's tokens the model is to learn."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from hyla.checkpoints.library_errors import failures_as
from hyla.checkpoints.tokenizer import Tokenizer
from hyla.data.conversations import for_template, turn_of
from hyla.data.records import Damaged, Record
from hyla.errors import ConfigError, HylaError, RequestError

ENCODED_TOGETHER = 256
"""Records that the tokenizer gets at once: it has threads of its own."""


@dataclass(frozen=True)
class Encoded:
    """One document as ids."""

    record: Record
    ids: list[int]
    is_learnt: list[bool] | None = None
    """By token: whether the model is to write it (a conversation's answers); None: all of them."""


class Encoder:
    """A tokenizer's ids of documents, each between a first and a last token.

    Texts: special tokens in them stay plain text. Conversations: the chat template's own tokens, as servers make them.
    """

    def __init__(self, tokenizer: Tokenizer, *, is_chat: bool = False):
        """Raises ConfigError for a tokenizer without an end-of-text token, or without a chat template for chats."""
        self.tokenizer, self.is_chat = tokenizer, is_chat
        end, begin = tokenizer.eos_token_id, tokenizer.bos_token_id
        if is_chat:
            if tokenizer.chat_template is None:
                raise ConfigError("the tokenizer has no chat template, so it cannot write conversations; give another")
        elif end is None:
            raise ConfigError("the tokenizer names no eos_token, which ends documents; add it to tokenizer_config.json")
        self.begin_id, self.end_id = end if begin is None else begin, end

    def encode(self, records: Sequence[Record]) -> Iterator[Encoded | Damaged]:
        """In order. A record that the tokenizer or the template fails on is damaged."""
        if self.is_chat:
            for record in records:
                yield from self._conversation(record)
            return
        for first in range(0, len(records), ENCODED_TOGETHER):
            yield from self._texts(records[first : first + ENCODED_TOGETHER])

    def _texts(self, records: Sequence[Record]) -> Iterator[Encoded | Damaged]:
        try:
            found = self._ids([record.text or "" for record in records])
        except RequestError as error:
            if len(records) == 1:
                yield Damaged(records[0].place, str(error))
                return
            for record in records:  # which of them it was
                yield from self._texts([record])
            return
        for record, ids in zip(records, found):
            yield Encoded(record, [self.begin_id, *ids, self.end_id])  # type: ignore[list-item]

    def _ids(self, texts: list[str]) -> list[list[int]]:
        backend = self.tokenizer.backend
        backend.encode_special_tokens = True
        try:
            with failures_as(lambda reason: RequestError(f"the tokenizer fails: {reason}")):
                return [one.ids for one in backend.encode_batch_fast(texts, add_special_tokens=False)]
        finally:
            backend.encode_special_tokens = False

    def _conversation(self, record: Record) -> Iterator[Encoded | Damaged]:
        try:
            found = list(self._turns(record))
        except HylaError as error:
            yield Damaged(record.place, str(error))
        else:
            yield from (Encoded(record, ids, is_learnt) for ids, is_learnt in found)

    def _turns(self, record: Record) -> Iterator[tuple[list[int], list[bool]]]:
        """The conversation up to its last answer, as few documents as the template allows.

        Many templates write earlier turns in another way once new ones stand behind them: reasoning is left out. Then
        what the model saw at each answer is a document of its own, in which that answer alone is learnt.
        """
        messages = [for_template(message, number) for number, message in enumerate(record.messages or ())]
        ids, is_learnt, size = [], [], 0  # size: up to the end of the last answer
        for number, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            turn = turn_of(self.tokenizer, messages, number, tools=record.tools, names=record.template_names)
            prompt = self.tokenizer.encode(turn.prompt, add_special_tokens=False)
            if prompt[:size] != ids[:size]:
                yield ids, is_learnt
                is_learnt, size = [], 0
            answer, learnt = self._answer(turn.answer)
            ids, is_learnt = prompt + answer, is_learnt[:size] + [False] * (len(prompt) - size) + learnt
            size = len(prompt) + sum(learnt)
        yield ids, is_learnt

    def _answer(self, text: str) -> tuple[list[int], list[bool]]:
        """Ids of an answer with what the template writes after it; learnt is all up to the token that ends the turn."""
        ids = self.tokenizer.encode(text, add_special_tokens=False)
        special = {self.tokenizer.token_id(one) for one in self.tokenizer.special_texts}
        last = max((place for place, token in enumerate(ids) if token in special), default=len(ids) - 1)
        return ids, [place <= last for place in range(len(ids))]
