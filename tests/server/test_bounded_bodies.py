"""How much one body may hold: told by name, before anything is made of it, and never on the event loop."""

import json
import threading

import httpx
import pytest
from conftest import Live, make_engine
from tiny_text import byte_tokenizer
from tool_templates import SCRIPTED

from hyla.server import single_app
from hyla.server.reading import body as reading
from hyla.server.reading.conversation import read_arguments
from hyla.server.reading.counting import JsonCounter
from hyla.server.reading.lengths import check_length

LIMITS = {"max_json_containers": 200, "max_json_values": 3000, "max_messages": 20, "max_tools": 5}


@pytest.fixture(scope="module")
def small():
    engine = make_engine(byte_tokenizer(SCRIPTED), max_len=512)
    with Live(single_app(engine, model_name="tiny", **LIMITS)) as live:
        yield live


@pytest.fixture
def http(small):
    with httpx.Client(base_url=small.url, timeout=60) as client:
        yield client


def chat(**more):
    return {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 1, **more}


ROUTES = {
    "/v1/completions": {"prompt": "hi", "max_tokens": 1},
    "/v1/chat/completions": chat(),
    "/v1/responses": {"input": "hi", "max_output_tokens": 1},
    "/v1/responses/input_tokens": {"input": "hi"},
    "/v1/messages": chat(),
    "/v1/messages/count_tokens": {"messages": chat()["messages"]},
    "/v1/embeddings": {"input": "hi"},
    "/tokenize": {"prompt": "hi"},
    "/detokenize": {"tokens": [1]},
    "/score": {"input": "hi"},
    "/abort": {"request_id": "x"},
}
"""A small body of each route."""


@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.parametrize("filling", ["objects", "lists", "numbers", "texts", "names", "broken"])
def test_a_body_of_many_values_is_refused_before_they_are_made(http, path, filling, monkeypatch):
    pieces = {
        "objects": "[" + "{}," * 300 + "{}]",
        "lists": "[" + "[]," * 300 + "[]]",
        "numbers": "[" + "1," * 4000 + "1]",
        "texts": "[" + '"[{,\\"",' * 4000 + '""]',
        "names": "[" + ",".join(f'{{"a{n}": 1}}' for n in range(300)) + "]",
        "broken": "[" * 300,
    }
    raw = json.dumps(ROUTES[path])[:-1] + ', "metadata": ' + pieces[filling] + "}"
    monkeypatch.setattr(reading, "_load", None)
    answer = http.post(path, content=raw, headers={"Content-Type": "application/json"})
    assert answer.status_code == 413, answer.text
    assert "the body has more than" in answer.json()["error"]["message"]


@pytest.mark.parametrize("path", ROUTES)
def test_a_body_within_the_bounds_is_read(http, path):
    assert http.post(path, json=ROUTES[path]).status_code == (404 if path == "/abort" else 200)


@pytest.mark.parametrize(
    ("path", "name", "item", "most"),
    [
        ("/v1/chat/completions", "messages", {"role": "user", "content": "x"}, 20),
        ("/v1/messages", "messages", {"role": "user", "content": "x"}, 20),
        ("/v1/messages/count_tokens", "messages", {"role": "user", "content": "x"}, 20),
        ("/v1/responses", "input", {"role": "user", "content": "x"}, 20),
        ("/v1/responses/input_tokens", "input", {}, 20),
        ("/tokenize", "messages", {"role": "user", "content": "x"}, 20),
        ("/v1/chat/completions", "tools", {"type": "function", "function": {"name": "f"}}, 5),
        ("/v1/messages", "tools", {"name": "f", "input_schema": {}}, 5),
        ("/v1/responses", "tools", {"type": "function", "name": "f"}, 5),
        ("/v1/chat/completions", "documents", {"text": "x"}, 20),
    ],
)
def test_a_long_list_of_objects_is_refused_before_each_is_looked_at(http, path, name, item, most, monkeypatch):
    monkeypatch.setattr(reading, "parse", None)
    answer = http.post(path, json={**ROUTES[path], name: [item] * (most + 1)})
    assert answer.status_code == 400
    assert answer.json()["error"]["message"] == f"{name} holds {most + 1} of them; at most {most} go at once"


LONG = "ab " * 30_000
TOO_LONG = {
    "/v1/completions": [{"prompt": LONG}, {"prompt": ["a", LONG]}],
    "/v1/chat/completions": [chat(messages=[{"role": "user", "content": LONG}])],
    "/v1/responses": [{"input": LONG}, {"input": "a", "instructions": LONG}],
    "/v1/responses/input_tokens": [{"input": [{"role": "user", "content": LONG}]}],
    "/v1/messages": [chat(system=LONG)],
    "/v1/messages/count_tokens": [{"messages": [{"role": "user", "content": LONG}]}],
    "/v1/embeddings": [{"input": LONG}, {"input": ["a", LONG]}],
    "/tokenize": [{"prompt": LONG}, {"prompt": None, "messages": [{"role": "user", "content": LONG}]}],
    "/score": [{"input": LONG}, {"input": "a", "context": LONG}],
}


@pytest.mark.parametrize("path", TOO_LONG)
def test_a_text_that_cannot_fit_is_refused_before_it_is_encoded(small, http, path, monkeypatch):
    encode = small.served.tokenizer.encode

    def short_only(text, **more):
        assert len(text) < len(LONG), "it was encoded"
        return encode(text, **more)

    monkeypatch.setattr(small.served.tokenizer, "encode", short_only)
    for change in TOO_LONG[path]:
        answer = http.post(path, json={**ROUTES[path], **change, "model": "tiny"})
        error = answer.json()["error"]
        assert answer.status_code == 400 and "tokens of a context hold" in error["message"], answer.text
        assert error.get("code", "context_length_exceeded") == "context_length_exceeded"


def test_a_text_of_exactly_what_a_context_holds_is_not_refused():
    check_length("é" * 50, 100, 10)
    with pytest.raises(
        Exception, match="the prompt has 101 bytes or more, and the 10 tokens of a context hold at most 100"
    ):
        check_length("é" * 50 + "a", 100, 10)


def test_no_text_that_fits_is_longer_than_the_bound():
    """Tokens of every length: as many of the longest as the context has are taken."""
    from hyla.server.reading.lengths import most_text_bytes

    tokenizer = byte_tokenizer(SCRIPTED)
    longest = max(tokenizer.backend.get_vocab(), key=lambda text: len(text.encode()))
    assert most_text_bytes(tokenizer, 7) >= 7 * len(longest.encode())
    for text in ("é\U0001f600", "a", longest):
        most = most_text_bytes(tokenizer, len(tokenizer.encode(text)))
        check_length(text, most, 1)


def test_more_ids_than_a_context_are_not_made_a_text(http):
    answer = http.post("/detokenize", json={"tokens": [1] * 600})
    assert answer.status_code == 400
    assert answer.json()["error"]["message"] == "tokens holds 600 of them; at most a context, 512, go at once"


def test_a_large_body_is_read_off_the_event_loop(http, monkeypatch):
    seen, load = [], reading._load

    def noting(raw, limits):
        seen.append((len(raw), threading.current_thread()))
        return load(raw, limits)

    monkeypatch.setattr(reading, "_load", noting)
    small_one = http.post("/v1/completions", json={"prompt": "hi", "max_tokens": 1})
    large_one = http.post("/v1/completions", json={"prompt": LONG})
    assert (small_one.status_code, large_one.status_code) == (200, 400)
    (_, loop), (_, other) = seen
    assert loop is not other


def test_arguments_of_very_many_values_stay_text():
    assert read_arguments('{"a": [' + "{}," * 40_000 + "{}]}") is None
    assert read_arguments('{"a": "' + "[{,\\\\" * 40_000 + '"}') == {"a": "[{,\\" * 40_000}


@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.parametrize("number", ["1e999", "-1e999", "[1e400]", "NaN", "Infinity", "1" * 5000])
def test_a_number_that_no_answer_could_repeat_is_refused(http, path, number):
    raw = json.dumps(ROUTES[path])[:-1] + f', "metadata": {{"a": {number}}}}}'
    answer = http.post(path, content=raw, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400 and answer.json()["error"]["message"], answer.text


NAMES = (
    "self", "messages", "tools", "documents", "add_generation_prompt", "context", "environment", "names", "loop",
    "caller", "varargs", "kwargs", "range", "dict", "cycler", "raise_exception", "strftime_now", "bos_token", "", "a b",
    "__class__", "args", "role", "template", "request", "render", "class", "é\0",
)  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_no_name_for_the_template_is_a_failure_of_the_server(http, name):
    for path in ("/v1/chat/completions", "/v1/responses", "/v1/messages", "/v1/messages/count_tokens"):
        for value in (1, "x", None, []):
            answer = http.post(path, json={**ROUTES[path], "chat_template_kwargs": {name: value}})
            assert answer.status_code in (200, 400), (path, value, answer.text)


def test_what_is_counted_is_what_is_there():
    counter = JsonCounter()
    for piece in (b'{"a\\', b'"[{": [1, "\\\\', b'", {}]', b', "b": "]"}'):
        counter.add(piece)
    assert (counter.num_containers, counter.num_values) == (3, 7)


@pytest.mark.parametrize("name", ["metadata", "user"])
def test_what_an_answer_repeats_is_small(http, name):
    body = ROUTES["/v1/responses"]
    kept = http.post("/v1/responses", json={**body, name: {"a": "x" * 60_000}})
    assert kept.status_code == 200 and kept.json()[name] == {"a": "x" * 60_000}
    refused = http.post("/v1/responses", json={**body, name: {"a": "x" * 70_000}})
    assert refused.status_code == 400 and refused.json()["error"]["param"] == name
    assert f"{name} has more than 65536 bytes" in refused.json()["error"]["message"]


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages"])
def test_an_error_repeats_little_of_what_was_sent(http, path):
    answer = http.post(path, json={**ROUTES[path], "model": "x" * 1_000_000})
    assert answer.status_code == 404 and len(answer.content) < 10_000
    assert answer.json()["error"]["message"].endswith("this server has 'tiny'")
