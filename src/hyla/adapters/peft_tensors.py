"""Terms as PEFT stores them: one A and one B for each of its modules, exactly, and back.

Terms over one another in one matrix: those that share an A keep it; otherwise their ranks stand one after another, and
B is a block for each (zero elsewhere), so B A is the same. A matrix without a term has zeros in B.

Experts [E, ..] are stored flat: A [E r, D], expert by expert, and B [O, r E], rank by rank.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from hyla.models.formats.names import Rule
from hyla.ops.weights import LowRank

Shape = tuple[int, ...]


def ranked(shape: Shape, rank: int) -> Shape:
    """The shape of B for a weight of a shape."""
    return (*shape[:-1], rank)


def joined(terms: Sequence[LowRank | None], shapes: Sequence[Shape]) -> tuple[torch.Tensor, list[torch.Tensor], float]:
    """One A for several matrices over one another, and B of each with as many columns; and the scale of both.

    shapes: of the matrices. One term at least is not None.
    """
    present = [term for term in terms if term is not None]
    downs = list({id(term.down): term.down for term in present}.values())
    firsts, rank = {}, 0
    for down in downs:
        firsts[id(down)] = rank
        rank += down.shape[-2]
    scale, ups = present[0].scale, []
    for term, shape in zip(terms, shapes):
        up = present[0].up.new_zeros(ranked(shape, rank))
        if term is not None:
            first = firsts[id(term.down)]
            own = term.up if term.scale == scale else term.up * (term.scale / scale)
            up[..., first : first + own.shape[-1]] = own
        ups.append(up)
    return (downs[0] if len(downs) == 1 else torch.cat(downs, dim=-2)), ups, scale


def published_up(rule: Rule, ups: Sequence[torch.Tensor]) -> torch.Tensor:
    """B [O, r] of a published matrix from those of ours, by its rule."""
    (up,) = rule.to_published(list(ups))
    return up.reshape(-1, up.shape[-1])


def our_ups(rule: Rule, up_OR: torch.Tensor, shapes: Sequence[Shape]) -> list[torch.Tensor]:
    """The inverse. shapes: of our weights."""
    wanted = [ranked(shape, up_OR.shape[-1]) for shape in shapes]
    if len(wanted) == 1:
        return [up_OR.reshape(wanted[0])]
    return [part.reshape(shape).clone() for part, shape in zip(rule.to_ours([up_OR], wanted), wanted)]


def published_magnitude(rule: Rule, magnitudes: Sequence[torch.Tensor]) -> torch.Tensor:
    """DoRA's magnitudes [O] of a published matrix from those [.., O] of ours: they go where the rows go."""
    return published_up(rule, [magnitude[..., None] for magnitude in magnitudes])[:, 0]


def our_magnitudes(rule: Rule, magnitude_O: torch.Tensor, shapes: Sequence[Shape]) -> list[torch.Tensor]:
    """The inverse. shapes: of our weights."""
    return [part[..., 0] for part in our_ups(rule, magnitude_O[:, None], shapes)]


def flat_experts(down_ERD: torch.Tensor, ups_EOR: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """A [E r, D] and B [O, r E] of a stack from ours, B's of the parts over one another."""
    up_EOR = torch.cat(list(ups_EOR), dim=1)
    return down_ERD.flatten(0, 1), up_EOR.permute(1, 2, 0).flatten(1)


def stacked_experts(
    down: torch.Tensor, up: torch.Tensor, num_experts: int, out_dims: Sequence[int]
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """The inverse: A [E, r, D], and B [E, O_i, r] of each part."""
    down_ERD = down.unflatten(0, (num_experts, -1))
    up_EOR = up.unflatten(1, (-1, num_experts)).permute(2, 0, 1)
    return down_ERD, [part.contiguous() for part in up_EOR.split(list(out_dims), dim=1)]


def apart(down: torch.Tensor, ups: Mapping[str, torch.Tensor], scale: float, rank: int) -> dict[str, LowRank]:
    """Terms of one A; where B's are blocks of that rank which `joined` made, each with its own A again."""
    names = list(ups)
    blocks = [range(place * rank, (place + 1) * rank) for place in range(len(names))]
    is_joined = len(names) > 1 and rank * len(names) == down.shape[-2]
    if is_joined and all(not _outside(ups[name], block).any() for name, block in zip(names, blocks)):
        return {
            name: LowRank(down[..., list(block), :], ups[name][..., list(block)], scale)
            for name, block in zip(names, blocks)
        }
    return {name: LowRank(down, up, scale) for name, up in ups.items()}


def _outside(up: torch.Tensor, block: range) -> torch.Tensor:
    """The columns of a B beside a block."""
    return torch.cat([up[..., : block.start], up[..., block.stop :]], dim=-1)
