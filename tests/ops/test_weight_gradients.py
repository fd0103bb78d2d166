"""Gradients of weights: as near to the exact ones as their sums can be, and the same bits each time."""

from __future__ import annotations

import pytest
import torch

from hyla.ops.exact import gradients

ROWS_OF_A_SUM = 128
"""Our kernel adds so many rows to one sum, and then the sums."""

SIZES = ((1, 1, 1), (1, 70, 40), (127, 3, 5), (128, 64, 16), (129, 65, 257), (1000, 33, 48), (300, 520, 512))
"""Rows, outputs, inputs."""


def draw(*shape: int, seed: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.fixture(params=[True, False], ids=["multiplies bf16", "does not"])
def has_bf16(request, monkeypatch):
    monkeypatch.setattr(gradients, "multiplies_bf16", lambda: request.param)


@pytest.mark.usefixtures("each_backend", "has_bf16")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", SIZES)
def test_a_gradient_is_as_near_to_the_exact_one_as_its_sums_can_be(size, dtype):
    rows, outputs, inputs = size
    grad_TO, x_TD = draw(rows, outputs, seed=1, dtype=dtype), draw(rows, inputs, seed=2, dtype=dtype)
    exact = grad_TO.double().t() @ x_TD.double()
    found = gradients.weight_gradient(grad_TO, x_TD)
    assert found.dtype == dtype and found.is_contiguous()
    terms = grad_TO.double().abs().t() @ x_TD.double().abs()
    bound = rows * 2.0**-24 * terms + (exact.abs() * 2.0**-8 if dtype == torch.bfloat16 else 0.0)
    assert ((found.double() - exact).abs() <= bound).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_our_kernel_s_sums_are_those_of_128_rows(each_backend, dtype):
    if each_backend != "native":
        pytest.skip("the kernel does not compute under this backend")
    rows, outputs, inputs = 300, 5, 7
    grad_TO, x_TD = draw(rows, outputs, seed=3, dtype=dtype), draw(rows, inputs, seed=4, dtype=dtype)
    total = torch.zeros(outputs, inputs)
    for first in range(0, rows, ROWS_OF_A_SUM):
        part = torch.zeros(outputs, inputs)
        for t in range(first, min(first + ROWS_OF_A_SUM, rows)):
            product = grad_TO[t].double()[:, None] * x_TD[t].double()[None]  # exact: 24 bits times 24 bits
            part = (part.double() + product).float()  # as a fused multiply-add but for ties that are hardly ever
        total = part if first == 0 else total + part
    found = gradients.native.weight(grad_TO, x_TD)
    assert torch.equal(found, total.to(dtype))


@pytest.mark.usefixtures("has_bf16")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_neither_threads_nor_strides_change_a_bit(each_backend, dtype):
    grad_TO, x_TD = draw(300, 210, seed=5, dtype=dtype), draw(300, 300, seed=6, dtype=dtype)
    wide_grad, wide_x = torch.zeros(300, 230, dtype=dtype), torch.zeros(300, 333, dtype=dtype)
    wide_grad[:, 9:219], wide_x[:, 20:320] = grad_TO, x_TD
    expected, threads = gradients.weight_gradient(grad_TO, x_TD), torch.get_num_threads()
    assert torch.equal(gradients.weight_gradient(wide_grad[:, 9:219], wide_x[:, 20:320]), expected)
    if each_backend != "native":
        return  # the library's sums are another's with other threads or operands that are turned
    assert torch.equal(
        gradients.native.weight(grad_TO.t().contiguous().t(), x_TD), gradients.native.weight(grad_TO, x_TD)
    )
    found = []
    for wanted in (1, 2, 3):
        torch.set_num_threads(wanted)
        try:
            found.append(gradients.native.weight(grad_TO, x_TD))
        finally:
            torch.set_num_threads(threads)
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


@pytest.mark.parametrize("can_multiply", [True, False])
def test_our_kernel_computes_what_the_library_is_slow_at(each_backend, can_multiply, monkeypatch):
    asked, weight = [], gradients.native.weight
    monkeypatch.setattr(gradients, "multiplies_bf16", lambda: can_multiply)
    monkeypatch.setattr(gradients, "has_library_layout", lambda device, dtype: dtype in (torch.float32, torch.bfloat16))
    monkeypatch.setattr(gradients.native, "weight", lambda *operands: asked.append(operands) or weight(*operands))
    monkeypatch.setattr(gradients, "linear_once", lambda x_RD, weight_OD: x_RD @ weight_OD.t())

    def is_ours(outputs: int, inputs: int, dtype: torch.dtype, rows: int = 3) -> bool:
        asked.clear()
        gradients.weight_gradient(torch.ones(rows, outputs, dtype=dtype), torch.ones(rows, inputs, dtype=dtype))
        return bool(asked)

    is_native = each_backend == "native"
    assert is_ours(256, 256, torch.float32) == is_native
    assert not is_ours(256, 257, torch.float32)
    assert is_ours(300, 400, torch.bfloat16) == (is_native and not can_multiply)
    assert not is_ours(8, 8, torch.float64) and not is_ours(8, 8, torch.float32, rows=0)


@pytest.mark.parametrize(
    "grad_TO, x_TD",
    [
        (torch.ones(3, 4), torch.ones(2, 4)),
        (torch.ones(0, 4), torch.ones(0, 4)),
        (torch.ones(3, 4), torch.ones(3, 4).bfloat16()),
    ],
)
def test_operands_that_do_not_belong_together_are_refused(grad_TO, x_TD):
    with pytest.raises(ValueError, match="of rows"):
        gradients.native.weight(grad_TO, x_TD)
