"""Preference optimisation: the loss is its formula, pairs stay together, a killed run goes on, errors name lines."""

import json

import pytest
import torch
from tiny_run import CONFIG, RECIPE
from tiny_text import byte_tokenizer

from hyla.checkpoints import load_model, save_model
from hyla.errors import ConfigError
from hyla.models.initialize import initialize
from hyla.models.trunk import Model
from hyla.ops.batch import Batch
from hyla.ops.exact.logprobs import token_logprobs
from hyla.train.config import TrainConfig
from hyla.train.model_source import ModelSource
from hyla.train.preferences import DPOConfig, PairSource, PreferenceTrainer, read_pairs
from hyla.train.run import RunRequest, open_run
from hyla.train.run_state import finished_states

TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def pair(number: int) -> dict:
    def says(role: str, text: str) -> dict:
        return {"role": role, "content": text}

    prompt = [says("user", "hi"), says("assistant", "yes?"), says("user", f"name a number like {number}")]
    return {
        "prompt": prompt,
        "chosen": [says("assistant", f"{number} " * (1 + number % 3))],
        "rejected": [says("assistant", "no")],
    }


@pytest.fixture
def tokenizer():
    return byte_tokenizer(TEMPLATE)


@pytest.fixture
def file(tmp_path):
    place = tmp_path / "pairs.jsonl"
    place.write_text("\n".join(json.dumps(pair(number)) for number in range(10)))
    return place


@pytest.fixture
def store(file, tokenizer):
    return read_pairs(file, tokenizer, max_document_tokens=300, say=lambda line: None)


def small_model(tokenizer, seed=1):
    config = RECIPE.model_config_of(tokenizer.vocab_size, tokenizer.eos_token_id)
    return initialize(Model(config), seed, std=0.3)


def config(**options) -> TrainConfig:
    given = {"steps": 6, "optimizer": "adamw", "learning_rate": 1e-3, "checkpoint_every": 2, "loss_rows": 7}
    return TrainConfig(**{**CONFIG.model_dump(), **given, **options})


def test_only_what_tells_two_answers_apart_is_learnt(store, tokenizer):
    first, second = store.ends[0].item(), store.ends[1].item()
    chosen, rejected = store.tokens[:first], store.tokens[first:second]
    learnt = store.learnt[:first].bool(), store.learnt[first:second].bool()
    assert tokenizer.decode(chosen[learnt[0]].tolist(), skip_special_tokens=False) == "0 <|end|>"
    assert tokenizer.decode(rejected[learnt[1]].tolist(), skip_special_tokens=False) == "no<|end|>"


def test_log_probabilities_and_their_gradient_are_the_softmaxs():
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(20, 12, generator=generator, requires_grad=True)
    weight = torch.randn(31, 12, generator=generator, requires_grad=True)
    targets = torch.randint(0, 31, (20,), generator=generator)
    row_weights = torch.randn(20, generator=generator)
    found = token_logprobs(hidden, weight, targets, chunk_rows=7)
    (found * row_weights).sum().backward()
    exact = [x.detach().double().requires_grad_() for x in (hidden, weight)]
    expected = torch.log_softmax(exact[0] @ exact[1].t(), -1).gather(1, targets[:, None])[:, 0]
    (expected * row_weights).sum().backward()
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)
    for own, true in zip((hidden, weight), exact):
        torch.testing.assert_close(own.grad.double(), true.grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_the_loss_is_the_papers(tmp_path, store, tokenizer, smoothing):
    dpo = DPOConfig(pairs="-", beta=0.3, pairs_per_step=3, label_smoothing=smoothing)
    trainer = PreferenceTrainer(small_model(tokenizer), PairSource(store, 3, 0), config(), tmp_path, dpo)
    before = trainer.reference().clone()
    with torch.no_grad():
        for parameter in trainer.model.parameters():
            parameter.add_(0.01 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    rows = trainer.source.step(1)
    found = trainer._losses(rows, 3)
    expected, first = 0.0, 0
    for number, pair_number in enumerate(rows.pairs):
        gained = []
        for side in (0, 1):
            length = rows.lengths[2 * number + side]
            here = slice(first, first + length)
            logits = trainer.model.head_logits(trainer.model(rows.tokens_T[here], Batch.packed([length])))
            logprobs = torch.log_softmax(logits.double(), -1).gather(1, rows.targets_T[here, None])[:, 0]
            gained.append(logprobs[rows.is_learnt_T[here]].sum() - before[2 * pair_number + side])
            first += length
        margin = 0.3 * (gained[0] - gained[1])
        expected += -(1 - smoothing) * torch.nn.functional.logsigmoid(margin)
        expected += -smoothing * torch.nn.functional.logsigmoid(-margin)
    assert found.total.item() == pytest.approx(expected.item() / 3, rel=1e-4)


def test_pairs_are_never_parted(store):
    rows = PairSource(store, 5, 3).step(0)
    for most in (1, 60, 150, None):
        parts = rows.micro_batches(most)
        assert [pair for part in parts for pair in part.pairs] == list(rows.pairs)
        assert all(len(part.lengths) == 2 * len(part.pairs) for part in parts)
        assert torch.equal(torch.cat([part.tokens_T for part in parts]), rows.tokens_T)
        assert torch.equal(torch.cat([part.is_learnt_T for part in parts]), rows.is_learnt_T)


def test_a_run_learns_the_preference_and_goes_on_bit_for_bit(tmp_path, file, tokenizer):
    save_model(small_model(tokenizer), tmp_path / "start", tokenizer=tokenizer)
    request = RunRequest(
        model=ModelSource(start_from=str(tmp_path / "start")),
        dpo=DPOConfig(pairs=str(file), pairs_per_step=4),
        train=config(max_document_tokens=300, micro_batch_tokens=200),
    )
    weights = []
    for name in ("whole", "parts"):
        run = open_run(tmp_path / name, request, lambda line: None)
        if name == "parts":
            count = []
            run.trained(count.append, lambda step: None, is_stopped=lambda: len(count) >= 3)  # noqa: B023
            assert len(count) == 3
        trained = run.trained(lambda line: None, lambda step: None)
        assert trained.is_finished
        weights.append((finished_states(run.folder / "checkpoints")[-1] / "weights.safetensors").read_bytes())
        found = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
        assert found[0]["loss"] == pytest.approx(0.6931, abs=1e-3) and found[-1]["loss"] < found[0]["loss"]
        assert found[-1]["preferred"] == 1.0 and found[-1]["margin"] > 0
        run.save_model(trained.model)
        load_model(run.model_folder)
    assert weights[0] == weights[1]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "line 1 is not JSON"),
        ("[]", "keys chosen and rejected"),
        ('{"chosen": "a", "rejected": "b"}', "chosen must be a list of messages"),
        ('{"chosen": [{"role": "user", "content": "a"}], "rejected": []}', "rejected must be"),
        (json.dumps({**pair(1), "rejected": pair(1)["chosen"]}), "are the same"),
        (json.dumps({**pair(1), "rejected": pair(1)["prompt"][:1]}), "must be the assistant's"),
    ],
)
def test_a_wrong_line_is_named(tmp_path, tokenizer, line, words):
    (tmp_path / "p.jsonl").write_text(line)
    with pytest.raises(ConfigError, match=words):
        read_pairs(tmp_path / "p.jsonl", tokenizer, max_document_tokens=300, say=lambda line: None)


def test_pairs_that_are_too_long_are_left_out_and_counted(file, store, tokenizer):
    said, longest = [], int(store.ends.diff(prepend=torch.zeros(1, dtype=torch.int64)).max())
    store = read_pairs(file, tokenizer, max_document_tokens=longest - 2, say=said.append)
    assert 0 < len(store.ends) < 20 and len(store.ends) % 2 == 0
    assert len(said) == 1 and "left out" in said[0]


def test_too_few_pairs_for_a_step_are_refused(store):
    with pytest.raises(ConfigError, match=r"10 pairs are fewer than dpo.pairs_per_step = 11"):
        PairSource(store, 11, 0)


@pytest.mark.parametrize(
    ("change", "words"),
    [({"model": {"hybrid": {}}}, "needs a trained model"), ({"data": {"heldout_share": 0.2}}, "leave data out")],
)
def test_what_goes_with_no_preferences_is_refused(change, words):
    tables = {"model": {"start_from": "x"}, "dpo": {"pairs": "p"}, "train": {"steps": 1}, **change}
    with pytest.raises(ConfigError, match=words):
        RunRequest(**tables)
