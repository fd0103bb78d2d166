"""GPTQ: integer codes packed along the input, zero points along the output, a scale for each group of inputs.

W[o, i] = scales[g, o] (q[i, o] - z[g, o]),  g = g_idx[i], or i // group_size where there is none.
Source: the format that AutoGPTQ and GPTQModel write. Its first version stores z - 1, as one subtraction from each
packed word; `checkpoint_format` "gptq_v2" stores z.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from hyla.checkpoints.quantised.keys import AUTO_ROUND, GroupSize
from hyla.checkpoints.quantised.protocol import Packed
from hyla.checkpoints.quantised.stored import FLOATS, Headers, Parts
from hyla.checkpoints.quantised.words import ROLES, find_words, groups_title
from hyla.models.formats.published import Strict

if TYPE_CHECKING:  # configs are read without PyTorch
    import torch

BITS = (2, 3, 4, 8)
READS = "GPTQ weights of 2, 3, 4 or 8 bits, in the layouts 'gptq' and 'gptq_v2'"
READS_AUTO_ROUND = "AutoRound weights of 2, 3, 4 or 8 bits that are packed as in GPTQ or AWQ"
INERT = frozenset(
    {
        *("quant_method", "method", "damp_percent", "damp_auto_increment", "static_groups", "true_sequential"),
        *("model_name_or_path", "model_file_base_name", "is_marlin_format", "tokenizer", "dataset", "model_seqlen"),
        *("block_name_to_quantize", "module_name_preceding_first_block", "batch_size", "pad_token_id", "meta"),
        *("use_cuda_fp16", "use_exllama", "disable_exllama", "exllama_config", "max_input_length", "backend"),
        *("cache_block_outputs", "modules_in_block_to_quantize", "modules_to_not_convert", "act_group_aware", "mse"),
        *("lm_head", "device", "quantizer", "awq_gemm_checkpoint", "failsafe", "fallback", "hessian", "gptaq"),
        *("offload_to_disk", "offload_to_disk_path", "pack_impl", "v2", "v2_alpha", "nsamples", "checkpoint"),
        *AUTO_ROUND,
        *("model_base_name", "dynamic", "desc_act", "mock_quantization", "actorder", "vram_strategy", "gc_mode"),
    }
)
"""How codes were chosen, and options of other engines. Bits and groups of single modules (`dynamic`) and the order of
groups (`desc_act`) stand in the tensors."""
OF_MODULES = ("dynamic", "extra_config")
"""Keys by which single modules may differ from the rest."""
OTHER_NAMES = {"format": "checkpoint_format", "groupsize": "group_size"}


class GPTQKeys(Strict):
    """HANDLED keys."""

    bits: Literal[2, 3, 4, 8]
    group_size: GroupSize = 128
    sym: bool = True
    checkpoint_format: Literal["gptq", "gptq_v2"] = "gptq"
    pack_dtype: Literal["int32"] = "int32"
    data_type: Literal["int"] = "int"


class AutoRoundKeys(GPTQKeys):
    """HANDLED keys of AutoRound's own method, where it packs as GPTQ does; those with "gptq" alone store z - 1."""

    packing_format: Literal["auto_round:auto_gptq", "auto_round:gptq", "auto_round", "auto_round:gptqmodel"] = (
        "auto_round:auto_gptq"
    )

    @property
    def as_gptq(self) -> GPTQKeys:
        """The same as a GPTQ folder would say it."""
        said = self.model_dump(exclude={"packing_format", "checkpoint_format"})
        version = "gptq" if self.packing_format in ("auto_round:auto_gptq", "auto_round:gptq") else "gptq_v2"
        return GPTQKeys(**said, checkpoint_format=version)


@dataclass(frozen=True)
class GPTQ:
    """A `Quantisation`."""

    keys: GPTQKeys
    is_uniform: bool = True
    """Whether the config speaks for all modules."""

    @property
    def stores_zero(self) -> bool:
        """Whether zero points are stored as they are, not minus one."""
        return self.keys.checkpoint_format == "gptq_v2"

    @property
    def title(self) -> str:
        version = " v2" if self.stores_zero else ""
        return f"GPTQ{version}, {self.keys.bits} bits, {groups_title(self.keys.group_size)}"

    def find(self, headers: Headers) -> dict[str, Packed]:
        return find_words(headers, {**ROLES, ".g_idx": "groups"}, self._packed)

    def _packed(self, headers: Headers, parts: dict[str, str]) -> Packed:
        words, out = headers.matrix(parts["codes"], "I32")
        order = headers.source.shape(parts["groups"]) if "groups" in parts else ()
        if order == (0,):  # some writers leave it empty where groups are in order
            parts, order = {"empty" if role == "groups" else role: name for role, name in parts.items()}, ()
        into = order[0] if order else words * 32 // self.keys.bits
        bits = words * 32 // into if into else 0
        if bits not in BITS or words != _words(into, bits):
            headers.refuse(
                parts["codes"], f"has {words:,} words for {into:,} inputs, {words * 32 / max(into, 1):g} bits"
            )
        groups, _ = headers.matrix(parts["scales"], *FLOATS)
        headers.expect(parts["scales"], [(groups, out)], *FLOATS)
        headers.expect(parts["zeros"], [(groups, _words(out, bits))], "I32")
        size = into if self.keys.group_size == -1 else self.keys.group_size
        if order:
            headers.expect(parts["groups"], [(into,)], "I32", "I64")
        elif size < 1 or -(-into // size) != groups:
            headers.refuse(parts["scales"], f"has {groups:,} groups for {into:,} inputs, but group_size = {size}")
        middle = 1 << bits - 1 if self.keys.sym and self.is_uniform else None
        return Packed((out, into), f"GPTQ int{bits}", parts, GPTQCoding(bits, size, self.stores_zero, middle))


def _words(count: int, bits: int) -> int:
    return -(-count * bits // 32)


@dataclass(frozen=True)
class GPTQCoding:
    """A `Coding`. Zero points [G, out], scales [G, out], codes [in packed, out]."""

    bits: int
    group_size: int
    stores_zero: bool
    middle: int | None
    """What every zero point must be; None: anything."""

    def check(self, parts: Parts) -> None:
        scales = parts.finite("scales")
        zeros = self._zeros(parts, scales.shape)
        if self.middle is not None and not bool((zeros == self.middle).all()):
            other = self.middle + (1 if not self.stores_zero else -1)
            if bool((zeros == other).all()):
                named, meant = ("gptq_v2", "gptq") if self.stores_zero else ("gptq", "gptq_v2")
                parts.refuse(
                    "zeros",
                    f"holds zero points of {other} where sym = true means {self.middle}: it seems to be stored as "
                    f"checkpoint_format {meant!r} and not {named!r}, as config.json says",
                )
        if "groups" in parts:
            groups = parts["groups"]
            if not bool(((groups >= 0) & (groups < len(scales))).all()):
                parts.refuse("groups", f"holds groups outside 0 to {len(scales) - 1}")

    def decode(self, parts: Parts, into: torch.Tensor) -> None:
        from hyla.checkpoints.quantised import numbers

        words, scales = parts["codes"], parts["scales"].float()
        columns = into.shape[1]
        group_of = parts["groups"].long() if "groups" in parts else numbers.block_of_columns(columns, self.group_size)
        numbers.decode_blocks(
            into,
            lambda first, last: numbers.unpack(words[:, first:last].T, self.bits, columns).float(),
            scales.T.contiguous(),
            zero_AB=self._zeros(parts, scales.shape).T.contiguous().float(),
            block_of=group_of,
        )

    def _zeros(self, parts: Parts, shape: tuple[int, ...]) -> torch.Tensor:
        """Zero points [G, out] as integers."""
        import torch

        from hyla.checkpoints.quantised import numbers

        words = parts["zeros"]
        if not self.stores_zero and 32 % self.bits == 0:  # one was taken from all fields at once, with borrows
            words = words + numbers.pack(torch.ones(1, 32 // self.bits, dtype=torch.int32), self.bits)[0]
        zeros = numbers.unpack(words, self.bits, shape[1])
        is_wrapped = not self.stores_zero and 32 % self.bits
        return (zeros + 1) & ((1 << self.bits) - 1) if is_wrapped else zeros
