"""tokenizer.json with parts of every kind and values that nobody expects: an error that says what failed, or ids."""

import json
import random

import pytest
from test_tokenizer_folder import train

from hyla.checkpoints import Tokenizer
from hyla.checkpoints.tokenizer import parse_backend
from hyla.errors import CheckpointError, RequestError

CUT = {"pattern": {"Regex": "a|b"}, "behavior": "Isolated", "invert": False}
SPECIAL = {"<s>": {"id": "<s>", "ids": [0], "tokens": ["<s>"]}}
PARTS = {
    "normalizer": [
        {"type": "Prepend", "prepend": "a"},
        {"type": "Replace", "pattern": {"Regex": "a|b"}, "content": "xy"},
        {"type": "Precompiled", "precompiled_charsmap": "BAAAAP////8AAAAA"},
    ],
    "pre_tokenizer": [
        {"type": "Split", **CUT},
        {"type": "FixedLength", "length": 3},
        {"type": "Metaspace", "replacement": "_", "prepend_scheme": "always", "split": True},
    ],
    "decoder": [
        {"type": "Strip", "content": "a", "start": 1, "stop": 1},
        {"type": "CTC", "pad_token": "a", "word_delimiter_token": "|", "cleanup": True},
        {"type": "WordPiece", "prefix": "##", "cleanup": True},
    ],
    "post_processor": [
        {"type": "BertProcessing", "sep": ["</s>", 1], "cls": ["<s>", 0]},
        {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [],
            "special_tokens": SPECIAL,
        },
    ],
    "model": [
        {"type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0.0], ["a", -1.0], ["ab", -2.0]], "byte_fallback": False},
        {"type": "WordLevel", "unk_token": "u", "vocab": {"u": 0, "a": 1}},
        {
            "type": "BPE",
            "unk_token": "u",
            "continuing_subword_prefix": "#",
            "end_of_word_suffix": "é",
            "vocab": {"u": 0, "a": 1, "#b": 2, "ab": 3},
            "merges": [["a", "#b"]],
        },
    ],
}
VALUES = (None, True, 0, -1, 2**32 - 1, 2**63, 1e308, "", "é", "##", "\x00", "漢漢", [], {}, "(a*)*$", "[")


def places(value, path=()):
    yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, own in list(inner)[:20]:
        yield from places(own, (*path, key))


def mutated(seed):
    """The bytes of a tokenizer.json."""
    draw, file = random.Random(seed), json.loads(train(None).backend.to_str())
    for name, parts in PARTS.items():
        if draw.random() < 0.5:
            file[name] = json.loads(json.dumps(draw.choice(parts)))
    for _ in range(draw.choice([1, 1, 2])):
        part = file[draw.choice(sorted(PARTS))]
        paths = [path for path in places(part) if path]
        if paths:
            *path, last = draw.choice(paths)
            for key in path:
                part = part[key]
            part[last] = draw.choice(VALUES)
    return json.dumps(file).encode()


@pytest.mark.parametrize("first", range(0, 120, 20))
def test_a_broken_tokenizer_gives_ids_or_an_error_of_ours(first):
    num_read = 0
    for seed in range(first, first + 20):
        try:
            tokenizer = Tokenizer(parse_backend(mutated(seed), "tokenizer.json"))
        except CheckpointError as error:
            assert "tokenizer.json is not a valid tokenizer" in str(error)
            continue
        num_read += 1
        for text in ("hello world", "a" * 300, "é漢\x00b ab", "<s>ab</s>"):
            try:
                assert isinstance(tokenizer.decode(tokenizer.encode(text)), str)
            except RequestError as error:
                assert "the tokenizer fails" in str(error)
    assert 0 < num_read < 20
