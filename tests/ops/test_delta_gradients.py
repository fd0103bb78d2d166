"""Gradients of the delta rules: against float64, and for each document the same bits whatever comes with it."""

from dataclasses import dataclass

import pytest
import torch

from hyla.ops import backends
from hyla.ops.batch import Batch
from hyla.ops.gated_delta import gated_delta
from hyla.ops.gated_delta.reference import gated_delta_reference
from hyla.ops.kda import kda
from hyla.ops.kda.reference import kda_reference

pytestmark = pytest.mark.usefixtures("each_backend")

RELATIVE_TOLERANCE = 1e-5
"""fp32 gradients against float64, each tensor's largest error over its largest element; as test_delta.py has it.
Measured: below 1.6e-6 (a document of one row between states), else below 8e-7."""
NAMES = ("q", "k", "v", "log_decay", "beta", "state")
SCALE = 0.3


@dataclass(frozen=True)
class Shape:
    name: str
    key_heads: int
    heads: int
    key_dim: int
    value_dim: int

    @property
    def is_kda(self) -> bool:
        return self.name == "kda"

    def inputs(self, lengths, *, seed=0, strength=1.0):
        """By document: q, k, v, log decay and beta of its rows, its first state, and the weights of what it gives."""
        return [self.document(length, seed=100 * seed + n, strength=strength) for n, length in enumerate(lengths)]

    def document(self, length, *, seed, strength=1.0):
        generator = torch.Generator().manual_seed(seed)

        def draw(*shape):
            return torch.randn(*shape, generator=generator, dtype=torch.float64)

        q, k = (torch.nn.functional.normalize(draw(length, self.key_heads, self.key_dim), dim=-1) for _ in range(2))
        v, grad_o = draw(length, self.heads, self.value_dim), draw(length, self.heads, self.value_dim)
        decay_shape = (length, self.heads, self.key_dim) if self.is_kda else (length, self.heads)
        # Some decays are exactly zero and some full strength, so that sums mix both.
        decay = -strength * draw(*decay_shape).abs().clamp_max(1.0) * (draw(*decay_shape) > 0)
        beta = draw(length, self.heads).sigmoid()
        state, grad_final = (draw(self.heads, self.key_dim, self.value_dim) for _ in range(2))
        return [x.float() for x in (q, k, v, decay, beta, state, grad_o, grad_final)]

    def gradients(self, documents, *, starts=None, with_states=True):
        """Of q, k, v, log decay, beta and, with states, of the first states: by document."""
        q, k, v, decay, beta, state, grad_o, grad_final = _packed(documents)
        leaves = [x.requires_grad_() for x in (q, k, v, decay, beta, *([state] if with_states else []))]
        lengths = [len(document[0]) for document in documents]
        batch = Batch(lengths=tuple(lengths), starts=tuple(starts or [0] * len(lengths)))
        operator = kda if self.is_kda else gated_delta
        if with_states:
            o, final = operator(*leaves[:5], batch=batch, scale=SCALE, state=leaves[5], return_state=True)
            found = torch.autograd.grad((o, final), leaves, (grad_o, grad_final))
        else:
            found = torch.autograd.grad(operator(*leaves, batch=batch, scale=SCALE), leaves, grad_o)
        by_row = [x.split(lengths) for x in found[:5]]
        return [[*rows, *(x[n] for x in found[5:])] for n, rows in enumerate(zip(*by_row))]

    def exact(self, documents):
        """The same by the float64 recurrence."""
        found = []
        for document in documents:
            *leaves, grad_o, grad_final = [x.double() for x in document]
            leaves = [x.requires_grad_() for x in leaves]
            reference = kda_reference if self.is_kda else gated_delta_reference
            lengths = [len(document[0])]
            o, final = reference(*leaves[:5], lengths=lengths, scale=SCALE, state_NHKV=leaves[5][None])
            found.append(torch.autograd.grad((o, final), leaves, (grad_o, grad_final[None])))
        return found


def _packed(documents):
    *rows, state, grad_o, grad_final = zip(*documents)
    states = [torch.stack(xs) for xs in (state, grad_final)]
    return [*(torch.cat(xs) for xs in rows), states[0], torch.cat(grad_o), states[1]]


GATED = Shape("gated_delta", key_heads=2, heads=6, key_dim=24, value_dim=40)
KDA = Shape("kda", key_heads=3, heads=3, key_dim=24, value_dim=40)
SHAPES = (
    GATED,
    Shape("gated_delta", key_heads=1, heads=1, key_dim=17, value_dim=148),
    Shape("gated_delta", key_heads=1, heads=2, key_dim=64, value_dim=32),
    KDA,
    Shape("kda", key_heads=1, heads=1, key_dim=17, value_dim=148),
    Shape("kda", key_heads=2, heads=2, key_dim=64, value_dim=32),
)
each = pytest.mark.parametrize(
    "shape", SHAPES, ids=lambda x: f"{x.name}-{x.key_heads}-{x.heads}-{x.key_dim}-{x.value_dim}"
)
both = pytest.mark.parametrize("shape", (GATED, KDA), ids=lambda x: x.name)
LENGTHS = [150, 1, 64, 63, 65, 16, 17]
"""Chunks that close, and documents that end after one row, inside a block of 16 and at its end."""


def relative_error(got, want):
    return ((got.double() - want).abs().max() / want.abs().max()).item()


@each
@pytest.mark.parametrize("strength", [0.02, 1.0, 50.0])
def test_gradients_of_packed_documents_equal_the_float64_recurrence(shape, strength):
    documents = shape.inputs(LENGTHS, strength=strength)
    found, wanted = shape.gradients(documents), shape.exact(documents)
    for n, name in enumerate(NAMES):
        got, want = (torch.cat([document[n].flatten() for document in parts]) for parts in (found, wanted))
        assert relative_error(got, want) < RELATIVE_TOLERANCE, name


@both
def test_decays_that_leave_nothing_give_numbers(shape):
    """e^-200 is zero in fp32: no factor may overflow on the way to it."""
    for document in shape.gradients(shape.inputs([130], strength=200.0)):
        for name, grad in zip(NAMES, document):
            assert grad.isfinite().all(), name
        assert document[3].abs().max() > 0


@both
def test_the_backends_agree(shape, each_backend):
    if each_backend != "native":
        pytest.skip("compared once")
    documents = shape.inputs(LENGTHS)
    found = shape.gradients(documents)
    backends.use("torch")
    other = shape.gradients(documents)
    backends.use(each_backend)
    for n, name in enumerate(NAMES):
        got, want = (torch.cat([document[n].flatten() for document in parts]) for parts in (found, other))
        assert not torch.equal(got, want)
        assert relative_error(got, want.double()) < RELATIVE_TOLERANCE, name


@both
@pytest.mark.parametrize("with_states", [True, False], ids=["with states", "whole documents"])
def test_a_documents_gradients_do_not_depend_on_the_others(shape, with_states):
    own = shape.document(150, seed=7)
    want = shape.gradients([own], with_states=with_states)[0]
    for place, others in ((0, [70, 1, 200]), (1, [3, 300]), (2, [64, 65]), (1, [129]), (3, [1, 1, 1, 500])):
        documents = shape.inputs(others, seed=place + 1)
        documents.insert(place, own)
        got = shape.gradients(documents, with_states=with_states)[place]
        different = [name for name, x, y in zip(NAMES, got, want) if not torch.equal(x, y)]
        assert different == [], (place, others)


@each
def test_changing_every_other_document_changes_no_bit(shape):
    lengths = [100, 64, 30, 1, 140]
    first, second = (shape.inputs(lengths, seed=seed) for seed in (1, 2))
    mixed = [second[n] if n % 2 else document for n, document in enumerate(first)]
    want, got = shape.gradients(first), shape.gradients(mixed)
    for n in (0, 2, 4):
        assert all(torch.equal(x, y) for x, y in zip(got[n], want[n]))
    for n in (1, 3):
        assert not any(torch.equal(x, y) for x, y in zip(got[n], want[n]))


@both
def test_a_document_that_is_not_a_number_spoils_no_other(shape, each_backend):
    documents = shape.inputs([80, 70, 90], seed=3)
    want = shape.gradients(documents)
    documents[1][2][40:] = float("nan")
    got = shape.gradients(documents)
    assert got[1][4].isnan().any()  # of beta: v enters into it
    for n in (0, 2):
        assert all(x.isfinite().all() for x in got[n])
        assert all(torch.equal(x, y) for x, y in zip(got[n], want[n]))


@each
def test_the_number_of_threads_changes_no_bit(shape, each_backend):
    if each_backend != "native":
        pytest.skip("PyTorch's products may sum in another order with other threads")
    documents = shape.inputs([150, 64, 200, 1])
    want = shape.gradients(documents)
    threads = torch.get_num_threads()
    try:
        for count in (2, 3):
            torch.set_num_threads(count)
            for got, own in zip(shape.gradients(documents), want):
                assert all(torch.equal(x, y) for x, y in zip(got, own))
    finally:
        torch.set_num_threads(threads)


@both
def test_a_document_in_pieces_has_the_gradients_of_the_whole(shape, each_backend):
    """Pieces are cut at multiples of 64; the gradient of a piece's first state is that of the last state before it."""
    if each_backend != "native":
        pytest.skip("PyTorch's products may depend on how many chunks there are")
    document = shape.document(200, seed=5)
    (want,) = shape.gradients([document])
    rows, (state, grad_o, grad_final) = document[:5], document[5:]
    operator = kda if shape.is_kda else gated_delta
    pieces, states = [slice(0, 128), slice(128, 192), slice(192, 200)], [state]
    for here in pieces[:-1]:
        part, batch = [x[here] for x in rows], Batch((len(rows[0][here]),), (here.start,))
        states.append(operator(*part, batch=batch, scale=SCALE, state=states[-1][None], return_state=True)[1][0])
    for here, first in zip(reversed(pieces), reversed(states)):
        piece = [*(x[here] for x in rows), first, grad_o[here], grad_final]
        (got,) = shape.gradients([piece], starts=[here.start])
        for name, x, y in zip(NAMES[:5], got, want):
            assert torch.equal(x, y[here]), (name, here)
        grad_final = got[5]
    assert torch.equal(grad_final, want[5])
