"""Kimi's tiktoken.model gives the ids of tiktoken with the published rules, and no code of the folder runs."""

import json
import random

import pytest
from kimi_folder import NAMED, TEXT, published_ids, random_ranks, trained_ranks, write_folder

from hyla.checkpoints import load_tokenizer, open_checkpoint
from hyla.checkpoints.tiktoken_files import merges_of
from hyla.engine.requests.text import Detokenizer
from hyla.errors import CheckpointError

CHARACTERS = "aab  \n\r\t'stTdD12٣Éé中文字かカ한x.,!—🙂\u0301ſİǅʰᾳ\u00a0\u2028\x1c\x85Aあ々〇ー"
HELLO = [{"role": "user", "content": "hi"}]


@pytest.fixture(scope="module")
def kimi(tmp_path_factory):
    """(ours, theirs, the folder, the number of ranks)."""
    folder, ranks = tmp_path_factory.mktemp("kimi"), trained_ranks()
    theirs = write_folder(folder, ranks)
    return load_tokenizer(folder), theirs, folder, len(ranks)


def test_a_hard_text_has_the_published_ids_and_comes_back(kimi):
    ours, theirs, _, _ = kimi
    assert ours.encode(TEXT) == theirs.encode(TEXT, allowed_special="all") != list(TEXT.encode())
    assert ours.decode(ours.encode(TEXT)) == TEXT


@pytest.mark.parametrize("seed", range(4))
def test_any_text_and_any_ranks_give_the_published_ids(tmp_path, seed):
    ranks = trained_ranks() if seed == 0 else random_ranks(seed)
    theirs, ours, draw = write_folder(tmp_path, ranks), load_tokenizer(tmp_path), random.Random(seed)
    for _ in range(300):
        text = "".join(draw.choice(CHARACTERS) for _ in range(draw.randint(0, 25)))
        text += draw.choice(["", *NAMED.values(), f"<|reserved_token_{len(ranks) + 5}|>", "<|reserved_token_1|>"])
        assert ours.encode(text) == theirs.encode(text, allowed_special="all"), text


@pytest.mark.parametrize(
    "text",
    [
        "ab" * 12_500,
        "ab" * 12_500 + "c",
        "x y " + "ab" * 35_000 + "  " + "中文" * 16_500 + " " * 26_000 + "z\n" + " \n" * 15_000,
        "a" * 399_990 + "b" * 30_000,
        "\x1c" * 25_003 + "a",
    ],
    ids=["a full run", "one more", "several runs", "over a block", "space by isspace alone"],
)
def test_long_runs_are_cut_where_the_published_program_cuts_them(kimi, text):
    ours, theirs, _, _ = kimi
    assert ours.encode(text) == published_ids(theirs, text)


def test_a_long_run_is_cut_so_that_its_ids_differ(kimi):
    ours, theirs, _, _ = kimi
    text = "x" + "ab" * 12_500
    assert ours.encode(text) != theirs.encode(text)


def test_added_tokens_have_their_ids_and_only_special_ones_are_hidden(kimi):
    ours, _, _, first = kimi
    assert (ours.bos_token_id, ours.eos_token_id, ours.pad_token_id) == (first, first + 1, first + 9)
    assert ours.vocab_size == first + 258
    ids = ours.encode("[BOS]hi<think>x</think><|im_end|>")
    assert ids[0] == first and ids[-1] == first + 2
    assert ours.decode(ids) == "hi<think>x</think>"
    assert ours.decode(ids, skip_special_tokens=False) == "[BOS]hi<think>x</think><|im_end|>"
    assert f"<|reserved_token_{first + 257}|>" in ours.special_texts


def test_text_streams_token_by_token(kimi):
    ours = kimi[0]
    stream = Detokenizer(ours)
    pieces = [stream.push(token) for token in ours.encode(TEXT)]
    assert "".join(pieces) + stream.flush() == TEXT and "\ufffd" not in "".join(pieces)


def test_special_tokens_may_be_read_as_text_and_every_token_knows_its_place(kimi):
    from hyla.train.scoring import encode_plain

    ours, theirs, _, _ = kimi
    text = "naïve[BOS] 中文<|im_end|>\n's"
    encoding = encode_plain(ours, text)
    assert encoding.ids == theirs.encode_ordinary(text) != ours.encode(text)
    # A token of a part of a character spans all of it.
    covered = {place for start, end in encoding.offsets for place in range(start, end)}
    assert covered == set(range(len(text)))


def test_a_grammar_works_over_it(kimi):
    from hyla.engine.requests.formats import Choice
    from hyla.engine.sampling.grammar import GrammarCompiler

    grammar = GrammarCompiler(kimi[0]).compile(Choice(options=("中文", "hello")))
    for token in kimi[0].encode("中文"):
        assert grammar.mask(kimi[0].vocab_size)[token]
        grammar.advance(token)
    assert grammar.is_complete


def test_a_saved_copy_has_a_tokenizer_json_and_the_same_ids_and_prompts(kimi, tmp_path):
    ours = kimi[0]
    ours.save(tmp_path)
    again = load_tokenizer(tmp_path)
    assert not (tmp_path / "tiktoken.model").exists() and "auto_map" not in again.settings
    assert again.encode(TEXT) == ours.encode(TEXT)
    tools = [{"type": "function", "function": {"name": "f", "description": "d"}}]
    # The published program sorts the keys of tools.
    expected = '[{"function": {"description": "d", "name": "f"}, "type": "function"}]hi<|im_end|>'
    assert ours.render_chat(HELLO, tools=tools) == again.render_chat(HELLO, tools=tools) == expected


def test_a_checkpoint_knows_that_it_has_one(kimi):
    assert open_checkpoint(kimi[2]).has_tokenizer


def test_tokens_that_can_be_made_in_many_ways_are_made_as_tiktoken_makes_them(tmp_path):
    draw, tokens = random.Random(7), [bytes([byte]) for byte in range(256)]
    more = sorted({"".join(draw.choice("ab") for _ in range(draw.randint(2, 6))).encode() for _ in range(90)})
    draw.shuffle(more)
    assert len(merges_of([*tokens, *more])) > 2 * len(more)
    theirs = write_folder(tmp_path, {token: rank for rank, token in enumerate([*tokens, *more])})
    ours = load_tokenizer(tmp_path)
    for _ in range(1000):
        text = "".join(draw.choice("ab") for _ in range(draw.randint(1, 30)))
        assert ours.encode(text) == theirs.encode(text), text


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda data: data[: len(data) // 2] + b"?\n", r"line \d+ is no token in base64 and its rank"),
        (lambda data: data.split(b"\n", 1)[1], r"are not 0 to \d+, each once"),
        (lambda data: data + b"YQ== 9999\n", "has 1 to 1024 bytes and one rank"),
        (lambda data: data + b"YWE= " + b"9" * 5000 + b"\n", "is no token in base64 and its rank"),
        (lambda data: b"\n".join(b"YWFh" + b"%d 0" % n for n in range(3)), "is no token in base64"),
        (lambda data: b"YWE= 0\n", "has no token for the byte 0"),
        (lambda data: b"", "has no token for the byte 0"),
    ],
)
def test_a_broken_file_is_refused_by_its_line(tmp_path, change, message):
    write_folder(tmp_path, trained_ranks(300))
    file = tmp_path / "tiktoken.model"
    file.write_bytes(change(file.read_bytes()))
    with pytest.raises(CheckpointError, match=message):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize(
    "settings, message",
    [
        (
            {"tokenizer_class": "QWenTokenizer"},
            "tokenizer_class = 'QWenTokenizer'; the rules of a tiktoken.model are known",
        ),
        ({"added_tokens_decoder": {"5": {"content": "x"}}}, r"added_tokens_decoder\['5'\] is no token with an id from"),
        ({"added_tokens_decoder": [1]}, "must be an object"),
        ({"added_tokens_decoder": {"301": {"content": "<|reserved_token_300|>"}}}, "is there twice"),
        ({"eos_token": "<none>"}, "'<none>' is not in"),
    ],
)
def test_settings_that_do_not_fit_are_refused(tmp_path, settings, message):
    write_folder(tmp_path, {bytes([byte]): byte for byte in range(256)}, **settings)
    with pytest.raises(CheckpointError, match=message):
        load_tokenizer(tmp_path)


def test_code_with_another_pattern_is_refused_and_not_run(tmp_path):
    write_folder(tmp_path, trained_ranks(300))
    code = tmp_path / "tokenization_kimi.py"
    code.write_text(code.read_text(encoding="utf-8").replace(r"\p{N}{1,3}", r"\p{N}"), encoding="utf-8")
    with pytest.raises(CheckpointError, match="cuts text by another expression"):
        load_tokenizer(tmp_path)


def test_a_tokenizer_json_comes_first(kimi, tmp_path):
    write_folder(tmp_path, trained_ranks())
    kimi[0].save(tmp_path)
    (tmp_path / "tiktoken.model").write_bytes(b"broken")
    assert json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))["model"]["ignore_merges"] is True
    assert load_tokenizer(tmp_path).encode(TEXT) == kimi[0].encode(TEXT)
