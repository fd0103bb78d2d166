import random
from dataclasses import replace

import pytest
import torch
from tiny_text import END, byte_tokenizer, tiny_model

from hyla.caches.storage import page_bytes, slot_bytes
from hyla.engine import Engine, Request, SamplingParams
from hyla.errors import CapacityError, ConfigError, RequestError

MEMORY = 24 << 20


@pytest.fixture(scope="module")
def kimi():
    return tiny_model("kimi_linear")


@pytest.fixture(scope="module")
def engine(kimi):
    return Engine(kimi, tokenizer=byte_tokenizer(), memory=MEMORY, max_num_sequences=6, prefill_chunk=64)


def answer(completion):
    """What must not depend on anybody else."""
    return completion.token_ids, completion.logprobs, completion.text, completion.finish_reason


def reset(engine):
    """Everything is given back."""
    engine.cache.ledger.check()
    assert all(units.used == 0 for units in engine.cache.ledger.units)
    assert engine.cache.ledger.slots.free == engine.cache.ledger.slots.total


def test_greedy_tokens_and_logprobs_are_those_of_the_whole_prompt_at_once(engine, kimi):
    prompt = [5, 9, 200, 31] * 30
    (done,) = engine.generate(prompt, SamplingParams(max_tokens=12, temperature=0, logprobs=3, ignore_eos=True))
    with torch.no_grad():
        (logits,) = kimi.logits([[*prompt, *done.token_ids[:-1]]])
    rows = logits[len(prompt) - 1 :]
    assert list(done.token_ids) == rows.argmax(-1).tolist()
    exact = torch.log_softmax(rows.double(), -1)
    for row, entry in zip(exact, done.logprobs):
        assert entry.logprob == pytest.approx(float(row[entry.token_id]), abs=1e-5)
        assert entry.top[0][0] == entry.token_id and len(entry.top) == 3
    assert done.usage.prompt_tokens == 120 and done.usage.completion_tokens == 12
    assert done.finish_reason == "length"
    reset(engine)


@pytest.mark.parametrize("name", ["kimi_linear", "qwen3_next", "nemotron_h"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_answer_is_the_same_in_any_batch_and_any_piece_size(name, dtype):
    model = tiny_model(name).to(dtype) if dtype == torch.float32 else in_bfloat16(tiny_model(name))
    draw = random.Random(1)
    prompts = [[draw.randrange(256) for _ in range(length)] for length in (1, 63, 65, 130)]
    params = SamplingParams(max_tokens=6, temperature=0.8, top_p=0.9, seed=17, logprobs=2, ignore_eos=True)
    together = Engine(model, memory=MEMORY, max_num_sequences=6, prefill_chunk=17).generate(prompts, params)
    alone = Engine(model, memory=MEMORY, max_num_sequences=1, prefill_chunk=200)
    for prompt, completion in zip(prompts, together):
        assert answer(alone.generate(prompt, params)[0]) == answer(completion)


def test_requests_that_come_up_meanwhile_join_those_that_are_computed(engine):
    params = SamplingParams(max_tokens=5, temperature=0.8, seed=3, logprobs=0, ignore_eos=True)
    names = ["first", "next", "last"]
    requests = {name: engine.resolve(Request(name, (5, 9, len(name)) * 9, params)) for name in names}
    asked, found = [], []

    def more(is_idle):
        """One while the first is computed, one when nothing is left, and then none."""
        asked.append(is_idle)
        return [requests["next"]] if len(asked) == 3 else [requests["last"]] if is_idle and len(found) == 2 else []

    for done in engine.finished([requests["first"]], more):
        found += done
    assert [one.request_id for one in found] == names
    assert not any(asked[:3]) and asked.count(True) == 2 and asked[-1]
    for one in found:
        (alone,) = engine.generate([requests[one.request_id].request.prompt_ids], params)
        assert answer(one) == answer(alone)
    assert list(engine.finished([])) == []
    reset(engine)


def in_bfloat16(model):
    """As a bf16 folder would load: what a module names stays fp32."""
    from hyla.models.state import NamedWeights

    weights = NamedWeights(model)
    for name, parameter in model.named_parameters():
        parameter.data = parameter.data.to(weights.dtype(name, torch.bfloat16))
    return model


def test_preempted_generations_answer_as_if_nothing_had_happened(kimi):
    params = SamplingParams(max_tokens=24, temperature=1.0, seed=4, logprobs=0, ignore_eos=True)
    prompts = [[n + 1] * (45 + 7 * n) for n in range(4)]
    tight = Engine(kimi, memory=MEMORY, max_num_sequences=4)
    while tight.cache.ledger.pages.free > 5:
        tight.cache.ledger.pages.take(1)
    together = tight.generate(prompts, params)
    assert tight.scheduler.num_preemptions > 0
    roomy = Engine(kimi, memory=MEMORY, max_num_sequences=1)
    assert [answer(c) for c in together] == [answer(c) for c in roomy.generate(prompts, params)]


def test_thirty_two_requests_with_random_cancellations_leave_nothing_and_change_nobody(engine):
    draw = random.Random(7)
    requests = []
    for n in range(32):
        prompt = tuple(draw.randrange(256) for _ in range(draw.randint(1, 140)))
        params = SamplingParams(
            max_tokens=draw.randint(1, 9),
            temperature=draw.choice([0.0, 0.7, 1.0]),
            top_k=draw.choice([0, 8]),
            seed=draw.randrange(1000),
            n=draw.choice([1, 1, 1, 2]),
            logprobs=draw.choice([0, 3]),
        )
        requests.append(Request(f"mixed-{n}", prompt, params))
    for request in requests[:20]:
        engine.add(request)
    waiting, events, cancelled = list(requests[20:]), {}, set()
    while engine.has_work or waiting:
        if waiting and draw.random() < 0.4:
            engine.add(waiting.pop())
        if draw.random() < 0.35:
            name = f"mixed-{draw.randrange(32)}"
            if engine.cancel(name):
                cancelled.add(name)
        for event in engine.step():
            events.setdefault((event.request_id, event.choice), []).append(event)
    reset(engine)
    assert 3 <= len(cancelled) <= 24
    num_compared = 0
    for request in requests:
        alone = engine.generate(request.prompt, request.params)
        for choice, completion in enumerate(alone):
            mine = events[(request.request_id, choice)]
            assert sum(event.finish_reason is not None for event in mine) == 1
            if mine[-1].finish_reason == "cancelled":
                continue
            num_compared += 1
            assert completion.token_ids == tuple(token for event in mine for token in event.token_ids)
            assert completion.logprobs == tuple(entry for event in mine for entry in event.logprobs)
            assert completion.text == "".join(event.text for event in mine)
            assert completion.finish_reason == mine[-1].finish_reason
    assert num_compared >= 8
    reset(engine)


def test_choices_differ_and_repeat_with_the_seed(engine):
    params = SamplingParams(max_tokens=8, seed=2, n=3, ignore_eos=True)
    first, again = engine.generate("hello", params), engine.generate("hello", params)
    assert [c.choice for c in first] == [0, 1, 2]
    assert len({c.token_ids for c in first}) == 3
    assert [c.token_ids for c in first] == [c.token_ids for c in again]


def test_a_drawn_seed_is_reported_and_repeats_the_answer(engine):
    (first,) = engine.generate("abc", SamplingParams(max_tokens=10))
    (other,) = engine.generate("abc", SamplingParams(max_tokens=10))
    (again,) = engine.generate("abc", SamplingParams(max_tokens=10, seed=first.seed))
    assert again.token_ids == first.token_ids and other.seed != first.seed


def test_the_end_of_text_stops_unless_ignored_and_is_not_shown(kimi):
    engine = Engine(kimi, tokenizer=byte_tokenizer(), memory=MEMORY, max_num_sequences=2)
    free = SamplingParams(max_tokens=30, temperature=0, ignore_eos=True)
    (whole,) = engine.generate("go on", free)
    stop = whole.token_ids[4]
    first = whole.token_ids.index(stop)
    (cut,) = engine.generate("go on", free.model_copy(update={"stop_token_ids": (stop,)}))
    assert cut.finish_reason == "stop" and cut.token_ids == whole.token_ids[: first + 1]
    assert cut.text == byte_tokenizer().decode(whole.token_ids[:first])


def test_the_model_end_of_text_ends_an_answer():
    model = tiny_model("qwen3_next")
    prompt, params = [7, 8, 9], SamplingParams(max_tokens=20, temperature=0)
    free = params.model_copy(update={"ignore_eos": True})
    (whole,) = Engine(model, memory=MEMORY).generate(prompt, free)
    model.config = model.config.model_copy(update={"eos_token_ids": (whole.token_ids[2],)})
    engine = Engine(model, memory=MEMORY)
    first = whole.token_ids.index(whole.token_ids[2])
    (cut,) = engine.generate(prompt, params)
    assert (cut.finish_reason, cut.token_ids, cut.text) == ("stop", whole.token_ids[: first + 1], None)
    (kept,) = engine.generate(prompt, free)
    assert kept.token_ids == whole.token_ids
    (later,) = engine.generate(prompt, params.model_copy(update={"min_tokens": 8}))
    assert whole.token_ids[2] not in later.token_ids[:8] and len(later.token_ids) >= 8


def test_a_stop_string_over_token_boundaries_is_cut(engine):
    params = SamplingParams(max_tokens=60, temperature=0, ignore_eos=True)
    (whole,) = engine.generate("x", params)
    printable = [n for n in range(1, len(whole.text) - 3) if "\ufffd" not in whole.text[n : n + 3]]
    assert printable, "the tiny model must write some characters for this test"
    stop = whole.text[printable[0] : printable[0] + 3]
    (cut,) = engine.generate("x", params.model_copy(update={"stop": (stop,)}))
    assert cut.finish_reason == "stop"
    assert cut.text == whole.text[: whole.text.index(stop)]
    assert cut.token_ids == whole.token_ids[: len(cut.token_ids)] and len(cut.token_ids) < 60


def test_streamed_text_joins_to_the_whole_and_never_breaks_a_character(engine):
    params = SamplingParams(max_tokens=40, seed=5, ignore_eos=True)
    events = list(engine.stream("stream", params))
    (whole,) = engine.generate("stream", params)
    assert "".join(event.text for event in events) == whole.text
    assert events[-1].finish_reason == "length" and events[-1].usage == whole.usage
    assert all(event.finish_reason is None for event in events[:-1])
    reset(engine)


def test_leaving_a_stream_early_frees_its_pages(engine):
    stream = engine.stream("stream", SamplingParams(max_tokens=100, ignore_eos=True))
    next(stream)
    assert engine.cache.ledger.slots.used == 1
    stream.close()
    assert not engine.has_work
    reset(engine)


def test_events_of_others_wait_while_somebody_generates(engine):
    engine.add(Request("other", "background", SamplingParams(max_tokens=3, temperature=0, ignore_eos=True)))
    engine.generate("foreground", SamplingParams(max_tokens=8, temperature=0, ignore_eos=True))
    events = engine.step()
    assert [event.request_id for event in events] == ["other"] * 3
    reset(engine)


def test_texts_and_ids_are_the_same_prompt(engine):
    params = SamplingParams(max_tokens=4, temperature=0)
    text, ids = engine.generate(["né", list("né".encode())], params)
    assert text.token_ids == ids.token_ids


@pytest.mark.parametrize(
    "prompt,params,param,words",
    [
        ([], {}, "prompt", "is empty"),
        ("", {}, "prompt", "is empty"),
        ([3, 259], {}, "prompt", "token id 259; this model's ids are 0 to 258"),
        ([3, -1], {}, "prompt", "token id -1"),
        ([3, 0.5], {}, "prompt", "integer token ids"),
        ([1] * 512, {}, "prompt", "512 tokens and the context 512"),
        ([1] * 500, {"max_tokens": 13}, "max_tokens", "leave 12 of the context's 512"),
        ([1], {"stop_token_ids": (900,)}, "stop_token_ids", "holds 900"),
    ],
)
def test_a_bad_request_says_what_and_leaves_the_engine_well(engine, prompt, params, param, words):
    with pytest.raises(RequestError, match=words) as caught:
        engine.generate([prompt], SamplingParams(**params))
    assert caught.value.param == param
    assert not engine.has_work
    reset(engine)


def test_a_duplicate_id_is_refused(engine):
    request = engine.add(Request("twice", "x", SamplingParams(max_tokens=2)))
    with pytest.raises(RequestError, match="'twice' is in use"):
        engine.add(replace(request, prompt="y"))
    assert engine.cancel("twice") and not engine.cancel("twice")
    assert [event.finish_reason for event in engine.step()] == ["cancelled"]
    reset(engine)


def test_without_a_tokenizer_there_is_no_text(kimi):
    engine = Engine(kimi, memory=MEMORY, max_num_sequences=2)
    (done,) = engine.generate([1, 2], SamplingParams(max_tokens=2))
    assert done.text is None
    for prompt, params in (("text", {}), ([1], {"stop": "x"})):
        with pytest.raises(RequestError, match="tokenizer"):
            engine.generate([prompt], SamplingParams(**params))


def test_what_can_never_fit_is_refused_and_what_fits_is_answered(kimi):
    specs = kimi.cache_specs()
    engine = Engine(kimi, memory=2 * slot_bytes(specs) + 3 * page_bytes(specs), max_num_sequences=1)
    capacity = engine.memory.num_tokens
    assert capacity == 128 and "one request may have 128 tokens" in engine.notes[0]
    with pytest.raises(CapacityError, match="pages of 64 tokens"):
        engine.generate([[1] * capacity], SamplingParams(max_tokens=2))
    (done,) = engine.generate([[1] * (capacity - 3)], SamplingParams(ignore_eos=True))
    assert done.usage.total_tokens == capacity + 1
    reset(engine)


def test_a_budget_for_nothing_and_a_wrong_option_end_the_start(kimi):
    with pytest.raises(CapacityError, match="memory="):
        Engine(kimi, memory=1000)
    with pytest.raises(ConfigError, match="max_sequences"):
        Engine(kimi, max_sequences=3)


def test_a_context_beyond_the_model_is_lowered_and_said(kimi):
    engine = Engine(kimi, memory=MEMORY, context_len=4096)
    assert engine.context_len == 512
    assert engine.notes[0].startswith("context_len lowered from 4096 to 512")
    assert Engine(kimi, memory=MEMORY, context_len=99).context_len == 99


def test_an_operator_that_raises_ends_its_batch_and_nothing_else(engine, monkeypatch):
    params = SamplingParams(max_tokens=5, temperature=0)
    expected = engine.generate("fine", params)

    def fail(*args):
        raise RuntimeError("broken operator")

    monkeypatch.setattr("hyla.models.recording.StepForward.__call__", fail)
    (failed,) = engine.generate("fine", params)
    assert failed.finish_reason == "error" and "broken operator" in failed.error
    monkeypatch.undo()
    reset(engine)
    assert engine.generate("fine", params)[0].token_ids == expected[0].token_ids


def test_logits_that_are_not_numbers_end_one_request_with_an_error(engine, monkeypatch):
    whole = engine.model.head_logits
    monkeypatch.setattr(engine.model, "head_logits", lambda rows: whole(rows) * float("nan"))
    (failed,) = engine.generate("fine", SamplingParams(max_tokens=5))
    assert failed.finish_reason == "error" and "NaN" in failed.error and failed.token_ids == ()
    reset(engine)


def test_an_unpacked_engine_gives_the_same_bits_and_leaves_the_weights(kimi):
    params = SamplingParams(max_tokens=5, temperature=0, logprobs=1)
    plain = tiny_model("kimi_linear")
    engine = Engine(plain, memory=MEMORY, pack=False)
    assert not plain.head.projection.is_packed
    packed = Engine(kimi, memory=MEMORY)
    assert answer(engine.generate([4, 5], params)[0]) == answer(packed.generate([4, 5], params)[0])


def test_the_end_of_text_ids_come_from_model_and_tokenizer(engine):
    assert engine.eos_ids == (END,)
