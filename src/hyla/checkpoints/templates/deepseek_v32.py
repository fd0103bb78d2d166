"""DeepSeek-V3.2's message format, for which its publishers give a program and no template.

Source: the publishers' description and examples (huggingface.co/deepseek-ai/DeepSeek-V3.2, folder encoding). Calls of
tools are written in tags ("DSML"), results of one answer's calls stand together in their order, and reasoning is shown
behind the last message of the user only. Different here: tools of a request join the first system message; results may
come in any order where their ids say whose they are; an answer may be shown without reasoning; a conversation may end
before all results are there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from hyla.errors import RequestError

BEGIN, END = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"
USER, ASSISTANT = "<｜User｜>", "<｜Assistant｜>"
TOKENS = (BEGIN, END, USER, ASSISTANT)
"""A vocabulary must have these."""
THINK, END_THINK = "<think>", "</think>"
DSML = "｜DSML｜"
SWITCHES = ("thinking", "enable_thinking")
"""Names that turn reasoning on; it is off by default."""

TOOLS = f"""## Tools

You have access to a set of tools you can use to answer the user's question.
You can invoke functions by writing a "<{DSML}function_calls>" block like the following as part of your reply to the \
user:
<{DSML}function_calls>
<{DSML}invoke name="$FUNCTION_NAME">
<{DSML}parameter name="$PARAMETER_NAME" string="true|false">$PARAMETER_VALUE</{DSML}parameter>
...
</{DSML}invoke>
<{DSML}invoke name="$FUNCTION_NAME2">
...
</{DSML}invoke>
</{DSML}function_calls>

String and scalar parameters should be specified as is without any escaping or quotes, while lists and objects should \
use JSON format. The "string" attribute should be set to "true" for string type parameters and "false" for other types \
(numbers, booleans, arrays, objects).

If the thinking_mode is enabled, then after function results you should strongly consider outputting a thinking block. \
Here is an example:

<{DSML}function_calls>
...
</{DSML}function_calls>

<function_results>
...
</function_results>

{THINK}...thinking about results{END_THINK}

Here are the functions available in JSONSchema format:
<functions>
%s
</functions>
"""
"""The words that the model was trained with; %s: a tool a line."""

Message = Mapping[str, Any]


class DeepSeekV32:
    """The format as a `ChatFormat`. It is our own code, so that it needs no process of its own."""

    source = TOOLS
    sources: Mapping[str, str] = {}

    def start(self) -> None:
        """Nothing to get ready."""

    def knows_role(self, role: str) -> bool:
        """`developer` is for its publishers' own search; a client's instructions are the system's."""
        return role == "system"

    def shows(self, roles: tuple[str, ...]) -> bool:
        """All of them."""
        return True

    def render(self, messages: list[dict], /, **names: Any) -> str:
        """The prompt text of a conversation.

        names: `tools` in OpenAI's form; `thinking` or `enable_thinking`; `add_generation_prompt`. Others change
        nothing. Raises RequestError for a role that there is not, and for results without calls.
        """
        thinks = any(names.get(name) is True for name in SWITCHES)
        shown = _with_tools(messages, names.get("tools"))
        if thinks:  # the publishers' program drops these with the reasoning
            last = _last_asked(shown)
            shown = [one for n, one in enumerate(shown) if n >= last or one.get("role") != "developer"]
        last, pieces = _last_asked(shown), [BEGIN]
        final = max((n + 1 for n, one in enumerate(shown) if one.get("role") != "tool"), default=0)
        for n in range(len(shown)):
            opening = THINK if thinks and n >= last else END_THINK
            if n >= min(final, len(shown) - 1) and not names.get("add_generation_prompt"):
                opening = ""  # no answer follows the last message, or the results at the end
            pieces.append(_written(shown, n, opening, reasons=thinks and n > last))
        return "".join(pieces)


def _with_tools(messages: Sequence[Message], tools: Any) -> list[Message]:
    """The messages, the first of the system with the request's tools."""
    shown = list(messages)
    if not tools:
        return shown
    if not shown or shown[0].get("role") != "system":
        shown.insert(0, {"role": "system"})
    return [{**shown[0], "tools": tools}, *shown[1:]]


def _last_asked(messages: Sequence[Message]) -> int:
    return max((n for n, one in enumerate(messages) if one.get("role") in ("user", "developer")), default=-1)


def _written(messages: Sequence[Message], place: int, opening: str, *, reasons: bool) -> str:
    """One message. opening: the tag that an answer behind it begins with; "": none follows. reasons: an answer is shown
    with its reasoning."""
    message = messages[place]
    role, content = message.get("role"), message.get("content") or ""
    follows = ASSISTANT + opening if opening else ""
    if role == "system":
        return content + _tools_text(message)
    if role == "user":
        return USER + content + follows
    if role == "developer":
        return f"{USER}{_tools_text(message)}\n\n# The user's message is: {content}{follows}"
    if role == "assistant":
        reasoning = (message.get("reasoning_content") or "") + END_THINK if reasons else ""
        return reasoning + content + _calls_text(message.get("tool_calls")) + END
    if role == "tool":
        return _results_text(messages, place, f"\n\n{opening}" if opening else "")
    raise RequestError(
        f"messages[{place}].role = {role!r} is none of this model's: system, user, assistant, tool", "messages"
    )


def _tools_text(message: Message) -> str:
    if not message.get("tools"):
        return ""
    lines = (json.dumps(tool.get("function", tool), ensure_ascii=False) for tool in message["tools"])
    return "\n\n" + TOOLS.replace("%s", "\n".join(lines))


def _calls_text(calls: Any) -> str:
    if not calls:
        return ""
    lines = [f"\n\n<{DSML}function_calls>"]
    for call in calls:
        function = call["function"]
        lines.append(f'<{DSML}invoke name="{function["name"]}">')
        lines += [_parameter_text(name, value) for name, value in _arguments_of(function).items()] or [""]
        lines.append(f"</{DSML}invoke>")
    return "\n".join([*lines, f"</{DSML}function_calls>"])


def _arguments_of(function: Mapping) -> Mapping[str, Any]:
    arguments = function.get("arguments") or {}
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except ValueError:
            arguments = None
    if not isinstance(arguments, Mapping):
        raise RequestError(
            f"the arguments of a call of {function['name']!r} are no JSON object; send them as they came", "messages"
        )
    return arguments


def _parameter_text(name: str, value: Any) -> str:
    is_text = isinstance(value, str)
    shown = value if is_text else json.dumps(value, ensure_ascii=False)
    return f'<{DSML}parameter name="{name}" string="{"true" if is_text else "false"}">{shown}</{DSML}parameter>'


def _results_text(messages: Sequence[Message], place: int, opening: str) -> str:
    """The results that begin here, all in one piece; nothing for one that belongs to those before it."""
    if messages[place - 1].get("role") == "tool" and place:
        return ""
    end = next((n for n in range(place, len(messages)) if messages[n].get("role") != "tool"), len(messages))
    results = messages[place:end]
    calls = messages[place - 1].get("tool_calls") if place else None
    if len(calls or ()) < len(results):
        raise RequestError(
            f"messages[{place}]: {len(results)} results of tools follow {len(calls or ())} calls; send the answer that "
            "called them before them",
            "messages",
        )
    order = [call.get("id") for call in calls or ()]
    own = [result.get("tool_call_id") for result in results]
    if len(set(own)) == len(own) and set(own) <= set(order):
        results = sorted(results, key=lambda result: order.index(result.get("tool_call_id")))
    lines = [f"<result>{result.get('content') or ''}</result>" for result in results]
    return "\n".join(["\n\n<function_results>", *lines, "</function_results>"]) + opening
