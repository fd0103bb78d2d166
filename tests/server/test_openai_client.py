import openai
import pytest

from hyla.engine import SamplingParams


@pytest.fixture
def client(live):
    with openai.OpenAI(base_url=live.url + "/v1", api_key="none", max_retries=0, timeout=120) as client:
        yield client


CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "hé"}], "max_tokens": 12, "temperature": 0}


def test_models_are_listed_and_found(client):
    assert [model.id for model in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").owned_by == "hyla"


def test_a_completion_with_logprobs(client, live):
    done = client.completions.create(
        model="tiny", prompt="abc", max_tokens=7, temperature=0, logprobs=3, extra_body={"ignore_eos": True}
    )
    (choice,) = done.choices
    assert (choice.finish_reason, done.usage.prompt_tokens, done.usage.completion_tokens) == ("length", 3, 7)
    assert done.usage.prompt_tokens_details.cached_tokens == 0 and done.usage.total_tokens == 10
    logprobs = choice.logprobs
    assert len(logprobs.tokens) == len(logprobs.token_logprobs) == len(logprobs.top_logprobs) == 7
    assert all(
        len(top) == 3 and max(top.values()) == own for top, own in zip(logprobs.top_logprobs, logprobs.token_logprobs)
    )
    assert logprobs.text_offset[0] == 0 and logprobs.text_offset == sorted(logprobs.text_offset)
    assert done.id.startswith("cmpl-") and done.object == "text_completion"


def test_a_streamed_completion_equals_the_whole_one(client):
    fields = {"model": "tiny", "prompt": "streams", "max_tokens": 20, "seed": 3, "logprobs": 1}
    whole = client.completions.create(**fields)
    chunks = list(client.completions.create(**fields, stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks) == whole.choices[0].text
    assert chunks[-1].choices[0].finish_reason == whole.choices[0].finish_reason
    streamed = [
        value for chunk in chunks if chunk.choices[0].logprobs for value in chunk.choices[0].logprobs.token_logprobs
    ]
    offsets = [
        value for chunk in chunks if chunk.choices[0].logprobs for value in chunk.choices[0].logprobs.text_offset
    ]
    assert streamed == whole.choices[0].logprobs.token_logprobs
    assert offsets == whole.choices[0].logprobs.text_offset
    assert all(chunk.usage is None for chunk in chunks)


def test_a_streamed_chat_with_usage_and_logprobs(client):
    whole = client.chat.completions.create(**CHAT, logprobs=True, top_logprobs=2)
    chunks = list(
        client.chat.completions.create(
            **CHAT, logprobs=True, top_logprobs=2, stream=True, stream_options={"include_usage": True}
        )
    )
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]) == whole.choices[0].message.content
    assert chunks[-2].choices[0].finish_reason == whole.choices[0].finish_reason
    assert chunks[-1].choices == [] and chunks[-1].usage == whole.usage
    entries = [entry for chunk in chunks[:-1] for entry in (chunk.choices[0].logprobs or whole_nothing()).content]
    assert entries == whole.choices[0].logprobs.content
    assert len(entries) == whole.usage.completion_tokens
    assert all(len(entry.top_logprobs) == 2 for entry in entries)
    assert all(entry.bytes is None or bytes(entry.bytes).decode() == entry.token for entry in entries)


def test_streamed_chat_choices_with_logprobs_equal_the_whole_ones(client):
    fields = CHAT | {"temperature": 1.0, "seed": 5, "n": 3, "logprobs": True, "top_logprobs": 1}
    whole = client.chat.completions.create(**fields)
    texts, entries, reasons = ["", "", ""], [[], [], []], {}
    for chunk in client.chat.completions.create(**fields, stream=True):
        (choice,) = chunk.choices
        texts[choice.index] += choice.delta.content or ""
        entries[choice.index] += choice.logprobs.content if choice.logprobs else []
        if choice.finish_reason is not None:
            assert choice.index not in reasons
            reasons[choice.index] = choice.finish_reason
    assert texts == [choice.message.content for choice in whole.choices] and len(set(texts)) == 3
    assert entries == [choice.logprobs.content for choice in whole.choices]
    assert [reasons[n] for n in range(3)] == [choice.finish_reason for choice in whole.choices]


def whole_nothing():
    from openai.types.chat.chat_completion_chunk import ChoiceLogprobs

    return ChoiceLogprobs(content=[])


def test_a_chat_is_the_template_s_prompt(client, live):
    chat = client.chat.completions.create(**CHAT)
    raw = client.completions.create(model="tiny", prompt="user: hé\nassistant: ", max_tokens=12, temperature=0)
    assert chat.choices[0].message.content == raw.choices[0].text
    assert chat.usage == raw.usage
    parts = [{"type": "text", "text": "hé"}]
    again = client.chat.completions.create(**{**CHAT, "messages": [{"role": "user", "content": parts}]})
    assert again.choices[0].message.content == chat.choices[0].message.content


def test_several_prompts_and_choices_keep_their_order(client):
    fields = {"model": "tiny", "max_tokens": 6, "seed": 9, "temperature": 1.0, "extra_body": {"ignore_eos": True}}
    done = client.completions.create(prompt=["one", "three"], n=2, **fields)
    assert [choice.index for choice in done.choices] == [0, 1, 2, 3]
    assert (done.usage.prompt_tokens, done.usage.completion_tokens) == (8, 24)
    alone = client.completions.create(prompt=list(b"three"), n=2, **fields)
    assert [c.text for c in done.choices[2:]] == [c.text for c in alone.choices]
    texts = {n: "" for n in range(4)}
    for chunk in client.completions.create(prompt=["one", "three"], n=2, stream=True, **fields):
        texts[chunk.choices[0].index] += chunk.choices[0].text
    assert list(texts.values()) == [choice.text for choice in done.choices]


def test_a_stop_string_and_a_seed_are_heard(client):
    fields = {"model": "tiny", "prompt": "zz", "max_tokens": 40, "seed": 1, "extra_body": {"ignore_eos": True}}
    whole = client.completions.create(**fields).choices[0].text
    assert client.completions.create(**fields).choices[0].text == whole
    stop = next(whole[n : n + 2] for n in range(4, len(whole) - 2) if "\ufffd" not in whole[n : n + 2])
    cut = client.completions.create(**fields, stop=stop)
    assert cut.choices[0].finish_reason == "stop"
    assert cut.choices[0].text == whole[: whole.index(stop)]


def test_errors_are_the_client_s_own(client):
    with pytest.raises(openai.BadRequestError, match="temperature") as caught:
        client.completions.create(model="tiny", prompt="x", temperature=-1)
    assert caught.value.param == "temperature" and caught.value.type == "invalid_request_error"
    with pytest.raises(openai.NotFoundError, match="'other' is not served here"):
        client.chat.completions.create(**{**CHAT, "model": "other"})


def test_fields_that_change_nothing_are_accepted(client):
    done = client.chat.completions.create(
        **CHAT, user="me", store=False, metadata={"a": "b"}, frequency_penalty=0, presence_penalty=0.0, logit_bias={},
        response_format={"type": "text"}, tool_choice="none", service_tier="auto",
    )  # fmt: skip
    assert done.usage.completion_tokens >= 1


def test_thirty_two_at_once_with_cancellations_answer_as_alone(client, live):
    import random
    from concurrent.futures import ThreadPoolExecutor

    draw = random.Random(5)
    jobs = [
        {
            "model": "tiny",
            "prompt": [draw.randrange(256) for _ in range(draw.randint(1, 90))],
            "max_tokens": draw.randint(2, 8),
            "temperature": draw.choice([0.0, 0.9]),
            "seed": n,
            "logprobs": 2,
        }
        for n in range(32)
    ]
    leaves_after = {n: draw.randint(0, 3) for n in draw.sample(range(32), 12)}

    def ask(n):
        stream = client.completions.create(**jobs[n], stream=True)
        chunks = []
        with stream:
            for chunk in stream:
                if n in leaves_after and len(chunks) >= leaves_after[n]:
                    return None
                chunks.append(chunk.choices[0])
        return "".join(c.text for c in chunks), [v for c in chunks if c.logprobs for v in c.logprobs.token_logprobs]

    with ThreadPoolExecutor(32) as pool:
        answers = list(pool.map(ask, range(32)))
    from conftest import wait_until

    ledger = live.engine.cache.ledger
    assert wait_until(lambda: ledger.pages.used == 0 and ledger.slots.used == 0)
    assert wait_until(lambda: live.served.worker.num_requests == 0)
    finished = [n for n in range(32) if answers[n] is not None]
    assert len(finished) >= 20
    for n in finished:
        alone = client.completions.create(**jobs[n]).choices[0]
        assert answers[n] == (alone.text, alone.logprobs.token_logprobs)


def test_the_server_gives_the_engine_s_own_numbers(client, live):
    """HTTP adds nothing: a second engine in this process answers with the same text and log-probabilities."""
    from conftest import make_engine

    params = SamplingParams(max_tokens=6, temperature=0.5, seed=8, logprobs=1)
    (here,) = make_engine().generate("same bits", params)
    there = client.completions.create(
        model="tiny", prompt="same bits", max_tokens=6, temperature=0.5, seed=8, logprobs=1
    ).choices[0]
    assert there.text == here.text
    assert there.logprobs.token_logprobs == [entry.logprob for entry in here.logprobs]
