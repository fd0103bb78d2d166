"""Bits per byte: against sums over the model's own logits, and the same bits however windows share a call."""

import math

import pytest
import torch
from tiny_model import save_tiny_folder

from hyla.checkpoints import Tokenizer, load_model, load_tokenizer
from hyla.errors import ConfigError, RequestError
from hyla.models.state import cast
from hyla.train import scoring
from hyla.train.corpus import Document
from hyla.train.scoring import Windows, encode_plain, score

TEXTS = (
    "def read(path):\n    return path.read_text()\n" * 4,
    "x",
    "import os, sys\n",
    "élan 漢字 🙂 <|endoftext|> and text after what looks like a token\n" * 3,
)
DOCUMENTS = tuple(Document(f"{n}.txt", text) for n, text in enumerate(TEXTS))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_tiny_folder(tmp_path_factory.mktemp("model") / "m")


@pytest.fixture(scope="module")
def model(folder):
    return load_model(folder)


@pytest.fixture(scope="module")
def tokenizer(folder):
    return load_tokenizer(folder)


def without_bos(tokenizer):
    return Tokenizer(tokenizer.backend)


def direct(model, tokens, windows):
    """Bits of tokens 1 and on, each from float64 softmax of one call for its window."""
    total = 0.0
    for first, end, scored in windows.cut(len(tokens) - 1):
        (logits_RV,) = model.logits([tokens[first:end]])
        logprobs_RV = logits_RV.detach().double().log_softmax(-1)
        total -= sum(logprobs_RV[row - first, tokens[row + 1]].item() for row in range(scored, end))
    return total / math.log(2)


@pytest.mark.parametrize("windows", [Windows(1024, 0), Windows(64, 16), Windows(7, 6), Windows(1, 0)])
def test_bits_are_those_of_the_models_own_logits(model, tokenizer, windows):
    found = list(score(model, tokenizer, DOCUMENTS, windows))
    assert [text.name for text in found] == [document.name for document in DOCUMENTS]
    for text, document in zip(found, DOCUMENTS):
        tokens = [tokenizer.bos_token_id, *encode_plain(tokenizer, document.text).ids]
        assert (text.num_bytes, text.num_tokens) == (len(document.data), len(tokens) - 1)
        assert text.bits == pytest.approx(direct(model, tokens, windows), rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_no_bit_depends_on_what_is_computed_together(folder, tokenizer, dtype):
    model, windows = cast(load_model(folder), dtype), Windows(50, 13)
    alone = [next(score(model, tokenizer, [document], windows, call_rows=1)) for document in DOCUMENTS]
    for call_rows in (60, 173, 4096):
        assert list(score(model, tokenizer, DOCUMENTS, windows, call_rows=call_rows)) == alone
    assert list(score(model.pack(), tokenizer, DOCUMENTS[::-1], windows)) == alone[::-1]


def test_logits_in_fewer_rows_at_once_give_the_same_bits(model, tokenizer, monkeypatch):
    before = list(score(model, tokenizer, DOCUMENTS, Windows(100, 20)))
    monkeypatch.setattr(scoring, "LOGIT_ROWS", 7)
    assert list(score(model, tokenizer, DOCUMENTS, Windows(100, 20))) == before


def test_each_row_is_scored_once_and_with_at_least_the_overlap_before_it():
    for num_rows in (0, 1, 6, 7, 8, 200):
        for windows in (Windows(7, 0), Windows(7, 3), Windows(7, 6)):
            rows, cuts = [], list(windows.cut(num_rows))
            for first, end, scored in cuts:
                assert end - first <= 7 and scored - first == min(windows.overlap, scored)
                rows += range(scored, end)
            assert rows == list(range(num_rows))


def test_without_a_bos_token_the_first_token_and_its_bytes_are_not_counted(model, tokenizer):
    plain, windows = without_bos(tokenizer), Windows(64, 16)
    found = list(score(model, plain, DOCUMENTS, windows))
    for text, document in zip(found, DOCUMENTS):
        ids = encode_plain(plain, document.text).ids
        rest = document.data[len(plain.decode(ids[:1]).encode()) :] if document.text[0] < "\x7f" else None
        assert text.num_tokens == len(ids) - 1 and (rest is None or text.num_bytes == len(rest))
        assert text.bits == pytest.approx(direct(model, ids, windows) if len(ids) > 1 else 0.0, rel=1e-5)
    assert (found[1].num_bytes, found[1].num_tokens, found[1].bits) == (0, 0, 0.0)


def test_special_tokens_in_a_text_are_text(tokenizer):
    ids = encode_plain(tokenizer, "a<|endoftext|>b").ids
    assert tokenizer.bos_token_id not in ids and tokenizer.decode(ids) == "a<|endoftext|>b"
    assert tokenizer.backend.encode_special_tokens is False


def test_texts_come_out_as_they_are_done(model, tokenizer):
    """Not all at the end: the last texts are asked for after the first one's call."""
    asked = []

    def documents():
        for document in DOCUMENTS * 2:
            asked.append(document.name)
            yield document

    found = score(model, tokenizer, documents(), Windows(16, 4), call_rows=16)
    assert next(found).name == "0.txt" and len(asked) <= len(DOCUMENTS)


def test_progress_adds_up_to_the_bytes(model, tokenizer):
    seen = []
    texts = list(score(model, tokenizer, DOCUMENTS, Windows(16, 4), progress=seen.append))
    assert sum(seen) == pytest.approx(sum(text.num_bytes for text in texts)) and len(seen) > len(texts)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((100, 200), "context = 200 tokens is not within 1 to 100, the context of this model"),
        ((100, 0), "context = 0 tokens"),
        ((100, 50, 50), "overlap = 50 tokens must be 0 to 49"),
        ((100, 50, -1), "overlap = -1 tokens"),
    ],
)
def test_windows_that_cannot_be_are_refused(arguments, told):
    with pytest.raises(ConfigError, match=told):
        Windows.of(*arguments)


def test_windows_have_defaults_that_fit_the_model():
    assert Windows.of(100) == Windows(100, 25) and Windows.of(8192) == Windows(2048, 512)
    assert Windows.of(8192, 8192) == Windows(8192, 2048) and Windows.of(8192, overlap=0) == Windows(2048, 0)


def test_a_token_that_the_model_does_not_have_is_named(model, tokenizer, monkeypatch):
    monkeypatch.setattr(type(tokenizer), "bos_token_id", property(lambda self: 10_000))
    with pytest.raises(RequestError, match=r"0\.txt holds token id 10000"):
        list(score(model, tokenizer, DOCUMENTS, Windows(16, 4)))
