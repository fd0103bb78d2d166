"""The engine tells which experts it chose: the trainer's, whatever was cached, drafted, cut or preempted."""

import pickle

import pytest
import torch
from tiny_model import sandwich, tiny_model

from hyla.engine import Engine, RouterChoices, SamplingParams
from hyla.engine.requests.collect import Collector
from hyla.engine.routes import RouteRecord, RouteWatch, ids_of, mixtures, routers
from hyla.errors import RequestError
from hyla.models.trunk import Model
from hyla.ops.batch import Batch

LETTERS = {5: 50.0, 6: 50.0}
"""It writes these two, so that drafts are right now and then."""
PARAMS = SamplingParams(max_tokens=24, seed=3, logit_bias=LETTERS, ignore_eos=True, router_choices=True)
DRAFTS = {"speculation": "lookup", "fixed_drafts": True}
OPTIONS = {"memory": 8 << 20, "max_num_sequences": 3, "prefill_chunk": 50, **DRAFTS}
SHARED = [5, 6, 7, 8] * 40


def expected(model, tokens):
    """int64 [T, L, k] of one forward call over the whole text."""
    with torch.no_grad(), RouteWatch(mixtures(model)) as watch:
        model(torch.tensor(tokens), Batch.packed([len(tokens)]))
    return torch.stack(watch.ids, dim=1)


def told(model, prompt, answer):
    """The rows that the answer tells of, and how many it does not."""
    choices = answer.router_choices
    assert (choices.num_layers, choices.num_chosen, choices.itemsize) == (*routers(model.config)[:2], 1)
    text = [*prompt, *answer.token_ids[:-1]]
    assert choices.first + choices.num_rows == len(text)
    assert torch.equal(torch.from_numpy(ids_of(choices)), expected(model, text)[choices.first :])
    return choices.first


def test_choices_are_the_trainers_for_every_row():
    trainer, engine = tiny_model().eval(), Engine(tiny_model(), **OPTIONS)
    prompts = [[1, *SHARED], SHARED, [*SHARED, 9, 9], SHARED[:150] * 2, [2]]
    answers = engine.generate(prompts, PARAMS)
    missing = [told(trainer, prompt, answer) for prompt, answer in zip(prompts, answers)]
    assert sum(answer.usage.accepted_tokens for answer in answers) > 0
    assert sum(answer.usage.drafted_tokens - answer.usage.accepted_tokens for answer in answers) > 0
    assert missing == [answer.usage.cached_tokens for answer in answers] and sum(missing) > 0 == missing[0]


def test_choices_survive_preemption():
    trainer, engine = tiny_model().eval(), Engine(tiny_model(), memory=1 << 20, max_num_sequences=4, prefix_cache=False)
    prompts = [[1, *SHARED] * 2, SHARED * 2, [*SHARED, 9, 9] * 2]
    resolved = [engine.resolve(engine._request(prompt, PARAMS)) for prompt in prompts]
    steps = 0
    for one in resolved:
        engine.add(one)
    collectors = {one.request.request_id: Collector(one.request) for one in resolved}
    while engine.has_work:
        for event in engine.step():
            collectors[event.request_id].add(event)
        steps += 1
        if steps == 9:
            engine.scheduler.preempt_all()
    assert engine.scheduler.num_preemptions > 0
    answers = [collector.completions()[0] for collector in collectors.values()]
    assert [told(trainer, prompt, answer) for prompt, answer in zip(prompts, answers)] == [0, 0, 0]


def test_who_does_not_ask_gets_nothing_and_the_same_answer():
    engine = Engine(tiny_model(), **OPTIONS, prefix_cache=False)
    asked, plain = engine.generate([SHARED, SHARED], [PARAMS, PARAMS.model_copy(update={"router_choices": False})])
    assert plain.router_choices is None and asked.router_choices is not None
    assert asked.token_ids == plain.token_ids
    before = engine.status()["recorded_steps"]["replayed"]
    engine.generate([SHARED], PARAMS)
    assert engine.status()["recorded_steps"]["replayed"] == before, "a recorded step has no routers to look at"
    assert all(module.watch is None for module in mixtures(engine.model))


def test_a_model_without_experts_has_no_choices():
    engine = Engine(Model(sandwich("kda", 61)), memory=8 << 20)
    with pytest.raises(RequestError, match="this model has no experts to choose"):
        engine.generate([[1, 2]], PARAMS)


@pytest.mark.parametrize("num_experts, itemsize", [(255, 1), (256, 2)])
def test_choices_go_through_text_and_pipes(num_experts, itemsize):
    ids = torch.tensor([[0, num_experts - 1], [3, 1]])
    watch, record = RouteWatch([]), RouteRecord()
    watch.ids = [ids, ids + 0]
    record.put(4, watch.rows(num_experts))
    record.put(7, watch.rows(num_experts)[:1])
    choices = record.told(9)
    assert (choices.first, choices.num_rows, choices.itemsize) == (4, 5, itemsize)
    assert ids_of(choices).tolist() == [
        [[0, num_experts - 1]] * 2, [[3, 1]] * 2, [[-1, -1]] * 2, [[0, num_experts - 1]] * 2, [[-1, -1]] * 2
    ]  # fmt: skip
    assert RouterChoices.from_text(choices.text) == choices == pickle.loads(pickle.dumps(choices))
    assert record.told(4) is None and record.told(5).num_rows == 1
    with pytest.raises(ValueError, match="no router choices"):
        RouterChoices.from_text("00000")
