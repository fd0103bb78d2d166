"""Where products depend on a row's place, every product is the loop, a line says so, and answers are exact."""

import logging

import pytest
import torch
from matrix.cells import pairwise
from matrix.check import forget, run_cell

from hyla.ops import backends
from hyla.ops.exact import portable

CELLS = pairwise()
FEW = CELLS[:: len(CELLS) // 4]
"""Of every run; the others by `make test-devices`."""


def uneven(rows: torch.Tensor) -> torch.Tensor:
    """What a library that rounds odd rows in another way would have given."""
    rows[..., 1::2, :] *= 1 + 2.0**-7
    return rows


@pytest.fixture(scope="module")
def planted(request):
    """A process in the portable arithmetic over such a library; the inner sizes of the loops that it ran."""
    loops, loop = [], portable.loop_product

    def counted(a, b):
        loops.append(a.shape[-1])
        return loop(a, b)

    proofs = (portable.linear_is_proven, portable.joins_bias, portable.bmm_is_proven)
    patch = pytest.MonkeyPatch()
    linear = torch.nn.functional.linear
    patch.setattr(portable, "library_linear", lambda x, weight, bias=None: uneven(linear(x, weight, bias)))
    patch.setattr(portable, "library_bmm", lambda a, b: uneven(torch.bmm(a, b)))
    patch.setattr(portable, "loop_product", counted)
    forget()
    for proof in proofs:
        proof.cache_clear()
    backends.use("portable")
    yield loops
    backends.use(request.config.getoption("--backend") or "auto")
    patch.undo()
    for proof in proofs:
        proof.cache_clear()
    forget()


def check(cell, loops):
    before = len(loops)
    assert run_cell(cell) == []
    assert len(loops) > before


def test_the_loop_is_announced(planted, caplog):
    portable.linear_is_proven.cache_clear()
    with caplog.at_level(logging.WARNING, "hyla.ops"):
        check(FEW[0], planted)
    assert "depend on a row's place" in caplog.text


@pytest.mark.parametrize("cell", FEW, ids=lambda cell: cell.name)
def test_an_answer_of_the_covering_set_is_the_plain_one(planted, cell):
    check(cell, planted)


@pytest.mark.slow
@pytest.mark.parametrize("cell", [cell for cell in CELLS if cell not in FEW], ids=lambda cell: cell.name)
def test_every_answer_of_the_covering_set_is_the_plain_one(planted, cell):
    check(cell, planted)
