"""The exactness matrix's covering set, without its mixers, on a model out of a GGUF file (a real one: make teacher)."""

import pytest
from gguf_writing import BF16
from matrix.cells import ONE_MODEL, pairwise
from matrix.check import run_cell
from matrix.subject import subject_of
from tiny_gguf import tiny_gguf

from hyla.checkpoints import load_model


@pytest.fixture(scope="module")
def subject(tmp_path_factory):
    path = tmp_path_factory.mktemp("gguf") / "tiny-model.gguf"
    path.write_bytes(tiny_gguf(matrices=BF16).encode())
    return subject_of(lambda dtype: load_model(path, dtype=dtype), few_ids=(5, 7, 8, 20))


@pytest.mark.parametrize("cell", pairwise(dimensions=ONE_MODEL), ids=lambda cell: cell.name)
def test_the_answer_is_bit_for_bit_the_plain_one(cell, subject):
    assert run_cell(cell, subject=subject) == []
