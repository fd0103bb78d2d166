"""A rollout's log-probabilities are the trainer's own, bit for bit: tokens drawn at a temperature, from a kept prefix,
through drafts, in batches of several sizes, against one packed forward under autograd."""

import random

import pytest
import torch
from tiny_model import sandwich

from hyla.engine import Engine, Request, SamplingParams
from hyla.engine.requests.collect import Collector
from hyla.models.config import MTPConfig
from hyla.models.initialize import initialize
from hyla.models.state import cast
from hyla.models.trunk import Model
from hyla.ops.batch import Batch
from hyla.ops.exact.logprobs import of_tokens, token_logprobs

pytestmark = pytest.mark.usefixtures("each_backend")

VOCAB = 7
"""So few that a lookup is right now and then, though nothing but a temperature shapes what is drawn."""
TEMPERATURE = 0.7
SHARED_LEN = 133
RECURRENT = ("kda", "gated_delta", "lightning", "mamba2")
DTYPES = (torch.float32, torch.bfloat16)


def hybrid(mixer: str, dtype: torch.dtype, seed: int = 5) -> Model:
    """The mixer, softmax attention, the mixer; with a module of multi-token prediction."""
    _, mlp, attention, *_ = sandwich(mixer, VOCAB).sublayers
    config = sandwich(mixer, VOCAB, mtp=(MTPConfig(sublayers=(attention, mlp), num_steps=1),))
    return cast(initialize(Model(config), seed, std=0.3), dtype)


def engine_of(mixer, dtype, **options):
    drafting = {"speculation": "lookup", "fixed_drafts": True, "max_draft_tokens": 4}
    more = {"memory": 8 << 20, "max_num_sequences": 5, "prefill_chunk": 50, **drafting, **options}
    return Engine(hybrid(mixer, dtype).eval(), **more)


def requests():
    """Six prompts; all but the last begin with one that was computed before."""
    draw = random.Random(1)
    shared = tuple(draw.randrange(VOCAB) for _ in range(SHARED_LEN - 30)) + (1, 2, 1, 4, 5, 2) * 5
    found = []
    for n, own_len in enumerate((0, 1, 9, 30, 64, 7)):
        prompt = (*shared[: 70 if n == 5 else SHARED_LEN], *(draw.randrange(VOCAB) for _ in range(own_len)), 1, 2)
        params = SamplingParams(
            max_tokens=12 + 7 * n, temperature=TEMPERATURE, seed=n, logprobs=0, sampled_logprobs=True, ignore_eos=True
        )
        found.append(Request(f"rollout-{n}", prompt, params))
    return shared, found


def rollouts(engine, on_cached=lambda cache: None):
    """(prompt, completion) of each request, and the batch sizes of the steps that computed them.

    on_cached: what is done to the cache once it keeps the shared prefix.
    """
    shared, waiting = requests()
    engine.generate([(*shared, 3, 3)], SamplingParams(max_tokens=2, seed=99))
    on_cached(engine.cache)
    collectors = {request.request_id: Collector(request) for request in waiting}
    late, widths = waiting[2:], set()
    for request in waiting[:2]:
        engine.add(request)
    for step in range(1000):
        if late and step % 5 == 4:
            engine.add(late.pop(0))
        for event in engine.step():
            collectors[event.request_id].add(event)
        widths.add(len(engine.scheduler.running))
        if not engine.has_work and not late:
            break
    engine.cache.ledger.check()
    return [(request.prompt, *collectors[request.request_id].completions()) for request in waiting], widths


def trained_logprobs(mixer, dtype, pairs, temperature=TEMPERATURE, chunk_rows=13):
    """The trainer's numbers of every answer's tokens, from one packed forward of a model of its own."""
    model = hybrid(mixer, dtype).train()
    texts = [[*prompt, *done.token_ids] for prompt, done in pairs]
    lengths = [len(text) - 1 for text in texts]
    hidden_TD = model(torch.tensor([token for text in texts for token in text[:-1]]), Batch.packed(lengths))
    targets_T = torch.tensor([token for text in texts for token in text[1:]])
    found = token_logprobs(hidden_TD, model.head.weight, targets_T, chunk_rows=chunk_rows, temperature=temperature)
    assert found.requires_grad
    answers = [len(done.token_ids) for _, done in pairs]
    return torch.cat([own[-count:] for own, count in zip(found.detach().split(lengths), answers)])


def values_of(pairs, name="sampled"):
    return torch.tensor([getattr(entry, name) for _, done in pairs for entry in done.logprobs])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("mixer", RECURRENT)
def test_what_the_engine_sampled_with_is_what_the_trainer_computes(mixer, dtype):
    pairs, widths = rollouts(engine_of(mixer, dtype))
    usages = [done.usage for _, done in pairs]
    drafted, accepted = (sum(getattr(one, f"{kind}_tokens") for one in usages) for kind in ("drafted", "accepted"))
    assert [usage.cached_tokens > 0 for usage in usages] == [True] * 5 + [False]
    assert drafted > accepted > 0 and len(widths - {0}) > 2
    found = values_of(pairs)
    assert len(found) == sum(12 + 7 * n for n in range(6))
    assert torch.equal(found, trained_logprobs(mixer, dtype, pairs))
    assert torch.equal(found, trained_logprobs(mixer, dtype, pairs, chunk_rows=1000))
    assert torch.equal(values_of(pairs, "logprob"), trained_logprobs(mixer, dtype, pairs, temperature=1.0))
    assert not torch.equal(found, trained_logprobs(mixer, dtype, pairs, temperature=0.7 + 1e-6))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("mixer", RECURRENT)
def test_one_ulp_in_a_cached_state_is_seen(mixer, dtype):
    """In one layer's kept state. The comparison above must be able to fail."""

    def plant(cache):
        (name,) = (spec.name for spec in cache.specs[0].slot_tensors if spec.role == "anchor")
        kept = cache.snapshots.layers[0][name]["values"]
        assert bool(kept.any())
        kept.copy_(torch.nextafter(kept.to(dtype), torch.full((), float("inf"), dtype=dtype)))

    pairs, _ = rollouts(engine_of(mixer, dtype), plant)
    assert all(done.usage.cached_tokens > 0 for _, done in pairs[:5])
    assert not torch.equal(values_of(pairs), trained_logprobs(mixer, dtype, pairs))


@pytest.mark.parametrize("acceptance", ["exact", "rejection"])
def test_drafts_that_were_sampled_leave_the_target_s_number(acceptance):
    pairs, _ = rollouts(engine_of("kda", torch.float32, speculation="mtp", acceptance=acceptance))
    usages = [done.usage for _, done in pairs]
    assert sum(usage.drafted_tokens for usage in usages) > sum(usage.accepted_tokens for usage in usages) > 20
    assert torch.equal(values_of(pairs), trained_logprobs("kda", torch.float32, pairs))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_scoring_a_rollout_gives_its_numbers(dtype):
    engine = engine_of("gated_delta", dtype)
    pairs, _ = rollouts(engine)
    params = SamplingParams(max_tokens=0, prompt_logprobs=0, sampled_logprobs=True, temperature=TEMPERATURE)
    for prompt, done in pairs:
        (scored,) = engine.generate([[*prompt, *done.token_ids]], params)
        assert scored.prompt_logprobs[len(prompt) :] == done.logprobs
    assert all(entry.sampled is not None for entry in done.logprobs)


@torch.inference_mode()
def test_numbers_of_the_model_s_logits_are_the_same():
    """Of `Model.logits`, as whoever has no hidden states would take them."""
    pairs, _ = rollouts(engine_of("lightning", torch.float32))
    model = hybrid("lightning", torch.float32).eval()
    for prompt, done in pairs:
        (logits_TV,) = model.logits([[*prompt, *done.token_ids[:-1]]])
        own = of_tokens(logits_TV[len(prompt) - 1 :], torch.tensor(done.token_ids), TEMPERATURE)
        assert own.tolist() == [entry.sampled for entry in done.logprobs]
