"""Token stores: what is read, what is left out, and that a killed build goes on to the same bytes."""

import json
import os
import signal
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from tiny_text import byte_tokenizer

from hyla.data.batch_sizes import BatchSizes
from hyla.data.build import BuildRequest, build_store, is_heldout
from hyla.data.mixture import Mixture
from hyla.data.packing import TokenStore
from hyla.data.records import Damaged, Fields, Record, input_files, kind_of, pieces_of, read_piece
from hyla.data.store import open_store
from hyla.errors import CheckpointError, ConfigError

LINES = [json.dumps({"text": f"document {number} " + "x" * (7 * number % 50)}) for number in range(60)]


@pytest.fixture(scope="module")
def tokenizer_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer") / "t"
    folder.mkdir()
    byte_tokenizer().save(folder)
    return folder


def request_of(tokenizer_folder, *inputs, **options):
    return BuildRequest(inputs=tuple(map(str, inputs)), tokenizer=str(tokenizer_folder), **options)


def files_of(folder):
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir()) if file.is_file()}


def documents(store: TokenStore):
    starts = [0, *store.ends.tolist()]
    return [store.tokens[first:last].tolist() for first, last in pairwise(starts)]


@pytest.fixture
def mixed(tmp_path):
    """A folder with texts, JSON lines with damage, and a hidden file."""
    folder = tmp_path / "in"
    (folder / "sub").mkdir(parents=True)
    (folder / "a.txt").write_text("first")
    (folder / "sub" / "b.py").write_text("second = 2\n")
    (folder / "binary.bin").write_bytes(b"\0\1\2")
    (folder / "latin.txt").write_bytes(b"caf\xe9")
    (folder / "empty.txt").write_text(" \n")
    (folder / ".hidden").write_text("no")
    damaged = ["{broken", "[1]", '{"text": 7}', '{"other": "x"}', '{"text": "  "}', "", "[" * 100_000]
    (folder / "c.jsonl").write_text("\n".join([*LINES[:5], *damaged, *LINES[5:10]]))
    return folder


def test_every_record_is_stored_or_named(tmp_path, mixed, tokenizer_folder):
    store = build_store(tmp_path / "out", request_of(tokenizer_folder, mixed))
    tokenizer = store.tokenizer()
    texts = [tokenizer.decode(ids[1:-1]) for ids in documents(store.train)]
    assert texts == ["first", *(json.loads(line)["text"] for line in LINES[:10]), "second = 2\n"]
    assert store.record["num_damaged"] == len(store.record["damaged"]) == 9
    reasons = {Path(one["place"].partition(",")[0]).name: one["reason"] for one in store.record["damaged"]}
    assert "binary" in reasons["binary.bin"] and "byte 3" in reasons["latin.txt"] and reasons["empty.txt"] == "empty"
    places = [one["place"] for one in store.record["damaged"] if "c.jsonl" in one["place"]]
    data = (mixed / "c.jsonl").read_bytes()
    begins = [int(place.rpartition(" ")[2]) for place in places]
    assert [data[at : at + 5] for at in begins] == [b"{brok", b"[1]\n{", b'{"tex', b'{"oth', b'{"tex', b"[[[[["]
    assert all(ids[0] == ids[-1] == tokenizer.eos_token_id for ids in documents(store.train))


def test_a_damaged_record_ends_the_build_where_that_is_asked(tmp_path, mixed, tokenizer_folder):
    with pytest.raises(ConfigError, match=r"binary\.bin is damaged: binary, not text"):
        build_store(tmp_path / "out", request_of(tokenizer_folder, mixed, on_damaged="stop"))


@pytest.mark.parametrize("piece_bytes", [1, 97, 1000, 1 << 20])
def test_pieces_of_lines_hold_every_line_once(tmp_path, piece_bytes):
    file = tmp_path / "a.jsonl"
    for ending in ("", "\n"):
        file.write_text("\n".join(LINES) + ending)
        pieces = pieces_of([file], piece_bytes)
        found = [record for piece in pieces for record in read_piece(piece, Fields())]
        assert [record.text for record in found] == [json.loads(line)["text"] for line in LINES]
        assert len({record.place for record in found}) == len(LINES)


def test_the_bytes_do_not_depend_on_workers(tmp_path, mixed, tokenizer_folder):
    stores = [
        build_store(
            tmp_path / f"out{workers}",
            request_of(tokenizer_folder, mixed, heldout_share=0.3),
            workers=workers,
            piece_bytes=200,
        )
        for workers in (1, 2)
    ]
    one, other = (files_of(store.folder) for store in stores)
    assert one == other and one["heldout.tokens"] and one["train.tokens"]
    assert not (stores[0].folder / "pieces").exists()


KILLED = """
import os, signal, sys
from pathlib import Path
from hyla.data import build
write, written = build.write_json, []
def kill_in_the_next_piece(path, record):
    if path.parent.name == build.PIECES_FOLDER:
        if len(written) == 50:
            os.kill(os.getpid(), signal.SIGKILL)
        written.append(path)
    write(path, record)
build.write_json = kill_in_the_next_piece
request = build.BuildRequest(inputs=(sys.argv[2],), tokenizer=sys.argv[3])
build.build_store(Path(sys.argv[1]), request, piece_bytes=1000)
"""


def test_a_killed_build_goes_on_to_the_same_bytes(tmp_path, tokenizer_folder):
    file = tmp_path / "a.jsonl"
    file.write_text("\n".join(LINES * 40))
    whole = build_store(tmp_path / "whole", request_of(tokenizer_folder, file), piece_bytes=1000)
    pieces = len(json.loads((whole.folder / "plan.json").read_text())["pieces"])
    # Each process writes 50 pieces more, and is killed when it has the ids of another one.
    out, kills = tmp_path / "killed", (pieces - 1) // 50
    command = [sys.executable, "-c", KILLED, str(out), str(file), str(tokenizer_folder)]
    ends = [subprocess.run(command, timeout=600).returncode for _ in range(kills + 1)]
    assert kills > 1 and ends == [-signal.SIGKILL] * kills + [0]
    assert files_of(open_store(out).folder) == files_of(whole.folder)


def test_another_request_changed_input_and_another_tokenizer_are_refused(tmp_path, tokenizer_folder):
    file = tmp_path / "a.jsonl"
    file.write_text(LINES[0])
    build_store(tmp_path / "out", request_of(tokenizer_folder, file))
    with pytest.raises(ConfigError, match="asked for otherwise"):
        build_store(tmp_path / "out", request_of(tokenizer_folder, file, heldout_share=0.5))
    file.write_text(LINES[1] * 2)
    with pytest.raises(ConfigError, match="other files, or older ones"):
        build_store(tmp_path / "out", request_of(tokenizer_folder, file))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("")
    with pytest.raises(ConfigError, match="is not empty"):
        build_store(tmp_path / "full", request_of(tokenizer_folder, file))
    with pytest.raises(ConfigError, match="does not exist"):
        build_store(tmp_path / "new", request_of(tokenizer_folder, tmp_path / "nowhere"))


def test_a_damaged_store_is_one_error(tmp_path, tokenizer_folder):
    file = tmp_path / "a.jsonl"
    file.write_text("\n".join(LINES))
    store = build_store(tmp_path / "out", request_of(tokenizer_folder, file))
    with open(store.folder / "train.tokens", "ab") as opened:
        opened.write(b"x")
    with pytest.raises(CheckpointError, match=r"train\.tokens has .* bytes, not"):
        open_store(store.folder)
    (store.folder / "store.json").unlink()
    with pytest.raises(CheckpointError, match="no finished token store"):
        open_store(store.folder)


def test_equal_documents_stay_on_one_side():
    records = [Record(f"file {number}", f"text {number // 2}") for number in range(2000)]
    sides = [is_heldout(record, 0.2) for record in records]
    assert sides[::2] == sides[1::2] and 0.15 < sum(sides) / 2000 < 0.25


def test_a_store_takes_the_narrowest_ids_and_is_mapped(tmp_path, tokenizer_folder):
    file = tmp_path / "a.jsonl"
    file.write_text("\n".join(LINES))
    store = build_store(tmp_path / "out", request_of(tokenizer_folder, file))
    assert store.train.tokens.dtype == torch.uint16
    rows = store.train.rows(store.train.pieces(20))
    assert rows.tokens_T.dtype == torch.int64 and torch.equal(rows.tokens_T[1:20], rows.targets_T[:19])


def test_files_of_a_folder_have_one_order_and_kinds(tmp_path):
    for name in ("b.txt", "a/z.jsonl", "a/k.parquet", ".git/x"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    files = input_files([tmp_path])
    assert [file.relative_to(tmp_path).as_posix() for file in files] == ["a/k.parquet", "a/z.jsonl", "b.txt"]
    assert [kind_of(file) for file in files] == ["parquet", "json_lines", "text"]


def mixture(seed=3, batch_tokens=101):
    generator = torch.Generator().manual_seed(1)
    stores = []
    for first in (0, 1000, 2000):
        lengths = torch.randint(2, 60, (20,), generator=generator).tolist()
        stores.append(TokenStore.from_lists([list(range(first, first + length)) for length in lengths]))
    weights = (0.7, 0.001, 0.2)
    return Mixture(stores, weights, BatchSizes(batch_tokens), max_document_tokens=40, seed=seed), weights


def test_a_mixture_gives_each_store_its_share_and_is_a_function_of_the_step():
    made, weights = mixture()
    steps = [made.step(number) for number in range(300)]
    assert all(len(rows.tokens_T) == 101 == sum(rows.lengths) for rows in steps)
    for number, weight in enumerate(weights):
        share = sum(int(((rows.tokens_T // 1000) == number).sum()) for rows in steps) / (300 * 101)
        assert abs(share - weight / sum(weights)) < 3 / (300 * 101)
    again, _ = mixture()
    assert torch.equal(again.step(217).tokens_T, steps[217].tokens_T)
    other, _ = mixture(seed=4)
    assert not torch.equal(other.step(217).tokens_T, steps[217].tokens_T)


@pytest.mark.parametrize("weights", [(1.0,), (1.0, 0.0), (1.0, float("inf")), (1.0, float("nan"))])
def test_wrong_weights_are_refused(weights):
    store = TokenStore.from_lists([[0, 1, 2, 0]])
    with pytest.raises(ConfigError, match="weight"):
        Mixture([store, store], weights, BatchSizes(4), max_document_tokens=4, seed=0)


def test_parquet_without_pyarrow_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    with pytest.raises(ConfigError, match=r"hyla\[data\]"):
        pieces_of([tmp_path / "a.parquet"])


def test_tables_are_read_by_row_groups(tmp_path, tokenizer_folder):
    import pyarrow
    import pyarrow.parquet

    texts = [json.loads(line)["text"] for line in LINES]
    table = pyarrow.table({"text": [*texts, None], "other": range(61)})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet", row_group_size=7)
    store = build_store(tmp_path / "out", request_of(tokenizer_folder, tmp_path / "a.parquet"), piece_bytes=500)
    assert [store.tokenizer().decode(ids[1:-1]) for ids in documents(store.train)] == texts
    assert store.record["num_damaged"] == 1
    with pytest.raises(ConfigError, match="no column 'body'"):
        build_store(tmp_path / "no", request_of(tokenizer_folder, tmp_path / "a.parquet", text_field="body"))


def test_nothing_readable_is_told_with_a_reason(tmp_path, tokenizer_folder):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "x").write_bytes(b"\0")
    with pytest.raises(ConfigError, match=r"no document is left to train on .*binary"):
        build_store(tmp_path / "out", request_of(tokenizer_folder, tmp_path / "in"))


def test_a_full_disk_is_one_error_and_the_build_goes_on(tmp_path, tokenizer_folder):
    import resource
    import signal

    file = tmp_path / "a.jsonl"
    file.write_text("\n".join(LINES * 20))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (8000, hard))
        with pytest.raises(CheckpointError, match="free some space"):
            build_store(tmp_path / "out", request_of(tokenizer_folder, file))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, ignored)
    store = build_store(tmp_path / "out", request_of(tokenizer_folder, file))
    assert store.record["splits"]["train"]["documents"] == 20 * len(LINES)


def test_damaged_is_not_a_record():
    assert isinstance(next(iter(read_piece(pieces_of([Path(os.devnull)])[0], Fields()))), Damaged)
