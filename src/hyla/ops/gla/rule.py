"""What gated linear attention measures inside chunks: a decay per key channel (`ops.chunks.channel_decay`)."""

from __future__ import annotations

import torch

from hyla.grid import BLOCK, CHUNK
from hyla.ops.chunks import channel_decay
from hyla.ops.chunks.channel_decay import BLOCKS
from hyla.ops.chunks.decay_rule import Fold, OldRows, Read, Rows
from hyla.ops.chunks.inside_blocks import InsideBlocks
from hyla.ops.chunks.plan import RowPlan
from hyla.ops.exact.sums import running_sum


class ChannelDecay:
    """The rule S <- diag(exp(a_t)) S + k v^T.

    An open chunk keeps its rows as they came, so it can go back to any length; what is derived from them (keys decayed
    to the ends of blocks) is made anew by every row that reads them, always by the same operations.
    """

    names = ("k", "v", "log_decay")
    constants: tuple[torch.Tensor, ...] = ()

    def rows(self, k_IHCK, v_IHCV, /, *decays: torch.Tensor, old: OldRows | None = None) -> Rows:
        (log_decay_IHCK,) = decays
        rows = {"k": k_IHCK, "v": v_IHCV, "log_decay": log_decay_IHCK}
        return rows if old is None else old.fill(rows)

    def read(self, q_IHRK, /, rows: Rows, row_I: torch.Tensor | None = None) -> Read:
        k, log_decay = (rows[name].unflatten(2, (BLOCKS, BLOCK)) for name in ("k", "log_decay"))
        log_decay = log_decay.double()
        if row_I is None:
            q = q_IHRK.unflatten(2, (BLOCKS, BLOCK))
            _, diagonal, since_block, k_scaled = InsideBlocks.apply(q, k, log_decay, False)
            block_sum = since_block[:, :, :, -1]
            (p,), (q_in,) = channel_decay.across_blocks((q,), (diagonal,), since_block, k_scaled, block_sum)
            return Read(p, q_in)
        k_scaled, block_sum = channel_decay.to_block_ends(k, log_decay)
        block = row_I // BLOCK
        item = torch.arange(len(block), device=block.device)
        decays, since_block = channel_decay.row_decays(log_decay[item, :, block], row_I % BLOCK, k.dtype)
        (p,), q_in = channel_decay.row_products(
            (q_IHRK[:, :, 0],), decays * k[item, :, block], since_block, k_scaled, block_sum, block
        )
        return Read(p[:, :, None], q_in)

    def fold(self, rows: Rows, count_I: torch.Tensor | None = None) -> Fold:
        # Rows that are not there have no decay and no key: the sums are those of the rows that are, whatever the count.
        log_decay, k = rows["log_decay"].double(), rows["k"]
        sums = running_sum(log_decay.flip(2), 2)
        after = torch.cat([torch.zeros_like(sums[:, :, :1]), sums[:, :, : CHUNK - 1]], dim=2).flip(2)
        k_out = (k * torch.exp(after.to(k.dtype))).transpose(2, 3).contiguous()
        return Fold(k_out, rows["v"], torch.exp(sums[:, :, -1].to(k.dtype))[..., None])

    def append(self, plan: RowPlan, cache, k_NHK, v_NHV, /, *decays: torch.Tensor) -> None:
        for name, row in zip(self.names, (k_NHK, v_NHV, *decays)):
            cache[name][plan.slots_N, :, plan.row_N] = row
