"""The text of a message's parts, of every API; parts that are not text are refused, each by its place and its kind."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hyla.errors import RequestError
from hyla.server.reading.mistakes import short

TEXT_FIELDS = {"text": "text", "input_text": "text", "output_text": "text", "refusal": "refusal"}
"""The field that holds the text of a part, by the part's type."""

IMAGES = ("image", "image_url", "input_image", "computer_screenshot")
OTHER_MEDIA = {
    **dict.fromkeys(IMAGES, "an image"),
    **dict.fromkeys(("audio", "audio_url", "input_audio", "output_audio"), "sound"),
    **dict.fromkeys(("video", "video_url", "input_video"), "a video"),
    **dict.fromkeys(("file", "input_file", "document", "container_upload"), "a file"),
}
"""Types of parts that other models read, and what they are."""


def text_of(content: Any, where: str, param: str = "messages") -> str:
    """The text of a message's content, its parts joined by line ends.

    where: the content's place in the request, for people; param: the field that it is in. Raises RequestError for parts
    that are not text.
    """
    if content is None or isinstance(content, str):
        return content or ""
    return "\n".join(part_text(part, f"{where}[{n}]", param) for n, part in enumerate(content))


def part_text(part: Any, where: str, param: str) -> str:
    """The text of one part."""
    if not isinstance(part, Mapping):
        raise RequestError(f"{where} is {short(part)}; each part is an object with its type", param)
    kind = part.get("type")
    if kind == "document":
        return _document_text(part, where, param)
    name = TEXT_FIELDS.get(kind) if isinstance(kind, str) else None
    if name is None:
        raise not_text(kind, where, param)
    if not isinstance(part.get(name), str):
        raise RequestError(f"{where} is a part of type {kind!r} without a text in {name!r}; add it", param)
    return part[name]


def _document_text(part: Mapping, where: str, param: str) -> str:
    """Anthropic's documents: those that are given as text, after their titles."""
    source = part.get("source")
    if not isinstance(source, Mapping) or source.get("type") not in ("text", "content"):
        raise not_text("document", where, param)
    kind = source["type"]
    field = "data" if kind == "text" else "content"
    given = source.get(field)
    if kind == "text" and not isinstance(given, str):
        raise RequestError(f"{where}.source needs its text in {field!r}; add it", param)
    text = text_of(given if isinstance(given, list) else str(given or ""), f"{where}.source.{field}", param)
    head = [part[name] for name in ("title", "context") if isinstance(part.get(name), str)]
    return "\n".join([*head, text])


def not_text(kind: Any, where: str, param: str) -> RequestError:
    """The error for a part that no model here can read."""
    what = OTHER_MEDIA.get(kind) if isinstance(kind, str) else None
    if what is None:
        return RequestError(f"{where} is a part of type {short(kind)}, which is not known here; send text parts", param)
    return RequestError(
        f"{where} is {what} (a part of type {kind!r}) and this model reads text only; leave it out, or say in a text "
        f"part what it shows",
        param,
    )
