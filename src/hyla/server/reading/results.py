"""What tools gave back, as text: an agent cannot take a result out of its history, so none ends a conversation."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from hyla.errors import RequestError
from hyla.server.reading.content import OTHER_MEDIA, TEXT_FIELDS, part_text
from hyla.server.reading.skipped import Skipped

SEALED = "encrypted_"
"""The beginning of names whose values only the server that wrote them can read."""


def result_text(content: Any, where: str, param: str, skipped: Skipped) -> str:
    """The text of a result: of its parts that are text, of search results, and of what it has as data. For pictures,
    sound and files that are no text it says that they were left out.

    Raises RequestError for parts that are no objects, or text parts without text.
    """
    if content is None or isinstance(content, str):
        return content or ""
    if not isinstance(content, list):
        return data_text(content)
    return "\n".join(_part(part, f"{where}[{n}]", param, skipped) for n, part in enumerate(content))


def _part(part: Any, where: str, param: str, skipped: Skipped) -> str:
    if isinstance(part, Mapping) and "type" not in part:
        return data_text(part)
    kind = part.get("type") if isinstance(part, Mapping) else None
    if not isinstance(part, Mapping) or not isinstance(kind, str) or kind in TEXT_FIELDS:
        return part_text(part, where, param)
    if kind == "search_result":
        head = [part[name] for name in ("title", "source") if isinstance(part.get(name), str)]
        return "\n".join([*head, result_text(part.get("content"), f"{where}.content", param, skipped)])
    if kind in OTHER_MEDIA:
        try:
            return part_text(part, where, param)  # a document may be text
        except RequestError:
            skipped.part(where, kind)
            return f"[{OTHER_MEDIA[kind]}, left out: this model reads text only]"
    return data_text(part)


def data_text(value: Any) -> str:
    """Data as JSON, without what is sealed."""
    return json.dumps(_open(value), ensure_ascii=False)


def _open(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _open(own) for name, own in value.items() if not str(name).startswith(SEALED)}
    return [_open(own) for own in value] if isinstance(value, list) else value
