"""Answers of /v1/responses that later requests may go on from, in memory and within bounds."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from hyla.server.guard.limits import Limits


@dataclass(frozen=True)
class StoredResponse:
    """One answer with the conversation that led to it."""

    body: dict[str, Any]
    messages: list[dict[str, Any]]
    """The whole conversation in OpenAI's chat form, the answer included."""
    client: str
    num_bytes: int


@dataclass
class Shelf:
    """A client's answers, the oldest first."""

    answers: OrderedDict[str, StoredResponse] = field(default_factory=OrderedDict)
    num_bytes: int = 0


class ResponseStore:
    """The newest answers of each client. Where there are too many, or they are too large, the oldest go of the client
    that has most, so that no client makes the server forget another's."""

    def __init__(self, limits: Limits):
        self.limits = limits
        self._shelves: dict[str, Shelf] = {}
        """By client; none is empty."""
        self._answer_of: dict[str, str] = {}
        """The answer that each item is in, by their ids."""
        self.num_bytes = 0
        self._num_answers = 0

    def __len__(self) -> int:
        return self._num_answers

    def add(self, body: dict[str, Any], messages: list[dict[str, Any]], client: str) -> None:
        num_bytes = len(json.dumps(messages)) + len(json.dumps(body))
        shelf = self._shelves.setdefault(client, Shelf())
        shelf.answers[body["id"]] = StoredResponse(body, messages, client, num_bytes)
        shelf.num_bytes += num_bytes
        self._answer_of |= {item["id"]: body["id"] for item in body["output"]}
        self.num_bytes += num_bytes
        self._num_answers += 1
        while len(self) > self.limits.max_stored_responses:
            self._remove_oldest(lambda own: len(own.answers))
        while self.num_bytes > self.limits.max_stored_bytes:
            self._remove_oldest(lambda own: own.num_bytes)

    def get(self, response_id: str, client: str) -> StoredResponse | None:
        """A client's own answer; another's is as good as none."""
        shelf = self._shelves.get(client)
        return shelf.answers.get(response_id) if shelf is not None else None

    def item(self, item_id: str, client: str) -> dict[str, Any] | None:
        """An item of one of a client's own answers."""
        found = self._answer_of.get(item_id)
        answer = self.get(found, client) if found is not None else None
        return answer and next((item for item in answer.body["output"] if item["id"] == item_id), None)

    def delete(self, response_id: str, client: str) -> bool:
        if self.get(response_id, client) is None:
            return False
        self._remove(client, response_id)
        return True

    def _remove_oldest(self, held: Callable[[Shelf], int]) -> None:
        client = max(self._shelves, key=lambda own: held(self._shelves[own]))
        self._remove(client, next(iter(self._shelves[client].answers)))

    def _remove(self, client: str, response_id: str) -> None:
        shelf = self._shelves[client]
        removed = shelf.answers.pop(response_id)
        for item in removed.body["output"]:
            self._answer_of.pop(item["id"], None)
        shelf.num_bytes -= removed.num_bytes
        self.num_bytes -= removed.num_bytes
        self._num_answers -= 1
        if not shelf.answers:
            del self._shelves[client]
