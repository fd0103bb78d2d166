"""Tools may hang, crash and be called wrongly: the model reads why, and the next call is made."""

import json

import pytest

from hyla.errors import ConfigError
from hyla.rl.tools.config import ToolsConfig
from hyla.rl.tools.schemas import schema_of
from hyla.rl.tools.tools import Tools

FILE = '''
import math, os, sys, time
from typing import Literal, Optional
from collections import OrderedDict

LIMIT = 3

def add(a: int, b: int = 1) -> int:
    """The sum of two numbers.

    b is 1 where it is left out."""
    print("nobody reads this")
    return a + b

def look(place: str, kind: Literal["hill", "sea"], near: list[float] | None = None, *, more: dict[str, bool] = {}, x=0):
    return {"place": place, "kind": kind, "near": near, "more": more, "x": x}

def do(code: str):
    return eval(code)

def _own(): return 1

class Thing: pass
'''


@pytest.fixture(scope="module")
def tools(tmp_path_factory):
    file = tmp_path_factory.mktemp("tools") / "tools.py"
    file.write_text(FILE)
    with Tools(ToolsConfig(file=str(file), timeout_seconds=30.0, result_chars=40)) as tools:
        yield tools


def call(tools, name, **arguments):
    return tuple(tools.call(name, json.dumps(arguments)))


def test_functions_are_told_by_their_signature_and_docstring(tools):
    assert tools.use.names == ("add", "look", "do")
    add, look, _ = tools.use.for_template()
    assert add == {
        "type": "function",
        "function": {
            "name": "add",
            "description": "The sum of two numbers.\n\nb is 1 where it is left out.",
            "parameters": {
                "type": "object",
                "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
                "required": ["a"],
            },
        },
    }
    assert look["function"]["parameters"] == {
        "type": "object",
        "properties": {
            "place": {"type": "string"},
            "kind": {"enum": ["hill", "sea"]},
            "near": {"anyOf": [{"type": "array", "items": {"type": "number"}}, {"type": "null"}]},
            "more": {"type": "object", "additionalProperties": {"type": "boolean"}},
            "x": {},
        },
        "required": ["place", "kind"],
    }
    assert "description" not in look["function"]


def test_results_are_texts_or_json(tools):
    assert call(tools, "add", a=2, b=3) == ("5", False)
    assert call(tools, "do", code="'as\\nit is'") == ("as\nit is", False)
    assert call(tools, "do", code="{'é': [None, True]}") == ('{"é": [null, true]}', False)
    assert call(tools, "do", code="'x' * 41") == ("x" * 40 + "\n[cut off: 41 characters]", False)
    assert call(tools, "do", code="chr(0xd800)") == ("?", False)
    assert tools.call("do", '{"code": "os.environ.get(\\"PYTHONHASHSEED\\")"}') == ("0", False)


@pytest.mark.parametrize(
    "name, arguments, said",
    [
        ("sub", "{}", "error: there is no tool 'sub'; the tools are add, look, do"),
        ("add", '{"a": 1', 'error: the arguments of add are no JSON object: {"a": 1'),
        ("add", "[1, 2]", "error: the arguments of add are no JSON object: [1, 2]"),
        ("add", '{"a": NaN}', "error: the arguments of add are no JSON object"),
        ("add", "", "error: it cannot be called so: missing a required argument: 'a'"),
        ("add", '{"a": 1, "c": 2}', "error: it cannot be called so: got an unexpected keyword argument 'c'"),
        ("add", '{"a": "1"}', "error: raised TypeError: can only concatenate str"),
        ("do", '{"code": "1 / 0"}', "error: raised ZeroDivisionError: division by zero (line 19)"),
        ("do", '{"code": "sys.exit()"}', "error: raised SystemExit"),
        ("do", '{"code": "os._exit(3)"}', "error: its process ended with 3"),
        ("do", '{"code": "{1}"}', "error: returned {1}, which is no text and no JSON"),
    ],
)
def test_what_goes_wrong_is_said_and_the_next_call_is_made(tools, name, arguments, said):
    text, is_error = tools.call(name, arguments)
    assert text.startswith(said) and is_error
    assert call(tools, "add", a=1) == ("2", False)


def test_a_tool_that_hangs_is_ended_and_the_next_call_is_made(tools):
    with Tools(ToolsConfig(file=tools.config.file, timeout_seconds=1.0)) as own:
        assert call(own, "do", code="time.sleep(60)") == ("error: took longer than 1 s", True)
        own._pool.all[0]._seconds = 30.0  # the next one is about being made, not about a busy machine
        assert call(own, "add", a=1) == ("2", False)


@pytest.mark.parametrize(
    "text, message",
    [
        ("def f(:\n", "line 1 is no Python"),
        ("import nothing_here\n", "running the file raised ModuleNotFoundError"),
        ("x = 1\n", "the file has no function; write some whose names do not begin with _"),
        ("from json import loads\n", "the file has no function"),
        ("async def f(): ...\n", "f is asynchronous"),
        ("def f(*a): ...\n", r"f takes \*a, and a model gives arguments by name"),
        ("def f(a: complex): ...\n", "the argument a of f is annotated <class 'complex'>, .*; write one of str, int"),
        ("def f(a: 'nothing'): ...\n", "the annotations of f cannot be read"),
    ],
)
def test_a_file_that_has_no_tools_is_an_error_at_once(tmp_path, text, message):
    (tmp_path / "own.py").write_text(text)
    with pytest.raises(ConfigError, match=rf"^tools {tmp_path}/own.py: .*{message}"):
        Tools(ToolsConfig(file=str(tmp_path / "own.py")))


def test_a_config_that_cannot_be_is_named():
    with pytest.raises(ConfigError, match=r"write FILE\.py"):
        ToolsConfig(file="tools.toml")
    with pytest.raises(ConfigError, match="turns"):
        ToolsConfig(file="a.py", turns=3)


def test_kinds_of_annotations():
    assert schema_of(None) == {"type": "null"}
    assert schema_of(dict) == {"type": "object"}
    assert schema_of(str | int) == {"anyOf": [{"type": "string"}, {"type": "integer"}]}
