"""Answers of /v1/responses that later requests may go on from, in memory and within bounds."""

from __future__ import annotations

import json
from collections import OrderedDict
from dataclasses import dataclass
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


class ResponseStore:
    """The newest answers; the oldest go when there are too many or they are too large."""

    def __init__(self, limits: Limits):
        self.limits = limits
        self._stored: OrderedDict[str, StoredResponse] = OrderedDict()
        self._answer_of: dict[str, str] = {}
        """The answer that each item is in, by their ids."""
        self.num_bytes = 0

    def __len__(self) -> int:
        return len(self._stored)

    def add(self, body: dict[str, Any], messages: list[dict[str, Any]], client: str) -> None:
        num_bytes = len(json.dumps(messages)) + len(json.dumps(body))
        self._stored[body["id"]] = StoredResponse(body, messages, client, num_bytes)
        self._answer_of |= {item["id"]: body["id"] for item in body["output"]}
        self.num_bytes += num_bytes
        while len(self) > self.limits.max_stored_responses or self.num_bytes > self.limits.max_stored_bytes:
            self._remove(next(iter(self._stored)))

    def get(self, response_id: str, client: str) -> StoredResponse | None:
        """A client's own answer; another's is as good as none."""
        found = self._stored.get(response_id)
        return found if found is not None and found.client == client else None

    def item(self, item_id: str, client: str) -> dict[str, Any] | None:
        """An item of one of a client's own answers."""
        found = self._answer_of.get(item_id)
        answer = self.get(found, client) if found is not None else None
        return answer and next((item for item in answer.body["output"] if item["id"] == item_id), None)

    def delete(self, response_id: str, client: str) -> bool:
        if self.get(response_id, client) is None:
            return False
        self._remove(response_id)
        return True

    def _remove(self, response_id: str) -> None:
        removed = self._stored.pop(response_id)
        for item in removed.body["output"]:
            self._answer_of.pop(item["id"], None)
        self.num_bytes -= removed.num_bytes
