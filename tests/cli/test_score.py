"""`hyla score`: files and folders in, bits per byte out."""

import json
import math

import pytest
from test_verbs import failure, run
from tiny_model import save_tiny_folder

from hyla.checkpoints import load_model, load_tokenizer
from hyla.train.corpus import Document
from hyla.train.scoring import Windows, score

PROSE, CODE = "It was the best of times.\n" * 9, "def read(path):\n    return path\n" * 11


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_tiny_folder(tmp_path_factory.mktemp("score") / "m")


@pytest.fixture
def texts(tmp_path):
    """A folder of two texts, one of them below; a picture, an empty file, a text in another encoding, a hidden one."""
    folder = tmp_path / "texts"
    (folder / "below").mkdir(parents=True)
    (folder / "a.txt").write_text(PROSE)
    (folder / "below" / "b[1].py").write_text(CODE)
    (folder / "image.png").write_bytes(b"\x89PNG\0\1\2")
    (folder / "latin.txt").write_bytes("é".encode("latin-1"))
    (folder / "nothing.txt").write_text("\n")
    (folder / ".hidden").write_text(PROSE)
    return folder


def report(*arguments) -> dict:
    status, text = run("score", *arguments, "--json")
    assert status == 0
    return json.loads(text)


def test_the_figures_are_those_of_a_direct_computation(model, texts):
    found = report(model, texts, "--context", 40, "--overlap", 10)
    documents = [Document(str(texts / name), (texts / name).read_text()) for name in ("a.txt", "below/b[1].py")]
    wanted = list(score(load_model(model), load_tokenizer(model), documents, Windows(40, 10)))
    assert [row["file"] for row in found["files"]] == [text.name for text in wanted]
    assert [row["bits"] for row in found["files"]] == [text.bits for text in wanted]
    total = found["total"]
    assert total["bytes"] == len(PROSE) + len(CODE) == sum(row["bytes"] for row in found["files"])
    assert total["bits"] == math.fsum(text.bits for text in wanted)
    assert total["bits_per_byte"] == total["bits"] / total["bytes"] and total["tokens_per_byte"] < 1.1
    assert (found["context"], found["overlap"], found["first_token"]) == (40, 10, "after <|endoftext|>")
    assert (found["dtype"], found["device"]) == ("float32", "cpu")


def test_files_that_are_no_text_are_left_out_and_named(model, texts, capsys):
    reasons = {"image.png": "not UTF-8 text", "latin.txt": "not UTF-8 text", "nothing.txt": "empty"}
    found = report(model, texts)
    assert {row["file"].rpartition("/")[2]: row["reason"] for row in found["skipped"]} == reasons
    status, text = run("score", model, texts, texts / "image.png")
    assert status == 0 and f"left out: {texts}/image.png (not UTF-8 text)" in text


def test_the_table_has_a_row_for_each_file_and_their_sum(model, texts):
    status, text = run("score", model, texts / "a.txt", texts / "below")
    lines = text.splitlines()
    assert status == 0 and any("b[1].py" in line.replace(" ", "") for line in lines)
    (total,) = (line for line in lines if "all 2" in line)
    assert f"{len(PROSE) + len(CODE)}" in total
    assert "windows of 1,024 tokens, of which 256 are read again" in lines[-1]
    assert "each text's first token is predicted after <|endoftext|>" in lines[-1]


def test_a_limit_cuts_the_last_text(model, texts):
    found = report(model, texts, "--limit", len(PROSE) + 5)
    assert [row["bytes"] for row in found["files"]] == [len(PROSE), 5]
    found = report(model, texts / "below", texts, "--limit", 7)
    assert [row["bytes"] for row in found["files"]] == [7]


def test_a_limit_never_cuts_a_character(model, tmp_path):
    (tmp_path / "t.txt").write_text("ab漢字")
    assert report(model, tmp_path / "t.txt", "--limit", 4)["total"]["bytes"] == 2


def test_a_dtype_changes_the_figures_a_little(model, texts):
    exact, rounded = (report(model, texts, "--dtype", dtype)["total"] for dtype in ("float32", "bfloat16"))
    assert 0 < abs(exact["bits"] / rounded["bits"] - 1) < 0.01


def test_what_cannot_be_scored_is_one_line(model, texts, tmp_path, monkeypatch, capsys):
    cases = {
        (model, tmp_path / "absent"): f"{tmp_path / 'absent'} does not exist",
        (
            model,
            texts / "image.png",
        ): "image.png is not UTF-8 text); name UTF-8 files, or folders",
        (model, texts, "--context", "5000"): "context = 5000 tokens is not within 1 to 1024",
        (model, texts, "--dtype", "int8"): "dtype = 'int8'",
        (tmp_path / "absent", texts): "absent",
    }
    for arguments, told in cases.items():
        status, text = failure(monkeypatch, capsys, "score", *arguments)
        assert status == 1 and told in text and text.splitlines()[-1].startswith("error: "), text
