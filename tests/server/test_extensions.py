"""Fields that other engines have and OpenAI does not, through the official client."""

import json
import math

import httpx
import openai
import pytest
import torch

from hyla.engine import EmbedCommand, SamplingParams, TokenEvent, TokenLogprob
from hyla.ops.exact.logprobs import of_tokens
from hyla.server.shapes.choice import Choice
from hyla.server.shapes.completions import CompletionShape


@pytest.fixture
def client(live):
    with openai.OpenAI(base_url=live.url + "/v1", api_key="none", max_retries=0, timeout=120) as client:
        yield client


FIELDS = {"model": "tiny", "max_tokens": 5, "temperature": 0}


def expected_logprobs(live, ids):
    """Of every token but the first, from the model's own logits."""
    with torch.inference_mode():
        (logits_TV,) = live.engine.model.logits([ids])
    logprobs = torch.log_softmax(logits_TV.double(), -1)
    return [float(logprobs[n, token]) for n, token in enumerate(ids[1:])]


def test_echo_gives_the_prompt_and_its_log_probabilities(client, live):
    prompts = [list(b"abcd"), list(b"hi")]
    done = client.completions.create(prompt=prompts, echo=True, logprobs=2, n=2, **FIELDS)
    plain = client.completions.create(prompt=prompts, logprobs=2, n=2, **FIELDS)
    for choice, own, prompt in zip(done.choices, plain.choices, ("abcd", "abcd", "hi", "hi")):
        assert choice.text == prompt + own.text
        assert choice.logprobs.token_logprobs[len(prompt) :] == own.logprobs.token_logprobs
        assert choice.logprobs.token_logprobs[0] is None and choice.logprobs.top_logprobs[0] is None
        assert choice.logprobs.text_offset == list(range(len(choice.logprobs.tokens)))
        told = choice.logprobs.token_logprobs[1 : len(prompt)]
        assert told == pytest.approx(expected_logprobs(live, list(prompt.encode())), rel=1e-5)


def test_echo_alone_computes_no_token(client):
    done = client.completions.create(prompt="abcd", echo=True, logprobs=0, **(FIELDS | {"max_tokens": 0}))
    assert done.choices[0].text == "abcd" and len(done.choices[0].logprobs.tokens) == 4
    assert (done.usage.prompt_tokens, done.usage.completion_tokens) == (4, 0)


def test_a_streamed_echo_equals_the_whole_one(client):
    fields = {"prompt": ["abc", "xy"], "echo": True, "logprobs": 1, "extra_body": {"return_token_ids": True}} | FIELDS
    whole = client.completions.create(**fields)
    texts, logprobs, ids = ["", ""], [[], []], [[], []]
    for chunk in client.completions.create(**fields, stream=True):
        (choice,) = chunk.choices
        texts[choice.index] += choice.text
        logprobs[choice.index] += choice.logprobs.token_logprobs if choice.logprobs else []
        ids[choice.index] += getattr(choice, "token_ids", [])
    assert texts == [choice.text for choice in whole.choices]
    assert logprobs == [choice.logprobs.token_logprobs for choice in whole.choices]
    assert ids == [choice.token_ids for choice in whole.choices] and all(len(own) == 5 for own in ids)
    assert [choice.prompt_token_ids for choice in whole.choices] == [[97, 98, 99], [120, 121]]


def test_prompt_logprobs_are_named_by_token_id(client, live):
    body = {"prompt_logprobs": 2, "return_token_ids": True}
    done = client.completions.create(prompt="abc", extra_body=body, **FIELDS).choices[0].model_dump()
    assert done["prompt_token_ids"] == [97, 98, 99] and len(done["token_ids"]) == 5
    first, *rest = done["prompt_logprobs"]
    assert first is None
    for own, byte, logprob in zip(rest, b"bc", expected_logprobs(live, list(b"abc"))):
        assert own[str(byte)]["logprob"] == pytest.approx(logprob, rel=1e-5)
        ranks = sorted(entry["rank"] for entry in own.values())
        assert ranks[:2] == [1, 2] and len(own) in (2, 3)
        assert own[str(byte)]["decoded_token"] == chr(byte)


def test_a_sampled_token_is_told_with_its_log_probability_after_the_temperature(client, live):
    asked = {"sampled_logprobs": True, "prompt_logprobs": 0, "return_token_ids": True, "ignore_eos": True}
    fields = FIELDS | {"temperature": 0.7, "seed": 3, "extra_body": asked}
    whole = client.completions.create(prompt="abc", logprobs=1, **fields).choices[0].model_dump()
    ids = [*b"abc", *whole["token_ids"]]
    with torch.inference_mode():
        (rows,) = live.engine.model.logits([ids[:-1]])
    expected = of_tokens(rows, torch.tensor(ids[1:]), 0.7).tolist()
    assert whole["logprobs"]["sampled_logprobs"] == expected[2:]
    prompt = [own[str(byte)]["sampled_logprob"] for own, byte in zip(whole["prompt_logprobs"][1:], b"bc")]
    assert prompt == expected[:2]
    chunks = client.completions.create(prompt="abc", logprobs=1, stream=True, **fields)
    told = [chunk.choices[0].model_dump() for chunk in chunks]
    assert [v for one in told if one["logprobs"] for v in one["logprobs"].get("sampled_logprobs", [])] == expected[2:]
    plain = client.completions.create(prompt="abc", logprobs=1, **FIELDS).choices[0].model_dump()
    assert "sampled_logprobs" not in plain["logprobs"]
    with pytest.raises(openai.BadRequestError, match="sampled_logprobs needs a temperature"):
        client.completions.create(prompt="abc", logprobs=1, extra_body={"sampled_logprobs": True}, **FIELDS)


def test_a_chat_s_tokens_are_told_with_theirs_too(client):
    body = {"sampled_logprobs": True, "ignore_eos": True}
    fields = FIELDS | {"temperature": 1.0, "seed": 3, "logprobs": True, "messages": [{"role": "user", "content": "x"}]}
    (choice,) = client.chat.completions.create(extra_body=body, **fields).choices
    # With nothing else set, it is the model's own.
    assert [entry.sampled_logprob for entry in choice.logprobs.content] == [e.logprob for e in choice.logprobs.content]
    assert len(choice.logprobs.content) == 5
    (choice,) = client.chat.completions.create(extra_body=body, top_p=0.5, **fields).choices
    assert all(entry.sampled_logprob > entry.logprob for entry in choice.logprobs.content)


def test_prompt_logprobs_and_echoes_come_from_the_generation_itself(client):
    prompts = [list(b"abcd"), list(b"hi")]
    body = {"prompt_logprobs": 3, "ignore_eos": True}
    done = client.completions.create(prompt=prompts, echo=True, logprobs=1, n=2, extra_body=body, **FIELDS)
    for choice, prompt in zip(done.choices, ("abcd", "abcd", "hi", "hi")):
        told, echoed = choice.prompt_logprobs[1:], choice.logprobs
        assert [entry[str(ord(letter))]["logprob"] for entry, letter in zip(told, prompt[1:])] == (
            echoed.token_logprobs[1 : len(prompt)]
        )
        assert all(len(entry) in (3, 4) for entry in told) and all(len(top) <= 2 for top in echoed.top_logprobs[1:])
    chat = {"messages": [{"role": "user", "content": "x"}], "extra_body": body} | FIELDS
    whole = client.chat.completions.create(**chat)
    chunks = list(client.chat.completions.create(n=2, stream=True, **chat))
    (streamed,) = (chunk.prompt_logprobs for chunk in chunks if getattr(chunk, "prompt_logprobs", None))
    assert streamed == whole.prompt_logprobs and len(streamed) == whole.usage.prompt_tokens


def test_a_prompt_is_scored_alone(client, live, http):
    ask = {"model": "tiny", "prompt": "abcd", "max_tokens": 0, "prompt_logprobs": 2}
    alone = http.post("/v1/completions", json=ask).json()
    scored = http.post("/score", json={"model": "tiny", "input": "abcd", "top_logprobs": 2}).json()
    (choice,) = alone["choices"]
    assert choice["prompt_logprobs"] == scored["data"][0]["top_logprobs"]
    assert (choice["text"], choice["finish_reason"], alone["usage"]["completion_tokens"]) == ("", "length", 0)
    stream = list(client.completions.create(model="tiny", prompt="abcd", max_tokens=0, stream=True, extra_body=ask))
    assert [own.choices[0].finish_reason for own in stream] == [None, "length"]
    assert stream[0].choices[0].prompt_logprobs == choice["prompt_logprobs"]
    refused = http.post("/v1/completions", json=ask | {"prompt_logprobs": None}).json()["error"]
    assert refused["param"] == "max_tokens" and "prompt_logprobs" in refused["message"]


def test_other_choices_of_a_stream_wait_for_their_prompt_s_log_probabilities():
    """The first choice may be the last to say something; every choice's echo comes first all the same."""
    prompt = CompletionShape(
        "x",
        "m",
        None,
        [Choice(), Choice()],
        2,
        wants_logprobs=True,
        echoes=["ab"],
        num_echo_top=0,
    )
    prompt.prompt_ids = [(97, 98)]
    assert list(prompt.opening()) == []
    token = (TokenLogprob(5, -1.0, rank=2),)
    assert list(prompt.updates(1, TokenEvent("r", 1, (5,), "e", token))) == []
    first = TokenEvent("r", 0, (6,), "f", (TokenLogprob(6, -3.0),), (None, TokenLogprob(98, -2.0, rank=1)))
    told = [json.loads(chunk[6:])["choices"][0] for chunk in prompt.updates(0, first)]
    assert [(own["index"], own["text"]) for own in told] == [(0, "ab"), (1, "ab"), (1, "e"), (0, "f")]
    assert [own["logprobs"]["token_logprobs"] for own in told] == [[None, -2.0], [None, -2.0], [-1.0], [-3.0]]
    assert told[2]["logprobs"]["text_offset"] > told[1]["logprobs"]["text_offset"]
    (later,) = prompt.updates(1, TokenEvent("r", 1, (5,), "g", token))
    assert json.loads(later[6:])["choices"][0]["text"] == "g"


def test_scores_are_the_generation_s_own_numbers(live):
    """One arithmetic: a token's log-probability is the same bits when it is sampled and when it is given."""
    params = SamplingParams(max_tokens=9, temperature=1.0, seed=4, logprobs=2, ignore_eos=True)
    (done,) = live_generate(live, list(b"prompt"), params)
    (scored,) = live_generate(live, (*b"prompt", *done.token_ids), SamplingParams(max_tokens=0, prompt_logprobs=2))
    assert [(entry.logprob, entry.top) for entry in scored.prompt_logprobs[6:]] == [
        (own.logprob, own.top) for own in done.logprobs
    ]


def live_generate(live, ids, params):
    from hyla.engine import Request
    from hyla.engine.requests.collect import Collector

    events = []
    request = live.served.worker.submit(Request("own", tuple(ids), params), events.append)
    from conftest import wait_until

    assert wait_until(lambda: events and events[-1].finish_reason is not None)
    collector = Collector(request)
    for event in events:
        collector.add(event)
    return collector.completions()


def test_an_embedding_is_pooled_and_scaled(live):
    embed = live.served.worker.embed
    mean = torch.tensor(embed(EmbedCommand(tuple(b"hello"), is_normalised=False)).result(60))
    last = torch.tensor(embed(EmbedCommand(tuple(b"hello"), "last", False)).result(60))
    alone = [torch.tensor(embed(EmbedCommand(tuple(b"hello"[:n]), "last", False)).result(60)) for n in range(1, 6)]
    assert torch.equal(alone[-1], last)
    assert torch.allclose(torch.stack(alone).mean(0), mean, atol=1e-6)
    unit = embed(EmbedCommand(tuple(b"hello"))).result(60)
    assert math.hypot(*unit) == pytest.approx(1.0, abs=1e-6)


def test_best_of_keeps_the_most_likely_choices(client):
    fields = {"model": "tiny", "prompt": "ab", "max_tokens": 4, "seed": 5, "logprobs": 0}
    every = client.completions.create(n=4, **fields).choices
    means = [sum(own.logprobs.token_logprobs) / len(own.logprobs.token_logprobs) for own in every]
    wanted = sorted(sorted(range(4), key=lambda n: -means[n])[:2])
    best = client.completions.create(n=2, best_of=4, **fields).choices
    assert [(own.index, own.text) for own in best] == [(n, every[place].text) for n, place in enumerate(wanted)]


def test_a_final_message_is_continued_and_echoed(client, live):
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ab"}]
    body = {"continue_final_message": True, "add_generation_prompt": False, "echo": True, "return_token_ids": True}
    done = client.chat.completions.create(messages=messages, extra_body=body, **FIELDS)
    assert bytes(done.prompt_token_ids) == b"user: hi\nassistant: ab"
    raw = client.completions.create(prompt="user: hi\nassistant: ab", **FIELDS)
    assert done.choices[0].message.content == "ab" + raw.choices[0].text
    chunks = client.chat.completions.create(messages=messages, extra_body=body, stream=True, **FIELDS)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == done.choices[0].message.content


def test_a_prompt_without_the_answer_s_opening(client):
    body = {"add_generation_prompt": False, "return_token_ids": True}
    done = client.chat.completions.create(messages=[{"role": "developer", "content": "x"}], extra_body=body, **FIELDS)
    assert bytes(done.prompt_token_ids) == b"system: x\n"


def test_a_thinking_budget_holds_wherever_thinking_is_known(live, scripted_live):
    with openai.OpenAI(base_url=scripted_live.url + "/v1", api_key="alice", max_retries=0, timeout=120) as client:
        fields = {"model": "scripted", "max_tokens": 30, "temperature": 0, "extra_body": {"thinking_budget": 3}}
        chat = {"messages": [{"role": "user", "content": "x"}]} | fields
        done = client.chat.completions.create(reasoning_effort="low", **chat)
        assert len(done.choices[0].message.reasoning_content.encode()) <= 3 * 4
        off = client.chat.completions.create(reasoning_effort="none", **chat)
        assert not hasattr(off.choices[0].message, "reasoning_content")
        text = client.completions.create(prompt="<think>", **fields).choices[0].text
        assert "</think>" in text[:20]
    with openai.OpenAI(base_url=live.url + "/v1", api_key="none", max_retries=0, timeout=120) as client:
        for ask, body in (
            (client.chat.completions.create, chat),
            (client.completions.create, {"prompt": "x"} | fields),
        ):
            with pytest.raises(openai.BadRequestError, match="no thinking that is known here") as caught:
                ask(**(body | {"model": "tiny"}))
            assert caught.value.param == "thinking_budget"


def test_a_client_says_where_a_state_is_worth_keeping(live, http):
    """The place lies inside a prompt that no other one has led away from yet."""
    prompt = [7 + n % 90 for n in range(250)]
    asked = {"model": "tiny", "max_tokens": 1, "cache_salt": "kept places"}
    cached = []
    for own in (prompt, [*prompt[:100], *range(150)]):
        done = http.post("/v1/completions", json=asked | {"prompt": own, "snapshot_at": [70]}).json()
        cached.append(done["usage"]["prompt_tokens_details"]["cached_tokens"])
    assert cached == [0, 64]
    wrong = http.post("/v1/completions", json=asked | {"prompt": prompt, "snapshot_at": [-1]}).json()["error"]
    assert wrong["param"] == "snapshot_at" and "token positions from 0 on" in wrong["message"]


def test_an_error_in_a_tool_says_so_without_the_grammar_made_of_it(scripted_live):
    function = {"name": "f", "parameters": {"type": "object", "properties": {"a": {"type": "integr"}}}}
    asked = {"model": "scripted", "messages": [{"role": "user", "content": "x"}], "tool_choice": "required"}
    asked["tools"] = [{"type": "function", "function": function}]
    headers = {"Authorization": "Bearer alice"}
    error = httpx.post(scripted_live.url + "/v1/chat/completions", json=asked, headers=headers).json()["error"]
    assert error["param"] == "tools" and "Invalid type: integr" in error["message"]
    assert "the parameters of a tool ('f') cannot be used" in error["message"] and "start:" not in error["message"]


def test_a_salt_keeps_a_tenant_s_prefix_to_itself(http):
    """Told by cached tokens, which is how one tenant would find out what another has asked."""
    prompt = [9 + n % 80 for n in range(200)]

    def cached(**salt):
        done = http.post("/v1/completions", json={"model": "tiny", "prompt": prompt, "max_tokens": 1} | salt).json()
        return done["usage"]["prompt_tokens_details"]["cached_tokens"]

    assert cached(cache_salt="alice") == 0
    assert cached(cache_salt="alice") == 192
    assert [cached(cache_salt="bob"), cached(), cached(cache_salt="alice ")] == [0, 0, 0]
