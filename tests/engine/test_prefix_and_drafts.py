"""Neither the prefix cache nor drafts can be seen in an answer, and both are used."""

import random
from pathlib import Path

import pytest
from tiny_text import tiny_model

from hyla.checkpoints import save_model
from hyla.engine import Engine, Request, SamplingParams

MEMORY = 32 << 20
FAMILIES = ["kimi_linear", "qwen3_next", "nemotron_h", "bailing_hybrid", "mimo_v2_flash", "minimax", "deepseek_v32"]


def answer(completion):
    return completion.token_ids, completion.logprobs, completion.finish_reason


def tokens(length, seed):
    draw = random.Random(seed)
    return [draw.randrange(97) for _ in range(length)]


def repeating(length, seed, period=11):
    return (tokens(period, seed) * length)[:length]


def params(temperature=0.9, max_tokens=80, **fields):
    return SamplingParams(
        max_tokens=max_tokens, temperature=temperature, seed=5, logprobs=2, ignore_eos=True, top_k=3, **fields
    )


def plain(model, **options):
    return Engine(model, memory=MEMORY, max_num_sequences=1, prefix_cache=False, **options)


def conversation(engine, turns=3):
    """Each turn's prompt is the turn before, its answer and something new."""
    prompt, usages, answers = tokens(150, 1), [], []
    for turn in range(turns):
        (done,) = engine.generate(prompt, params(max_tokens=50))
        answers.append(answer(done))
        usages.append(done.usage)
        prompt = [*prompt, *done.token_ids, *tokens(20, 7 + turn)]
    return answers, usages


@pytest.mark.parametrize("name", FAMILIES)
def test_a_conversation_reads_each_turn_only_once_and_answers_the_same(name):
    model = tiny_model(name)
    answers, usages = conversation(Engine(model, memory=MEMORY, max_num_sequences=3, prefill_chunk=100))
    expected, uncached = conversation(plain(model))
    assert answers == expected
    assert [usage.cached_tokens for usage in uncached] == [0, 0, 0]
    assert [usage.miss_reason for usage in uncached] == ["off", "off", "off"]
    assert usages[0].miss_reason == "no_prefix" and usages[0].cached_tokens == 0
    # The second turn goes on after the last whole page of the first one's prompt and answer, 199 tokens.
    assert usages[1].cached_tokens == 192 and usages[2].cached_tokens == 256


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_lookup_drafts_change_no_token(name, temperature):
    model = tiny_model(name)
    prompts = [repeating(90, seed) for seed in range(3)] + [tokens(70, 9)]
    fixed = {"speculation": "lookup", "fixed_drafts": True, "max_draft_tokens": 12}
    engine = Engine(model, memory=MEMORY, max_num_sequences=4, **fixed)
    # Three ids repeat their n-grams often enough.
    narrow = params(temperature, allowed_token_ids=(3, 4, 5))
    found = engine.generate(prompts, narrow)
    expected = plain(model).generate(prompts, narrow)
    assert [answer(one) for one in found] == [answer(one) for one in expected]
    assert sum(one.usage.drafted_tokens for one in found) > 100
    assert sum(one.usage.accepted_tokens for one in found) > 20
    engine.cache.ledger.check()


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_draft_model_changes_no_token_and_its_own_copy_is_always_right(temperature):
    model = tiny_model("kimi_linear")
    fixed = {"speculation": "draft", "fixed_drafts": True, "max_draft_tokens": 5}
    engine = Engine(model, memory=MEMORY, max_num_sequences=3, draft_model=tiny_model("kimi_linear"), **fixed)
    prompts = [tokens(70, 1), tokens(5, 2)]
    found = engine.generate(prompts, params(temperature))
    assert [answer(one) for one in found] == [
        answer(one) for one in plain(model).generate(prompts, params(temperature))
    ]
    for one in found:
        assert one.usage.accepted_tokens == one.usage.drafted_tokens > 50
    draft_ledger = engine.speculation.drafter.cache.ledger
    draft_ledger.check()
    assert draft_ledger.slots.used == 0


@pytest.mark.parametrize("kind", [str, Path])
def test_a_draft_model_may_be_named_by_its_folder(kind, tmp_path):
    save_model(tiny_model("kimi_linear"), tmp_path / "draft")
    options = {"speculation": "draft", "fixed_drafts": True, "draft_model": kind(tmp_path / "draft")}
    engine = Engine(tiny_model("kimi_linear"), memory=MEMORY, max_num_sequences=1, **options)
    (found,) = engine.generate([tokens(5, 2)], params(0.0, max_tokens=20))
    assert found.usage.accepted_tokens == found.usage.drafted_tokens > 10


def test_many_prompts_with_one_beginning_compute_it_once():
    model = tiny_model("qwen3_next")
    engine = Engine(model, memory=MEMORY, max_num_sequences=8)
    shared = tokens(200, 3)
    prompts = [[*shared, *tokens(30, 10 + n)] for n in range(6)]
    found = engine.generate(prompts, params(max_tokens=5))
    assert [answer(one) for one in found] == [
        answer(one) for one in plain(model).generate(prompts, params(max_tokens=5))
    ]
    assert [one.usage.cached_tokens for one in found] == [0] + [192] * 5


def test_a_prompt_that_another_salt_is_just_computing_is_computed_again():
    """Waiting for it would tell that it is being asked."""
    engine = Engine(
        tiny_model("qwen3_next"), memory=MEMORY, max_num_sequences=8, prefill_chunk=64, max_batch_tokens=512
    )
    prompt, salts = tokens(330, 3), ("one", "other", "one", "other")
    for n, salt in enumerate(salts):
        engine.add(Request(str(n), tuple(prompt), params(max_tokens=2), cache_salt=salt))
    events = engine.step()
    running = [one.request.request_id for one in engine.scheduler.running]
    assert running == ["0", "1"] and not events
    while engine.has_work:
        events += engine.step()
    usages = {event.request_id: event.usage for event in events if event.usage is not None}
    assert [usages[str(n)].cached_tokens for n in range(4)] == [0, 0, 320, 320]
    assert len({event.token_ids for event in events if event.usage is not None}) == 1


def test_choices_of_one_prompt_share_its_pages():
    model = tiny_model("kimi_linear")
    engine = Engine(model, memory=MEMORY, max_num_sequences=8)
    found = engine.generate(tokens(200, 3), params(max_tokens=5, n=4))
    assert [one.usage.cached_tokens for one in found] == [0, 192, 192, 192]
    expected = plain(model).generate(tokens(200, 3), params(max_tokens=5, n=4))
    assert [answer(one) for one in found] == [answer(one) for one in expected]


def test_little_memory_evicts_and_preempts_and_still_answers_the_same():
    model = tiny_model("mimo_v2_flash")
    roomy = Engine(model, memory=MEMORY, max_num_sequences=4)
    tight = Engine(model, memory=roomy.cache.nbytes // 12, max_num_sequences=4, speculation="lookup", fixed_drafts=True)
    prompts = [[*tokens(130, n % 3), *tokens(20 + n, 50 + n)] for n in range(12)]
    found = tight.generate(prompts, params(max_tokens=70))
    assert [answer(one) for one in found] == [
        answer(one) for one in plain(model).generate(prompts, params(max_tokens=70))
    ]
    assert tight.prefix.counts["evicted_pages"] > 0
    tight.cache.ledger.check()


def test_other_weights_empty_the_cache():
    model = tiny_model("kimi_linear")
    engine = Engine(model, memory=MEMORY)
    engine.generate(tokens(200, 1), params(max_tokens=2))
    assert engine.cache.ledger.pages.cached > 0
    engine.forget_cached()
    assert engine.cache.ledger.pages.free == engine.cache.ledger.pages.total
    assert engine.generate(tokens(200, 1), params(max_tokens=2))[0].usage.miss_reason == "no_prefix"


@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
def test_smaller_snapshots_are_close_and_named(dtype):
    model = tiny_model("kimi_linear")
    exact, small = (Engine(model, memory=MEMORY, snapshot_dtype=kind) for kind in ("float32", dtype))
    scored = SamplingParams(max_tokens=1, temperature=0, logprobs=5)
    both = []
    for engine in (exact, small):
        engine.generate(tokens(200, 1), scored)
        (done,) = engine.generate([*tokens(200, 1), 3, 4], scored)
        assert done.usage.cached_tokens == 192
        both.append(done.logprobs[0].logprob)
    assert both[0] != both[1] and both[0] == pytest.approx(both[1], abs=0.05)


@pytest.mark.parametrize("name", ["qwen3_next", "nemotron_h", "mimo_v2_flash", "deepseek_v32", "bailing_hybrid"])
def test_mtp_drafts_change_no_token(name):
    model = tiny_model(name)
    assert model.num_mtp_steps
    fixed = {"speculation": "mtp", "fixed_drafts": True, "max_draft_tokens": 3}
    engine = Engine(model, memory=MEMORY, max_num_sequences=3, **fixed)
    prompts = [tokens(130, 1), tokens(40, 2), tokens(130, 1)]
    for temperature in (0.0, 1.0):
        found = engine.generate(prompts, params(temperature))
        expected = plain(model).generate(prompts, params(temperature))
        assert [answer(one) for one in found] == [answer(one) for one in expected]
        assert all(one.usage.drafted_tokens > 50 for one in found)
    engine.cache.ledger.check()
