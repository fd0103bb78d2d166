"""Drafts that are sampled and accepted by the classical rule leave the distribution of the answers as it is."""

import math
from collections import Counter
from itertools import product

import numpy as np
import pytest
import torch
from matrix.mixers import config_of
from tiny_text import byte_tokenizer, tiny_model

from hyla.engine import Engine, Regex, Request, SamplingParams
from hyla.engine.drafts import Part
from hyla.engine.generation import Generation
from hyla.engine.runner import Outcome, Runner
from hyla.engine.sampling.acceptance import Distribution, Draft, settle
from hyla.engine.sampling.choosing import Chooser
from hyla.engine.sampling.grammar import GrammarCompiler
from hyla.engine.sampling.noise import DRAFTING, NoiseKey
from hyla.engine.sampling.sampler import gumbel_argmax, logprobs_of
from hyla.models.initialize import initialize
from hyla.models.trunk import Model

MEMORY = 16 << 20
DRAWS = 4000
STRANGE = 3.3
"""Standard deviations of a chi-square statistic, as a normal number: 1 in 2,000. Seeds are fixed."""
SHARP = 60.0
"""What a wrong rule must add to the statistic to be found with certainty."""
FEWEST = 8.0
"""Cells that expect less are counted together."""


def strangeness(counts, probs):
    """Chi-square statistic of counts against probabilities as a standard normal number (Wilson and Hilferty)."""
    counts, probs = np.asarray(counts, dtype=float), np.asarray(probs, dtype=float)
    assert counts[probs == 0.0].sum() == 0.0
    expected = probs * counts.sum()
    is_rare = expected < FEWEST
    counts = np.append(counts[~is_rare], counts[is_rare].sum())
    expected = np.append(expected[~is_rare], expected[is_rare].sum())
    counts, expected = counts[expected > 0.0], expected[expected > 0.0]
    degrees = len(counts) - 1
    if degrees == 0:
        return 0.0
    share = ((counts - expected) ** 2 / expected).sum() / degrees
    return (share ** (1 / 3) - (1 - 2 / (9 * degrees))) / math.sqrt(2 / (9 * degrees))


# The rule alone

P = (0.31, 0.02, 0.17, 0.05, 0.26, 0.08, 0.11)
PAIRS = {
    "close": (P, (0.28, 0.03, 0.20, 0.04, 0.24, 0.10, 0.11)),
    "far": (P, (0.02, 0.40, 0.05, 0.30, 0.03, 0.15, 0.05)),
    "the same": (P, P),
    "apart": ((0.5, 0, 0.3, 0, 0.2, 0, 0), (0, 0.4, 0, 0.25, 0, 0.2, 0.15)),
    "overlapping": ((0.4, 0.1, 0.3, 0.2, 0, 0, 0), (0, 0, 0.3, 0.4, 0.1, 0.2, 0)),
    "a certain draft": (P, (0, 0, 1.0, 0, 0, 0, 0)),
    "a certain target": ((0, 0, 0, 0, 1.0, 0, 0), P),
}


def distribution(probs, is_sparse=True):
    probs = np.array(probs, dtype=np.float64)
    ids = np.flatnonzero(probs) if is_sparse and (probs == 0.0).any() else None
    return Distribution(probs if ids is None else probs[ids], ids)


def sample(source, key):
    with np.errstate(divide="ignore"):
        return int(source.support[gumbel_argmax(np.log(source.probs), source.support, key)])


@pytest.mark.parametrize(
    ("name", "is_sparse"), [*((name, True) for name in PAIRS), ("overlapping", False), ("a certain draft", False)]
)
def test_the_token_is_a_sample_of_the_target_and_the_draft_is_kept_as_often_as_can_be(name, is_sparse):
    p, q = (np.array(probs) for probs in PAIRS[name])
    target, source = distribution(p, is_sparse), distribution(q, is_sparse)
    counts, num_kept = np.zeros(len(p)), 0
    for position in range(DRAWS):
        key = NoiseKey(seed=7, choice=1, position=position)
        draft = Draft(sample(source, key._replace(purpose=DRAFTING)), source)
        token = settle(target, draft, key)
        counts[token] += 1
        num_kept += token == draft.token
    assert strangeness(counts, p) < STRANGE
    kept = np.minimum(p, q).sum()
    assert abs(num_kept - kept * DRAWS) <= 4 * math.sqrt(kept * (1 - kept) * DRAWS) + 1e-6


@pytest.mark.parametrize("name", ["close", "far", "overlapping", "a certain draft"])
def test_the_statistic_would_find_a_rule_without_the_rest(name):
    """In place of a rejected draft a sample of p itself: what that adds to the statistic on the average."""
    p, q = (np.array(probs) for probs in PAIRS[name])
    wrong = np.minimum(p, q) + (1 - np.minimum(p, q).sum()) * p
    added = DRAWS * (((wrong - p) ** 2)[p > 0] / p[p > 0]).sum()
    assert added > (SHARP if name != "close" else 5.0)


def test_probabilities_that_differ_in_their_last_bits_leave_a_token_as_well():
    p = np.array([0.3, 0.7])
    source = Distribution(p * (1 + 1e-12), None)
    for position in range(50):
        assert settle(Distribution(p, None), Draft(1, source), NoiseKey(3, 0, position)) in (0, 1)
    # A rejected draft whose target is nowhere above the source.
    nowhere = Distribution(np.array([0.5, 1.0]), None)
    assert settle(Distribution(np.array([0.0, 1.0]), None), Draft(0, nowhere), NoiseKey(3, 0, 1)) == 1


def test_a_draft_made_again_after_fewer_others_is_a_new_sample():
    chooser, row, found = Chooser(SamplingParams(seed=7), (1, 2), choice=0), torch.zeros(50), []
    for tokens in ((3, 4, 5), (4, 5), (5,)):
        before = [Draft(token) for token in tokens]
        found.append(chooser.guess(row, before, "rejection").token)
        assert chooser.guess(row, before, "rejection").token == found[-1]
        assert chooser.guess(row, before[1:], "rejection").token != found[-1]
        chooser.advance(tokens[0])
    assert len(set(found)) == 3


# Through the engine

VOCAB, PROMPT, NUM_TOKENS = 5, (1, 4, 2), 4
CHOICES, SEEDS = 128, 10


def small_model(seed, std):
    """KDA with a module of two prediction steps, and five ids."""
    return initialize(Model(config_of("kda").model_copy(update={"vocab_size": VOCAB})), seed, std=std).eval()


def reference_probs(logits, output, params):
    """Plain Python: the documented order for these parameters."""
    row = [float(x) - params.frequency_penalty * output.count(n) for n, x in enumerate(logits)]
    kept = sorted(range(VOCAB), key=lambda n: (-row[n], n))[: params.top_k or VOCAB]
    weights = [math.exp((row[n] - max(row)) / params.temperature) if n in kept else 0.0 for n in range(VOCAB)]
    return [weight / sum(weights) for weight in weights]


def joint_probs(model, params, length, prompt=PROMPT):
    """{tokens: probability} of an answer's first `length` tokens."""
    answers = {(): 1.0}
    for _ in range(length):
        prefixes = list(answers)
        with torch.inference_mode():
            rows = model.logits([[*prompt, *prefix] for prefix in prefixes])
        answers = {
            (*prefix, token): answers[prefix] * prob
            for prefix, row in zip(prefixes, rows)
            for token, prob in enumerate(reference_probs(row[-1], prefix, params))
        }
    return answers


def answers_of(model, draft_model, params, prompt=PROMPT, **options):
    engine = Engine(
        model,
        draft_model=draft_model,
        memory=MEMORY,
        max_num_sequences=CHOICES,
        prefix_cache=False,
        fixed_drafts=True,
        max_draft_tokens=2,
        **options,
    )
    prompts = [prompt] * SEEDS
    asked = [params.model_copy(update={"seed": 1000 + n}) for n in range(SEEDS)]
    done = [one for prompt, own in zip(prompts, asked) for one in engine.generate(prompt, own)]
    engine.cache.ledger.check()
    return done


@pytest.mark.parametrize("speculation", ["draft", "mtp"])
def test_the_tokens_of_an_answer_are_together_distributed_as_the_model_says(speculation):
    model, draft_model = small_model(5, 0.35), small_model(6, 0.35)
    params = SamplingParams(
        max_tokens=NUM_TOKENS, temperature=1.2, top_k=4, frequency_penalty=0.4, n=CHOICES, ignore_eos=True
    )
    joint = joint_probs(model, params, 3)
    done = answers_of(model, draft_model, params, speculation=speculation, acceptance="rejection")
    drafted, accepted = (sum(getattr(one.usage, f"{kind}_tokens") for one in done) for kind in ("drafted", "accepted"))
    assert drafted > len(done) and 0.1 < accepted / drafted < 0.8
    counts = Counter(one.token_ids[:3] for one in done)
    # The first token has no draft; the second and third mostly have.
    assert strangeness([counts[answer] for answer in joint], list(joint.values())) < STRANGE
    pairs = {pair: sum(joint[(n, *pair)] for n in range(VOCAB)) for pair in product(range(VOCAB), repeat=2)}
    counts = Counter(one.token_ids[1:3] for one in done)
    assert strangeness([counts[pair] for pair in pairs], list(pairs.values())) < STRANGE


def test_drafts_of_a_withdrawn_verification_are_not_proposed_again():
    """The answer passes position 64, where a rejected draft withdraws the step. Its drafts are no samples any more:
    tokens that were drawn depend on them."""
    prompt = tuple((n * n + n // 3) % VOCAB for n in range(62))
    model = small_model(5, 0.35)
    params = SamplingParams(max_tokens=4, temperature=1.2, top_k=4, frequency_penalty=0.4, n=CHOICES, ignore_eos=True)
    joint = joint_probs(model, params, 3, prompt)
    done = answers_of(model, None, params, prompt, speculation="mtp", acceptance="rejection")
    counts = Counter(one.token_ids[:3] for one in done)
    assert strangeness([counts[answer] for answer in joint], list(joint.values())) < STRANGE


def written(model, prompts, params, **options):
    engine = Engine(model, tokenizer=byte_tokenizer(), memory=MEMORY, max_num_sequences=4, **options)
    done = engine.generate(prompts, params)
    engine.cache.ledger.check()
    return [(one.token_ids, one.logprobs, one.finish_reason) for one in done], [one.usage for one in done]


def drafting(speculation, acceptance="rejection", seed=4):
    return {
        "speculation": speculation,
        "acceptance": acceptance,
        "fixed_drafts": True,
        "max_draft_tokens": 3,
        "draft_model": tiny_model("nemotron_h", seed=seed) if speculation == "draft" else None,
    }


PROMPTS = [[3, 1, 4, 1, 5, 9, 2, 6] * 6, [2, 7, 1, 8], [9, 9, 8] * 30]


@pytest.mark.parametrize("speculation", ["draft", "mtp", "lookup"])
def test_greedy_answers_are_those_without_drafts(speculation):
    model = tiny_model("nemotron_h")
    params = SamplingParams(max_tokens=40, temperature=0, logprobs=1, ignore_eos=True, allowed_token_ids=(3, 1, 4))
    found, usages = written(model, PROMPTS, params, **drafting(speculation))
    assert found == written(model, PROMPTS, params)[0]
    assert sum(usage.drafted_tokens for usage in usages) > 20


def test_sampled_answers_with_lookup_are_those_without_drafts():
    model = tiny_model("nemotron_h")
    params = SamplingParams(max_tokens=60, seed=5, logprobs=1, ignore_eos=True, allowed_token_ids=(3, 1, 4))
    found, usages = written(model, PROMPTS, params, **drafting("lookup"))
    assert found == written(model, PROMPTS, params)[0]
    assert sum(usage.accepted_tokens for usage in usages) > 10


@pytest.mark.parametrize("speculation", ["draft", "mtp"])
def test_a_run_repeats_and_its_logprobs_are_the_models_own(speculation):
    model = tiny_model("nemotron_h")
    params = SamplingParams(max_tokens=25, seed=5, top_p=0.9, logprobs=2, ignore_eos=True)
    first, _ = written(model, PROMPTS, params, **drafting(speculation))
    assert first == written(model, PROMPTS, params, **drafting(speculation))[0]
    # Neighbours change nothing while there is room for everybody's drafts.
    assert first[:1] == written(model, PROMPTS[:1], params, **drafting(speculation))[0]
    assert first != written(model, PROMPTS, params)[0]
    for prompt, (tokens, logprobs, _) in zip(PROMPTS, first):
        with torch.inference_mode():
            (rows,) = model.logits([[*prompt, *tokens[:-1]]])
        assert tuple(logprobs_of(rows[len(prompt) - 1 :], list(tokens), 2)) == logprobs


def test_another_draft_model_gives_another_answer():
    model, params = tiny_model("nemotron_h"), SamplingParams(max_tokens=30, seed=5, top_k=3, ignore_eos=True)
    assert (
        written(model, PROMPTS, params, **drafting("draft"))[0]
        != written(model, PROMPTS, params, **drafting("draft", seed=8))[0]
    )


# Drafts that the grammar or a thinking budget forbids

ANSWERS = 1200


def table(seed, liked, length):
    """Rows of logits that like some ids."""
    rows = 0.4 * torch.randn(length, 259, generator=torch.Generator().manual_seed(seed)) - 8.0
    rows[:, liked] += 8.0
    return rows


def verified(params, target_RV, source_RV, grammar=None, *, knows_rules=True):
    """The answer that is drawn from the target's rows, one for each token, with drafts from the other rows.

    knows_rules: whether the drafts follow the grammar and the thinking budget.
    """
    generation = Generation(Request("r", (1, 2), params), 0, arrival=0, eos_ids=(), tokenizer=None, grammar=grammar)
    while generation.num_output_tokens < len(target_RV):
        known = generation.num_output_tokens
        part = Part(generation, 1, num_drafts=2)
        drafter = generation.chooser
        if not knows_rules:
            drafter = Chooser(SamplingParams(seed=params.seed), generation.tokens, choice=0)
        # The last token is never computed, so it is not drafted.
        for row in source_RV[known : len(target_RV) - 1][:2]:
            part.drafts.append(drafter.guess(row, part.drafts, "rejection"))
        part.cut_off()
        Runner._verify(part, Outcome(generation), target_RV[known : known + len(part.drafts) + 1], None, 0)
    return tuple(generation.tokens[2:])


def softmax_over(row, ids):
    weights = [math.exp(row[n]) for n in ids]
    return dict(zip(ids, [weight / sum(weights) for weight in weights]))


@pytest.mark.parametrize("knows_rules", [True, False])
def test_a_draft_that_the_grammar_forbids_is_replaced_as_a_rejected_one(knows_rules):
    texts = [
        *product(b"a", b"ab", b"abc", b"ab"),
        *product(b"b", b"abc", b"ab", b"abc"),
        *product(b"c", b"a", b"ab", b"b"),
    ]
    form = Regex(pattern="a[ab][abc][ab]|b[abc][ab][abc]|ca[ab]b")
    grammar = GrammarCompiler(byte_tokenizer()).compile(form)
    target_RV, source_RV = table(1, list(b"abc"), 4), table(2, list(b"abcx"), 4)
    # Half of the drafts are never allowed, and most others are the same letter.
    source_RV[:, list(b"ax")] += 3.0
    joint = dict.fromkeys(texts, 1.0)
    for text in texts:
        for n, row in enumerate(target_RV.tolist()):
            possible = sorted({other[n] for other in texts if other[:n] == text[:n]})
            joint[text] *= softmax_over(row, possible)[text[n]]
    params = [SamplingParams(max_tokens=4, seed=n, grammar=form) for n in range(ANSWERS)]
    counts = Counter(verified(own, target_RV, source_RV, grammar.copy(), knows_rules=knows_rules) for own in params)
    assert strangeness([counts[text] for text in texts], list(joint.values())) < STRANGE
    assert sum(counts.values()) == sum(counts[text] for text in texts)


@pytest.mark.parametrize("knows_rules", [True, False])
def test_a_forced_token_stays_and_those_beside_it_are_drawn_from_the_model(knows_rules):
    ids, end = (5, 6, 7), (20, 21)
    target_RV, source_RV = table(3, ids, 5), table(4, (5, 6, 7, 9, 20), 5)
    params = SamplingParams(max_tokens=5, seed=1, allowed_token_ids=ids, thinking_end_ids=end, thinking_budget=1)
    joint = [softmax_over(target_RV[n].tolist(), ids) for n in (0, 3)]
    counts = Counter()
    for seed in range(ANSWERS):
        answer = verified(params.model_copy(update={"seed": seed}), target_RV, source_RV, knows_rules=knows_rules)
        assert answer[1:3] == end
        counts[answer[0], answer[3]] += 1
    pairs = list(product(ids, repeat=2))
    assert strangeness([counts[pair] for pair in pairs], [joint[0][a] * joint[1][b] for a, b in pairs]) < STRANGE
