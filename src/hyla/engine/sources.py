"""The source files that take part in computing a model's states: those that its modules come from, what these import,
and the backends of its operators. What only builds, names or describes models is not among them."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from hyla.models.operators import operators_of
from hyla.models.trunk import Model
from hyla.ops import backends

PACKAGE = Path(__file__).parents[1]

COMPUTING = ("hyla.grid", "hyla.ops", "hyla.layers", "hyla.models")
"""Where the imports of a computing module are followed to."""

DESCRIBING = ("config", "families", "formats", "kinds", "build", "ids", "parameters")
"""Parts of `hyla.models` that compute nothing: what they decide is in the config, the modules and the weights."""

ALWAYS = (
    "hyla.caches.storage", "hyla.caches.tensors", "hyla.caches.transfer", "hyla.models.build",
    "hyla.models.kinds.arguments",
)  # fmt: skip
"""Where states are kept and copied, and what the modules are called with. Their imports are not followed."""


def code_digest(model: Model, package: Path = PACKAGE) -> str:
    """A short name for the content of all these files. package: the folder of hyla."""
    digest = hashlib.sha256()
    for file in sorted(files_of(model, package)):
        digest.update(f"{file.relative_to(package)}\n".encode() + file.read_bytes())
    return digest.hexdigest()[:16]


def files_of(model: Model, package: Path = PACKAGE) -> set[Path]:
    """The files, the native kernels among them where the model's device can use them."""
    roots = {type(module).__module__ for module in model.modules()}
    for operator in operators_of(model):  # a backend may be chosen by the operands' shapes, so all of them count
        roots.update(f"hyla.ops.{operator}.{name}" for name in backends.MODULES.values())
    files = set(_closure(roots, package)) | {file for name in ALWAYS if (file := _file(name, package)) is not None}
    if backends.on(model.device) == "native":
        files.update(file for file in (package / "ops" / "native").iterdir() if file.suffix in (".py", ".c", ".h"))
    return files


def _closure(roots: Iterable[str], package: Path) -> Iterator[Path]:
    """The files of some modules and of all that they import."""
    waiting, seen = sorted(roots), set(roots)
    while waiting:
        name = waiting.pop()
        file = _file(name, package) if _computes(name) else None
        if file is None:
            continue
        yield file
        new = set(_imports(file)) - seen
        waiting += new
        seen |= new


def _computes(name: str) -> bool:
    parts = name.split(".")
    is_inside = any(name == place or name.startswith(f"{place}.") for place in COMPUTING)
    return is_inside and not (parts[1] == "models" and len(parts) > 2 and parts[2] in DESCRIBING)


def _file(name: str, package: Path) -> Path | None:
    """The file of a module; None when there is none of this name."""
    place = package.joinpath(*name.split(".")[1:])
    return next((file for file in (place.with_suffix(".py"), place / "__init__.py") if file.exists()), None)


def _imports(file: Path) -> Iterator[str]:
    """Names that may be modules: a name that is imported from a package may be one, and so may the homes of a package's
    lazy names (`hyla.lazy`)."""
    text = file.read_text(encoding="utf-8")
    is_lazy = "from hyla.lazy import exports" in text
    for node in ast.walk(ast.parse(text)):
        if is_lazy and isinstance(node, ast.Constant) and str(node.value).startswith("hyla."):
            yield str(node.value).partition(":")[0]
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
