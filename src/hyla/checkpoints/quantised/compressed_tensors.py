"""compressed-tensors, the format of llm-compressor: integers in groups, int8, FP8, NVFP4 and MXFP4.

Integers: W[o, i] = scale[o, g] (q[o, i] - z[o, g]), g = i // group_size or g_idx[i]; packed codes and zero points are
stored plus 2^(bits - 1). NVFP4: W = code (scale / global_scale). Which scheme a weight follows is seen by its tensors,
so names in `targets` and `ignore`, which differ between libraries, decide nothing; a weight that fits no scheme of the
config is refused. Source: the library's own format. Needs no PyTorch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal, NoReturn

from pydantic import Field

from hyla.checkpoints.quantised.keys import AUTO_ROUND, Declared, GroupSize, shown
from hyla.checkpoints.quantised.protocol import Packed
from hyla.checkpoints.quantised.scaled import FP8, mxfp4, nvfp4, scaled
from hyla.checkpoints.quantised.stored import FLOATS, Headers, Parts
from hyla.errors import ConfigError
from hyla.models.formats.published import Strict

if TYPE_CHECKING:  # configs are read without PyTorch
    import torch

READS = (
    "compressed-tensors' pack-quantized (2, 4, 8 bits), int-quantized (8 bits), float-quantized (FP8), "
    "nvfp4-pack-quantized and mxfp4-pack-quantized weights"
)
ROLES = {
    ".weight_packed": "codes",
    ".weight_scale": "scales",
    ".weight_shape": "shape",
    ".weight_zero_point": "zeros",
    ".weight_g_idx": "groups",
    ".weight_global_scale": "global",
    ".weight": "plain",
}
Format = Literal[
    "pack-quantized",
    "int-quantized",
    "float-quantized",
    "naive-quantized",
    "nvfp4-pack-quantized",
    "mxfp4-pack-quantized",
    "mixed-precision",
]
INERT = frozenset(
    {
        *("quant_method", "ignore", "kv_cache_scheme", "global_compression_ratio", "version", "run_compressed"),
        *AUTO_ROUND,
        "quantization_status",
    }
)
"""Who wrote it, lists of modules (the files say which are quantised), and the cache, which is not quantised here."""
PACKED_BITS = (2, 4, 8)
MOST_SCHEMES = 256
"""Each weight is compared with all of them."""


class Weights(Strict):
    """How the weights of one scheme are stored."""

    num_bits: int
    type: Literal["int", "float"] = "int"
    symmetric: bool = True
    strategy: Literal["tensor", "channel", "group", "block", "tensor_group"] | None = None
    group_size: GroupSize | None = None
    block_structure: Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=2, max_length=2)] | None = None
    dynamic: Literal[False] = False
    actorder: Literal["group", "dynamic", "weight", "static"] | bool | None = None
    """The order in which the columns were quantised; what matters of it stands in weight_g_idx."""
    observer: str | None = None
    observer_kwargs: dict | None = None
    scale_dtype: str | None = None
    zp_dtype: str | None = None

    def block(self, out: int, into: int) -> tuple[int, int]:
        """(outputs, inputs) that share a scale."""
        if self.block_structure is not None:
            return self.block_structure[0], self.block_structure[1]
        if self.group_size is not None and self.group_size > 0:
            return 1, self.group_size
        return (1, into) if self.strategy == "channel" or self.group_size == -1 else (out, into)

    def has_grid(self, grid: tuple[int, ...], out: int, into: int) -> bool:
        """Whether a matrix has scales of that shape."""
        rows, columns = self.block(out, into)
        return grid == (-(-out // rows), -(-into // columns)) and (rows > 1 or into % columns == 0)


class Scheme(Strict):
    """One of `config_groups`."""

    targets: list[str] | None = None
    weights: Weights | None = None
    input_activations: dict | None = None
    """How other engines round activations, here not at all; also the next."""
    output_activations: dict | None = None
    format: Format | None = None


class CompressedTensorsKeys(Strict):
    """HANDLED keys."""

    config_groups: Annotated[dict[str, Scheme], Field(max_length=MOST_SCHEMES)]
    format: Format = "pack-quantized"
    sparsity_config: dict | None = None
    transform_config: dict | None = None


def compressed_tensors(declared: Declared) -> CompressedTensors:
    """Raises ConfigError for what is not read."""
    keys = declared.read(CompressedTensorsKeys, READS, inert=INERT)
    sparse = (keys.sparsity_config or {}).get("format", "dense")
    if sparse != "dense":
        _refuse(declared, "sparsity_config.format", sparse)
    transforms = (keys.transform_config or {}).get("config_groups")
    if transforms:
        _refuse(declared, "transform_config.config_groups", transforms)
    schemes = [scheme.weights for scheme in keys.config_groups.values() if scheme.weights is not None]
    if not schemes:
        _refuse(declared, "config_groups", "no scheme for weights")
    for name, scheme in keys.config_groups.items():
        weights = scheme.weights
        bits = PACKED_BITS if weights is None or weights.type == "int" else (4, 8)
        if weights is not None and weights.num_bits not in bits:
            _refuse(declared, f"config_groups.{name}.weights.num_bits", weights.num_bits)
    return CompressedTensors(keys.format, tuple(schemes))


def _refuse(declared: Declared, key: str, value: object) -> NoReturn:
    raise ConfigError(
        f"quantization_config: {key} = {shown(value)} in {declared.where}: Hyla reads {READS}; take another "
        "quantisation, or fetch the unquantised checkpoint"
    )


@dataclass(frozen=True)
class CompressedTensors:
    """A `Quantisation`."""

    format: str
    schemes: tuple[Weights, ...]

    @property
    def title(self) -> str:
        kinds = dict.fromkeys(f"{weights.type}{weights.num_bits}" for weights in self.schemes)
        return f"compressed-tensors {self.format} ({', '.join(kinds)})"

    def find(self, headers: Headers) -> dict[str, Packed]:
        found = {}
        for module, parts in headers.modules(ROLES).items():
            codes = parts.get("codes", parts.get("plain"))
            dtype = None if codes is None else headers.source.dtype(codes)
            if "codes" not in parts and dtype not in ("I8", FP8):
                continue
            headers.need(module, parts, (".weight_scale", "scales"))
            if "codes" not in parts:
                found[f"{module}.weight"] = self._codes(
                    headers, module, {**parts, "codes": parts["plain"]}, dtype or ""
                )
            elif "plain" in parts:
                headers.refuse(parts["codes"], f"is stored beside {parts['plain']}")
            elif dtype == "U8":
                found[f"{module}.weight"] = self._fp4(headers, module, parts)
            else:
                found[f"{module}.weight"] = self._words(headers, module, parts)
        return found

    def _fits(self, kind: str, *bits: int) -> list[Weights]:
        return [weights for weights in self.schemes if weights.type == kind and weights.num_bits in bits]

    def _codes(self, headers: Headers, module: str, parts: dict[str, str], dtype: str) -> Packed:
        """int8 and FP8 codes that are stored as they are."""
        matrix = headers.matrix(parts["codes"], dtype)
        grid = _grid(headers, parts["scales"], matrix[0])
        kinds = self._fits("int", *PACKED_BITS) if dtype == "I8" else self._fits("float", 8)
        schemes = [weights for weights in kinds if weights.has_grid(grid, *matrix)]
        if not schemes:
            self._misfit(headers, parts["codes"], f"{dtype} codes with {grid} scales")
        self._need_zeros(headers, module, parts, schemes)
        parts = {role: name for role, name in parts.items() if role in ("codes", "scales", "zeros")}
        label = "int8" if dtype == "I8" else "FP8"
        return scaled(headers, parts, dtype, block=schemes[0].block(*matrix), label=label)

    def _fp4(self, headers: Headers, module: str, parts: dict[str, str]) -> Packed:
        if not self._fits("float", 4):
            self._misfit(headers, parts["codes"], "codes of FP4")
        if headers.source.dtype(parts["scales"]) == FP8:  # NVFP4, and not MXFP4
            headers.need(module, parts, (".weight_global_scale", "global"))
        parts = {role: name for role, name in parts.items() if role in ("codes", "scales", "global")}
        return nvfp4(headers, parts, divides=True) if "global" in parts else mxfp4(headers, parts)

    def _words(self, headers: Headers, module: str, parts: dict[str, str]) -> Packed:
        """Integers that are packed into words along the input."""
        headers.need(module, parts, (".weight_shape", "shape"))
        out, words = headers.matrix(parts["codes"], "I32")
        headers.expect(parts["shape"], [(2,)], "I32", "I64")
        rows, into = (int(size) for size in headers.source.tensor(parts["shape"]).tolist())
        kinds = [weights for weights in self._fits("int", *PACKED_BITS) if -(-into * weights.num_bits // 32) == words]
        if rows != out or into < 1 or len({weights.num_bits for weights in kinds}) != 1:
            self._misfit(headers, parts["codes"], f"{words:,} words for {into:,} inputs of {rows:,} outputs")
        grid = _grid(headers, parts["scales"], out)
        schemes = [weights for weights in kinds if weights.has_grid(grid, out, into)]
        if not schemes:
            self._misfit(headers, parts["scales"], f"{grid} scales for {out:,} x {into:,} codes")
        self._need_zeros(headers, module, parts, schemes)
        bits, groups = schemes[0].num_bits, grid[1]
        if "zeros" in parts:
            is_packed = headers.source.dtype(parts["zeros"]) == "I32"
            shapes = [(-(-out * bits // 32), groups)] if is_packed else [grid, headers.source.shape(parts["scales"])]
            headers.expect(parts["zeros"], shapes, "I32", "I8")
        if "groups" in parts:
            headers.expect(parts["groups"], [(into,)], "I32", "I64")
        parts = {role: name for role, name in parts.items() if role != "global"}
        return Packed((out, into), f"int{bits}", parts, WordsCoding(bits, grid, into // groups))

    def _need_zeros(self, headers: Headers, module: str, parts: dict[str, str], schemes: list[Weights]) -> None:
        if not any(weights.symmetric for weights in schemes):
            headers.need(module, parts, (".weight_zero_point", "zeros"))

    def _misfit(self, headers: Headers, name: str, what: str) -> NoReturn:
        first = self.schemes[:4]
        described = "; ".join(f"{w.type}{w.num_bits}, {w.strategy}, group_size {w.group_size}" for w in first)
        headers.refuse(name, f"holds {what}, which no scheme of config_groups describes ({described})")


def _grid(headers: Headers, scales: str, out: int) -> tuple[int, int]:
    """The shape of scales as that of a grid: one row or column may be left out."""
    shape, dtype = headers.source.shape(scales), headers.source.dtype(scales)
    if dtype in FLOATS and shape in ((), (1,)):
        return 1, 1
    if dtype in FLOATS and shape == (out,):
        return out, 1
    return headers.matrix(scales, *FLOATS)


@dataclass(frozen=True)
class WordsCoding:
    """A `Coding`. Codes [out, in packed], scales [out, G], zero points [out packed, G] or plain."""

    bits: int
    grid: tuple[int, int]
    group_size: int

    @property
    def offset(self) -> int:
        """What packed integers are stored with on top."""
        return 1 << self.bits - 1

    def check(self, parts: Parts) -> None:
        parts.finite("scales")
        if "groups" in parts:
            groups = parts["groups"]
            is_unset = bool((groups == -1).all())
            if not is_unset and not bool(((groups >= 0) & (groups < self.grid[1])).all()):
                parts.refuse("groups", f"holds groups outside 0 to {self.grid[1] - 1}")

    def decode(self, parts: Parts, into: torch.Tensor) -> None:
        from hyla.checkpoints.quantised import numbers

        words, columns = parts["codes"], into.shape[1]
        groups = parts["groups"].long() if "groups" in parts else None
        if groups is None or bool((groups < 0).all()):  # -1 everywhere: written, but never set
            groups = numbers.block_of_columns(columns, self.group_size)
        numbers.decode_blocks(
            into,
            lambda first, last: numbers.unpack(words[first:last], self.bits, columns).float() - self.offset,
            parts["scales"].float().reshape(self.grid),
            zero_AB=self._zeros(parts) if "zeros" in parts else None,
            block_of=groups,
        )

    def _zeros(self, parts: Parts) -> torch.Tensor:
        """Zero points [out, G], float32."""
        from hyla.checkpoints.quantised import numbers

        zeros = parts["zeros"]
        if zeros.element_size() == 1:
            return zeros.float().reshape(self.grid)
        return numbers.unpack(zeros.T, self.bits, self.grid[0]).T.float() - self.offset
