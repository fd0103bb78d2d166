"""Sampling and scoring through the whole engine."""

import json
import random

import jsonschema
import pytest
import torch
from tiny_text import END, byte_tokenizer, tiny_model

from hyla.engine import Choice, Engine, JsonObject, JsonSchema, Regex, Request, SamplingParams
from hyla.engine.runner import SCORED_ROWS
from hyla.engine.sampling.sampler import logprobs_of
from hyla.errors import RequestError
from hyla.models.state import NamedWeights

MEMORY = 24 << 20
SCHEMA = {
    "type": "object",
    "properties": {"a": {"type": "integer", "minimum": 0, "maximum": 99}, "b": {"enum": ["x", "yy"]}},
    "required": ["a", "b"],
    "additionalProperties": False,
    "x-guidance": {"whitespace_flexible": False},
}


@pytest.fixture(scope="module")
def kimi():
    return tiny_model("kimi_linear")


@pytest.fixture(scope="module")
def engine(kimi):
    return Engine(kimi, tokenizer=byte_tokenizer(), memory=MEMORY, max_num_sequences=6, prefill_chunk=64)


def answer(completion):
    return (
        completion.token_ids,
        completion.logprobs,
        completion.prompt_logprobs,
        completion.text,
        completion.finish_reason,
        completion.error,
    )


# Scoring


@pytest.mark.parametrize("length", [1, 2, 63, 65, 200])
def test_prompt_logprobs_are_those_of_the_whole_prompt_at_once(engine, kimi, length):
    draw = random.Random(length)
    prompt = [draw.randrange(256) for _ in range(length)]
    params = SamplingParams(max_tokens=0, prompt_logprobs=2)
    (scored,) = engine.generate([prompt], params)
    with torch.no_grad():
        (logits,) = kimi.logits([prompt])
    exact = logits.double().log_softmax(-1)
    assert scored.token_ids == () and scored.finish_reason == "length" and scored.text == ""
    assert scored.usage.prompt_tokens == length and scored.usage.completion_tokens == 0
    assert len(scored.prompt_logprobs) == length and scored.prompt_logprobs[0] is None
    for row, token, entry in zip(exact, prompt[1:], scored.prompt_logprobs[1:]):
        assert entry.token_id == token and entry.logprob == pytest.approx(float(row[token]), abs=1e-5)
        assert entry.top[0] == (int(row.argmax()), pytest.approx(float(row.max()), abs=1e-5))
    engine.cache.ledger.check()


def test_scores_of_an_answer_are_those_that_it_was_generated_with(engine):
    params = SamplingParams(max_tokens=30, temperature=1.3, seed=3, logprobs=4, ignore_eos=True)
    (written,) = engine.generate([[7, 8, 9]], params)
    whole = [7, 8, 9, *written.token_ids]
    (scored,) = engine.generate([whole], SamplingParams(max_tokens=0, prompt_logprobs=4))
    assert scored.prompt_logprobs[3:] == written.logprobs


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_scores_are_those_of_the_whole_text_in_one_forward(dtype):
    model = tiny_model("kimi_linear", seed=5)
    model = in_bfloat16(model) if dtype == torch.bfloat16 else model
    engine = Engine(model, tokenizer=byte_tokenizer(), memory=MEMORY, max_num_sequences=4, prefill_chunk=48)
    draw = random.Random(4)
    prompts = [[draw.randrange(256) for _ in range(length)] for length in (1, 63, 64, 65, 200)]
    params = SamplingParams(max_tokens=3, prompt_logprobs=3, logprobs=2, seed=1, ignore_eos=True)
    for prompt, done in zip(prompts, engine.generate(prompts, params)):
        assert done.prompt_logprobs == (None, *scores_of(model, prompt, 3))
        assert list(done.logprobs) == scores_of(model, [*prompt, *done.token_ids], 2)[len(prompt) - 1 :]


@torch.inference_mode()
def scores_of(model, text, num_top):
    """Log-probabilities of all tokens of a text but the first, from one forward without a cache."""
    (logits_TV,) = model.logits([text])
    return logprobs_of(logits_TV[:-1], text[1:], num_top)


@pytest.mark.parametrize("context", [1, 64, 130, 199])
def test_scoring_from_a_place_on_takes_what_stands_before_it_from_the_cache(context):
    model = tiny_model("kimi_linear", seed=5)
    engine = Engine(model, memory=MEMORY, max_num_sequences=4)
    draw = random.Random(4)
    text = [draw.randrange(256) for _ in range(200)]
    whole = SamplingParams(max_tokens=0, prompt_logprobs=2)
    (all_of_it,) = engine.generate([text], whole)
    part = SamplingParams(max_tokens=0, prompt_logprobs=2, prompt_logprobs_start=context)
    for expected_cached in (None, (context - 1) // 64 * 64):
        completions = engine.generate([text, [*text, 7]], part)
        for done in completions:
            assert done.prompt_logprobs[:200] == (*[None] * context, *all_of_it.prompt_logprobs[context:])
        if expected_cached is not None:
            assert completions[0].usage.cached_tokens == expected_cached
    assert engine.generate([text], whole)[0].usage.cached_tokens == 0
    engine.cache.ledger.check()


def in_bfloat16(model):
    """As a bf16 folder would load: what a module names stays fp32."""
    weights = NamedWeights(model)
    for name, parameter in model.named_parameters():
        parameter.data = parameter.data.to(weights.dtype(name, torch.bfloat16))
    return model


def test_prompt_logprobs_come_once_with_the_first_event_and_for_every_choice(engine):
    params = SamplingParams(max_tokens=4, n=2, seed=1, prompt_logprobs=0, ignore_eos=True)
    events = list(engine.stream([1, 2, 3] * 30, params))
    given = [event for event in events if event.prompt_logprobs is not None]
    assert [event.choice for event in given] == [0] and given[0] is next(e for e in events if e.choice == 0)
    first, second = engine.generate([[1, 2, 3] * 30], params)
    assert first.prompt_logprobs == second.prompt_logprobs == given[0].prompt_logprobs
    assert engine.generate([[1, 2]], SamplingParams(max_tokens=1))[0].prompt_logprobs is None


def test_a_prompt_that_fills_the_context_can_be_scored_but_not_continued(engine):
    prompt = [5] * 512
    (scored,) = engine.generate([prompt], SamplingParams(max_tokens=0, prompt_logprobs=0))
    assert len(scored.prompt_logprobs) == 512
    with pytest.raises(RequestError, match="shorten the prompt"):
        engine.generate([prompt], SamplingParams(max_tokens=1, prompt_logprobs=0))


def test_the_logits_of_a_long_prompt_never_exist_at_once(kimi, monkeypatch):
    engine, counts, whole = Engine(kimi, memory=MEMORY, max_num_sequences=1), [], kimi.head_logits

    def counted(rows):
        counts.append(len(rows))
        return whole(rows)

    monkeypatch.setattr(kimi, "head_logits", counted)
    engine.generate([[3] * 300], SamplingParams(max_tokens=0, prompt_logprobs=0))
    assert sum(counts) == 299 and max(counts) == SCORED_ROWS


def test_a_preempted_prompt_is_scored_once(kimi):
    params = SamplingParams(max_tokens=24, seed=4, prompt_logprobs=1, ignore_eos=True)
    prompts = [[n + 1] * (45 + 7 * n) for n in range(4)]
    tight = Engine(kimi, memory=MEMORY, max_num_sequences=4)
    tight.cache.ledger.pages.take(tight.cache.ledger.pages.free - 5)
    together = tight.generate(prompts, params)
    assert tight.scheduler.num_preemptions > 0
    roomy = Engine(kimi, memory=MEMORY, max_num_sequences=1)
    assert [answer(c) for c in together] == [answer(c) for c in roomy.generate(prompts, params)]


def test_prompt_logits_that_are_not_numbers_end_the_request(engine, monkeypatch):
    whole = engine.model.head_logits
    monkeypatch.setattr(engine.model, "head_logits", lambda rows: whole(rows) * float("nan"))
    (failed,) = engine.generate([[1, 2, 3]], SamplingParams(max_tokens=0, prompt_logprobs=0))
    assert failed.finish_reason == "error" and "NaN" in failed.error and failed.prompt_logprobs is None
    engine.cache.ledger.check()
    assert engine.cache.ledger.pages.used == 0


# Sampling


def mixed_params():
    common = {"max_tokens": 12, "logprobs": 2}
    return [
        SamplingParams(**common, temperature=0.0, ignore_eos=True),
        SamplingParams(**common, seed=1, top_k=7, repetition_penalty=1.2, ignore_eos=True),
        SamplingParams(**common, seed=2, top_p=0.8, frequency_penalty=0.5, prompt_logprobs=1),
        SamplingParams(**common, temperature=0.0, presence_penalty=1.0, logit_bias={65: 4.0}, min_tokens=9),
        SamplingParams(**common, seed=3, min_p=0.02, bad_words=("e", (1, 2)), n=2),
        SamplingParams(**common, seed=4, grammar=JsonSchema(json_schema=SCHEMA), n=2),
        SamplingParams(**common, seed=5, grammar=Regex(pattern="[ab]{3,40}"), stop="ba", ignore_eos=True),
        SamplingParams(**common, seed=6, thinking_end_ids=(33, 34), thinking_budget=4, grammar=Choice(options=("no",))),
    ]


def test_every_way_of_sampling_gives_the_same_whatever_the_batch(engine, kimi):
    draw = random.Random(3)
    prompts = [[draw.randrange(256) for _ in range(length)] for length in (1, 5, 63, 64, 65, 90, 30, 12)]
    together = engine.generate(prompts, mixed_params())
    small = Engine(kimi, tokenizer=byte_tokenizer(), memory=MEMORY, max_num_sequences=1, prefill_chunk=17)
    alone = [one for pair in zip(prompts, mixed_params()) for one in small.generate([pair[0]], [pair[1]])]
    assert [answer(c) for c in together] == [answer(c) for c in alone]
    assert all(c.error is None for c in together)


def test_a_schema_is_met_by_a_model_that_knows_nothing_of_it(engine):
    for seed in range(5):
        params = SamplingParams(max_tokens=60, seed=seed, grammar=JsonSchema(json_schema=SCHEMA))
        (done,) = engine.generate("answer:", params)
        assert done.finish_reason == "stop"
        jsonschema.validate(json.loads(done.text), SCHEMA)


def test_a_complete_grammar_ends_the_answer_whatever_min_tokens_and_end_of_text_say(engine):
    for more in ({"min_tokens": 20}, {"ignore_eos": True}, {}):
        params = SamplingParams(max_tokens=30, temperature=0, grammar=Choice(options=("yes", "no")), **more)
        (done,) = engine.generate("?", params)
        assert done.text in ("yes", "no") and done.finish_reason == "stop"
        assert done.token_ids == tuple(done.text.encode())


def test_a_stop_string_cuts_a_grammar(engine):
    params = SamplingParams(max_tokens=30, seed=1, grammar=Regex(pattern="[0-9]{3}-[0-9]{4}"), stop="-")
    (cut,) = engine.generate("call", params)
    assert cut.finish_reason == "stop" and cut.text.isdigit() and len(cut.text) == 3
    (kept,) = engine.generate("call", params.model_copy(update={"include_stop_str_in_output": True}))
    assert kept.text == cut.text + "-"
    (late,) = engine.generate("call", params.model_copy(update={"min_tokens": 4}))
    assert len(late.text) == 8 and late.finish_reason == "stop"


def test_a_grammar_with_nothing_left_is_a_dead_end_and_the_others_go_on(engine):
    params = [
        SamplingParams(max_tokens=5, grammar=Regex(pattern="abc"), bad_words=((98,),)),
        SamplingParams(max_tokens=5, temperature=0, ignore_eos=True),
    ]
    failed, fine = engine.generate(["x", "y"], params)
    assert failed.finish_reason == "dead_end" and "the grammar allows no token" in failed.error and failed.text == "a"
    assert fine.finish_reason == "length" and engine.cache.ledger.pages.used == 0


def test_bad_words_do_not_appear(engine):
    free = SamplingParams(max_tokens=200, temperature=0, ignore_eos=True)
    (whole,) = engine.generate("x", free)
    pair = whole.token_ids[3:5]
    (other,) = engine.generate("x", free.model_copy(update={"bad_words": (pair,)}))
    pairs = set(zip(other.token_ids, other.token_ids[1:]))
    assert pair not in pairs and pair in set(zip(whole.token_ids, whole.token_ids[1:]))
    request = engine.resolve(Request("r", "x", SamplingParams(bad_words=("né", " a", (1, 2))))).request
    ids = (tuple("né".encode()), tuple(" né".encode()), tuple(b" a"), (1, 2))
    assert request.params.bad_words == ids


def test_penalties_change_what_is_repeated(engine):
    free = SamplingParams(max_tokens=60, temperature=0, ignore_eos=True)
    (plain,) = engine.generate("abab", free)
    (varied,) = engine.generate("abab", free.model_copy(update={"frequency_penalty": 2.0, "presence_penalty": 2.0}))
    assert len(set(varied.token_ids)) > len(set(plain.token_ids))


def test_thinking_is_cut_at_its_budget(engine):
    fields = {"thinking_start_ids": (60,), "thinking_end_ids": (62, 10), "thinking_budget": 3}
    params = SamplingParams(max_tokens=8, temperature=0, ignore_eos=True, **fields)
    (done,) = engine.generate([[1, 60]], params)
    assert done.token_ids[3:5] == (62, 10)
    answered = params.model_copy(update={"grammar": Choice(options=("ok",))})
    (done,) = engine.generate([[1, 60]], answered)
    assert done.token_ids[3:] == (62, 10, *b"ok") and done.finish_reason == "stop"


def test_special_tokens_are_shown_when_asked_for(engine):
    params = SamplingParams(max_tokens=3, temperature=0, ignore_eos=True, allowed_token_ids=(END,))
    (hidden,) = engine.generate("x", params)
    (shown,) = engine.generate("x", params.model_copy(update={"skip_special_tokens": False}))
    assert hidden.text == "" and shown.text == "<|end|>" * 3
    assert hidden.token_ids == shown.token_ids == (END,) * 3


@pytest.mark.parametrize(
    ("params", "param", "words"),
    [
        ({"logit_bias": {259: 1.0}}, "logit_bias", "holds 259; this model's ids are 0 to 258"),
        ({"allowed_token_ids": (1, 300)}, "allowed_token_ids", "holds 300"),
        ({"bad_words": ((1, 400),)}, "bad_words", "holds 400"),
        ({"thinking_end_ids": (500,)}, "thinking_end_ids", "holds 500"),
        ({"grammar": Regex(pattern="(")}, "grammar", "unclosed group"),
    ],
)
def test_parameters_that_this_model_cannot_do_are_named(engine, params, param, words):
    with pytest.raises(RequestError, match=words) as caught:
        engine.generate("x", SamplingParams(**params))
    assert caught.value.param == param and not engine.has_work


def test_without_a_tokenizer_words_and_grammars_are_refused(kimi):
    engine = Engine(kimi, memory=MEMORY, max_num_sequences=1)
    for params in ({"bad_words": ("x",)}, {"grammar": JsonObject()}):
        with pytest.raises(RequestError, match="tokenizer"):
            engine.generate([[1]], SamplingParams(**params))
    (done,) = engine.generate([[1]], SamplingParams(max_tokens=2, bad_words=((7,),)))
    assert len(done.token_ids) <= 2


def test_random_loads_of_every_kind_leave_nothing(engine):
    draw, kinds = random.Random(11), mixed_params()
    for n in range(24):
        prompt = tuple(draw.randrange(256) for _ in range(draw.randint(1, 140)))
        engine.add(Request(f"kind-{n}", prompt, draw.choice(kinds)))
    ends = {}
    while engine.has_work:
        if draw.random() < 0.15:
            engine.cancel(f"kind-{draw.randrange(24)}")
        for event in engine.step():
            if event.finish_reason is not None:
                ends.setdefault(event.request_id, []).append(event.finish_reason)
    assert len(ends) == 24 and {"length", "stop", "cancelled"} <= {
        end for all_ends in ends.values() for end in all_ends
    }
    assert "error" not in str(ends)
    assert engine.cache.ledger.pages.used == engine.cache.ledger.slots.used == 0


def test_a_choice_does_not_pay_for_the_work_of_its_siblings_grammars(monkeypatch):
    from hyla.engine.sampling import grammar

    monkeypatch.setitem(grammar.LIMITS, "max_lexer_states", 300)
    engine = Engine(tiny_model(), tokenizer=byte_tokenizer(), memory=48 << 20, max_num_sequences=8)
    # States of [ab]{9} that this choice needs: fewer than 300; those of eight choices together: more.
    params = SamplingParams(
        max_tokens=150, seed=5, grammar=Regex(pattern="([ab]*a[ab]{9}x)"), logit_bias={ord("x"): -100.0}
    )
    (alone,) = engine.generate([1, 2, 3], params)
    first = engine.generate([1, 2, 3], params.model_copy(update={"n": 8}))[0]
    assert alone.finish_reason == first.finish_reason == "length" and alone.token_ids == first.token_ids
