"""`hyla align` finds nothing on the exact path, and finds whatever is planted, where it was planted."""

from dataclasses import replace

import pytest
import torch
from tiny_rl import RECURRENT, hybrid
from tiny_text import byte_tokenizer

from hyla.align.config import AlignConfig
from hyla.align.prompts import read_prompts
from hyla.align.run import Alignment, aligned
from hyla.align.sampling import Answers
from hyla.align.ways import EXACT, OtherEngine, Way, way_of
from hyla.errors import ConfigError
from hyla.models.config import ModelConfig
from hyla.models.initialize import initialize
from hyla.models.state import cast
from hyla.models.trunk import Model
from hyla.ops import backends, native

DTYPES = (torch.float32, torch.bfloat16)
CONFIG = AlignConfig(prompts=4, max_tokens=20, tapped=2, greedy=False)
TOKENIZER = byte_tokenizer()


def model_of(mixer, dtype=torch.float32):
    return cast(hybrid(mixer, TOKENIZER.vocab_size), dtype)


def alignment_of(mixer, dtype=torch.float32, config=CONFIG, **more):
    prompts = [] if "text" in more else read_prompts([], TOKENIZER, config.prompts)
    return Alignment(lambda: model_of(mixer, dtype), TOKENIZER, config, prompts, **more)


class Planted(Way):
    """One ulp in a layer's cached state, once."""

    name, what, changes_states = "planted", "one ulp in a state", True

    def __init__(self, layer, dtype):
        self._layer, self._dtype, self._is_done = layer, dtype, False

    def after_step(self, batch, specs, caches):
        (name,) = (spec.name for spec in specs[self._layer].slot_tensors if spec.role == "anchor")
        states = caches[self._layer][name]
        if not self._is_done and bool(states.any()):
            up = torch.full((), float("inf"), dtype=self._dtype)
            states.copy_(torch.nextafter(states.to(self._dtype), up))
            self._is_done = True


@pytest.fixture(scope="module", params=[(mixer, dtype) for mixer in RECURRENT for dtype in DTYPES], ids=str)
def case(request):
    mixer, dtype = request.param
    return mixer, dtype, alignment_of(mixer, dtype)


def test_the_exact_path_is_zero_and_everything_happened(case):
    *_, alignment = case
    found = alignment.priced(EXACT)
    assert found.is_zero and found.figures.tokens == 160 and found.figures.share_equal == 1.0
    assert (found.figures.ratio_min, found.figures.ratio_max, found.figures.k1, found.figures.k3) == (
        1.0,
        1.0,
        0.0,
        0.0,
    )
    assert found.first_difference is None and found.born is None
    happened = found.happened
    assert happened.cached_tokens > 0 and happened.drafted_tokens > happened.accepted_tokens > 0
    assert len(happened.batch_sizes) > 2 and happened.missing == []
    assert len(found.gaps) == 1 + 3 * 5 + 2 and all(gap.rows > 100 for gap in found.gaps[:-1])
    assert found.gaps[-1].operator == "head" and found.gaps[-1].rows == 80


def test_states_in_bf16_are_a_gap_that_is_born_in_the_first_mixer(case):
    mixer, _, alignment = case
    found = alignment.priced(way_of("state-bf16"))
    assert not found.is_zero and not found.figures.is_exact and found.figures.k3 > 0
    assert found.born.operator == f"0 {mixer}" and found.first_difference is not None
    assert found.gaps[0].differing == found.gaps[1].differing == 0


def test_a_bf16_head_is_a_gap_that_is_born_in_the_head(case):
    *_, alignment = case
    found = alignment.priced(way_of("head-bf16"))
    assert found.born.operator == "head" and found.figures.equal < found.figures.tokens
    assert all(gap.differing == 0 for gap in found.gaps[:-1])


def test_one_planted_ulp_is_found_in_the_layer_where_it_is(case):
    mixer, dtype, alignment = case
    found = alignment.priced(Planted(2, dtype))
    assert not found.is_zero and found.born.operator == f"4 {mixer}"
    before = [gap for gap in found.gaps if gap.operator[0] in "0123e"]
    assert len(before) == 13 and all(gap.differing == 0 for gap in before)


@pytest.mark.skipif(native.why_missing() is not None, reason="this machine has one backend")
def test_another_backend_is_a_gap():
    alignment = alignment_of("gated_delta")
    found = alignment.priced(way_of("torch"))
    assert not found.is_zero and found.born is not None and 0 < found.figures.largest < 1e-3
    assert alignment.priced(EXACT).is_zero
    assert way_of("torch").unavailable(alignment.trainer) is None
    with backends.using("torch"):
        assert "already" in way_of("torch").unavailable(alignment.trainer)


def test_the_backend_is_what_it_was_afterwards():
    here = backends.on(torch.device("cpu"))
    with pytest.raises(ZeroDivisionError), backends.using("portable"):
        assert backends.on(torch.device("cpu")) == "portable"
        _ = 1 / 0
    assert backends.on(torch.device("cpu")) == here
    with pytest.raises(ConfigError, match="unknown"), backends.using("nothing"):
        pass
    assert backends.on(torch.device("cpu")) == here


@pytest.mark.parametrize("name", ["state-fp16-stochastic", "snapshots-int8", "fp8"])
def test_other_ways_have_a_price_and_repeat_it(name):
    config = CONFIG.model_copy(update={"greedy": True, "prompts": 2})
    found, again = (alignment_of("kda", config=config).priced(way_of(name, 1)) for _ in range(2))
    assert not found.is_zero and found.figures == again.figures and found.gaps == again.gaps
    assert found.born.operator == "0 kda"
    assert found.greedy.prompts == 2 and found.greedy.parted == again.greedy.parted


def test_all_ways_and_why_some_have_no_price():
    softmax = alignment_of("kda").trainer.config.sublayers[2]
    assert softmax.module.kind == "softmax"
    config = ModelConfig(
        family="hyla", vocab_size=TOKENIZER.vocab_size, hidden_dim=24, sublayers=(softmax,) * 2, max_len=512
    )
    prompts = read_prompts([], TOKENIZER, 2)
    alignment = Alignment(lambda: initialize(Model(config), 5), TOKENIZER, CONFIG, prompts)
    found = aligned(alignment, [way_of(name) for name in ("state-bf16", "snapshots-int8", "head-bf16")])
    assert found.is_zero and [way.name for way in found.ways] == ["head-bf16"]
    assert found.skipped == dict.fromkeys(
        ("state-bf16", "snapshots-int8"), "no layer of this model keeps a recurrent state"
    )
    with pytest.raises(ConfigError, match="'half' is unknown; there are state-bf16, "):
        way_of("half")


class Overflowing(Planted):
    """States that are not numbers, from some prompt tokens on."""

    name = "overflowing"

    def after_step(self, batch, specs, caches):
        caches[0]["anchor"].fill_(float("nan"))


def test_a_way_whose_answers_fail_is_named_and_the_others_have_a_price():
    alignment = alignment_of("kda")
    found = aligned(alignment, [Overflowing(0, torch.float32), way_of("head-bf16")])
    assert found.is_zero and [way.name for way in found.ways] == ["head-bf16"]
    assert found.skipped["overflowing"].startswith("it failed: overflowing: the engine gave no answer: ")


@pytest.mark.parametrize("mixer", RECURRENT)
def test_a_long_text_is_read_with_the_trainers_numbers_and_states_in_bf16_are_not(mixer):
    text = [97 + (n * n // 7 + n // 50) % 5 for n in range(500)]
    alignment = alignment_of(mixer, text=text)
    found, rounded = alignment.priced(EXACT), alignment.priced(way_of("state-bf16"))
    assert found.is_zero and found.figures.tokens == 499 and found.gaps[0].rows == 499
    assert not rounded.is_zero and rounded.born.operator == f"0 {mixer}" and rounded.greedy is None
    untapped = alignment_of(mixer, config=CONFIG.model_copy(update={"tapped": 0}), text=text)
    found, again = untapped.priced(EXACT), untapped.priced(way_of("state-bf16"))
    assert found.is_zero and found.gaps == [] and again.figures == rounded.figures


def test_a_text_may_fill_the_context():
    assert alignment_of("lightning", text=[97, 98, 99, 98] * 128).priced(EXACT).figures.tokens == 511


def test_a_text_longer_than_the_context_is_refused():
    with pytest.raises(ConfigError, match="the text has 600 tokens; the model's context is 512"):
        alignment_of("kda", text=[97] * 600)


def test_taps_change_no_bit_and_without_them_steps_are_recorded():
    config = CONFIG.model_copy(update={"tapped": 0, "max_tokens": 30})
    plain, tapped = (alignment_of("lightning", config=config.model_copy(update={"tapped": count})) for count in (0, 4))
    plain, tapped = plain.sampled(EXACT), tapped.sampled(EXACT)
    numbers = [[(one.key, one.token_ids, one.logprobs) for one in found.answers.samples] for found in (plain, tapped)]
    assert numbers[0] == numbers[1]
    if backends.on(torch.device("cpu")) == "native":
        assert plain.answers.happened.recorded_steps > 0
    assert tapped.answers.happened.recorded_steps == 0 and plain.rows.of(plain.answers.samples[0]) is None


def test_answers_of_another_engine_are_scored_and_the_first_other_number_is_named():
    alignment = alignment_of("kda")
    samples = alignment.sampled(EXACT).answers.samples
    assert alignment.scored(OtherEngine("x"), Answers(samples)).is_zero
    other = replace(
        samples[1], logprobs=(*samples[1].logprobs[:3], samples[1].logprobs[3] - 0.5, *samples[1].logprobs[4:])
    )
    found = alignment.scored(OtherEngine("x"), Answers([samples[0], other]))
    first = found.first_difference
    assert (first.prompt, first.turn, first.position) == (other.group, other.member, len(other.prompt_ids) + 3)
    assert first.token_id == other.token_ids[3] and first.new - first.rollout == pytest.approx(0.5)
    assert found.figures.equal == found.figures.tokens - 1 and found.figures.largest == pytest.approx(0.5)
