"""Tokenizers from a file's tables against ones that are built here, and what goes on around them."""

import random

import pytest
import tokenizers
from gguf_writing import FLOAT, GGUF, I32, Typed
from tiny_gguf import MERGES, SPECIAL, TOKENS, TYPES, tiny_gguf
from tokenizers import decoders, models, pre_tokenizers

from hyla.checkpoints import load_tokenizer, read_config
from hyla.checkpoints.gguf.pretokenizers import PRETOKENIZERS
from hyla.errors import CheckpointError

HARD = (
    "I'm sure they'd say WE'LL see; don't you?",
    "12 1234567 3.14 the cat12 of 12ths",
    "汉字和かなとカナ 한글 — the cat",
    "👩‍👩‍👧‍👦 emoji 🇩🇪 the 👍🏽 cat",
    "   runs    of      spaces \t\t tabs\n\n\n  and lines\r\n end   ",
    "<|im_start|>user\nthe cat<|im_end|>\n<tool> in <|endoftext|>",
    "e\u0301 \u00e9 \ufb01 naïve Ǆ ﷽",
    "",
    " ",
    "\x00\x01\x7f\u200b\ufeff",
)


@pytest.fixture
def built(tmp_path):
    """The tokenizer of a file with some keys changed (None: left out)."""

    def build(**changes):
        keys = {**tiny_gguf().metadata, **{key.replace("__", "."): value for key, value in changes.items()}}
        given = GGUF({key: value for key, value in keys.items() if value is not None}, tiny_gguf().tensors)
        path = tmp_path / "vocabulary.gguf"
        path.write_bytes(given.encode())
        return load_tokenizer(path)

    return build


def reference(ignore_merges=False):
    """The same tables through the library's own byte-level steps: SmolLM's digits, then GPT-2's."""
    vocabulary = {token: number for number, token in enumerate(TOKENS)}
    merges = [tuple(merge.split(" ")) for merge in MERGES]
    found = tokenizers.Tokenizer(models.BPE(vocabulary, merges, ignore_merges=ignore_merges))
    digits, words = pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)
    found.pre_tokenizer = pre_tokenizers.Sequence([digits, words])
    found.decoder = decoders.ByteLevel()
    found.add_special_tokens([tokenizers.AddedToken(token, normalized=False) for token in SPECIAL[:3]])
    found.add_tokens([tokenizers.AddedToken(SPECIAL[3], normalized=False)])
    return found


@pytest.mark.parametrize("text", HARD)
def test_a_hard_text_gets_the_ids_of_the_same_tables_elsewhere(built, text):
    ours, theirs = built(), reference()
    assert ours.encode(text) == theirs.encode(text).ids
    assert ours.decode(ours.encode(text), skip_special_tokens=False) == text


def test_random_text_gets_the_same_ids_and_comes_back(built):
    ours, theirs, draw = built(), reference(), random.Random(4)
    pieces = ["the", " cat", "12", "'ll", "\n", "  ", "é", "汉", "👍", "<|im_end|>", "<tool>", "\t", "…", "of"]
    for _ in range(300):
        text = "".join(draw.choice(pieces) for _ in range(draw.randrange(1, 20)))
        assert ours.encode(text) == theirs.encode(text).ids
        assert ours.decode(ours.encode(text), skip_special_tokens=False) == text


def test_control_tokens_are_special_and_user_defined_ones_are_not(built):
    tokenizer = built()
    assert set(tokenizer.special_texts) == set(SPECIAL[:3])
    ids = tokenizer.encode("<|im_start|><tool>cat")
    assert ids[:2] == [1, len(TOKENS) - 1]
    assert tokenizer.decode(ids) == "<tool>cat"


def test_roles_and_ends_are_those_of_the_file_and_of_known_texts(built, tmp_path):
    tokenizer = built()
    assert tokenizer.special == {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>"}
    config = read_config(tmp_path / "vocabulary.gguf").config
    assert (config.bos_token_id, config.eos_token_ids) == (1, (2, 0))


def test_a_first_token_is_added_once_where_the_file_says_so(built):
    assert built().encode("cat")[0] != 1
    tokenizer = built(tokenizer__ggml__add_bos_token=True)
    assert tokenizer.encode("cat")[0] == 1 and tokenizer.encode("cat", add_special_tokens=False)[0] != 1
    chat = tokenizer.encode_chat([{"role": "user", "content": "cat"}])
    assert chat[:2].count(1) == 1, "the template writes it itself"
    plain = built(tokenizer__ggml__add_bos_token=True, tokenizer__chat_template="{{ messages[0]['content'] }}")
    assert plain.encode_chat([{"role": "user", "content": "cat"}]) == plain.encode("cat"), "the template leaves it out"


def test_a_last_token_is_added_where_the_file_says_so(built):
    assert built(tokenizer__ggml__add_eos_token=True).encode("cat")[-1] == 2


def test_llama_3s_cut_adds_a_first_token_by_default_and_keeps_whole_tokens(built):
    tokenizer = built(tokenizer__ggml__pre="llama-bpe", tokenizer__ggml__add_bos_token=None)
    assert tokenizer.encode("the cat")[0] == 1
    assert tokenizer.backend.model.ignore_merges


def test_qwens_text_is_composed_first(built):
    tokenizer = built(tokenizer__ggml__pre="qwen2", general__architecture="qwen2")
    assert tokenizer.encode("e\u0301") == tokenizer.encode("\u00e9")
    other = built(tokenizer__ggml__pre="qwen2", general__architecture="mimo2")
    assert other.encode("e\u0301") != other.encode("\u00e9")


@pytest.mark.parametrize("name", PRETOKENIZERS)
def test_every_cut_compiles_and_loses_nothing(built, name):
    tokenizer = built(tokenizer__ggml__pre=name, tokenizer__ggml__add_bos_token=False)
    for text in HARD:
        assert tokenizer.decode(tokenizer.encode(text), skip_special_tokens=False) == text


@pytest.mark.parametrize(
    ("name", "text", "pieces"),
    [
        ("llama-bpe", "I'LL pay 12345", ["I", "'LL", " pay", " ", "123", "45"]),
        ("qwen2", "I'll pay 123", ["I", "'ll", " pay", " ", "1", "2", "3"]),
        ("qwen35", "n\u0303o 12", ["n\u0303o", " ", "1", "2"]),
        ("deepseek-v3", "汉字abc 1234!x", ["汉字", "abc", " ", "123", "4", "!x"]),
        ("gpt-4o", "camelCase it's", ["camel", "Case", " it's"]),
        ("kimi-k2", "汉字Ab 12", ["汉字", "Ab", " ", "12"]),
        ("bailingmoe2", "I'D pay\n\n1", ["I", "'D", " pay", "\n\n", "1"]),
        ("tekken", "camelCase 12", ["camel", "Case", " ", "1", "2"]),
        ("gpt-2", "it's 1234  x", ["it", "'s", " 1234", " ", " x"]),
        ("smollm", "it's 12  x", ["it", "'s", " ", "1", "2", " ", " x"]),
    ],
)
def test_a_cut_falls_where_the_model_was_taught(built, name, text, pieces):
    found = built(tokenizer__ggml__pre=name).backend.pre_tokenizer.pre_tokenize_str(text)
    assert [text[start:end] for _, (start, end) in found] == pieces


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tokenizer__ggml__pre": "poro-chat"}, "tokenizer.ggml.pre = 'poro-chat' is not one that Hyla knows"),
        ({"tokenizer__ggml__pre": None}, "tokenizer.ggml.pre = None"),
        ({"tokenizer__ggml__model": "bert"}, "tokenizer.ggml.model = 'bert' is not gpt2 or llama"),
        ({"tokenizer__ggml__model": None}, "has no tokenizer"),
        ({"tokenizer__ggml__model": "none"}, "has no tokenizer"),
        ({"tokenizer__ggml__tokens": [*TOKENS[:-1], TOKENS[5]]}, "are both"),
        ({"tokenizer__ggml__tokens": [*TOKENS[:-1], b"\xff"]}, "is not UTF-8"),
        ({"tokenizer__ggml__token_type": Typed(I32, TYPES[1:])}, "token_type has"),
        ({"tokenizer__ggml__merges": ["the"]}, "has no two halves"),
        ({"tokenizer__ggml__merges": ["the cat"]}, "merges do not fit its tokens"),
        ({"tokenizer__ggml__bos_token_id": 100000}, "bos_token_id = 100,000 of"),
        ({"tokenizer__ggml__add_bos_token": 7}, "add_bos_token = 7 and should be true or false"),
        ({"tokenizer__chat_template": "{% for %}"}, "is not a valid Jinja template"),
        ({"tokenizer__huggingface__json": "{}"}, "is not a valid tokenizer"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_tables_that_cannot_be_honoured_are_refused_by_name(built, changes, message):
    with pytest.raises(CheckpointError, match=message) as caught:
        built(**changes)
    assert "\n" not in str(caught.value)


def test_a_whole_tokenizer_in_the_file_comes_first(built):
    whole = reference().to_str()
    assert built(tokenizer__huggingface__json=whole, tokenizer__ggml__pre="unknown").encode(
        "the cat"
    ) == built().encode("the cat")


def test_an_empty_token_gets_a_name_of_its_own(built):
    tokenizer = built(tokenizer__ggml__tokens=[*TOKENS[:-1], ""])
    assert tokenizer.token_id(f"[EMPTY_{len(TOKENS) - 1}]") == len(TOKENS) - 1


PIECES = [
    "<unk>",
    "<s>",
    "</s>",
    *(f"<0x{byte:02X}>" for byte in range(256)),
    "▁",
    *"abcdeth",
    "▁a",
    "ab",
    "cab",
    "▁cab",
]
PIECES += ["at", "cat", "▁c", "▁cat", "the", "▁the", "he"]
PIECES = list(dict.fromkeys(PIECES))
PIECE_TYPES = [2, 3, 3, *[6] * 256, *[1] * (len(PIECES) - 259)]
PIECE_SCORES = [0.0] * 259 + [-float(len(PIECES) - number) / 7 for number in range(259, len(PIECES))]


def by_scores(text: str) -> list[int]:
    """SentencePiece's own way: join the neighbours whose join has the highest score, the leftmost first."""
    scores = {token: score for token, score, kind in zip(PIECES, PIECE_SCORES, PIECE_TYPES) if kind == 1}
    parts = list("▁" + text.replace(" ", "▁"))
    while True:
        joins = [
            (-scores[parts[n] + parts[n + 1]], n) for n in range(len(parts) - 1) if parts[n] + parts[n + 1] in scores
        ]
        if not joins:
            break
        _, place = min(joins)
        parts[place : place + 2] = [parts[place] + parts[place + 1]]
    ids = []
    for part in parts:
        ids += [PIECES.index(part)] if part in PIECES else [PIECES.index(f"<0x{byte:02X}>") for byte in part.encode()]
    return ids


def piece_tokenizer(built, **changes):
    keys = {
        "tokenizer__ggml__model": "llama",
        "tokenizer__ggml__pre": None,
        "tokenizer__ggml__tokens": PIECES,
        "tokenizer__ggml__token_type": Typed(I32, PIECE_TYPES),
        "tokenizer__ggml__scores": Typed(FLOAT, PIECE_SCORES),
        "tokenizer__ggml__merges": None,
        "tokenizer__ggml__bos_token_id": None,
        "tokenizer__ggml__eos_token_id": None,
        "tokenizer__ggml__add_bos_token": None,
        "tokenizer__chat_template": None,
    }
    return built(**{**keys, **changes})


def test_pieces_are_joined_as_sentencepiece_joins_them(built):
    tokenizer, draw = piece_tokenizer(built), random.Random(8)
    assert tokenizer.special == {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    for _ in range(300):
        text = "".join(draw.choice("abcdeth  ü汉") for _ in range(draw.randrange(1, 30)))
        assert tokenizer.encode(text) == [1, *by_scores(text)]
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_pieces_without_a_space_before_the_text_or_a_first_token(built):
    tokenizer = piece_tokenizer(built, tokenizer__ggml__add_space_prefix=False, tokenizer__ggml__add_bos_token=False)
    assert tokenizer.encode("cat") == [PIECES.index("cat")]
    assert tokenizer.decode(tokenizer.encode(" cat")) == " cat"


def test_a_piece_of_a_million_characters_costs_nothing(built):
    with pytest.raises(CheckpointError, match="has 1,000,000 characters, and a piece at most 512"):
        piece_tokenizer(built, tokenizer__ggml__tokens=[*PIECES[:-1], "a" * 1_000_000])


def test_a_vocabulary_without_scores_is_refused(built):
    with pytest.raises(CheckpointError, match=r"without tokenizer\.ggml\.scores"):
        piece_tokenizer(built, tokenizer__ggml__scores=None)
