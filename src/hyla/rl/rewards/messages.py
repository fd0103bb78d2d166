"""What a task and an answer are as a conversation, in OpenAI's form, and as a judge reads one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from hyla.data.records import are_messages


def asked(row: dict) -> list[dict]:
    """A task's conversation; a prompt is one message of the user."""
    messages = row.get("messages")
    if messages and are_messages(messages):
        return list(messages)
    return [{"role": "user", "content": row["prompt"]}] if "prompt" in row else []


def said(answer: str) -> dict:
    """An answer of one turn."""
    return {"role": "assistant", "content": answer}


def as_text(value: Any) -> str:
    """A field of a row as a judge reads it; messages with their roles and calls."""
    if isinstance(value, str):
        return value
    if value and are_messages(value):
        return "\n\n".join(f"{one['role']}: {_message_text(one)}" for one in value)
    return json.dumps(value, ensure_ascii=False)


def _message_text(message: dict) -> str:
    calls = message.get("tool_calls")
    parts = [as_text(message.get("content") or ""), *(_call_text(call) for call in _listed(calls))]
    return "\n".join(part for part in parts if part)


def _listed(calls: Any) -> Sequence[Any]:
    return calls if isinstance(calls, list) else ()


def _call_text(call: Any) -> str:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict):
        return json.dumps(call, ensure_ascii=False)
    return f"calls {function.get('name')}({as_text(function.get('arguments') or {})})"
