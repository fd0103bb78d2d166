"""New tokens: ids behind the old ones, rows that start as the mean, nothing else changed."""

import json

import pytest
import torch
from adapted_models import stirred
from tiny_model import RECIPE, save_tiny_folder, tiny_model

import hyla
from hyla.adapters import LoraConfig, attach, extend_vocabulary, load_adapted, merge, read_adapter, save_adapter
from hyla.checkpoints import load_model, load_tokenizer, save_model
from hyla.errors import CheckpointError, ConfigError
from hyla.models.state import NamedWeights

NEW = ["<|call|>", "<|result|>", "<|end_call|>"]


@pytest.fixture
def base(tmp_path):
    return save_tiny_folder(tmp_path / "base")


def test_new_tokens_get_rows_and_ids_and_the_rest_keeps_its_bits(base, tmp_path):
    model, tokenizer = load_model(base), load_tokenizer(base)
    known, rows = tokenizer.vocab_size, model.config.vocab_size
    bigger, wider = extend_vocabulary(model, tokenizer, NEW)
    first = [known, known + 1, known + 2]
    assert [wider.token_id(text) for text in NEW] == first and bigger.config.vocab_size == max(rows, known + 3)
    assert wider.encode(f"def{NEW[1]}read", add_special_tokens=False).count(known + 1) == 1
    assert set(NEW) <= set(wider.special_texts) and tokenizer.token_id(NEW[0]) is None
    before, after = NamedWeights(model), NamedWeights(bigger)
    for name in before.shapes:
        old, new = before.read(name), after.read(name)
        assert torch.equal(
            new[:known] if name in ("embed.weight", "head.weight") else new,
            old[:known] if name in ("embed.weight", "head.weight") else old,
        )
    for name in ("embed.weight", "head.weight"):
        assert all(torch.equal(after.read(name)[token], before.read(name)[:known].mean(0)) for token in first)
    assert model.config.vocab_size == rows


def test_old_tokens_have_the_logits_that_they_had(base):
    model, tokenizer = load_model(base), load_tokenizer(base)
    bigger, _ = extend_vocabulary(model, tokenizer, NEW)
    known = tokenizer.vocab_size
    with torch.no_grad():
        old, new = model.logits([[1, 5, 9, 7]])[0], bigger.logits([[1, 5, 9, 7]])[0]
    assert torch.equal(old[:, :known], new[:, :known])


def test_an_extended_model_is_saved_with_its_rows_and_tokens(base, tmp_path):
    bigger, wider = extend_vocabulary(load_model(base), load_tokenizer(base), NEW)
    save_model(bigger, tmp_path / "m", tokenizer=wider)
    assert json.loads((tmp_path / "m" / "config.json").read_text())["vocab_size"] == bigger.config.vocab_size
    again = load_tokenizer(tmp_path / "m")
    assert [again.token_id(text) for text in NEW] == [wider.token_id(text) for text in NEW]
    assert torch.equal(load_model(tmp_path / "m").embed.weight, bigger.embed.weight)


def test_rows_that_no_token_had_are_used_first(base):
    model, tokenizer = load_model(base), load_tokenizer(base)
    from hyla.adapters.vocabulary import with_vocabulary

    padded = with_vocabulary(model, model.config.vocab_size + 10)
    bigger, _ = extend_vocabulary(padded, tokenizer, NEW)
    assert bigger.config.vocab_size == padded.config.vocab_size


@pytest.mark.parametrize(
    "tokens, message",
    [([], "one at least"), (["<a>", "<a>"], "different"), ([""], "different"), (["def"], "is token .* already")],
)
def test_tokens_that_cannot_be_added_are_refused(tokens, message, base):
    with pytest.raises(ConfigError, match=message):
        extend_vocabulary(load_model(base), load_tokenizer(base), tokens)


def test_a_packed_model_is_refused(base):
    with pytest.raises(ConfigError, match="unpack"):
        extend_vocabulary(load_model(base, pack=True), load_tokenizer(base), NEW)


def trained(base, folder):
    """An adapter with new tokens, saved; and the merged model."""
    bigger, wider = extend_vocabulary(load_model(base), load_tokenizer(base), NEW)
    adapters = stirred(attach(bigger, LoraConfig(rank=2, targets=("q", "o"), modules_to_save=("embed", "head"))))
    with torch.no_grad():
        for name in adapters.whole:
            adapters.trainable()[name].mul_(1.25)
    save_adapter(adapters, folder, base="base", tokenizer=wider)
    return merge(adapters)


def test_an_adapter_brings_its_tokens_along(base, tmp_path):
    expected = NamedWeights(trained(base, tmp_path / "a"))
    found = load_adapted(base, tmp_path / "a", pack=True)
    weights = NamedWeights(found)
    assert found.config.vocab_size == expected.model.config.vocab_size
    assert all(torch.equal(weights.read(name), expected.read(name)) for name in expected.shapes)
    engine = hyla.Engine(base, adapter=tmp_path / "a", memory=1 << 26)
    assert engine.tokenizer.token_id(NEW[0]) == load_tokenizer(base).vocab_size
    engine.generate([NEW[0] + "import "], hyla.SamplingParams(max_tokens=3, seed=1))
    engine.close()


def test_a_smaller_vocabulary_is_of_another_model(base, tmp_path):
    trained(base, tmp_path / "a")
    config = tiny_model().config.model_copy(update={"vocab_size": RECIPE.vocab_size + 500})
    with pytest.raises(CheckpointError, match="instead of"):
        read_adapter(tmp_path / "a", config)
