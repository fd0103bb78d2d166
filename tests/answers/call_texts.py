"""Calls as the tagged formats write them, whole or with parts missing, and what is read from them."""

import json
from itertools import pairwise

from test_parsers import parser_of, read

from hyla.answers.tools import ToolUse
from hyla.server.schemas.tools import FunctionTool

TAGGED = ("qwen_xml", "mimo", "minimax_m2", "deepseek_v32")
DSML = "｜DSML｜"


def tool(name, properties, **more):
    return FunctionTool(name=name, parameters={"type": "object", "properties": properties, **more})


def opening(name, call):
    """What starts a call."""
    return {
        "qwen_xml": f"<tool_call>\n<function={call}>\n",
        "mimo": f"<tool_call>\n<function={call}>\n",
        "minimax_m2": f'<minimax:tool_call>\n<invoke name="{call}">\n',
        "deepseek_v32": f'<{DSML}function_calls>\n<{DSML}invoke name="{call}">\n',
    }[name]


def argument(name, key, text, *, is_closed=True, says_string=None):
    """One parameter. says_string: what DSML's tag says of it; None: that it is a string."""
    says = "false" if says_string is False else "true"
    start, line, end = {
        "qwen_xml": (f"<parameter={key}>\n", "\n", "</parameter>\n"),
        "mimo": (f"<parameter={key}>", "", "</parameter>\n"),
        "minimax_m2": (f'<parameter name="{key}">', "", "</parameter>\n"),
        "deepseek_v32": (f'<{DSML}parameter name="{key}" string="{says}">', "", f"</{DSML}parameter>\n"),
    }[name]
    return start + text + line + (end if is_closed else "" if line else "\n")


def closing(name):
    """What ends a call: (the call's tag, the section's)."""
    return {
        "qwen_xml": ("</function>\n", "</tool_call>"),
        "mimo": ("</function>\n", "</tool_call>"),
        "minimax_m2": ("</invoke>\n", "</minimax:tool_call>"),
        "deepseek_v32": (f"</{DSML}invoke>\n", f"</{DSML}function_calls>"),
    }[name]


def whole(name, call, *arguments):
    return opening(name, call) + "".join(arguments) + "".join(closing(name))


def read_calls(name, text, *tools, prompt=""):
    """(text, reasoning, [(name, arguments)]), the same whole, by characters and in pieces of three sizes."""
    use = ToolUse(tools, "auto")
    found = read(parser_of(name, prompt, use), [text])
    for size in (1, 3, 7, 20):
        pieces = [text[a:b] for a, b in pairwise([*range(0, len(text), size), len(text)])]
        assert read(parser_of(name, prompt, use), pieces) == found, size
    return found[0], found[1], [(own[0], strict(own[1])) for own in found[2]]


def strict(text):
    """The value of JSON text as every language reads it: no NaN. Text that is none stays."""

    def refuse(constant):
        raise ValueError(constant)

    try:
        return json.loads(text, parse_constant=refuse)
    except ValueError:
        return text
