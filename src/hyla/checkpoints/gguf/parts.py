"""One GGUF model as a whole: a single file, or the parts that it was split into."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from hyla.checkpoints.gguf.file import Part, TensorInfo, Value, read_part
from hyla.errors import CheckpointError

SPLIT_NAME = re.compile(r"(?P<stem>.*)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf")
OTHER_TYPES = {
    "adapter": "a LoRA adapter",
    "imatrix": "an importance matrix",
    "mmproj": "a vision projector",
    "vocab": "a vocabulary",
}
"""Values of general.type of files that hold no model."""


@dataclass(frozen=True)
class GGUFModel:
    """What all parts say together: the first part's metadata, everyone's tensors."""

    path: Path
    metadata: dict[str, Value]
    tensors: dict[str, TensorInfo]


def stem_of(path: Path) -> str:
    """What a model is called after its file: the name without `.gguf` and the number of a part.

    >>> stem_of(Path("a/SmolLM2.Q4_1.gguf")), stem_of(Path("big-00001-of-00003.gguf"))
    ('SmolLM2.Q4_1', 'big')
    """
    split = SPLIT_NAME.fullmatch(path.name)
    return split["stem"] if split else path.stem


def open_file(path: str | Path) -> GGUFModel:
    """Walk a GGUF file and, where it is the first of several, all of them. Raises CheckpointError."""
    path = Path(path)
    first = read_part(path)
    _check_is_model(first)
    count = _integer(first, "split.count", 1)
    if count <= 1:
        return GGUFModel(path, first.metadata, first.tensors)
    tensors = dict(first.tensors)
    for part in _others(path, first, count):
        twice = sorted(tensors.keys() & part.tensors.keys())
        if twice:
            raise CheckpointError(f"{part.file}: tensor {twice[0]} is also in another part; fetch the parts again")
        tensors |= part.tensors
    total = _integer(first, "split.tensors.count", len(tensors))
    if total != len(tensors):
        raise CheckpointError(
            f"{path}: its parts hold {len(tensors):,} tensors and split.tensors.count is {total:,}; fetch them again"
        )
    return GGUFModel(path, first.metadata, tensors)


def _check_is_model(part: Part) -> None:
    kind = part.metadata.get("general.type", b"model")
    text = kind.decode("utf-8", "replace") if isinstance(kind, bytes) else repr(kind)
    if text != "model":
        what = OTHER_TYPES.get(text, "no model")
        raise CheckpointError(f"{part.file} is {what} (general.type = {text!r}); give the file of a language model")


def _integer(part: Part, key: str, default: int) -> int:
    found = part.metadata.get(key, default)
    if type(found) is not int or found < 0:
        raise CheckpointError(f"{part.file}: {key} = {found!r} must be a number; fetch it again")
    return found


def _others(path: Path, first: Part, count: int) -> list[Part]:
    """The parts after the first, in order. The file's own number counts from 0, the one in its name from 1."""
    named = SPLIT_NAME.fullmatch(path.name)
    if named is None or int(named["count"]) != count:
        raise CheckpointError(
            f"{path} is one of {count} parts, but is not called NAME-00001-of-{count:05d}.gguf; give it its name back"
        )
    number = _integer(first, "split.no", 0)
    if int(named["number"]) != 1 or number != 0:
        raise CheckpointError(
            f"{path} is part {number + 1} of {count}; give the first one, {named['stem']}-00001-of-{count:05d}.gguf"
        )
    files = [path.with_name(f"{named['stem']}-{index:05d}-of-{count:05d}.gguf") for index in range(2, count + 1)]
    missing = [file.name for file in files if not file.exists()]
    if missing:
        raise CheckpointError(f"{path}: {len(missing)} of {count} parts are missing: {missing[:3]}; fetch them")
    parts = [read_part(file) for file in files]
    for index, part in enumerate(parts, start=1):
        if _integer(part, "split.no", 0) != index or _integer(part, "split.count", 0) != count:
            raise CheckpointError(
                f"{part.file} says that it is part {part.metadata.get('split.no')!r} (from 0) of "
                f"{part.metadata.get('split.count')!r}; fetch the parts again"
            )
    return parts
