"""Files by chance and by malice: every damaged folder is one clear error or the right model, in bounded time."""

import copy
import json
import resource
import struct

import pytest
import torch
from fp8_folder import make_fp8_folder
from hypothesis import given, settings
from hypothesis import strategies as st

from hyla.checkpoints import load_model, save_model
from hyla.checkpoints.load import build_on_meta
from hyla.errors import CheckpointError, ConfigError
from hyla.models.config import ModelConfig
from hyla.models.formats.registry import family_of, known_model_types
from hyla.models.initialize import initialize
from hyla.models.trunk import Model

FAMILIES = sorted({family_of(model_type).name for model_type in known_model_types()})
VALUES = st.sampled_from(
    [None, "", "x", -1, 0, 1, 2, 3, 2.5, -0.5, float("inf"), float("nan"), [], {}, [1, 2], [{}], {"a": 1}, True, False]
    + [2**31, 10**9, 10**30, -(10**9), "bfloat16", ["full_attention"]]
)


def places(value, path=()):
    """Paths to every key and list entry of a nested config."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*path, key)
        yield from places(inner, (*path, key))


def plain(value):
    """Frozen mappings and tuples as JSON would have them."""
    return json.loads(json.dumps(value))


def damage_config(data, keys, actions=("drop", "retype", "rename", "add")):
    """One change somewhere in a config, in place."""
    path = data.draw(st.sampled_from(sorted(places(keys), key=str)))
    parent = keys
    for key in path[:-1]:
        parent = parent[key]
    old, action = copy.deepcopy(parent[path[-1]]), data.draw(st.sampled_from(actions))
    if action == "retype":
        parent[path[-1]] = copy.deepcopy(data.draw(VALUES))
    elif isinstance(parent, list) or action == "drop":
        del parent[path[-1]]
    elif action == "rename":
        parent[f"{path[-1]}_"] = parent.pop(path[-1])
    else:
        parent["another_key"] = old


@settings(max_examples=200)
@given(data=st.data(), name=st.sampled_from(FAMILIES), count=st.integers(1, 3))
def test_a_fuzzed_config_of_any_family_is_an_error_or_a_model(data, name, count):
    keys = plain(dict(family_of(name).tiny_config))
    for _ in range(count):
        damage_config(data, keys)
        if not keys:
            break
    try:
        config = family_of(name).config_from_hf(keys)
    except ConfigError as error:
        assert len(str(error)) > 20
        return
    assert isinstance(config, ModelConfig)
    # What was understood means something: it builds, or its sizes are refused.
    if config.hidden_dim * config.vocab_size < 1e9 and len(config.sublayers) < 64:
        try:
            build_on_meta(config)
        except ConfigError as error:
            assert len(str(error)) > 20


@pytest.mark.parametrize("name", FAMILIES)
def test_a_billion_in_any_number_of_a_config_is_an_error_or_a_shape_at_once(name):
    """Whatever is made for each head, layer or expert must be bounded before any tensor is looked at."""
    tiny = plain(dict(family_of(name).tiny_config))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for path in places(tiny):
        keys = parent = copy.deepcopy(tiny)
        for key in path[:-1]:
            parent = parent[key]
        if type(parent[path[-1]]) is int:
            parent[path[-1]] = 10**9
            try:
                build_on_meta(family_of(name).config_from_hf(keys))
            except ConfigError as error:
                assert len(str(error)) > 20
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 * 1024  # KiB


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A plain folder of each family and an FP8 one, with the bytes of their tensors."""
    root = tmp_path_factory.mktemp("fuzz")
    make_fp8_folder(root / "fp8", "qwen3")
    for name in FAMILIES:
        save_model(initialize(Model(family_of(name).tiny), 0), root / name)
    return {name: (root / name, (root / name / "model.safetensors").read_bytes()) for name in (*FAMILIES, "fp8")}


def split(data: bytes) -> tuple[dict, bytes]:
    (length,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def join(header: dict | bytes, body: bytes) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def outcome(folder, data, original):
    """Load what stands in the file now; the model of an accepted file saves to the tensors that the file has."""
    file = folder / "model.safetensors"
    file.unlink()
    file.write_bytes(data)
    try:
        model = load_model(folder)
    except (CheckpointError, ConfigError) as error:
        assert len(str(error)) > 20
        return None
    finally:
        file.unlink()
        file.write_bytes(original)
    return model


FOLDERS = st.sampled_from((*FAMILIES, "fp8"))
DTYPE_NAMES = [
    "F32",
    "BF16",
    "F16",
    "F64",
    "F8_E4M3",
    "F8_E5M2",
    "F8_E8M0",
    "I8",
    "U8",
    "I64",
    "BOOL",
    "F4",
    "",
    7,
    None,
]
SIZES = st.sampled_from([0, 1, 2, 47, 48, 97, 2**31, 2**40, 2**62, 2**64, -1, 1.5, "48"])
EDITS = st.tuples(
    st.sampled_from(("dtype", "shape", "offsets", "overlap", "drop", "rename", "whole")),
    st.integers(0, 999),
    st.integers(0, 999),
    st.sampled_from(DTYPE_NAMES),
    st.lists(SIZES, max_size=4),
    VALUES,
)


def edit(header, kind, place, other, dtype, sizes, value):
    """One damage to a safetensors header. place, other: of the entries that it is about."""
    names = sorted(name for name in header if isinstance(header[name], dict) and "data_offsets" in header[name])
    name = names[place % len(names)]
    entry, another = header[name], names[other % len(names)]
    if kind == "dtype":
        entry["dtype"] = dtype
    elif kind == "shape":
        entry["shape"] = list(sizes)
    elif kind == "offsets":
        entry["data_offsets"] = list(sizes)
    elif kind == "overlap":
        entry["data_offsets"] = header[another]["data_offsets"]
    elif kind == "drop":
        del header[name]
    elif kind == "rename":
        header[(another, "x", "", "../x", "__metadata__")[other % 5]] = header.pop(name)
    else:
        header[name] = copy.deepcopy(value)


@settings(max_examples=200)
@given(which=FOLDERS, edits=st.lists(EDITS, min_size=1, max_size=2))
def test_a_fuzzed_header_is_an_error_or_the_shapes_of_the_model(folders, which, edits):
    folder, original = folders[which]
    header, body = split(original)
    for damage in edits:
        edit(header, *damage)
    model = outcome(folder, join(header, body), original)
    if model is not None:
        # Two tensors may have changed places, or a value of a like dtype; nothing else can be let through.
        expected = {name: tuple(tensor.shape) for name, tensor in load_model(folder).state_dict().items()}
        assert {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()} == expected


@settings(max_examples=60)
@given(data=st.data(), which=FOLDERS)
def test_a_truncated_or_padded_file_is_always_refused(folders, data, which):
    folder, original = folders[which]
    cut = data.draw(st.integers(0, len(original) - 1))
    more = data.draw(st.binary(min_size=1, max_size=40))
    assert outcome(folder, original[:cut], original) is None
    assert outcome(folder, original + more, original) is None


@settings(max_examples=200)
@given(data=st.data(), name=st.sampled_from(FAMILIES))
def test_a_fuzzed_config_beside_good_tensors_is_an_error_or_a_model_of_them_all(folders, data, name):
    folder, _ = folders[name]
    text = (folder / "config.json").read_text()
    keys = json.loads(text)
    damage_config(data, keys)
    (folder / "config.json").write_text(json.dumps(keys))
    try:
        model = load_model(folder)
    except (ConfigError, CheckpointError) as error:
        assert len(str(error)) > 20
        return
    finally:
        (folder / "config.json").write_text(text)
    good = load_model(folder).state_dict()
    assert all(torch.equal(good[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0" * 8,
        struct.pack("<Q", 2**63) + b"{}",
        struct.pack("<Q", 2**40) + b"{}",
        join(b"[]", b""),
        join(b"{" * 1000, b""),
        join(b'{"a":' * 50_000, b""),
        join({"a": {"dtype": "F32", "shape": [2**62, 2**62], "data_offsets": [0, 2**62]}}, b""),
        join({"a": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}}, b""),
        b"\x80\x02}q\x00.",
    ],
    ids=lambda data: f"{len(data)} bytes",
)
def test_hand_made_damage_is_refused(folders, data):
    folder, original = folders["kimi_linear"]
    assert outcome(folder, data, original) is None


@settings(max_examples=60)
@given(data=st.data())
def test_a_fuzzed_quantization_config_is_an_error_or_the_same_model(folders, data):
    folder = folders["fp8"][0]
    text = (folder / "config.json").read_text()
    config = json.loads(text)
    found = config["quantization_config"]
    key = data.draw(st.sampled_from([*found, "bits", "scale_fmt"]))
    if data.draw(st.booleans()):
        found[key] = copy.deepcopy(data.draw(VALUES))
    else:
        found.pop(key, None)
    config["quantization_config"] = copy.deepcopy(data.draw(VALUES)) if data.draw(st.booleans()) else found
    (folder / "config.json").write_text(json.dumps(config))
    try:
        assert load_model(folder).quantization is not None
    except (ConfigError, CheckpointError) as error:
        assert len(str(error)) > 20
    finally:
        (folder / "config.json").write_text(text)
