"""Every way to store numbers, by row range: bit for bit the `gguf` library's, and plain ones as they are."""

import gguf
import numpy as np
import pytest
from gguf_writing import F32, GGUF, Stored

from hyla.checkpoints.gguf.blocks import DECODERS, decode
from hyla.checkpoints.gguf.file import read_part
from hyla.checkpoints.gguf.quants import decode_rows, num_rows
from hyla.checkpoints.gguf.types import TYPES
from hyla.errors import CheckpointError

LIBRARY = {kind.value: kind for kind in gguf.quants._type_traits}
ROWS, SEED = 6, 11


def finite_rows(kind: int, length: int) -> np.ndarray:
    """Random bytes of rows whose numbers are all finite, as the library sees them."""
    generator, rows = np.random.default_rng(SEED), []
    size = length // TYPES[kind].block * TYPES[kind].block_bytes
    with np.errstate(all="ignore"):
        while len(rows) < ROWS:
            row = generator.integers(0, 256, size, dtype=np.uint8)
            # Scales are float16 anywhere in a block: bytes below 0x70 make none of them infinite.
            row = np.where(row & 0x7C == 0x7C, row & 0x83, row).astype(np.uint8)
            if np.isfinite(gguf.quants.dequantize(row[None], LIBRARY[kind])).all():
                rows.append(row)
    return np.stack(rows)


def info_of(tmp_path, kind, length, data):
    path = tmp_path / "rows.gguf"
    path.write_bytes(GGUF({}, [Stored.plain("first", np.ones(5)), Stored("w", (2, 3, length), kind, data)]).encode())
    return read_part(path).tensors["w"]


@pytest.mark.parametrize("kind", [kind for kind in TYPES if kind in LIBRARY], ids=lambda kind: TYPES[kind].name)
def test_any_range_of_rows_has_the_librarys_bits(tmp_path, kind):
    length = TYPES[kind].block * 3
    raw = finite_rows(kind, length)
    expected = gguf.quants.dequantize(raw, LIBRARY[kind])
    info = info_of(tmp_path, kind, length, raw.tobytes())
    assert info.nbytes == raw.nbytes and num_rows(info) == ROWS
    for first, last in ((0, 6), (0, 1), (2, 5), (5, 6)):
        found = decode_rows(info, first, last)
        assert found.dtype == np.float32
        assert found.tobytes() == expected[first:last].tobytes()


def test_every_quantised_type_that_is_named_the_library_knows():
    plain = {"F32", "F16", "F64"}
    assert {entry.name for entry in TYPES.values()} - plain == {LIBRARY[kind].name for kind in LIBRARY if kind in TYPES}
    for kind, entry in TYPES.items():
        assert gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType(kind)] == (entry.block, entry.block_bytes)


@pytest.mark.parametrize(("kind", "dtype"), [(0, "<f4"), (1, "<f2"), (28, "<f8")])
def test_plain_numbers_are_as_they_are(tmp_path, kind, dtype):
    numbers = np.random.default_rng(2).standard_normal((ROWS, 7)).astype(dtype)
    found = decode_rows(info_of(tmp_path, kind, 7, numbers.tobytes()), 1, 5)
    assert np.array_equal(found, numbers[1:5].astype(found.dtype))


@pytest.mark.parametrize("name", DECODERS)
def test_pieces_of_many_blocks_join_without_a_seam(monkeypatch, name):
    monkeypatch.setattr("hyla.checkpoints.gguf.blocks.PIECE", 5)
    kind = gguf.GGMLQuantizationType[name]
    raw = finite_rows(kind.value, 32 * 3).reshape(-1, TYPES[kind.value].block_bytes)
    assert len(raw) == 18
    assert decode(name, raw).tobytes() == gguf.quants.dequantize(raw, kind).tobytes()


@pytest.mark.parametrize("kind", (1, 8, 12), ids=("F16", "Q8_0", "Q4_K"))
def test_a_number_that_is_not_finite_is_named_with_its_row(tmp_path, kind):
    length = TYPES[kind].block * 2 if kind != 1 else 8
    raw = bytearray(ROWS * length // TYPES[kind].block * TYPES[kind].block_bytes)
    row_bytes = len(raw) // ROWS
    raw[4 * row_bytes : 4 * row_bytes + 2] = b"\x00\x7e"  # not a number, in float16
    info = info_of(tmp_path, kind, length, bytes(raw))
    decode_rows(info, 0, 4)
    with pytest.raises(
        CheckpointError, match=f"tensor w .{TYPES[kind].name}. holds numbers that are not finite, in row 4"
    ):
        decode_rows(info, 2, 6)


def test_sums_that_overflow_are_no_mistake(tmp_path):
    numbers = np.full((ROWS, 8), 3e38, np.float32)
    assert np.array_equal(decode_rows(info_of(tmp_path, F32, 8, numbers.tobytes()), 0, ROWS), numbers)
