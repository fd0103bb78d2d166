"""A body that does not fit its schema is answered with the one place and the one reason that help."""

from pathlib import Path

import pytest
from pydantic import ValidationError

import hyla.server.schemas
from hyla.errors import RequestError
from hyla.server.reading.body import parse
from hyla.server.schemas.chat import ChatRequest
from hyla.server.schemas.completions import CompletionRequest
from hyla.server.schemas.messages import MessageRequest
from hyla.server.schemas.responses import ResponseRequest

USER = {"role": "user", "content": "x"}
CHAT = (ChatRequest, {"model": "m", "messages": [USER]})
TEXT = (CompletionRequest, {"model": "m", "prompt": "x"})
MESSAGE = (MessageRequest, {"model": "m", "messages": [USER], "max_tokens": 3})
RESPONSE = (ResponseRequest, {"model": "m", "input": "x"})
TEXT_OR_LIST = "Input should be a valid string or a valid list"


@pytest.mark.parametrize(
    ("form", "change", "said"),
    [
        (CHAT, {"messages": "hello"}, 'messages = "hello": Input should be a valid list'),
        (CHAT, {"messages": ["hello"]}, 'messages[0] = "hello": Input should be an object'),
        (CHAT, {"messages": [USER, {"content": "x"}]}, "messages[1].role is missing; add it"),
        (CHAT, {"messages": [USER | {"content": 5}]}, f"messages[0].content = 5: {TEXT_OR_LIST}"),
        (CHAT, {"messages": [USER | {"content": ["x"]}]}, 'messages[0].content[0] = "x": Input should be an object'),
        (CHAT, {"stop": 5}, f"stop = 5: {TEXT_OR_LIST}"),
        (CHAT, {"stop": ["a", 5]}, "stop[1] = 5: Input should be a valid string"),
        (CHAT, {"tools": [{"type": "function"}]}, "tools[0].function is missing; add it"),
        (CHAT, {"tools": [{"type": 5}]}, "tools[0].type = 5: Input should be 'function'"),
        (CHAT, {"tools": [{"type": "x" * 65}]}, "String should have at most 64 characters"),
        (CHAT, {"tool_choice": "maybe"}, "Input should be 'none', 'auto' or 'required' or an object"),
        (CHAT, {"tool_choice": {"type": "function"}}, "tool_choice.function is missing; add it"),
        (CHAT, {"tool_choice": {"type": "custom"}}, "Input should be 'function' or 'allowed_tools'"),
        (
            CHAT,
            {"tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "x", "tools": []}}},
            "tool_choice.allowed_tools.mode = \"x\": Input should be 'auto' or 'required'",
        ),
        (CHAT, {"stream_options": {"usage": True}}, "stream_options.usage is not a field of this request"),
        (CHAT, {"response_format": "json"}, 'response_format = "json": Input should be an object'),
        (TEXT, {"prompt": [1, "a"]}, 'prompt[1] = "a": Input should be a valid integer'),
        (TEXT, {"prompt": {"a": 1}}, TEXT_OR_LIST),
        (TEXT, {"prompt": [[1], [2, "x"]]}, 'prompt[1][1] = "x": Input should be a valid integer'),
        (
            MESSAGE,
            {"tools": [{"type": "function", "name": "f"}]},
            "tools[0].type = \"function\": Input should be 'custom'",
        ),
        (MESSAGE, {"tools": [{"name": "f"}]}, "tools[0].input_schema is missing; add it"),
        (MESSAGE, {"messages": [USER | {"content": [{"text": "x"}]}]}, "messages[0].content[0].type is missing"),
        (MESSAGE, {"context_management": {"edits": [{"type": "x"}]}}, "conversations are never cut"),
        (RESPONSE, {"input": ["x"]}, 'input[0] = "x": Input should be an object'),
        (RESPONSE, {"tools": [{"type": "namespace", "name": "n", "tools": [{}]}]}, "tools[0].tools[0].type is missing"),
        (RESPONSE, {"tool_choice": {"type": "web_search"}}, "Input should be 'function' or 'allowed_tools'"),
        (RESPONSE, {"tool_choice": {"type": "function"}}, "tool_choice.name is missing; add it"),
        (RESPONSE, {"include": ["reasoning"]}, 'include[0] = "reasoning": Input should be '),
        (RESPONSE, {"text": {"format": {"type": "xml"}}}, "text.format.type = \"xml\": Input should be 'text'"),
    ],
)
def test_a_mistake_is_told_by_its_place(form, change, said):
    schema, good = form
    parse(schema, good)
    with pytest.raises(RequestError) as caught:
        parse(schema, good | change)
    assert said in str(caught.value) and caught.value.param == next(iter(change))


def test_values_that_ask_for_nothing_pass():
    schema, good = MESSAGE
    for edits in ([], [{"type": "clear_thinking_20251015", "keep": "all"}]):
        parse(schema, good | {"context_management": {"edits": edits}})


@pytest.mark.parametrize(
    ("form", "change"),
    [
        (TEXT, {"prompt": [{}] * 50_000}),
        (TEXT, {"stop_token_ids": ["x"] * 50_000}),
        (CHAT, {"messages": [1] * 50_000}),
        (CHAT, {"messages": [USER | {"content": [1] * 50_000}]}),
        (MESSAGE, {"system": [1] * 50_000}),
        (RESPONSE, {"input": [5] * 50_000}),
    ],
)
def test_many_mistakes_are_not_all_collected(form, change):
    schema, good = form
    with pytest.raises(ValidationError) as caught:
        schema.model_validate(good | change)
    assert caught.value.error_count() < 10


def test_every_list_of_a_body_ends_at_its_first_mistake():
    for path in Path(hyla.server.schemas.__file__).parent.glob("*.py"):
        allowed = 1 if path.name == "fields.py" else 0
        annotations = [line for line in path.read_text().splitlines() if "list[" in line and "->" not in line]
        assert len(annotations) == allowed, path.name
