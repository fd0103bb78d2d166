"""Embeddings, tokens, scores; abort and the admin routes; readiness."""

import math
import struct

import httpx
import openai
import pytest
from conftest import wait_until

from hyla.engine import EngineThread


@pytest.fixture
def http(scripted_live):
    with httpx.Client(base_url=scripted_live.url, timeout=120, headers={"Authorization": "Bearer alice"}) as client:
        yield client


@pytest.fixture
def client(scripted_live):
    with openai.OpenAI(base_url=scripted_live.url + "/v1", api_key="alice", max_retries=0, timeout=120) as client:
        yield client


def post(http, path, body, status=200):
    answer = http.post(path, json=body)
    assert answer.status_code == status, answer.text
    return answer.json()


def test_embeddings_through_the_client(client):
    floats = client.embeddings.create(model="scripted", input=["one", "two"], encoding_format="float")
    default = client.embeddings.create(model="scripted", input=["one", "two"])  # base64 on the wire
    assert [own.index for own in floats.data] == [0, 1] and floats.usage.prompt_tokens == 6
    for own, other in zip(floats.data, default.data):
        assert own.embedding == pytest.approx(list(other.embedding), rel=1e-6)
        assert math.hypot(*own.embedding) == pytest.approx(1.0, abs=1e-5)
    ids = client.embeddings.create(model="scripted", input=list(b"one"), encoding_format="float")
    assert ids.data[0].embedding == floats.data[0].embedding
    short = client.embeddings.create(model="scripted", input="one", dimensions=5, encoding_format="float")
    assert len(short.data[0].embedding) == 5 and math.hypot(*short.data[0].embedding) == pytest.approx(1.0, abs=1e-5)


def test_pooling_and_scaling_can_be_chosen(http):
    ask = {"model": "scripted", "input": "one"}
    plain = post(http, "/v1/embeddings", ask | {"normalize": False})["data"][0]["embedding"]
    last = post(http, "/v1/embeddings", ask | {"pooling": "last"})["data"][0]["embedding"]
    scaled = post(http, "/v1/embeddings", ask)["data"][0]["embedding"]
    length = math.hypot(*plain)
    assert scaled == pytest.approx([value / length for value in plain], rel=1e-5) and last != scaled


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"input": []}, "empty list"),
        ({"input": ""}, "is empty"),
        ({"input": [999]}, "token id 999"),
        ({"input": ["a"] * 200}, "200 texts"),
        ({"input": "y" * 3000}, "3000 tokens and the context 2048"),
        ({"dimensions": 4000}, "dimensions = 4000"),
        ({"pooling": "max"}, "pooling"),
    ],
)
def test_a_bad_embedding_request_is_named(http, change, words):
    body = post(http, "/v1/embeddings", {"model": "scripted", "input": "a"} | change, 400)
    assert words in body["error"]["message"]


def test_tokens_there_and_back(http):
    made = post(http, "/tokenize", {"model": "scripted", "prompt": "hé", "return_token_strs": True})
    assert made["tokens"] == list("hé".encode()) and made["count"] == 3 and len(made["token_strs"]) == 3
    assert post(http, "/detokenize", {"model": "scripted", "tokens": made["tokens"]})["prompt"] == "hé"
    messages = [{"role": "user", "content": "x"}]
    chat = post(http, "/tokenize", {"model": "scripted", "messages": messages})
    text = post(http, "/detokenize", {"model": "scripted", "tokens": chat["tokens"]})["prompt"]
    assert text == "<|im_start|>user\nx<|im_end|>\n<|im_start|>assistant\n"
    assert "name one" in post(http, "/tokenize", {"prompt": "x"}, 400)["error"]["message"]
    both = {"model": "scripted", "prompt": "x", "messages": messages}
    assert "either" in post(http, "/tokenize", both, 400)["error"]["message"]
    assert "token id -1" in post(http, "/detokenize", {"model": "scripted", "tokens": [-1]}, 400)["error"]["message"]


def test_scores_after_a_context(http, client):
    ask = {"model": "scripted", "context": "ab", "input": ["cd", "e"], "top_logprobs": 1}
    scored = post(http, "/score", ask)["data"]
    echoed = client.completions.create(model="scripted", prompt="abcd", echo=True, logprobs=0, max_tokens=1)
    assert scored[0]["token_logprobs"] == echoed.choices[0].logprobs.token_logprobs[2:4]
    assert scored[0]["logprob"] == math.fsum(scored[0]["token_logprobs"])
    assert [entry["tokens"] for entry in scored] == [[99, 100], [101]]
    assert str(scored[0]["tokens"][0]) in scored[0]["top_logprobs"][0]
    alone = post(http, "/score", {"model": "scripted", "input": "cd"})["data"][0]
    assert alone["token_logprobs"][0] is None and alone["logprob"] == alone["token_logprobs"][1]


def test_base64_vectors_are_little_endian_floats(http):
    import base64

    ask = {"model": "scripted", "input": "one"}
    plain = post(http, "/v1/embeddings", ask)["data"][0]["embedding"]
    coded = post(http, "/v1/embeddings", ask | {"encoding_format": "base64"})["data"][0]["embedding"]
    raw = base64.b64decode(coded)
    assert struct.unpack(f"<{len(raw) // 4}f", raw) == pytest.approx(plain, rel=1e-6)


def test_an_answer_is_aborted_by_its_id_and_only_by_its_client(http, scripted_live):
    body = {"model": "scripted", "prompt": "x", "max_tokens": 1500, "ignore_eos": True, "stream": True}
    with http.stream("POST", "/v1/completions", json=body) as stream:
        lines = stream.iter_lines()
        next(lines)
        name = stream.headers["x-request-id"]
        other = httpx.post(
            scripted_live.url + "/abort", json={"request_id": name}, headers={"x-api-key": "bob"}, timeout=60
        )
        assert other.status_code == 404
        assert post(http, "/abort", {"request_id": name})["aborted"]
        rest = "".join(lines)
        assert "was cancelled" in rest and rest.endswith("data: [DONE]")
    assert wait_until(lambda: scripted_live.engine.cache.ledger.slots.used == 0)
    assert post(http, "/abort", {"request_id": name}, 404)["error"]["code"] == "request_not_found"


def test_admin_routes_need_their_own_key(http, scripted_live, monkeypatch):
    assert post(http, "/admin/pause", {"model": "scripted"}, 403)["error"]["code"] == "not_admin"
    called = []
    for method in ("pause", "resume", "sleep", "wake", "update_weights", "status"):
        monkeypatch.setattr(EngineThread, method, lambda self, _m=method, **f: called.append((_m, f)), raising=False)
    with httpx.Client(base_url=scripted_live.url, headers={"Authorization": "Bearer boss"}) as boss:
        assert post(boss, "/admin/pause", {"model": "scripted", "mode": "abort"})["action"] == "pause"
        post(boss, "/admin/weights", {"model": "scripted", "source": "/m"})
        post(boss, "/admin/wake", {"model": "other"})
        post(boss, "/admin/explode", {"model": "other"}, 404)
        assert "source is missing" in post(boss, "/admin/weights", {"model": "other"}, 400)["error"]["message"]
    assert called == [("pause", {"mode": "abort"}), ("update_weights", {"source": "/m"}), ("wake", {})]


def test_readiness_and_health(http, scripted_live, monkeypatch):
    assert http.get("/ready").status_code == 200
    health = http.get("/health").json()
    assert set(health["models"]) == {"scripted", "other"}
    assert health["models"]["scripted"]["parsers"] == {"tools": "hermes", "reasoning": "think"}
    monkeypatch.setattr(scripted_live.service, "is_draining", True)
    assert http.get("/ready").status_code == 503 and http.get("/health").json()["status"] == "draining"
    refused = http.post("/v1/completions", json={"model": "other", "prompt": "x"})
    assert refused.status_code == 503 and refused.headers["retry-after"]


def test_a_key_has_its_limit(scripted_live, http, monkeypatch):
    limits = scripted_live.service.limits.model_copy(update={"max_requests_per_key": 1})
    monkeypatch.setattr(scripted_live.service, "limits", limits)
    body = {"model": "scripted", "prompt": "x", "max_tokens": 1500, "ignore_eos": True, "stream": True}
    with http.stream("POST", "/v1/completions", json=body) as stream:
        lines = stream.iter_lines()
        next(lines)
        short = {"model": "other", "prompt": "x", "max_tokens": 1}
        url = scripted_live.url + "/v1/completions"
        alice, bob = (httpx.post(url, json=short, headers={"x-api-key": own}, timeout=60) for own in ("alice", "bob"))
        assert alice.status_code == 429 and alice.headers["retry-after"] == "1"
        assert bob.status_code == 200
    assert wait_until(lambda: not scripted_live.service.running)
