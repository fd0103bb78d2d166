"""Bits per byte by position: the scorer's, at every position, for one model or two beside each other."""

import json
import math

import pytest
import typer
from click.testing import CliRunner
from tiny_model import sandwich
from tiny_text import byte_tokenizer

from hyla.checkpoints import save_model
from hyla.cli.app import app
from hyla.engine import Engine
from hyla.errors import ConfigError
from hyla.evals.positions.pieces import bucket_of, pieces
from hyla.evals.positions.report import bits_per_byte, intervals, table
from hyla.evals.positions.run import Positions, PositionsRequest, ScoredPiece, chosen_pieces
from hyla.models.initialize import initialize
from hyla.models.trunk import Model
from hyla.train.corpus import Document
from hyla.train.scoring import Windows, score

WORDS = "Où est la forêt? 森の中 there, behind the mill. "
TEXTS = [Document("long.txt", WORDS * 12), Document("short.txt", "Too short."), Document("other.txt", "ab cd. " * 50)]
REQUEST = PositionsRequest(length=256, pieces=3)


@pytest.fixture(scope="module")
def model():
    return initialize(Model(sandwich("kda", 260)), 0, std=0.3).eval()


def engine_of(model, **options):
    return Engine(model, tokenizer=byte_tokenizer(), pack=False, memory=32 << 20, prefix_cache=False, **options)


def scored_by(model, tmp_path, name="own", **options):
    chosen = chosen_pieces(TEXTS, byte_tokenizer(), REQUEST)
    return Positions(tmp_path / name, REQUEST, engine_of(model, **options), chosen).run()


def test_pieces_are_those_of_documents_that_are_long_enough_in_turn():
    chosen = chosen_pieces(TEXTS, byte_tokenizer(), REQUEST)

    assert [piece.key for piece in chosen] == [("long.txt", 0), ("other.txt", 0), ("long.txt", 1)]
    assert all(len(piece.ids) == 256 for piece in chosen)
    text = TEXTS[0].data
    assert bytes(chosen[0].ids + chosen[2].ids) == text[:512]
    assert sum(chosen[0].bytes_by_bucket().values()) == chosen[0].ends[-1] - chosen[0].ends[0]
    assert list(chosen[0].bytes_by_bucket()) == ["0", "64", "128"]


def test_a_first_token_is_read_and_belongs_to_no_byte():
    tokenizer = byte_tokenizer()
    tokenizer.special["bos_token"] = "<|end|>"
    first, second = pieces(Document("a", "abcd" * 32), tokenizer, 64)

    assert first.ids[0] == second.ids[0] == 256 and len(first.ids) == 64
    assert first.bytes_by_bucket() == second.bytes_by_bucket() == {"0": 63}
    assert bytes(second.ids[1:]) == ("abcd" * 32).encode()[63:126]


def test_bits_are_the_scorer_s(model, tmp_path):
    lines = {line.key: line for line in scored_by(model, tmp_path)}
    tokenizer, line = byte_tokenizer(), lines["other.txt", 0]
    bits = []
    for length in (64, 128, 256):  # of the beginning, whose bits do not depend on what follows
        (whole,) = score(model, tokenizer, [Document("", TEXTS[2].text[:length])], Windows(511, 0))
        bits.append(whole.bits)
    assert line.bits["0"] == bits[0]
    assert line.bits["64"] == pytest.approx(bits[1] - bits[0], rel=1e-12)
    assert line.bits["128"] == pytest.approx(bits[2] - bits[1], rel=1e-12)
    assert line.bytes == {"0": 63, "64": 64, "128": 128}


def test_every_piece_is_kept_and_none_is_scored_twice_at_any_batch(model, tmp_path):
    one = scored_by(model, tmp_path, max_num_sequences=1)
    many = scored_by(model, tmp_path, "many", max_num_sequences=16)
    assert [(line.key, line.bits, line.bytes) for line in one] == [(line.key, line.bits, line.bytes) for line in many]

    file = tmp_path / "own" / "items.jsonl"
    kept = file.read_text().splitlines(keepends=True)
    file.write_text(kept[0] + kept[1][:40])
    seen = []
    engine = engine_of(model)
    again = Positions(tmp_path / "own", REQUEST, engine, chosen_pieces(TEXTS, byte_tokenizer(), REQUEST))
    assert [line.bits for line in again.run(seen.append)] == [line.bits for line in one]
    assert len(seen) == 2 and engine.num_tokens == 2 * 256 and len(file.read_text().splitlines()) == 3


def made_up(name, by_bucket):
    bits = {bucket: 8.0 * value for bucket, value in by_bucket.items()}
    return ScoredPiece(name, 0, 128, 1.0, bits, dict.fromkeys(bits, 8))


def test_intervals_are_over_documents_and_differences_are_paired():
    values = [1.0 + n for n in range(30)]
    first = [made_up(str(n), {"0": value, "64": value / 2}) for n, value in enumerate(values)]
    second = [made_up(str(n), {"0": value - 0.5, "64": value / 2}) for n, value in enumerate(values)]

    assert bits_per_byte(first) == {"0": 15.5, "64": 7.75}
    low, high = intervals(first)["0"]
    spread = 1.96 * math.sqrt(sum((value - 15.5) ** 2 for value in values) / 30 / 30)
    assert high - low == pytest.approx(2 * spread, rel=0.15)
    assert intervals(first, second) == {"0": pytest.approx((0.5, 0.5)), "64": pytest.approx((0.0, 0.0))}
    rows = table({"a": first, "b": second})
    assert rows[0] == ["tokens before", "a", "b", "difference"]
    assert rows[1][0] == "0 to 63" and rows[1][3] == "+0.5000 (+0.5000 to +0.5000)"
    assert bucket_of(4095) == 2048


def test_what_cannot_be_says_so(model, tmp_path):
    tokenizer = byte_tokenizer()
    with pytest.raises(ConfigError, match=r"100 is no power of two; give e\.g\. 64"):
        PositionsRequest(length=100)
    with pytest.raises(ConfigError, match="none of 3 texts has 4096 tokens"):
        chosen_pieces(TEXTS, tokenizer, PositionsRequest())
    with pytest.raises(ConfigError, match="given twice"):
        chosen_pieces([*TEXTS, TEXTS[0]], tokenizer, REQUEST)
    chosen = chosen_pieces(TEXTS, tokenizer, REQUEST)
    with pytest.raises(ConfigError, match="a length of 256 tokens is over the model's context of 128"):
        Positions(tmp_path / "x", REQUEST, engine_of(model, context_len=128), chosen)
    Positions(tmp_path / "y", REQUEST, engine_of(model), chosen)
    other = initialize(Model(sandwich("kda", 260)), 1, std=0.3).eval()
    with pytest.raises(ConfigError, match="has results of another weights"):
        Positions(tmp_path / "y", REQUEST, engine_of(other), chosen)


def test_the_verb_sets_two_models_beside_each_other(model, tmp_path):
    for name, own in (("hybrid", model), ("twin", initialize(Model(sandwich("softmax", 260)), 0, std=0.3))):
        save_model(own, tmp_path / name, tokenizer=byte_tokenizer())
    for text in TEXTS:
        (tmp_path / text.name).write_text(text.text)
    words = ["eval", "positions", tmp_path / "hybrid", tmp_path / "twin", "--out", tmp_path / "out", "--length", 128]
    words += [word for text in TEXTS for word in ("--texts", tmp_path / text.name)]
    done = CliRunner().invoke(typer.main.get_command(app), [str(word) for word in words], catch_exceptions=False)

    assert done.exit_code == 0 and "difference" in done.output
    report = (tmp_path / "out" / "report.md").read_text()
    assert "| 64 to 127 |" in report and "2 documents" in report
    assert (tmp_path / "out" / "positions.png").read_bytes()[:4] == b"\x89PNG"
    (own,) = (tmp_path / "out").glob("*hybrid")
    lines = [json.loads(line) for line in (own / "items.jsonl").read_text().splitlines()]
    assert len(lines) == 6 and all(line["tokens"] == 128 for line in lines)
