"""Figures of every sublayer while a model is trained, taken by running a step's first rows once more, without gradient.

The hot path knows nothing of it: what a sublayer reads and gives comes from taps (`models.stack.Tap`), what a mixer has
inside from its method `inside`, experts' counts from the routing of the step itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch

from hyla.data.packing import PackedRows
from hyla.grid import CHUNK
from hyla.layers.moe import MoE
from hyla.layers.protocol import Inside, Scores
from hyla.models.stack import Tap
from hyla.models.trunk import Model
from hyla.ops.batch import Batch
from hyla.train.metrics import SublayerStatistics
from hyla.train.routing import Load

QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
MOST_NUMBERS = 1 << 22
"""Numbers of which quantiles are taken; of more, every n-th."""
LOGIT_ROWS = 64
"""Rows of the head whose logits live at once."""
Figures = dict[str, float | list[float]]


@torch.no_grad()
def statistics(
    model: Model, step: int, rows: PackedRows, most_rows: int, loads: Iterable[Load] = ()
) -> list[SublayerStatistics]:
    """One entry for each sublayer of the trunk, then one for its head, of the model as it is.

    rows: of a step, of which the first most_rows are read. loads: how even the whole step's routing was.
    """
    first = first_rows(rows, most_rows).to(model.device)
    batch, lines, by_name = first.batch, [], {load.name: load for load in loads}
    names = {module: name for name, module in model.named_modules() if isinstance(module, MoE)}

    def look(tap: Tap) -> None:
        figures = _of_rows("stream", tap.stream_TD) | _of_rows("output", tap.output_TD)
        module = tap.sublayer.module
        if tap.sublayer.is_mixer:
            figures |= _of_mixer(tap.sublayer.mixer.inside(tap.normed_TD, batch), batch)
        elif isinstance(module, MoE):
            figures |= routers[module].figures()
            load = by_name.get(names[module])
            figures |= {} if load is None else {"busiest_expert": load.largest, "idle_experts": float(load.idle)}
        lines.append(SublayerStatistics(step, tap.index, tap.sublayer.config.module.kind, figures))

    with _watched(names) as routers:
        hidden_TD = model(first.tokens_T, batch, observer=look)
    lines.append(SublayerStatistics(step, len(lines), "head", _of_head(model, hidden_TD)))
    return lines


def first_rows(rows: PackedRows, most: int) -> PackedRows:
    """The first `most` rows; a document that does not fit is cut there."""
    lengths, left = [], min(most, rows.tokens_T.shape[0])
    for length in rows.lengths:
        if left:
            lengths.append(min(length, left))
            left -= lengths[-1]
    here = slice(sum(lengths))
    return PackedRows(rows.tokens_T[here], rows.targets_T[here], tuple(lengths))


class _Router:
    """The logits of one mixture while it runs."""

    def __init__(self):
        self.largest = 0.0

    def scored(self, logits_TE: torch.Tensor) -> torch.Tensor:
        self.largest = max(self.largest, float(logits_TE.abs().max()))
        return logits_TE

    def chosen(self, ids_Tk: torch.Tensor) -> None:
        pass

    def figures(self) -> Figures:
        return {"router_logit_max": self.largest}


@contextmanager
def _watched(modules: Iterable[MoE]) -> Iterator[Mapping[MoE, _Router]]:
    """Inside, routers are looked at; whoever looked before looks again afterwards."""
    before = {module: module.watch for module in modules}
    routers = {module: _Router() for module in before}
    for module, router in routers.items():
        module.watch = router
    try:
        yield routers
    finally:
        for module, watch in before.items():
            module.watch = watch


def _of_rows(name: str, x_TD: torch.Tensor) -> Figures:
    x_TD = x_TD.float()
    return {f"{name}_rms": float(x_TD.square().mean().sqrt()), f"{name}_max": float(x_TD.abs().max())}


def _of_mixer(inside: Inside, batch: Batch) -> Figures:
    found: Figures = {}
    if inside.log_decay is not None:
        found["decay_quantiles"] = quantiles(inside.log_decay.exp())
    if inside.beta_TH is not None:
        found["beta_mean"] = float(inside.beta_TH.mean())
    if inside.gate is not None:
        found["gate_mean"] = float(inside.gate.mean())
    if inside.state_NHKV is not None:
        norms_NH = inside.state_NHKV.float().square().sum((-2, -1)).sqrt()
        found |= {"state_norm_mean": float(norms_NH.mean()), "state_norm_max": float(norms_NH.max())}
    if inside.scores is not None:
        found |= attention_figures(inside.scores, batch)
    return found


def quantiles(x: torch.Tensor) -> list[float]:
    """Smallest, largest and five numbers between them (QUANTILES)."""
    flat = x.flatten().float()
    flat = flat[:: -(-flat.numel() // MOST_NUMBERS)]
    return torch.quantile(flat, flat.new_tensor(QUANTILES)).tolist()


def _of_head(model: Model, hidden_TD: torch.Tensor) -> Figures:
    found = _of_rows("stream", hidden_TD)
    largest, total = 0.0, 0.0
    for hidden_RD in hidden_TD.split(LOGIT_ROWS):
        logits_RV = model.head_logits(hidden_RD)
        largest, total = max(largest, float(logits_RV.abs().max())), total + float(logits_RV.logsumexp(-1).sum())
    return found | {"logit_max": largest, "logsumexp_mean": total / hidden_TD.shape[0]}


def attention_figures(scores: Scores, batch: Batch) -> Figures:
    """logit_max: the largest scaled score of any row and head, by absolute value. sink_mass: the mean weight that a row
    gives to its sequence's first token, over rows from position 64 on that see it; absent where there is none.
    learnt_sink_mass: the mean weight of the sinks without value, where the layer has such.
    """
    largest, first, learnt = 0.0, [], []
    group_heads = scores.q_THK.shape[1] // scores.k_TGK.shape[1]
    for offset, length in zip(batch.offsets, batch.lengths):
        here = slice(offset, offset + length)
        is_hidden_tS = _hidden(scores, here)
        for head in range(scores.k_TGK.shape[1]):
            heads = slice(head * group_heads, (head + 1) * group_heads)
            q_htK = scores.q_THK[here, heads].transpose(0, 1) * scores.scale
            logits_htS = q_htK @ scores.k_TGK[here, head].to(q_htK.dtype).T
            largest = max(largest, float(logits_htS.masked_fill(is_hidden_tS, 0.0).abs().max()))
            logits_htS = logits_htS.masked_fill(is_hidden_tS, -torch.inf)
            if scores.sinks_H is not None:
                sinks_ht1 = scores.sinks_H[heads, None, None].expand(-1, length, -1)
                logits_htS = torch.cat([logits_htS, sinks_ht1], -1)
            weights_htS = logits_htS.softmax(-1)
            if scores.sinks_H is not None:
                learnt.append(weights_htS[..., -1].flatten())
            late_t = ~is_hidden_tS[CHUNK:, 0]
            first.append(weights_htS[:, CHUNK:, 0][:, late_t].flatten())
    found: Figures = {"logit_max": largest}
    for name, parts in (("sink_mass", first), ("learnt_sink_mass", learnt)):
        whole = torch.cat(parts) if parts else torch.empty(0)
        if whole.numel():
            found[name] = float(whole.mean())
    return found


def _hidden(scores: Scores, here: slice) -> torch.Tensor:
    """bool [t, S] of one sequence: which of its keys a row does not see."""
    length = here.stop - here.start
    places = torch.arange(length, device=scores.q_THK.device)
    ahead_tS = places[:, None] - places
    is_hidden_tS = ahead_tS < 0
    if scores.window is not None:
        is_hidden_tS |= ahead_tS >= scores.window
    if scores.positions_TS is not None:
        chosen_tS = scores.positions_TS[here].long()
        is_chosen_tS = is_hidden_tS.new_zeros(length, length + 1)  # the last column takes the -1 that fill up
        is_chosen_tS.scatter_(1, chosen_tS.masked_fill(chosen_tS < 0, length), True)
        is_hidden_tS |= ~is_chosen_tS[:, :length]
    return is_hidden_tS
