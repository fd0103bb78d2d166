"""What a batch keeps for the layers of a step."""

import ast
from pathlib import Path

import pytest

import hyla.ops.batch
from hyla.errors import RequestError
from hyla.ops.batch import Batch
from hyla.ops.chunks.plan import chunk_plan, row_plan


def test_a_plan_is_made_once_for_each_key():
    batch, made = Batch.packed([3, 70]), []
    for key in ("a", "b", "a"):
        assert batch.memo(key, lambda key=key: made.append(key) or key) == key
    assert made == ["a", "b"]
    assert chunk_plan(batch) is chunk_plan(batch) and row_plan(batch) is row_plan(batch)
    assert chunk_plan(batch) is not chunk_plan(Batch.packed([3, 70]))


def test_a_batch_knows_no_operator():
    tree = ast.parse(Path(hyla.ops.batch.__file__).read_text(encoding="utf-8"))
    modules = [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert [name for name in modules if name.startswith("hyla.ops")] == []


def test_a_sequence_without_new_tokens_is_refused():
    with pytest.raises(RequestError, match="at least one new token"):
        Batch.packed([3, 0])
