import json
import os
import signal
import socket
import threading
import time

import httpx
import pytest
from conftest import Live, make_engine, wait_until

from hyla.errors import ConfigError
from hyla.ops.native.build import BUILDS
from hyla.server import serve, single_app

GOOD = {"model": "tiny", "prompt": "abc", "max_tokens": 2}
CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}


def tool(name, parameters=None):
    function = {"name": name} | ({"parameters": parameters} if parameters is not None else {})
    return {"type": "function", "function": function}


def nested(depth):
    schema = {"type": "object"}
    for _ in range(depth):
        schema = {"properties": {"a": schema}}
    return schema


TOOL = tool("f")
LONG_SCHEMA = {"type": "object", "description": "y" * 3000}
SCHEMA_TOO_LARGE = {"type": "json_schema", "json_schema": {"name": "s", "schema": LONG_SCHEMA}}


def error_of(response, status):
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"} and error["message"]
    return error


@pytest.mark.parametrize(
    "change,param,words",
    [
        ({"max_tokens": 0}, "max_tokens", "max_tokens = 0"),
        ({"temperature": -0.5}, "temperature", "temperature = -0.5"),
        ({"temperature": "hot"}, "temperature", 'temperature = "hot"'),
        ({"top_p": 0}, "top_p", "top_p = 0"),
        ({"n": 0}, "n", "n = 0"),
        ({"prompt": ""}, "prompt", "is empty"),
        ({"prompt": []}, "prompt", "empty list"),
        ({"prompt": [[]]}, "prompt", "is empty"),
        ({"prompt": [5, 259]}, "prompt", "token id 259"),
        ({"prompt": [-3]}, "prompt", "token id -3"),
        ({"prompt": {"a": 1}}, "prompt", "prompt"),
        ({"prompt": None}, "prompt", "prompt"),
        ({"prompt": "y" * 600}, "prompt", "600 tokens and the context 512"),
        ({"max_tokens": 510}, "max_tokens", "leave 509 of the context's 512"),
        ({"prompt": ["a"] * 200}, "prompt", "200 prompts"),
        ({"stop": [""]}, "stop", "stop"),
        ({"seed": 1.5}, "seed", "seed = 1.5"),
        ({"logprobs": 21}, "logprobs", "logprobs = 21"),
        ({"stop_token_ids": [999]}, "stop_token_ids", "holds 999"),
        ({"temprature": 1}, "temprature", "temprature is not a field"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "only for stream"),
        ({"stream": True, "stream_options": {"usage": True}}, "stream_options", "stream_options.usage is not a field"),
        ({"suffix": "end"}, "suffix", 'suffix = "end" is not supported; this model continues texts'),
        ({"best_of": 4, "n": 5}, "best_of", "at least n = 5"),
        ({"best_of": 4, "stream": True}, "best_of", "not for streams"),
        ({"echo": True, "max_tokens": 0, "stream": True}, "max_tokens", "echo without stream"),
        ({"logit_bias": {"a": 1}}, "logit_bias", "must be token ids"),
        ({"prompt": ["a"] * 9, "n": 30}, "n", "more than the 256 choices"),
        ({"prompt_logprobs": 21}, "prompt_logprobs", "prompt_logprobs = 21"),
        ({"cache_salt": ""}, "cache_salt", "cache_salt"),
        ({"deadline_seconds": 0}, "deadline_seconds", "deadline_seconds = 0"),
        ({"structured_outputs": {"regex": "a", "choice": ["b"]}}, "structured_outputs", "sets 2 constraints"),
        ({"guided_json": "{"}, "guided_json", "not valid JSON"),
        ({"guided_json": [1]}, "guided_json", "guided_json"),
        ({"model": 3}, "model", "model = 3"),
    ],
)
def test_a_bad_completion_field_is_named(http, change, param, words):
    error = error_of(http.post("/v1/completions", json=GOOD | change), 400)
    assert error["param"] == param and words in error["message"]
    assert error["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    "change,param,words",
    [
        ({"messages": []}, "messages", "messages"),
        ({"messages": [{"content": "x"}]}, "messages", "role is missing"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages", "no robots"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages", "'image_url'"),
        ({"max_completion_tokens": 0, "max_tokens": None}, "max_completion_tokens", "max_completion_tokens = 0"),
        ({"max_completion_tokens": 5}, "max_completion_tokens", "max_tokens and max_completion_tokens differ"),
        ({"top_logprobs": 2}, "top_logprobs", "logprobs = true"),
        ({"tools": [{"type": "function"}]}, "tools", "tools[0].function is missing"),
        ({"tools": [TOOL, TOOL]}, "tools", "defines 'f' twice"),
        ({"tools": [TOOL | {"function": {"name": 'a"b'}}]}, "tools", "tools[0].function.name"),
        ({"tools": [tool(f"f{n}") for n in range(200)]}, "tools", "200 of them"),
        ({"guided_json": {"$ref": "http://elsewhere/x.json"}}, "guided_json", "only references inside the schema"),
        ({"tools": [tool("f", nested(40))]}, "tools", "nested deeper than 32"),
        ({"tool_choice": "required"}, "tool_choice", "there are no tools"),
        ({"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "g"}}}, "tool_choice", "'g'"),
        ({"tools": [TOOL], "tool_choice": "maybe"}, "tool_choice", "tool_choice"),
        ({"functions": [{"name": "f"}]}, "functions", "give them as tools"),
        ({"response_format": {"type": "xml"}}, "response_format", "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format", "needs json_schema.schema"),
        ({"response_format": SCHEMA_TOO_LARGE}, "response_format", "larger than 2000 bytes"),
        ({"audio": {"voice": "x"}}, "audio", "answers with text"),
        ({"continue_final_message": True, "messages": [{"role": "user"}]}, "continue_final_message", "last message"),
        ({"continue_final_message": True, "add_generation_prompt": True}, "continue_final_message", "exclude"),
        ({"chat_template_kwargs": {"tools": []}}, "chat_template_kwargs", "tools"),
        (
            {"messages": [{"role": "user", "content": [{"type": "text"}]}]},
            "messages",
            "messages[0].content[0] is a part of type 'text' without a text",
        ),
        ({"messages": [{"role": "assistant", "tool_calls": [{}]}]}, "messages", "function.name"),
        ({"chat_template_kwargs": {"messages": []}}, "chat_template_kwargs", "messages"),
        ({"prompt": "x"}, "prompt", "prompt is not a field"),
    ],
)
def test_a_bad_chat_field_is_named(http, change, param, words):
    error = error_of(http.post("/v1/chat/completions", json=CHAT | change), 400)
    assert error["param"] == param and words in error["message"]


@pytest.mark.parametrize(
    "body,words",
    [
        (b"{", "not valid JSON"),
        (b"", "not valid JSON"),
        (b"[1]", "a JSON list"),
        (b'{"temperature": NaN}', "NaN is not a JSON number"),
        (b"\xff\xfe{}", "not valid UTF-8"),
        (b'{"model": "tiny", "prompt": "\\ud800"}', "not valid UTF-8"),
        (b"[" * 19_000, "not valid JSON"),
        (b'{"a": ' + b"[" * 500 + b"]" * 500 + b"}", "nested deeper than 100"),
        (b'{"seed": ' + b"9" * 5000 + b"}", "not valid JSON"),
    ],
)
def test_a_broken_body_is_refused(http, body, words):
    error = error_of(http.post("/v1/completions", content=body), 400)
    assert words in error["message"]


def test_missing_fields_models_routes_and_methods_have_their_status(http):
    assert error_of(http.post("/v1/completions", json={"model": "tiny"}), 400)["param"] == "prompt"
    missing = error_of(http.post("/v1/completions", json=GOOD | {"model": "gpt"}), 404)
    assert missing["code"] == "model_not_found" and "'tiny'" in missing["message"]
    error_of(http.get("/v1/models/gpt"), 404)
    assert "/v1/nothing" in error_of(http.get("/v1/nothing"), 404)["message"]
    error_of(http.get("/v1/completions"), 405)


def test_a_body_over_the_limit_is_413_with_and_without_a_length(http):
    big = json.dumps(GOOD | {"prompt": "y" * 30_000}).encode()
    assert "20000 bytes" in error_of(http.post("/v1/completions", content=big), 413)["message"]
    pieces = (big[n : n + 1000] for n in range(0, len(big), 1000))
    error_of(http.post("/v1/completions", content=pieces), 413)


def test_after_all_of_it_the_server_still_serves(http, live):
    assert http.post("/v1/completions", json=GOOD).status_code == 200
    health = http.get("/health").json()
    assert health["device"] == "cpu" and health["arithmetic"] in ("native", "torch")
    assert health["numerics"] == "exact"
    assert (health["native_build"] in {found.name for found in BUILDS}) == (health["arithmetic"] == "native")
    assert health["threads"] >= 1
    assert health["status"] == "ok" and health["cache"]["pages"]["used"] == 0
    assert "tiny" in http.get("/").text


def test_a_client_that_leaves_frees_its_pages(live, monkeypatch):
    body = GOOD | {"max_tokens": 450, "ignore_eos": True}
    ledger = live.engine.cache.ledger
    with httpx.stream("POST", live.url + "/v1/completions", json=body | {"stream": True}, timeout=30) as answer:
        next(answer.iter_lines())
    assert wait_until(lambda: ledger.slots.used == 0 and live.served.worker.num_requests == 0)
    assert ledger.pages.used == 0

    step = live.engine.step
    monkeypatch.setattr(live.engine, "step", lambda: time.sleep(0.2) or step())  # 90 s for the whole answer
    text = json.dumps(body)
    with socket.create_connection(live.socket.getsockname()) as raw:
        head = f"Host: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: {len(text)}\r\n\r\n"
        raw.sendall(f"POST /v1/completions HTTP/1.1\r\n{head}{text}".encode())
        assert wait_until(lambda: ledger.slots.used == 1)
    assert wait_until(lambda: ledger.slots.used == 0 and live.served.worker.num_requests == 0)
    assert ledger.pages.used == 0


def test_without_a_template_chat_is_refused_and_completions_work():
    from tiny_text import byte_tokenizer

    engine = make_engine(byte_tokenizer(chat_template=None))
    with Live(single_app(engine, model_name="tiny")) as live, httpx.Client(base_url=live.url, timeout=60) as http:
        assert "no chat template" in error_of(http.post("/v1/chat/completions", json=CHAT), 400)["message"]
        assert http.post("/v1/completions", json=GOOD).status_code == 200


def test_a_key_is_asked_for_and_a_full_server_says_so():
    app = single_app(make_engine(), model_name="tiny", api_key="sécret", max_requests=0)
    with Live(app) as live, httpx.Client(base_url=live.url, timeout=60) as http:
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": b"Bearer \xff"}):
            answer = http.post("/v1/completions", json=GOOD, headers=headers)
            assert error_of(answer, 401)["code"] == "invalid_api_key"
        assert http.get("/health").status_code == 200
        with_key = {"Authorization": "Bearer sécret".encode()}
        full = http.post("/v1/completions", json=GOOD, headers=with_key)
        assert error_of(full, 503)["code"] == "overloaded" and full.headers["retry-after"] == "1"


def test_an_operator_that_fails_is_a_500_and_the_next_request_works(live, http, monkeypatch):
    def fail(*args):
        raise RuntimeError("broken operator")

    monkeypatch.setattr("hyla.models.recording.StepForward.__call__", fail)
    assert "broken operator" in error_of(http.post("/v1/completions", json=GOOD), 500)["message"]
    streamed = http.post("/v1/completions", json=GOOD | {"stream": True})
    assert streamed.status_code == 200 and "broken operator" in streamed.text
    monkeypatch.undo()
    assert http.post("/v1/completions", json=GOOD).status_code == 200


def test_a_port_in_use_is_one_clear_error():
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"cannot listen on 127.0.0.1:{port}: .*choose another --port"):
            serve(single_app(make_engine(), model_name="tiny"), port=port)


def test_serve_says_where_it_listens_and_stops_when_interrupted():
    seen = []

    def visit(url):
        seen.append(httpx.get(url + "/health", timeout=30).json()["model"])
        os.kill(os.getpid(), signal.SIGINT)

    visitors = []

    def ready(url):
        visitors.append(threading.Thread(target=visit, args=(url,)))
        visitors[0].start()

    serve(single_app(make_engine(), model_name="m"), port=0, ready=ready)
    visitors[0].join()
    assert seen == ["m"]


@pytest.mark.parametrize(
    ("method", "path", "status", "words"),
    [
        ("POST", "/chat/completions", 404, "did you mean /v1/chat/completions?"),
        ("POST", "/v1/score", 404, "did you mean /score?"),
        ("POST", "/v1/chat/completion", 404, "GET /openapi.json lists what there is"),
        ("GET", "/v1/chat/completions", 405, "/v1/chat/completions takes POST and not GET"),
    ],
)
def test_a_wrong_address_is_answered_with_the_way(http, method, path, status, words):
    assert words in error_of(http.request(method, path), status)["message"]


@pytest.mark.parametrize("change", [{"max_tokens": 510}, {"prompt": "y" * 600}])
def test_a_context_that_is_too_short_has_openai_s_code(http, change):
    assert error_of(http.post("/v1/completions", json=GOOD | change), 400)["code"] == "context_length_exceeded"


def test_an_object_of_very_many_names_is_refused_before_each_is_looked_at(http, live, monkeypatch):
    monkeypatch.setattr(live.service, "limits", live.service.limits.model_copy(update={"max_json_names": 20}))
    for body in (GOOD | {f"k{n}": 1 for n in range(20)}, CHAT | {"metadata": {f"k{n}": 1 for n in range(21)}}):
        error = error_of(http.post("/v1/completions", json=body), 400)
        assert error["message"] == "the body has an object of more than 20 names; send a smaller one"
