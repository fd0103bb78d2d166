"""Float64 logits and gradients of every family's tiny model, made on the CPU and kept beside this file.

    python tests/devices/oracle.py        # writes oracle.safetensors anew

So that a device can be checked where neither float64 nor time for it is to be had. Logits are kept for some rows, to
fp32; gradients as two numbers a parameter: their norm, and their product with a vector of random signs, which differs
by about the norm of an error from what it should be. What is fp32 in any model (decays) is fp32 here too, and differs
between processors by the last bit of an exponential: logits by 1e-6 of the largest (2026-11-29, AMD and Intel).
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from hyla.models.formats.registry import families, family_of
from hyla.models.initialize import initialize
from hyla.models.objective import Targets
from hyla.models.state import cast
from hyla.models.trunk import Model
from hyla.ops.batch import Batch

FILE = Path(__file__).with_suffix(".safetensors")
FAMILIES = tuple(sorted(family.name for family in families()))
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}

LENGTHS, SEED = (70, 33), 5
ROWS = (0, 15, 16, 62, 63, 64, 69, 70, 102)
"""Flat rows of the two prompts whose logits are kept: ends of blocks, chunks and prompts."""

FP32_TOLERANCE = 1e-4
"""Largest difference of a logit, relative to the largest logit."""

BF16_TOLERANCE = 0.1
"""Median over rows of a row's largest difference, relative to the largest logit. A row whose tokens go to other
experts, or see other keys, after a rounding may differ by anything: hence the median."""

GRADIENT_TOLERANCE = 1e-3
"""Of a parameter's gradient, in fp32: a difference of norm or sketch relative to the norm, and to a thousandth of the
largest parameter's."""


def tiny_model(family: str, dtype: torch.dtype) -> Model:
    """The model on the CPU, always with the same weights."""
    return cast(initialize(Model(family_of(family).tiny), SEED, std=0.2), dtype)


def prompts(model: Model) -> list[list[int]]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(model.config.vocab_size, (n,), generator=generator).tolist() for n in LENGTHS]


@torch.no_grad()
def logits(model: Model) -> torch.Tensor:
    """[ROWS, vocab] on the host, float64."""
    return torch.cat(model.logits(prompts(model)))[list(ROWS)].double().cpu()


def loss(model: Model) -> torch.Tensor:
    """Of each token from the one before it, the last of a prompt from its first: a training step's."""
    texts = prompts(model)
    flat = [token for ids in texts for token in ids]
    following = [token for ids in texts for token in (*ids[1:], ids[0])]
    tokens, targets = (torch.tensor(ids, device=model.device) for ids in (flat, following))
    return model(
        tokens, Batch.packed(list(LENGTHS), device=model.device), targets=Targets(targets, chunk_rows=40)
    ).total


def gradients(model: Model) -> torch.Tensor:
    """[parameters + 1, 2]: norm and sketch of each gradient, by name; the last row is the loss, twice."""
    model.zero_grad()
    found = loss(model)
    found.backward()
    generator = torch.Generator().manual_seed(2)
    rows = []
    for _, parameter in sorted(model.named_parameters()):
        signs = 2 * torch.randint(2, parameter.shape, generator=generator) - 1
        grad = torch.zeros(parameter.shape) if parameter.grad is None else parameter.grad.detach().cpu()
        rows.append([float(grad.double().norm()), float((grad.double() * signs).sum())])
    return torch.tensor([*rows, [float(found.detach())] * 2], dtype=torch.float64)


@dataclass(frozen=True)
class Verdict:
    """A measured difference beside what is allowed."""

    error: float
    tolerance: float

    @property
    def is_good(self) -> bool:
        return self.error <= self.tolerance  # false for a NaN


def check_logits(family: str, dtype: str, device: torch.device, kept: dict[str, torch.Tensor]) -> Verdict:
    """The model on a device against the kept logits of the same weights."""
    expected = kept[f"{family}.{dtype}"].double()
    found = logits(tiny_model(family, DTYPES[dtype]).to(device).eval())
    worst = (found - expected).abs().amax(1) / expected.abs().max()
    if dtype == "fp32":
        return Verdict(float(worst.max()), FP32_TOLERANCE)
    return Verdict(float(worst.median()) if worst.isfinite().all() else float("nan"), BF16_TOLERANCE)


def check_gradients(family: str, device: torch.device, kept: dict[str, torch.Tensor]) -> Verdict:
    """One training step's loss and gradients on a device against the kept ones."""
    expected = kept[f"{family}.gradients"]
    found = gradients(tiny_model(family, torch.float32).to(device))
    scale = expected[:, 0].clamp_min(1e-3 * float(expected[:-1, 0].max()))
    return Verdict(float(((found - expected).abs() / scale[:, None]).max()), GRADIENT_TOLERANCE)


def load() -> dict[str, torch.Tensor]:
    return load_file(FILE)


def make() -> dict[str, torch.Tensor]:
    """All of it, in float64."""
    found = {}
    for family in FAMILIES:
        for name, dtype in DTYPES.items():
            model = cast(tiny_model(family, dtype), torch.float64)
            found[f"{family}.{name}"] = logits(model.eval()).float()
            if name == "fp32":
                found[f"{family}.gradients"] = gradients(model)
    return found


def main() -> None:
    torch.set_num_threads(1)
    save_file(make(), FILE)
    print(f"{FILE}: {FILE.stat().st_size:,} bytes")


if __name__ == "__main__":
    sys.exit(main())
