"""bitsandbytes: LLM.int8() with a scale for each output, and 4-bit codes of a table (nf4, fp4) in blocks.

int8: W[o, i] = codes[o, i] SCB[o] / 127. 4 bits: flat[n] = quant_map[code[n]] absmax[n // blocksize], two codes in a
byte, the high half first; with double quantisation absmax[b] = nested_quant_map[byte[b]] nested_absmax[b //
nested_blocksize] + nested_offset. Source: the format that the library's state dicts have. Needs no PyTorch.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hyla.checkpoints.quantised.protocol import Packed
from hyla.checkpoints.quantised.stored import Headers, Parts
from hyla.models.formats.published import Strict

if TYPE_CHECKING:  # configs are read without PyTorch
    import torch

READS = "bitsandbytes' int8, nf4 and fp4 weights"
STATE = ".weight.quant_state.bitsandbytes__"
ROLES = {
    ".weight": "codes",
    ".weight.absmax": "absmax",
    ".weight.quant_map": "table",
    ".weight.nested_absmax": "nested_absmax",
    ".weight.nested_quant_map": "nested_table",
    f"{STATE}nf4": "state",
    f"{STATE}fp4": "state",
    ".SCB": "scales",
    ".weight_format": "layout",
}
MOST_STATE_BYTES = 1 << 16
INERT = frozenset(
    {
        *("quant_method", "llm_int8_threshold", "llm_int8_skip_modules", "llm_int8_enable_fp32_cpu_offload"),
        *("llm_int8_has_fp16_weight", "bnb_4bit_compute_dtype", "bnb_4bit_quant_storage", "bnb_4bit_use_double_quant"),
    }
)
"""Lists of modules and how other engines multiply. Storage and double quantisation stand in the tensors."""


class BitsAndBytesKeys(Strict):
    """HANDLED keys. The underscored ones are the same, as some versions write them."""

    load_in_8bit: bool = False
    load_in_4bit: bool = False
    bnb_4bit_quant_type: Literal["nf4", "fp4"] = "fp4"


Block = Annotated[int, Field(ge=1, le=2**20)]


class QuantState(BaseModel):
    """What is stored as JSON beside 4-bit codes."""

    # dtypes are what the weights were before, which is not needed here.
    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)

    quant_type: Literal["nf4", "fp4"]
    blocksize: Block
    shape: Annotated[list[Annotated[int, Field(ge=1, lt=2**31)]], Field(min_length=2, max_length=2)]
    nested_blocksize: Block | None = None
    nested_offset: Annotated[float, Field(allow_inf_nan=False)] | None = None


@dataclass(frozen=True)
class BitsAndBytes:
    """A `Quantisation`."""

    keys: BitsAndBytesKeys

    @property
    def title(self) -> str:
        return f"bitsandbytes {self.keys.bnb_4bit_quant_type if self.keys.load_in_4bit else 'int8'}"

    def find(self, headers: Headers) -> dict[str, Packed]:
        found = {}
        for module, parts in headers.modules(ROLES).items():
            if "absmax" in parts or "state" in parts:
                needed = ((".weight", "codes"), (".weight.absmax", "absmax"), (".weight.quant_map", "table"))
                headers.need(module, parts, *needed, (f"{STATE}nf4", "state"))
                found[f"{module}.weight"] = _table_codes(headers, module, parts)
            elif "scales" in parts:
                headers.need(module, parts, (".weight", "codes"))
                found[f"{module}.weight"] = _int8(headers, parts)
        return found


def _int8(headers: Headers, parts: dict[str, str]) -> Packed:
    out, into = headers.matrix(parts["codes"], "I8")
    headers.expect(parts["scales"], [(out,), (out, 1)], "F32", "F16", "BF16")
    if "layout" in parts:
        headers.expect(parts["layout"], [(), (1,)], "U8")
    return Packed((out, into), "LLM.int8", parts, Int8Coding())


def _table_codes(headers: Headers, module: str, parts: dict[str, str]) -> Packed:
    state = _state(headers, parts["state"])
    numbers = prod(state.shape)
    if headers.source.nbytes(parts["codes"]) != -(-numbers // 2):
        headers.refuse(
            parts["codes"],
            f"has {headers.source.nbytes(parts['codes']):,} bytes for {tuple(state.shape)} codes of 4 bits",
        )
    blocks = -(-numbers // state.blocksize)
    headers.expect(parts["table"], [(16,)], "F32")
    if state.nested_blocksize is None:
        headers.expect(parts["absmax"], [(blocks,)], "F32", "F16", "BF16")
    else:
        headers.need(
            module, parts, (".weight.nested_absmax", "nested_absmax"), (".weight.nested_quant_map", "nested_table")
        )
        headers.expect(parts["absmax"], [(blocks,)], "U8")
        headers.expect(parts["nested_table"], [(256,)], "F32")
        headers.expect(parts["nested_absmax"], [(-(-blocks // state.nested_blocksize),)], "F32")
    coding = TableCoding(state.blocksize, state.nested_blocksize, state.nested_offset or 0.0)
    return Packed((state.shape[0], state.shape[1]), state.quant_type, parts, coding)


def _state(headers: Headers, name: str) -> QuantState:
    shape, dtype = headers.source.shape(name), headers.source.dtype(name)
    if dtype != "U8" or len(shape) != 1 or shape[0] > MOST_STATE_BYTES:
        headers.refuse(name, f"is {dtype} {shape} instead of at most {MOST_STATE_BYTES:,} bytes of JSON")
    try:
        found = json.loads(bytes(headers.source.tensor(name).tolist()))
        return QuantState.model_validate(found)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "all of it"
        headers.refuse(name, f"says {key} = {first['input']!r}: {first['msg']}")
    except (ValueError, RecursionError) as error:
        headers.refuse(name, f"is not JSON: {error}")


@dataclass(frozen=True)
class Int8Coding:
    """A `Coding`."""

    def check(self, parts: Parts) -> None:
        parts.finite("scales")
        if "layout" in parts and int(parts["layout"].reshape(())) != 0:
            parts.refuse("layout", f"says layout {int(parts['layout'].reshape(()))}, but only 0, by rows, is read")

    def decode(self, parts: Parts, into: torch.Tensor) -> None:
        from hyla.checkpoints.quantised import numbers

        codes, scales = parts["codes"], parts["scales"].float().reshape(-1, 1)
        reciprocal = scales.new_full((1, 1), 1 / 127)  # last, and not a division, as in the library: its bits
        numbers.decode_blocks(into, lambda first, last: codes[first:last].float() * scales[first:last], reciprocal)


@dataclass(frozen=True)
class TableCoding:
    """A `Coding` of flat blocks."""

    block: int
    nested_block: int | None
    nested_offset: float

    def check(self, parts: Parts) -> None:
        parts.finite("table")
        if self.nested_block is not None:
            parts.finite("nested_table")
            parts.finite("nested_absmax")
        if not bool(self._largest(parts).isfinite().all()):
            parts.refuse("absmax", "holds numbers that are not finite")

    def decode(self, parts: Parts, into: torch.Tensor) -> None:
        import torch

        from hyla.checkpoints.quantised import numbers

        raw, table, flat = parts["codes"].contiguous().view(-1).view(torch.uint8), parts["table"], into.view(-1)
        largest = self._largest(parts)
        for first, last in numbers.pieces(flat.numel(), 1):  # pieces begin at whole bytes
            pairs = raw[first // 2 : (last + 1) // 2]
            codes = torch.stack((pairs >> 4, pairs & 15), dim=-1).view(-1)[: last - first]
            blocks = torch.arange(first, last) // self.block
            flat[first:last].copy_(table[codes.int()] * largest[blocks])

    def _largest(self, parts: Parts) -> torch.Tensor:
        """The scale of each block, float32."""
        absmax = parts["absmax"]
        if self.nested_block is None:
            return absmax.float()
        import torch

        blocks = torch.arange(absmax.numel()) // self.nested_block
        return parts["nested_table"][absmax.int()] * parts["nested_absmax"][blocks] + self.nested_offset
