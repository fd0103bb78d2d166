"""The exactness matrix: an answer has the same bits whatever the engine does to get it (all of it: make exactness)."""

import os
import subprocess
import sys
from dataclasses import replace
from itertools import product

import pytest
from matrix.cells import DIMENSIONS, Cell, all_cells, in_order, num_cells, pairs_of, pairwise
from matrix.check import run_cell
from matrix.faults import nudge
from matrix.mixers import FLAGGED, MIXERS
from matrix.run import PARTS, read, report, run

from hyla.caches import Cache
from hyla.caches.storage import SnapshotStore
from hyla.engine import Engine

PAIRWISE = pairwise()
PLAIN = Cell("off", "off", 64, 1, "untouched", "softmax", "float32", "greedy")
ROLES = {
    "gated_delta": "anchor",
    "kda": "anchor",
    "gla": "anchor",
    "lightning": "anchor",
    "linear": "anchor",
}
"""Cached tensors that get a one-ulp error: states, or inputs where a strong decay swallows it; else keys and values."""
STATES = ("gated_delta", "kda", "gla", "lightning", "mamba2", "linear")
"""Mixers whose memory is a state."""


@pytest.mark.parametrize("cell", PAIRWISE, ids=lambda cell: cell.name)
def test_the_answer_is_bit_for_bit_the_plain_one(cell):
    assert run_cell(cell) == []


FLAGGED_CELLS = [
    Cell(*values)
    for values in (
        ("on", "mtp", 17, 9, "preempted", "flags", "bfloat16", "sampled"),
        ("on", "lookup", 64, 9, "restarted", "flags", "float32", "greedy"),
        ("off", "draft", 256, 1, "aborted", "more flags", "bfloat16", "greedy"),
        ("on", "mtp", 1, 9, "untouched", "more flags", "float32", "sampled"),
        ("on", "mtp", 256, 9, "preempted", "narrow states", "bfloat16", "greedy"),
        ("on", "draft", 17, 9, "restarted", "narrow states", "float32", "sampled"),
    )
]
"""Beside the matrix: mixers with the flags of ablations, which are no dimension of it."""


@pytest.mark.parametrize("cell", FLAGGED_CELLS, ids=lambda cell: cell.name)
def test_the_answer_of_a_model_with_flags_is_the_plain_one(cell):
    assert run_cell(cell) == []


def test_every_flag_that_came_later_is_in_a_model_with_flags():
    mixers = [mixer for own in FLAGGED.values() for mixer in own]
    for kind in {type(mixer) for mixer in mixers}:
        used = {name for mixer in mixers if isinstance(mixer, kind) for name in mixer.model_dump()}
        assert kind.later - used <= {"qkv_bias", "out_bias"}


def test_the_covering_set_has_every_pair_and_few_cells():
    wanted = {
        (one, value, other, another)
        for one, other in product(DIMENSIONS, repeat=2)
        if list(DIMENSIONS).index(one) < list(DIMENSIONS).index(other)
        for value in DIMENSIONS[one]
        for another in DIMENSIONS[other]
    }
    # What is kept over a restart is the prefix cache.
    wanted.remove(("prefix", "off", "history", "restarted"))
    assert set().union(*map(pairs_of, PAIRWISE)) == wanted
    assert len(PAIRWISE) < 60 and PAIRWISE == pairwise() != pairwise(seed=1)


def test_a_whole_run_has_every_cell_once():
    order = in_order()
    assert len(order) == len(set(order)) == num_cells() and set(order) == set(all_cells())


def test_every_kind_of_mixer_is_in_the_matrix():
    from hyla.models.config import MIXER_KINDS

    assert {config.kind for config in MIXERS.values()} == MIXER_KINDS


def test_a_run_counts_for_the_source_that_its_cells_compute_with():
    names = "sorted({name.split('.')[1] for name in sys.modules if name.startswith('hyla.')})"
    code = f"import sys, matrix.run, matrix.check; print(*{names})"
    source = os.pathsep.join(path for path in sys.path if path)
    told = subprocess.check_output([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": source}, text=True)
    assert set(told.split()) <= {part.removesuffix(".py") for part in PARTS}


def test_results_are_gone_on_with_and_those_of_other_sources_do_not_count(tmp_path):
    path, cells = tmp_path / "results.jsonl", PAIRWISE[:2]
    run(cells[:1], path, "new", minutes=1, jobs=1)
    old = path.read_text()
    path.write_text(old.replace('"new"', '"old"') + old + '{"cell": {"cut')
    assert list(read(path, "new")) == cells[:1]
    failed = {cells[0]: {"cell": vars(cells[0]), "problems": ["tokens differ"], "seconds": 1.0}}
    assert "1 of 13440 cells run" in report(failed, "new") and "0 passed, 1 failed" in report(failed, "new")
    assert f"FAILED {cells[0].name}: tokens differ" in report(failed, "new")


# Injected faults: each must be seen.


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("mixer", MIXERS)
def test_a_one_ulp_error_in_what_is_cached_is_seen(mixer, dtype):
    role = ROLES.get(mixer, "kv")

    def fault(engine: Engine, step: int) -> None:
        if step == 3:
            nudge(engine, role)

    cell = replace(PLAIN, mixer=mixer, dtype=dtype)
    assert run_cell(cell) == []
    assert "differ from the plain answer's" in str(run_cell(cell, fault))


def slots_of(cache: Cache):
    """The slot tensors of each layer, as they are once everything planned is done."""
    names = [[tensor.name for tensor in spec.slot_tensors] for spec in cache.specs]
    return [{name: layer[name] for name in own} for layer, own in zip(cache.layers, names)]


@pytest.mark.parametrize("mixer", STATES)
def test_a_slot_that_keeps_the_state_of_its_last_sequence_is_seen(mixer, monkeypatch):
    cell = replace(PLAIN, mixer=mixer, history="aborted")
    assert run_cell(cell) == []
    opened = Cache.open

    def leaking(cache: Cache):
        (slot,) = cache.ledger.slots.take(1)
        kept = [{name: tensor[slot].clone() for name, tensor in layer.items()} for layer in slots_of(cache)]
        cache.ledger.slots.give_back([slot])
        sequence = opened(cache)
        assert sequence.slot == slot
        for layer, own in zip(slots_of(cache), kept):
            for name, tensor in layer.items():
                tensor[slot] = own[name]
        return sequence

    monkeypatch.setattr(Cache, "open", leaking)
    assert "differ from the plain answer's" in str(run_cell(cell))


@pytest.mark.parametrize("mixer", STATES)
def test_the_state_of_another_snapshot_is_seen(mixer, monkeypatch):
    cell = replace(PLAIN, prefix="on", batch=9, mixer=mixer)
    assert run_cell(cell) == []
    load = SnapshotStore.load

    def others(store, slots, triples):
        load(store, slots, [(unit + 1, *rest) for unit, *rest in triples])

    monkeypatch.setattr(SnapshotStore, "load", others)
    assert "differ from the plain answer's" in str(run_cell(cell))


@pytest.mark.parametrize("mixer", ["softmax", "window", "mla", "sparse_mla"])
def test_a_page_of_the_tree_with_the_content_of_another_is_seen(mixer, monkeypatch):
    cell = replace(PLAIN, prefix="on", mixer=mixer)
    assert run_cell(cell) == []
    resume = Cache.resume

    def stale(cache: Cache, pages, checkpoint):
        if pages:
            window = cache.specs[0].window
            first, second = pages[:2] if window is None else checkpoint.window_pages[0][1][:2]
            for tensor in cache.tensors.pages_of(window):
                tensor[second] = tensor[first].clone()
        return resume(cache, pages, checkpoint)

    monkeypatch.setattr(Cache, "resume", stale)
    assert "differ from the plain answer's" in str(run_cell(cell))


@pytest.mark.parametrize("speculation", ["lookup", "mtp", "draft"])
def test_an_accepted_draft_that_was_wrong_is_seen(speculation, monkeypatch):
    cell = replace(PLAIN, speculation=speculation, mixer="kda")
    assert run_cell(cell) == []
    commit = Cache.commit

    def one_more(cache: Cache, sequence, num_tokens):
        commit(cache, sequence, num_tokens)
        if 150 < sequence.length < 160 and num_tokens > 1:
            cache.layers[0]["conv"][sequence.slot].zero_()

    monkeypatch.setattr(Cache, "commit", one_more)
    assert "differ from the plain answer's" in str(run_cell(cell))
