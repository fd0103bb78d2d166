"""AWQ, in its layout for matrix products ("gemm"): codes packed along the output, in an interleaved order.

W[o, i] = scales[g, o] (q[i, o] - z[g, o]),  g = i // group_size. Of the eight outputs of a word, field j (from the
lowest bits) holds output ORDER[j]. Source: the format that AutoAWQ writes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pydantic import field_validator

from hyla.checkpoints.quantised.keys import AUTO_ROUND, GroupSize
from hyla.checkpoints.quantised.protocol import Packed
from hyla.checkpoints.quantised.stored import FLOATS, Headers, Parts
from hyla.checkpoints.quantised.words import ROLES, find_words, groups_title
from hyla.models.formats.published import Strict

if TYPE_CHECKING:  # configs are read without PyTorch
    import torch

READS = "AWQ weights of 4 bits with zero points, in the layout 'gemm'"
ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
FIELDS = 8
"""Codes in a word."""
INERT = frozenset(
    {
        *("quant_method", "method", "modules_to_not_convert", "do_fuse", "modules_to_fuse", "fuse_max_seq_len"),
        *AUTO_ROUND,
        *("exllama_config", "model_name_or_path", "model_file_base_name", "true_sequential", "damp_percent"),
        *("desc_act", "static_groups", "tokenizer", "dataset", "meta", "lm_head", "sym", "act_group_aware"),
        *(
            "offload_to_disk",
            "offload_to_disk_path",
            "pack_impl",
            "block_name_to_quantize",
            "batch_size",
            "model_seqlen",
        ),
        *("module_name_preceding_first_block", "pad_token_id", "max_input_length", "cache_block_outputs"),
        *("modules_in_block_to_quantize", "ignore", "checkpoint_format"),
    }
)
"""How codes were chosen, and options of other engines."""
OTHER_NAMES = {"w_bit": "bits", "q_group_size": "group_size", "format": "version"}
"""In the file that AutoAWQ writes beside config.json, and in newer configs."""


class AWQKeys(Strict):
    """HANDLED keys."""

    bits: Literal[4]
    group_size: GroupSize = 128
    zero_point: Literal[True] = True
    version: Literal["gemm"] = "gemm"
    backend: Literal["auto", "autoawq", "gemm"] = "auto"
    pack_dtype: Literal["int32"] = "int32"
    data_type: Literal["int"] = "int"

    @field_validator("version", "backend", mode="before")
    @classmethod
    def _lower(cls, value: object) -> object:
        return value.lower() if isinstance(value, str) else value


@dataclass(frozen=True)
class AWQ:
    """A `Quantisation`."""

    keys: AWQKeys

    @property
    def title(self) -> str:
        return f"AWQ, 4 bits, {groups_title(self.keys.group_size)}"

    def find(self, headers: Headers) -> dict[str, Packed]:
        return find_words(headers, ROLES, self._packed)

    def _packed(self, headers: Headers, parts: dict[str, str]) -> Packed:
        into, words = headers.matrix(parts["codes"], "I32")
        size = into if self.keys.group_size == -1 else self.keys.group_size
        groups, out = headers.matrix(parts["scales"], *FLOATS)
        if out != words * FIELDS:
            headers.refuse(parts["codes"], f"has {words:,} words of {FIELDS} codes for {out:,} outputs")
        if size < 1 or groups * size != into:
            headers.refuse(parts["scales"], f"has {groups:,} groups for {into:,} inputs, but group_size = {size}")
        headers.expect(parts["zeros"], [(groups, words)], "I32")
        return Packed((out, into), "AWQ int4", parts, AWQCoding(size))


@dataclass(frozen=True)
class AWQCoding:
    """A `Coding`. Zero points [G, out packed], scales [G, out], codes [in, out packed]."""

    group_size: int

    def check(self, parts: Parts) -> None:
        parts.finite("scales")

    def decode(self, parts: Parts, into: torch.Tensor) -> None:
        from hyla.checkpoints.quantised import numbers

        words = parts["codes"]
        numbers.decode_blocks(
            into,
            lambda first, last: _outputs(words[:, first // FIELDS : last // FIELDS]),
            parts["scales"].float().T.contiguous(),
            zero_AB=_outputs(parts["zeros"]),
            block_of=numbers.block_of_columns(into.shape[1], self.group_size),
        )


def _outputs(words: torch.Tensor) -> torch.Tensor:
    """Codes [8 n, rows] of words [rows, n], the outputs as they are counted; float32."""
    import torch

    shifts = torch.tensor([4 * ORDER.index(output) for output in range(FIELDS)], dtype=torch.int32)
    return ((words.T.contiguous().unsqueeze(1) >> shifts.view(1, FIELDS, 1)) & 15).flatten(0, 1).float()
