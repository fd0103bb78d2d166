"""Weights that a trainer hands over through memory of its own: in place, by version, or not at all."""

import pytest
import torch
from matrix.mixers import MIXERS
from tiny_model import sandwich

from hyla.adapters import LoraConfig, attach
from hyla.engine import Administration, Engine, Request, SamplingParams
from hyla.engine.fingerprint import weights_digest
from hyla.engine.hosting.handed import HandedMemory
from hyla.engine.renewal import Renewal
from hyla.errors import HylaError
from hyla.models.initialize import initialize
from hyla.models.state import NamedWeights, cast
from hyla.models.trunk import Model

PARAMS = SamplingParams(max_tokens=9, temperature=0.9, seed=1, logprobs=0)
PROMPTS = [[*range(40)] * 3, [5, 6, 7]]
"""The first one is long enough to be cached."""


def made(seed, mixer="kda", dtype=torch.float32, **more):
    return cast(initialize(Model(sandwich(mixer, 61, **more)), seed, std=0.3), dtype)


def engine_of(model):
    return Engine(model, memory=8 << 20)


def told(engine):
    return [(one.token_ids, one.logprobs) for one in engine.generate(PROMPTS, PARAMS)]


def handed(source, names, terms=None, **versions):
    """The message, and the memory, which must outlive it."""
    weights = {name: NamedWeights(source).read(name) for name in names}
    memory = HandedMemory(weights, terms or {})
    return memory.fill(weights, **versions), memory


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16))
@pytest.mark.parametrize("mixer, tied", [("mamba2", True), *((mixer, False) for mixer in sorted(MIXERS))])
def test_the_engine_has_every_bit_and_forgets_what_it_had_cached(mixer, tied, dtype):
    source = made(1, mixer, dtype, tie_embeddings=tied)
    engine = engine_of(made(2, mixer, dtype, tie_embeddings=tied))
    before = told(engine)
    (again,) = engine.generate([PROMPTS[0]], PARAMS)
    assert again.usage.cached_tokens > 0
    message, memory = handed(source, NamedWeights(source).shapes, version=7, follows=None)
    digest = Administration(engine).renew_weights(message)
    memory.close()
    assert digest == weights_digest(source) == weights_digest(engine.model)
    assert engine.weights_version == 7
    assert told(engine) == told(engine_of(made(1, mixer, dtype, tie_embeddings=tied))) != before


def test_only_what_changed_is_read_and_the_memory_is_filled_again():
    source, engine = made(1), engine_of(made(1))
    told(engine)
    names = Renewal(source, ["sublayers.1.module.up.weight", "norm.weight"]).reads
    assert names == ("sublayers.1.module.gate.weight", "sublayers.1.module.up.weight", "norm.weight")
    message, memory = handed(source, names, version=2, follows=1)
    Administration(engine).renew_weights(message)
    with torch.no_grad():
        for name in names:
            source.get_parameter(name).mul_(1.25)
    weights = {name: NamedWeights(source).read(name) for name in names}
    digest = Administration(engine).renew_weights(memory.fill(weights, version=3, follows=2))
    assert digest == weights_digest(source, names) == weights_digest(engine.model, names)
    assert told(engine) == told(engine_of(source))


@pytest.mark.parametrize("use_dora", (False, True))
def test_terms_are_the_trainers_numbers_and_share_what_they_shared(use_dora):
    def adapted():
        model = made(1)
        adapters = attach(model, LoraConfig(rank=3, use_dora=use_dora), seed=4)
        with torch.no_grad():
            for factor in adapters.beside().values():
                factor.add_(0.1)
        return model, adapters

    source, adapters = adapted()
    engine = engine_of(made(1))
    base = told(engine)
    message, _ = handed(source, (), adapters.terms, version=2, follows=1)
    digest = Administration(engine).renew_weights(message)
    with torch.no_grad():  # the engine has copies
        for factor in adapters.beside().values():
            factor.zero_()
    expected, _ = adapted()
    assert digest == weights_digest(expected, (), adapters.terms)
    assert told(engine) == told(engine_of(expected)) != base
    terms = message.low_rank(message.tensors())
    assert len({id(term.down) for term in terms.values()}) == len({id(term.down) for term in adapters.terms.values()})


def test_a_part_of_other_weights_is_refused_and_nothing_changes():
    source, engine = made(2), engine_of(made(1))
    before = told(engine)
    message, _ = handed(source, ("norm.weight",), version=6, follows=5)
    with pytest.raises(HylaError, match="belong to version 5 of the others, and the engine has version 1"):
        Administration(engine).renew_weights(message)
    assert told(engine) == before and engine.weights_version == 1


def test_unfinished_requests_are_not_given_other_weights():
    source, engine = made(2), engine_of(made(1))
    engine.add(Request("a", (1, 2, 3), PARAMS))
    message, _ = handed(source, NamedWeights(source).shapes, version=2, follows=None)
    with pytest.raises(HylaError, match="1 requests are unfinished"):
        Administration(engine).renew_weights(message)
    engine.cancel("a")
    Administration(engine).renew_weights(message)


def test_an_answer_says_which_weights_drew_it():
    source, engine = made(2), engine_of(made(1))
    assert {one.weights_version for one in engine.generate(PROMPTS, PARAMS)} == {1}
    message, _ = handed(source, NamedWeights(source).shapes, version=4, follows=None)
    Administration(engine).renew_weights(message)
    assert {one.weights_version for one in engine.generate(PROMPTS, PARAMS)} == {4}
    engine.add(Request("a", (1, 2, 3), SamplingParams(max_tokens=5, ignore_eos=True, seed=1)))
    events = engine.step() + engine.step()
    engine.weights_version += 1  # as an update in the middle of an answer does
    while not events[-1].finish_reason:
        events += engine.step()
    assert [event.weights_version for event in events] == [None] * 5
