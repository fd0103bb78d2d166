"""The primitives are right, their rows stand alone, and forward code uses nothing else."""

import ast
from pathlib import Path

import pytest
import torch

from bench import invariance
from hyla.ops.exact import primitives

pytestmark = pytest.mark.usefixtures("each_backend")

ROOT = Path(__file__).parents[2]
T, W = 7, 20


def rows_of(*shape, seed=0, scale=4.0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) * scale


EXPECTED = {
    "sigmoid": (primitives.sigmoid, torch.sigmoid),
    "silu": (primitives.silu, torch.nn.functional.silu),
    "softplus": (primitives.softplus, lambda x: torch.log(1 + torch.exp(x))),
    "softmax_last": (primitives.softmax_last, lambda x: x.softmax(-1)),
    "sum_last": (primitives.sum_last, lambda x: x.sum(-1, keepdim=True)),
    "l2_norm": (primitives.l2_norm, lambda x: x / (x.square().sum(-1, keepdim=True) + 1e-6).sqrt()),
    "swiglu": (lambda x: primitives.swiglu(x, x + 1), lambda x: torch.nn.functional.silu(x) * (x + 1)),
    "rms_norm": (lambda x: primitives.rms_norm(x, None, eps=1e-5), lambda x: torch.rms_norm(x, (W,), eps=1e-5)),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_values_gradients_and_autograd(name):
    mine, theirs = EXPECTED[name]
    x = rows_of(T, W)
    torch.testing.assert_close(mine(x), theirs(x), rtol=1e-13, atol=1e-13)
    assert torch.autograd.gradcheck(mine, (x.clone().requires_grad_(),))
    for value in (x.float(), x.float().view(T, 4, 5).transpose(1, 2) if name != "rms_norm" else x.float()):
        assert torch.equal(mine(value.clone().requires_grad_()), mine(value))


@pytest.mark.parametrize("zero_centered", [False, True])
def test_rms_norm_with_a_weight(zero_centered):
    x, weight = rows_of(T, W), rows_of(W, seed=1)
    scale = weight + 1 if zero_centered else weight
    expected = torch.rms_norm(x, (W,), eps=1e-5) * scale

    def norm(x, weight):
        return primitives.rms_norm(x, weight, eps=1e-5, zero_centered=zero_centered)

    torch.testing.assert_close(norm(x, weight), expected, rtol=1e-13, atol=1e-13)
    assert torch.autograd.gradcheck(norm, (x.requires_grad_(), weight.requires_grad_()))
    narrow = [tensor.detach().bfloat16().requires_grad_() for tensor in (x, weight)]
    y = norm(*narrow)
    assert y.dtype == torch.bfloat16
    assert torch.equal(y, norm(*(tensor.detach().float() for tensor in narrow)).bfloat16())
    y.sum().backward()
    assert [tensor.grad.dtype for tensor in narrow] == [torch.bfloat16] * 2


def test_swiglu_rounds_once():
    gate, up = (rows_of(T, W, seed=n).bfloat16() for n in range(2))
    assert torch.equal(primitives.swiglu(gate, up), primitives.swiglu(gate.float(), up.float()).bfloat16())
    whole = torch.cat([gate, up], dim=1)
    assert torch.equal(primitives.swiglu(*whole.chunk(2, dim=1)), primitives.swiglu(gate, up))


def test_a_sigmoid_gate_rounds_once():
    x, gate = rows_of(T, W), rows_of(T, W, seed=1)
    torch.testing.assert_close(primitives.sigmoid_gate(x, gate, x.dtype), x * torch.sigmoid(gate), rtol=1e-13, atol=0)
    x, both = x.float(), torch.cat([gate, gate], dim=1).bfloat16()
    y = primitives.sigmoid_gate(x, both[:, W:], torch.bfloat16)
    assert torch.equal(y, (x * primitives.sigmoid(gate.bfloat16().float())).bfloat16())
    assert torch.equal(y, primitives.sigmoid_gate(x.clone().requires_grad_(), both[:, W:], torch.bfloat16))


def test_relu2_is_the_square_of_the_positive_part_rounded_once():
    x = rows_of(T, W)
    torch.testing.assert_close(primitives.relu2(x), torch.relu(x).square(), rtol=0, atol=0)
    assert torch.autograd.gradcheck(primitives.relu2, (x.clone().requires_grad_(),))
    narrow = x.bfloat16()
    assert torch.equal(primitives.relu2(narrow), primitives.relu2(narrow.float()).bfloat16())
    assert torch.equal(primitives.relu2(narrow.clone().requires_grad_()), primitives.relu2(narrow))


@pytest.mark.parametrize("name", ["sigmoid", "silu", "softplus", "softmax_last", "swiglu"])
def test_large_inputs_give_finite_values_and_gradients(name):
    x = torch.tensor([[-1e4, -200.0, -89.0, 0.0, 89.0, 200.0, 1e4]], requires_grad=True)
    y = EXPECTED[name][0](x)
    y.sum().backward()
    assert y.isfinite().all() and x.grad.isfinite().all()


def test_an_input_is_never_changed():
    for mine, _ in EXPECTED.values():
        x = rows_of(T, W).float()
        before = x.clone()
        mine(x)
        assert torch.equal(x, before)


def test_a_sum_of_a_very_wide_row_does_not_depend_on_the_other_rows():
    x = rows_of(3, 100_000).float()
    whole = primitives.sum_last(x)
    torch.testing.assert_close(whole.double(), x.double().sum(-1, keepdim=True), rtol=1e-4, atol=1e-2)
    for row in range(3):
        assert torch.equal(primitives.sum_last(x[row : row + 1]), whole[row : row + 1])


@pytest.fixture(scope="module")
def probe():
    """The invariance probe over few row counts, at this process's thread count."""
    counts, threads = (1, 2, 3, 8, 17, 100), (torch.get_num_threads(),)
    with torch.no_grad():
        return invariance.verdicts_of(torch.device("cpu"), threads, counts, invariance.QUICK_WEIGHTS, wide=False)


def test_every_function_that_rows_and_primitives_rely_on_is_row_invariant(probe):
    broken = {name: columns for (name, is_used), columns in probe.items() if is_used and any(columns.values())}
    assert broken == {}
    assert all(f"primitives.{name}" in {probed for probed, _ in probe} for name in EXPECTED if name != "rms_norm")


def test_the_probe_finds_a_function_that_is_not(probe):
    """A float32 product of a single row is another routine everywhere that we know."""
    bad = invariance.Probe("half of the rows", lambda x: x * (1.0 + 1e-6 * (x.shape[0] > 50)), True)
    assert "rows" in invariance.check(bad, 20, torch.float32, torch.device("cpu"), (1, 60, 100))
    strided = invariance.Probe("strides", lambda x: x * (1.0 + 1e-6 * x.is_contiguous()), True)
    assert invariance.check(strided, 20, torch.float32, torch.device("cpu"), (1, 100)) == "strides"


FORBIDDEN = frozenset(
    (
        "sigmoid",
        "sigmoid_",
        "silu",
        "softplus",
        "softmax",
        "log_softmax",
        "logsumexp",
        "logsigmoid",
        "rsqrt",
        "rsqrt_",
        "matmul",
        "einsum",
        "mm",
        "bmm",
        "addmm",
        "baddbmm",
        "baddbmm_",
        "addbmm",
        "mv",
        "dot",
        "inner",
        "tensordot",
        "linear",
        "bilinear",
        "conv1d",
        "rms_norm",
        "layer_norm",
        "normalize",
        "vector_norm",
        "scaled_dot_product_attention",
        "gelu",
        "topk",
        "autocast",
    )
)
"""Functions of torch and methods of tensors whose bits may depend on a row's company, or that nobody has probed."""

OURS = frozenset({"rows", "primitives"})
EXACT = ("hyla.ops.exact.gradients", "hyla.ops.exact.library")
"""Their products promise nothing of rows."""
UNPROMISED = frozenset({"weight_gradient", "bias_gradient", "linear_once"})
"""Of these, beside what is forbidden anyway. cross_entropy.py takes a gradient at once, with add_weight_gradient."""
EXEMPT = frozenset(
    {"rows.py", "batched.py", "portable.py", "row_checks.py", "reference.py", "divergence.py"}
    | {"exact/library.py", "exact/gradients.py"}
)
"""divergence.py is a loss of training alone. Its products have the shapes of one document, whose bits its own tests
compare beside other documents."""


def violations(source):
    """(line, what) of every forbidden call outside backward code."""
    found = []

    def walk(node):
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and "backward" in node.name:
            return
        if isinstance(node, ast.BinOp | ast.AugAssign) and isinstance(node.op, ast.MatMult):
            found.append((node.lineno, "@"))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("torch"):
            found.extend((node.lineno, alias.name) for alias in node.names if alias.name in FORBIDDEN)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in FORBIDDEN:
            base = node.func.value
            if not (isinstance(base, ast.Name) and base.id in OURS):
                found.append((node.lineno, node.func.attr))
        if isinstance(node, ast.Attribute) and node.attr in UNPROMISED:
            found.append((node.lineno, node.attr))
        if isinstance(node, ast.ImportFrom) and node.module in EXACT:
            found.extend((node.lineno, alias.name) for alias in node.names)
        for child in ast.iter_child_nodes(node):
            walk(child)

    walk(ast.parse(source))
    return found


FILES = [
    file
    for package in ("ops", "layers", "models")
    for file in sorted((ROOT / "src" / "hyla" / package).rglob("*.py"))
    if EXEMPT.isdisjoint({file.name, f"{file.parent.name}/{file.name}"}) and file.parent.name != "primitives"
]


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT / "src" / "hyla")))
def test_forward_code_uses_only_row_invariant_functions(file):
    assert violations(file.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "line",
    [
        "torch.sigmoid(x)",
        "x.softmax(-1)",
        "F.silu(x)",
        "torch.nn.functional.softplus(x)",
        "a @ b",
        "torch.einsum('ij,jk', a, b)",
        "torch.bmm(a, b)",
        "gradients.matmul(a, b)",
        "gradients.weight_gradient(a, b)",
        "library.linear_once(a, b)",
        "torch.linalg.vector_norm(x, dim=-1)",
    ],
)
def test_a_forbidden_call_is_found_except_in_backward_code(line):
    assert len(violations(f"def forward(x, a, b):\n    return {line}")) == 1
    assert violations(f"def backward(x, a, b):\n    return {line}") == []
    assert violations("def forward(x):\n    return rows.linear(primitives.softmax_last(x), w)") == []
