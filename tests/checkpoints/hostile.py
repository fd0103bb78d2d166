"""Folders that lie: each made from a seed, one that loads and a few changes that damage, attack or merely surprise."""

import copy
import json
import os
import random
import shutil
import struct
from pathlib import Path

from tiny_text import END, byte_tokenizer

from hyla.checkpoints import save_model
from hyla.models.formats.registry import family_of
from hyla.models.initialize import initialize
from hyla.models.trunk import Model

BASES = ("qwen3_5_moe", "kimi_linear", "nemotron_h", "minimax", "mimo_v2", "deepseek_v32", "bailing_hybrid", "hyla")
ESCAPE = "\x1b]0;owned\x07\x1b[2J"
VALUES = (
    None, True, False, 0, 1, -1, 2, 3, 7, 2.5, -0.5, 1e-320, 1e308, float("inf"), float("-inf"), float("nan"), 2**31,
    2**63, 2**64, 10**9, 10**300, 10**4000, -(10**9), "", "x", "\x00", ESCAPE, "é\U0001f600", "x" * 100_000, "a\nb",
    "../../etc/passwd", "/dev/zero", "{{ 7 * 7 }}", [], [None], [[]], {}, [1, 2], [{}], {"a": 1}, {"": {}}, [0] * 3000,
    "bfloat16", "default", ["full_attention"], {"rope_type": "yarn", "factor": 1e300}, {"quant_method": "fp8"},
    {"bits": 4, "group_size": 64},
)  # fmt: skip
JSON_FILES = (
    "config.json", "generation_config.json", "tokenizer_config.json", "tokenizer.json", "model.safetensors.index.json",
)  # fmt: skip
TEXTS = (
    b"", b"{", b"[1]", b"null", b"7", b'"x"', b"\xff\xfe{}", b"{}\x00", b'{"a": 1, "a": 2}', b"{}{}", b"\x1b[2J",
    b"[" * 50_000, b'{"a":' * 50_000, b'{"a": ' + b"9" * 5000 + b"}", b'{"a": NaN, "b": 1e999}', b"\x80" * 99,
    bytes(5000),
)  # fmt: skip
NAMES = (
    "", ".", "..", "../x", "/etc/passwd", "model\x00.safetensors", "n" * 300, "sub/x", "config.json",
    "absent.safetensors", ESCAPE, "\udcff", "a\nb",
)  # fmt: skip
DTYPES = ("F32", "BF16", "F16", "F64", "F8_E4M3", "F8_E5M2", "I8", "U8", "I64", "BOOL", "F4", "", 7, None, ESCAPE)
SIZES = (0, 1, 2, 44, 48, 259, 2**31, 2**40, 2**62, 2**63, 2**64, -1, 1.5, "48")
TEMPLATES = (
    None, "", "{% if", "{{ messages }}", "{% for m in messages %}{{ m.nothing.at.all }}{% endfor %}",
    "{{ raise_exception('no') }}", "{{ '" + ESCAPE + "' }}", "{{ ''.__class__.__mro__ }}",
    "{{ " + "(" * 3000 + "1" + ")" * 3000 + " }}", "{{ 1 / 0 }}",
    "{% include '/etc/passwd' %}", "{{ " + "9" * 5000 + " }}", "{{ " + " + ".join(["1"] * 20_000) + " }}",
    "{% if x %}" * 2000 + "{% endif %}" * 2000, "{% set x = namespace() %}{% set x.y = 1 %}{{ x.y }}", "{{ cycler() }}",
)  # fmt: skip


def make_bases(root: Path, names: tuple[str, ...] = BASES) -> list[Path]:
    """A good folder of each of some families, in one shard and in several."""
    folders = []
    for number, name in enumerate(names):
        config = family_of(name).tiny.model_copy(update={"vocab_size": 259, "max_len": 128, "eos_token_ids": (END,)})
        model = initialize(Model(config), 3, std=0.3)
        save_model(model, root / name, tokenizer=byte_tokenizer(), max_shard_bytes=20_000 if number % 2 else 10**9)
        folders.append(root / name)
    return folders


def places(value, path=()):
    """Paths to every key and list entry; of long lists and objects only the first ones."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in list(items)[:40]:
        yield (*path, key)
        yield from places(inner, (*path, key))


def change_somewhere(draw: random.Random, keys) -> None:
    """One key or entry dropped, renamed, doubled or given another value, in place."""
    found = list(places(keys))
    if not found:
        return
    *above, last = draw.choice(found)
    parent = keys
    for key in above:
        parent = parent[key]
    action = draw.choice(("value", "value", "value", "drop", "rename", "add"))
    if action == "value":
        parent[last] = copy.deepcopy(draw.choice(VALUES))
    elif action == "drop" or isinstance(parent, list):
        del parent[last]
    elif action == "rename":
        parent[draw.choice((f"{last}_", ESCAPE, "", "\x00"))] = parent.pop(last)
    else:
        parent[draw.choice(("another_key", ESCAPE, "a" * 10_000))] = copy.deepcopy(draw.choice(VALUES))


def damage_json(draw: random.Random, folder: Path) -> str:
    """Change keys of one of the JSON files."""
    file = folder / draw.choice([name for name in JSON_FILES if (folder / name).exists()])
    keys = json.loads(file.read_text(encoding="utf-8"))
    for _ in range(draw.randint(1, 3)):
        change_somewhere(draw, keys)
    put(file, json.dumps(keys, ensure_ascii=draw.random() < 0.5).encode("utf-8", "surrogatepass"))
    return f"keys of {file.name}"


def damage_text(draw: random.Random, folder: Path) -> str:
    """Another text in the place of one of the JSON files, or a part of its own."""
    file = folder / draw.choice([name for name in JSON_FILES if (folder / name).exists()])
    own = file.read_bytes()
    cut = own[: draw.randrange(len(own))]
    swapped = own.replace(b":", draw.choice((b"::", b"=", b": 1e999 +")), draw.randint(1, 3))
    put(file, draw.choice((*TEXTS, cut, swapped, b"\xef\xbb\xbf" + own, own.decode().encode("utf-16"))))
    return f"text of {file.name}"


def damage_kind(draw: random.Random, folder: Path) -> str:
    """Something else than a file under a file's name."""
    file = draw.choice(sorted(path for path in folder.iterdir() if path.is_file()))
    kinds = ("folder", "pipe", "loop", "dangling", "device", "endless", "huge", "absent", "itself")
    kind = draw.choice(kinds)
    own = file.read_bytes()
    file.unlink()
    if kind == "folder":
        file.mkdir()
    elif kind == "pipe":
        os.mkfifo(file)
    elif kind == "huge":
        with file.open("wb") as opened:
            opened.truncate(40 << 30)  # sparse: no block is used
    elif kind == "itself":
        (folder / "elsewhere").write_bytes(own)
        file.symlink_to("elsewhere")
    elif kind != "absent":
        of = {"loop": file.name, "dangling": "nowhere", "device": "/dev/null", "endless": "/dev/zero"}
        file.symlink_to(of[kind])
    return f"{file.name} is {kind}"


def damage_index(draw: random.Random, folder: Path) -> str:
    """An index that says something else."""
    file = folder / "model.safetensors.index.json"
    shards = sorted(path.name for path in folder.glob("*.safetensors"))
    index = json.loads(file.read_text()) if file.exists() else {"weight_map": {"a": shards[0]}}
    names = list(index["weight_map"])
    for _ in range(draw.randint(1, 3)):
        index["weight_map"][draw.choice((*names, ESCAPE, ""))] = draw.choice((*NAMES, *VALUES, *shards))
    put(file, json.dumps(index).encode())
    return "index"


def damage_header(draw: random.Random, folder: Path) -> str:
    """A safetensors header that says something else, or is cut off."""
    file = draw.choice(sorted(folder.glob("*.safetensors")))
    data = file.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header, body = json.loads(data[8 : 8 + length]), data[8 + length :]
    for _ in range(draw.randint(1, 2)):
        _change_header(draw, header)
    text = json.dumps(header).encode()
    whole = struct.pack("<Q", len(text)) + text + body
    lengths = [struct.pack("<Q", size) + whole[8:] for size in (0, 1, len(text) - 1, 2**31, 2**63, 2**64 - 1)]
    put(file, draw.choice((whole, whole, whole, whole, *lengths, whole[: draw.randrange(len(whole))])))
    return f"header of {file.name}"


def _change_header(draw: random.Random, header: dict) -> None:
    names = [name for name in header if isinstance(header[name], dict) and "data_offsets" in header[name]]
    if not names:
        return
    name, other = draw.choice(names), draw.choice(names)
    entry, action = header[name], draw.randrange(8)
    if action == 0:
        entry["dtype"] = draw.choice(DTYPES)
    elif action == 1:
        entry["shape"] = [draw.choice(SIZES) for _ in range(draw.randint(0, 4))]
    elif action == 2:
        entry["data_offsets"] = [draw.choice(SIZES) for _ in range(draw.randint(0, 3))]
    elif action == 3:
        entry["data_offsets"] = header[other]["data_offsets"]
    elif action == 4:
        del header[name]
    elif action == 5:
        header[draw.choice((other, ESCAPE, "", "../x", "model.visual.x", "a.lora_A.weight"))] = header.pop(name)
    elif action == 6:
        header["__metadata__"] = copy.deepcopy(draw.choice(({"format": ESCAPE}, {"format": "mlx"}, *VALUES)))
    else:
        header[name] = copy.deepcopy(draw.choice(VALUES))


def damage_numbers(draw: random.Random, folder: Path) -> str:
    """Tensors full of anything: infinities, NaN, the largest numbers."""
    file = draw.choice(sorted(folder.glob("*.safetensors")))
    data = bytearray(file.read_bytes())
    (length,) = struct.unpack("<Q", data[:8])
    pattern = draw.choice((b"\xff", b"\x7f", b"\x00", b"\x00\x00\x80\x7f", b"\xff\xff\x7f\x7f"))
    start = draw.randrange(8 + length, len(data))
    count = min(draw.choice((4, 4000, 10**9)), len(data) - start)
    data[start : start + count] = (pattern * (count // len(pattern) + 1))[:count]
    put(file, bytes(data))
    return f"numbers of {file.name}"


def damage_template(draw: random.Random, folder: Path) -> str:
    """Another chat template, none, or one in the config."""
    file, template = folder / "chat_template.jinja", draw.choice(TEMPLATES)
    file.unlink(missing_ok=True)
    if template is not None and draw.random() < 0.5:
        file.write_text(template, encoding="utf-8")
    else:
        config = folder / "tokenizer_config.json"
        named = [{"name": draw.choice(("default", "tool_use", 7)), "template": template}, {"template": 7}, 7]
        keys = json.loads(config.read_text())
        keys["chat_template"] = draw.choice((template, named, *VALUES))
        put(config, json.dumps(keys).encode())
    return "chat template"


def add_strangers(draw: random.Random, folder: Path) -> str:
    """Files of other programs beside the model's."""
    name = draw.choice(
        ("adapter_config.json", "hyla_card.json", "special_tokens_map.json", "pytorch_model.bin", "x.gguf")
    )
    put(folder / name, draw.choice((*TEXTS, b'{"peft_type": "LORA", "base_model_name_or_path": "\\u001b[2J"}')))
    if draw.random() < 0.5:
        (folder / "config.json").unlink()
    return f"a {name} beside it"


CHANGES = (
    damage_json, damage_json, damage_json, damage_text, damage_kind, damage_index, damage_header, damage_header,
    damage_numbers, damage_template, add_strangers,
)  # fmt: skip


def put(file: Path, data: bytes) -> None:
    """In the place of whatever stands there."""
    if file.is_symlink() or file.exists():
        shutil.rmtree(file) if file.is_dir() and not file.is_symlink() else file.unlink()
    file.write_bytes(data)


def make_hostile(seed: int, bases: list[Path], folder: Path) -> str:
    """Fill `folder` with the hostile folder of a seed; returns what is wrong with it, for people."""
    draw = random.Random(seed)
    shutil.copytree(draw.choice(bases), folder)
    changes = draw.sample(CHANGES, draw.choice((1, 1, 1, 2)))
    done = []
    for change in changes:
        try:
            done.append(change(draw, folder))
        except (OSError, ValueError, KeyError, IndexError, TypeError):  # the change before left nothing to change
            continue
    return ", ".join(done)
