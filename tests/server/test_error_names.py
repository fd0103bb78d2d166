"""An error names a field that the client has sent or could send, whatever the engine calls it."""

import ast
import pickle
from pathlib import Path

import httpx
import pytest

import hyla
from hyla.engine import SamplingParams
from hyla.errors import FieldError, RequestError
from hyla.server.reading import translate
from hyla.server.schemas.chat import ChatRequest

NOT_FROM_A_ROUTE = {
    "key": "the server sets it",
    "mode": "of the admin routes, under this name",
    "name": "a variable: the fields that it stands for are listed on their own",
    "params": "of the engine's blocking calls",
    "request_id": "the server sets it",
}


def literal_params():
    """Every `param` that an error of the engine, a tokenizer or a chat template is made with, as the source says."""
    root, found = Path(hyla.__file__).parent, set()
    folders = [*root.glob("engine/**/*.py"), *root.glob("checkpoints/*.py"), root / "models" / "ids.py"]
    for path in folders:
        for node in ast.walk(ast.parse(path.read_text())):
            if not (isinstance(node, ast.Call) and getattr(node.func, "id", None) in ("RequestError", "FieldError")):
                continue
            given = [*node.args[1:2], *(own.value for own in node.keywords if own.arg == "param")]
            found |= {own.value if isinstance(own, ast.Constant) else own.id for own in given}
    return found


def test_every_name_of_the_engine_s_errors_is_a_field_of_each_request_or_none():
    names = literal_params() | set(SamplingParams.model_fields)
    assert {"prompt", "input", "max_tokens", "grammar", "thinking_budget"} <= names
    for schema, table in translate.CLIENT_NAMES.items():
        blank = schema.model_construct()
        for name in names:
            own = translate.client_name(blank, name)
            assert own is None or own in schema.model_fields
        assert all(set(own) <= set(schema.model_fields) for own in table.values()), "the table names no other field"


def test_every_field_that_a_route_gives_the_engine_has_a_name_there():
    sent = {*translate.SHARED, *translate.REQUEST_FIELDS, "prompt", "input", "messages"}
    by_route = {"max_tokens", "logprobs", "prompt_logprobs", "grammar", *translate.THINKING_MARKS, "stop"}
    routes = [schema for schema in translate.CLIENT_NAMES if "stream" in schema.model_fields]
    assert len(routes) == 4
    for schema in routes:
        given = {name for name in sent & set(schema.model_fields)} | {"prompt", "input", "messages"}
        given |= by_route - {"prompt_logprobs", "logprobs"} | ({"logprobs"} & set(schema.model_fields))
        if "stop" not in schema.model_fields and schema is not translate.MessageRequest:
            given -= {"stop"}
        assert [name for name in given if translate.client_name(schema.model_construct(), name) is None] == []
    assert literal_params() - set(NOT_FROM_A_ROUTE) <= sent | by_route | set(SamplingParams.model_fields)


CHAT = {"model": "scripted", "messages": [{"role": "user", "content": "hi"}]}
MESSAGES = CHAT | {"max_tokens": 5}
TEXT = {"model": "scripted", "prompt": "hi"}
RESPONSE = {"model": "scripted", "input": "hi"}
LONG = "y" * 3000
BAD_SCHEMA = {"type": "object", "properties": {"a": {"type": "string", "pattern": "(?<=x)y"}}}
TOOL = {"name": "f", "parameters": BAD_SCHEMA}
FORMAT = {"type": "json_schema", "json_schema": {"name": "s", "schema": BAD_SCHEMA}}
USER = {"role": "user", "content": LONG}


@pytest.mark.parametrize(
    ("path", "body", "param", "words"),
    [
        ("/v1/chat/completions", CHAT | {"messages": [USER]}, "messages", "and the context 2048"),
        ("/v1/chat/completions", CHAT | {"max_tokens": 5000}, "max_tokens", "max_tokens is 5000"),
        (
            "/v1/chat/completions",
            CHAT | {"max_completion_tokens": 5000},
            "max_completion_tokens",
            "max_completion_tokens is 5000",
        ),
        ("/v1/chat/completions", CHAT | {"stop_token_ids": [999]}, "stop_token_ids", "stop_token_ids holds 999"),
        ("/v1/chat/completions", CHAT | {"min_tokens": 9, "max_tokens": 3}, "min_tokens", "max_tokens = 3"),
        ("/v1/chat/completions", CHAT | {"response_format": FORMAT}, "response_format", "cannot be used"),
        ("/v1/chat/completions", CHAT | {"guided_regex": "("}, "guided_regex", "cannot be used"),
        (
            "/v1/chat/completions",
            CHAT | {"tools": [{"type": "function", "function": TOOL}], "tool_choice": "required"},
            "tools",
            "cannot be used",
        ),
        ("/v1/chat/completions", CHAT | {"n": 200}, "n", "n = 200"),
        ("/v1/completions", TEXT | {"prompt": LONG}, "prompt", "and the context 2048"),
        ("/v1/completions", TEXT | {"best_of": 200}, "best_of", "best_of = 200"),
        ("/v1/completions", TEXT | {"allowed_token_ids": [999]}, "allowed_token_ids", "holds 999"),
        ("/v1/completions", TEXT | {"structured_outputs": {"regex": "("}}, "structured_outputs", "cannot be used"),
        ("/v1/responses", RESPONSE | {"input": LONG}, "input", "and the context 2048"),
        ("/v1/responses", RESPONSE | {"max_output_tokens": 5000}, "max_output_tokens", "max_output_tokens is 5000"),
        (
            "/v1/responses",
            RESPONSE | {"max_output_tokens": 3, "min_tokens": 9},
            "min_tokens",
            "is more than max_output_tokens = 3",
        ),
        (
            "/v1/responses",
            RESPONSE | {"text": {"format": {"type": "json_schema", "name": "s", "schema": BAD_SCHEMA}}},
            "text",
            "cannot be used",
        ),
        (
            "/v1/responses",
            RESPONSE | {"model": "tiny", "input": [{"role": "robot", "content": "x"}]},
            "input",
            "no robots",
        ),
        ("/v1/embeddings", RESPONSE | {"input": [999]}, "input", "token id 999"),
        ("/v1/embeddings", RESPONSE | {"input": LONG}, "input", "3000 tokens"),
        ("/score", RESPONSE | {"input": [999]}, "input", "token id 999"),
        ("/score", RESPONSE | {"context": [999]}, "context", "token id 999"),
        ("/detokenize", {"model": "scripted", "tokens": [999]}, "tokens", "token id 999"),
        (
            "/tokenize",
            CHAT | {"model": "tiny", "messages": [{"role": "robot", "content": "x"}]},
            "messages",
            "no robots",
        ),
    ],
)
def test_an_error_names_the_client_s_own_field(live, scripted_live, path, body, param, words):
    url = live.url if body["model"] == "tiny" else scripted_live.url
    answer = httpx.post(url + path, json=body, headers={"x-api-key": "alice"}, timeout=60)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (400, param)
    assert words in error["message"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"stop_sequences": [""]}, "stop_sequences = "),
        ({"max_tokens": 5000}, "max_tokens is 5000"),
        ({"thinking": {"type": "enabled", "budget_tokens": 0}}, "thinking.budget_tokens = 0"),
    ],
)
def test_anthropic_s_errors_say_the_field_in_their_text(scripted_live, change, words):
    url = scripted_live.url + "/v1/messages"
    answer = httpx.post(url, json=MESSAGES | change, headers={"x-api-key": "alice"}, timeout=60)
    assert answer.status_code == 400 and words in answer.json()["error"]["message"]


def test_the_field_that_was_sent_is_meant():
    asked = ChatRequest(**CHAT)
    assert translate.client_name(asked, "max_tokens") == "max_completion_tokens"
    assert translate.client_name(ChatRequest(**CHAT, max_tokens=3), "max_tokens") == "max_tokens"
    assert translate.client_name(asked, "mode") is None and translate.client_name(asked, None) is None
    told = "the max_completion_tokens of max_tokens_per_day"
    with pytest.raises(RequestError, match=told) as caught, translate.in_client_names(asked):
        raise FieldError("the {max_tokens} of max_tokens_per_day", "max_tokens")
    assert caught.value.param == "max_completion_tokens"


def test_an_error_is_data_that_survives_a_pipe():
    """A value with braces is a value, not a name."""
    error = FieldError("{stop} = {value}: at most {limit}", "stop", "too_long", value="{max_tokens}", limit=3)
    for same in (error, pickle.loads(pickle.dumps(error))):
        assert (same.param, same.code, same.value, same.limit) == ("stop", "too_long", "{max_tokens}", 3)
        assert str(same) == "stop = {max_tokens}: at most 3"
        assert same.told({"stop": "stop_sequences"}) == "stop_sequences = {max_tokens}: at most 3"
