"""The front of a GGUF file: what is read, and hostile files, each with one clear error in bounded time and memory."""

import random
import struct
import time
import tracemalloc
from itertools import pairwise

import numpy as np
import pytest
from gguf_writing import (
    ARRAY,
    BOOL,
    DOUBLE,
    F32,
    FLOAT,
    GGUF,
    I8,
    I32,
    I64,
    Q8_0,
    TEXT,
    U8,
    U16,
    U32,
    U64,
    Stored,
    Typed,
)
from gguf_writing import text as texted
from tiny_gguf import tiny_gguf

from hyla.checkpoints import open_checkpoint
from hyla.checkpoints.gguf import open_file
from hyla.checkpoints.gguf.file import read_part
from hyla.checkpoints.gguf.types import REFUSED
from hyla.errors import CheckpointError, ConfigError

ONE = Stored("weight", (2, 3), F32, bytes(24))


@pytest.fixture
def written(tmp_path):
    """Writes a file; the path."""

    def write(source: GGUF | bytes, name: str = "file.gguf"):
        path = tmp_path / name
        path.write_bytes(source if isinstance(source, bytes) else source.encode())
        return path

    return write


def key(name: str, kind: int, body: bytes) -> bytes:
    """A key of any type, with any bytes."""
    return texted(name) + struct.pack("<I", kind) + body


def test_every_type_of_value_is_read(written):
    values = {
        "u8": Typed(U8, 200),
        "i8": Typed(I8, -3),
        "u16": Typed(U16, 60000),
        "i32": Typed(I32, -70000),
        "u64": Typed(U64, 1 << 40),
        "i64": Typed(I64, -(1 << 40)),
        "f32": Typed(FLOAT, 1e-5),
        "f64": Typed(DOUBLE, 0.1),
        "flag": True,
        "text": "grüß",
    }
    found = read_part(written(GGUF(values))).metadata
    assert {name: found[name] for name in values} == {
        name: getattr(value, "value", value) if name != "text" else "grüß".encode() for name, value in values.items()
    }


def test_arrays_of_numbers_are_views_and_those_of_texts_are_decoded_when_asked(written):
    given = GGUF({"flags": Typed(BOOL, [True, False]), "sizes": Typed(U64, [1, 1 << 40]), "texts": ["a", "", "ä"]})
    found = read_part(written(given)).metadata
    assert found["flags"].tolist() == [True, False] and found["sizes"].tolist() == [1, 1 << 40]
    assert list(found["texts"]) == [b"a", b"", "ä".encode()]
    assert not found["sizes"].flags.owndata


def test_a_float32_becomes_the_shortest_decimal_that_is_the_same(written):
    found = read_part(written(GGUF({"eps": 1e-5, "scale": 2.446, "third": 1 / 3}))).metadata
    assert found["eps"] == 1e-5 and found["scale"] == 2.446
    assert np.float32(found["third"]) == np.float32(1 / 3)


@pytest.mark.parametrize("alignment", (8, 32, 64, 4096))
def test_shapes_are_those_of_pytorch_and_tensors_lie_where_the_alignment_says(written, alignment):
    tensors = [
        Stored.plain("a", np.arange(6, dtype=np.float32).reshape(2, 3)),
        Stored.plain("b", np.arange(4, dtype=np.float32)),
    ]
    part = read_part(written(GGUF({"general.alignment": alignment}, tensors, alignment)))
    assert part.tensors["a"].shape == (2, 3)
    for tensor in tensors:
        info = part.tensors[tensor.name]
        assert bytes(info.buffer[info.offset : info.offset + info.nbytes]) == tensor.data


def test_version_2_is_read_as_3(written):
    assert read_part(written(GGUF({"a": 1}, [ONE], version=2))).tensors.keys() == {"weight"}


HOSTILE = {
    "an empty file": (b"", "cannot be read as a GGUF file"),
    "another file": (b"PK\3\4" + bytes(40), "this is not a GGUF file"),
    "version 1": (GGUF(version=1), "version 1"),
    "version 4": (GGUF(version=4), "version 4"),
    "big-endian": (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "big-endian"),
    "a cut header": (GGUF().encode()[:20], "the header takes 24 bytes"),
    "more keys than fit": (GGUF(counts=(0, 1 << 62)), "keys are announced"),
    "more tensors than fit": (GGUF(counts=(1 << 62, 0)), "tensors are announced"),
    "a key twice": (
        GGUF({"a": 1}, extra_keys=texted("a") + struct.pack("<II", U32, 2), num_extra=1),
        "a is there twice",
    ),
    "an empty key": (GGUF({"": 1}), "key 0 has 0 bytes"),
    "a key that is no text": (
        GGUF(extra_keys=key("a", U32, bytes(4)).replace(b"a", b"\xff"), num_extra=1),
        "not UTF-8",
    ),
    "a text beyond the end": (GGUF(extra_keys=key("a", TEXT, struct.pack("<Q", 1 << 60)), num_extra=1), "takes"),
    "an unknown type": (GGUF(extra_keys=key("a", 13, bytes(8)), num_extra=1), "unknown type 13"),
    "an array of arrays": (
        GGUF(extra_keys=key("a", ARRAY, struct.pack("<IQ", ARRAY, 2) + bytes(64)), num_extra=1),
        "is an array of arrays",
    ),
    "an array of an unknown type": (
        GGUF(extra_keys=key("a", ARRAY, struct.pack("<IQ", 77, 2) + bytes(64)), num_extra=1),
        "array of the unknown type 77",
    ),
    "an array beyond the end": (
        GGUF(extra_keys=key("a", ARRAY, struct.pack("<IQ", U64, 40) + bytes(64)), num_extra=1),
        "takes 320 bytes",
    ),
    "an array whose bytes overflow": (
        GGUF(extra_keys=key("a", ARRAY, struct.pack("<IQ", U64, 1 << 61) + bytes(64)), num_extra=1),
        "at most",
    ),
    "texts beyond the end": (
        GGUF(extra_keys=key("a", ARRAY, struct.pack("<IQQ", TEXT, 2, 1 << 40) + bytes(16)), num_extra=1),
        "ends after 1 of 2 texts",
    ),
    "a flag that is 2": (GGUF(extra_keys=key("a", BOOL, b"\2"), num_extra=1), "holds 2"),
    "an alignment of 24": (GGUF({"general.alignment": 24}), "general.alignment = 24"),
    "an alignment of 1": (GGUF({"general.alignment": 1}), "general.alignment = 1"),
    "an enormous alignment": (GGUF({"general.alignment": 1 << 31}), "not a power of two"),
    "a tensor twice": (GGUF({}, [ONE, Stored("weight", (2, 3), F32, bytes(24))]), "weight is there twice"),
    "a nameless tensor": (GGUF({}, [Stored("", (2,), F32, bytes(8))]), "has 0 bytes"),
    "a long name": (GGUF({}, [Stored("w" * 64, (2,), F32, bytes(8))]), "64 bytes instead of 1 to 63"),
    "no dimensions": (GGUF({}, [Stored("w", (), F32, bytes(8))]), "0 dimensions"),
    "five dimensions": (GGUF({}, [Stored("w", (1,) * 5, F32, bytes(8))]), "5 dimensions"),
    "a dimension of zero": (GGUF({}, [Stored("w", (0, 4), F32, bytes(8))]), "impossible shape"),
    "a product that overflows": (GGUF({}, [Stored("w", (1 << 33, 1 << 33), F32, bytes(8))]), "impossible shape"),
    "rows of half a block": (GGUF({}, [Stored("w", (2, 48), Q8_0, bytes(102))]), "no multiple of 32"),
    "a gap between tensors": (GGUF({}, [Stored("w", (2,), F32, bytes(8), 64)]), "starts at 64"),
    "tensors over one another": (
        GGUF({}, [ONE, Stored("v", (2,), F32, bytes(8), 0)]),
        "tensor v starts at 0 of the data; the tensor before it ends at 32",
    ),
    "an offset past the end": (GGUF({}, [Stored("w", (2,), F32, bytes(8), 1 << 63)]), "starts at"),
    "a tensor past the end": (GGUF({}, [Stored("w", (1 << 20, 3), F32, bytes(8))]), "it is truncated"),
    "an unknown way to store": (GGUF({}, [Stored("w", (2,), 99, bytes(8))]), "type 99 \\(unknown\\)"),
}


@pytest.mark.parametrize(("source", "message"), HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_file_is_refused_by_name(written, source, message):
    path = written(source)
    with pytest.raises(CheckpointError, match=message) as caught:
        read_part(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", REFUSED)
def test_removed_and_unreadable_types_are_refused_by_name(written, kind):
    with pytest.raises(CheckpointError, match=REFUSED[kind].split(",")[0]):
        read_part(written(GGUF({}, [Stored("w", (256,), kind, bytes(512))])))


def test_a_file_that_ends_anywhere_is_an_error(written):
    whole = tiny_gguf().encode()
    header = len(tiny_gguf().header())
    for size in [*range(0, header, 7), header, header + 1, len(whole) - 1]:
        with pytest.raises(CheckpointError):
            read_part(written(whole[:size]))
    read_part(written(whole))


@pytest.mark.parametrize(
    ("kind", "metadata", "message"),
    [
        ("adapter", {"general.type": "adapter"}, "a LoRA adapter"),
        ("mmproj", {"general.type": "mmproj"}, "a vision projector"),
        ("imatrix", {"general.type": "imatrix"}, "an importance matrix"),
        ("clip", {"general.architecture": "clip"}, "clip"),
    ],
)
def test_files_that_hold_no_model_are_refused_by_name(written, kind, metadata, message):
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(written(GGUF(metadata, [ONE]))).config()


@pytest.mark.parametrize(
    "body",
    [
        struct.pack("<IQ", BOOL, 5_000_000) + bytes(5_000_000),
        struct.pack("<IQ", U64, 600_000) + bytes(4_800_000),
        struct.pack("<IQ", TEXT, 600_000) + bytes(4_800_000),
    ],
    ids=("flags", "numbers", "texts"),
)
def test_an_array_of_millions_costs_no_more_than_its_bytes(written, body):
    path = written(GGUF(extra_keys=key("a", ARRAY, body), num_extra=1))
    tracemalloc.start()
    start = time.process_time()
    found = read_part(path).metadata["a"]
    seconds, (_, peak) = time.process_time() - start, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(found) >= 600_000
    assert peak < 1_000_000 and seconds < 60  # squares would take hours


def test_more_texts_than_any_vocabulary_has_are_refused_before_they_are_walked(written):
    body = struct.pack("<IQ", TEXT, 5_000_000) + bytes(8 * 5_000_000)
    start = time.process_time()
    with pytest.raises(CheckpointError, match="5,000,000 texts of a are announced"):
        read_part(written(GGUF(extra_keys=key("a", ARRAY, body), num_extra=1)))
    assert time.process_time() - start < 20


def test_a_thousand_mutations_end_in_a_clear_error_or_load(written):
    whole, random_ = tiny_gguf().encode(), random.Random(5)
    header, outcomes = len(tiny_gguf().header()), {"loaded": 0, "refused": 0}
    start = time.process_time()
    for _ in range(1000):
        broken = bytearray(whole)
        for _ in range(random_.choice((1, 1, 2, 8))):
            place = random_.randrange(header) if random_.random() < 0.9 else random_.randrange(len(whole))
            broken[place] = random_.choice(
                (0, 1, 255, random_.randrange(256), broken[place] ^ 1 << random_.randrange(8))
            )
        if random_.random() < 0.1:
            del broken[random_.randrange(len(broken)) :]
        outcomes[outcome(written(bytes(broken)))] += 1
    assert outcomes["refused"] > 300 and outcomes["loaded"] > 10
    assert time.process_time() - start < 120


def outcome(path) -> str:
    """Whether config, tokenizer and tensors of a file can be read."""
    try:
        checkpoint = open_checkpoint(path)
        checkpoint.config()
        if checkpoint.has_tokenizer:
            checkpoint.tokenizer()
        with checkpoint.tensors() as tensors:
            for name in tensors:
                assert tuple(tensors.tensor(name).shape) == tensors.shape(name)
    except (CheckpointError, ConfigError) as error:
        assert str(error)
        return "refused"
    return "loaded"


def split(source: GGUF, folder, cuts, name="big"):
    """A file in parts that end before the given tensors; the path of the first."""
    bounds = [0, *cuts, len(source.tensors)]
    count = len(bounds) - 1
    for number, (first, last) in enumerate(pairwise(bounds)):
        own = {"split.no": Typed(U16, number), "split.count": Typed(U16, count)}
        own["split.tensors.count"] = Typed(I32, len(source.tensors))
        metadata = {**source.metadata, **own} if number == 0 else own
        part = GGUF(metadata, source.tensors[first:last])
        (folder / f"{name}-{number + 1:05d}-of-{count:05d}.gguf").write_bytes(part.encode())
    return folder / f"{name}-00001-of-{count:05d}.gguf"


@pytest.mark.parametrize("cuts", [[5, 9], [0], [1, 2, 20]], ids=str)
def test_a_file_in_parts_is_the_whole(tmp_path, cuts):
    given = tiny_gguf()
    found = open_file(split(given, tmp_path, cuts))
    assert list(found.tensors) == [tensor.name for tensor in given.tensors]
    for tensor in given.tensors:
        info = found.tensors[tensor.name]
        assert bytes(info.buffer[info.offset : info.offset + info.nbytes]) == tensor.data
    assert open_checkpoint(found.path).name == "big"


def test_parts_that_do_not_belong_together_are_refused(tmp_path):
    first = split(tiny_gguf(), tmp_path, [5, 9])
    second, third = (tmp_path / f"big-0000{number}-of-00003.gguf" for number in (2, 3))
    with pytest.raises(CheckpointError, match="is part 2 of 3; give the first one, big-00001-of-00003"):
        open_file(second)
    kept = second.read_bytes()
    second.write_bytes(third.read_bytes())
    with pytest.raises(CheckpointError, match="says that it is part 2"):
        open_file(first)
    second.unlink()
    with pytest.raises(CheckpointError, match=r"1 of 3 parts are missing: \['big-00002-of-00003.gguf'\]"):
        open_file(first)
    second.write_bytes(kept)
    renamed = first.rename(tmp_path / "big.gguf")
    with pytest.raises(CheckpointError, match="give it its name back"):
        open_file(renamed)


def test_a_tensor_in_two_parts_and_a_wrong_total_are_refused(tmp_path):
    given = tiny_gguf()
    twice = GGUF(given.metadata, [*given.tensors, given.tensors[0]])
    with pytest.raises(CheckpointError, match="is also in another part"):
        open_file(split(twice, tmp_path, [5], "twice"))
    first = split(given, tmp_path, [5])
    whole = first.read_bytes()
    old, new = (texted("split.tensors.count") + struct.pack("<Ii", I32, count) for count in (21, 22))
    assert old in whole
    first.write_bytes(whole.replace(old, new))
    with pytest.raises(CheckpointError, match=r"split\.tensors\.count is 22"):
        open_file(first)
