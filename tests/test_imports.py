"""The arrows of the house: a module imports only what stands left of it in docs/architecture.md."""

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "hyla"
ORDER = (
    {"errors", "grid", "lazy", "limited_process", "ranges", "terminal_text", "user_cache", "whole_files"},
    {"json_files", "toml_files"},
    {"ops"},
    {"layers"},
    {"models"},
    {"caches"},
    {"answers", "checkpoints", "cost"},
    {"adapters"},
    {"data", "engine"},
    {"loadtest", "server", "train"},
    {"evals", "rl"},
    {"align", "study"},
    {"cli"},
)
RANK = {package: rank for rank, packages in enumerate(ORDER) for package in packages}
FOREIGN = {"tiktoken", "transformers", "openai", "anthropic", "schemathesis", "lm_eval", "pytest", "hypothesis"}
"""Oracles and clients: for tests, never for the package."""
PLUG_INS = {"evals/harness/plugin.py": "lm_eval"}
"""What a file is a part of: lm-evaluation-harness runs a model by deriving from its class. Nothing else imports such a
file before somebody asks for that program."""


def package_of(file):
    """The first part below hyla: a folder or a file of its own."""
    return file.relative_to(SOURCE).parts[0].removesuffix(".py")


def imported_modules(file, source):
    """Full names of all modules that a file imports anywhere, also inside functions."""
    package = ["hyla", *file.relative_to(SOURCE).parts[:-1]]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            module = ".".join(part for part in (base, node.module) if part)
            yield from (f"{module}.{alias.name}" for alias in node.names)


def wrong_arrows(file, source):
    """Imports of a file that break the order."""
    mine = package_of(file)
    for module in imported_modules(file, source):
        parts = module.split(".")
        if parts[0] in FOREIGN and PLUG_INS.get(file.relative_to(SOURCE).as_posix()) != parts[0]:
            yield f"{file.name} imports {module}, which only tests may"
        if parts[0] != "hyla" or mine == "__init__":
            continue
        other = parts[1] if len(parts) > 1 else "__init__"
        if other not in RANK:
            # The root offers what stands left of these.
            if mine not in ("cli", "evals", "rl", "server", "train"):
                yield f"{file.name} imports {module}, which stands nowhere in the order"
        elif other != mine and RANK[other] >= RANK[mine]:
            yield f"{file.name} ({mine}) imports {module}"


def module_of(file):
    """The dotted name of a file; of a package, its `__init__.py`."""
    return ".".join(("hyla", *file.relative_to(SOURCE).with_suffix("").parts)).removesuffix(".__init__")


def circles(imports):
    """Groups of modules that import each other, directly or through others; imports: name -> imported names."""
    found, place, lowest, path = [], {}, {}, []

    def visit(name):
        place[name] = lowest[name] = len(place)
        path.append(name)
        for other in imports[name]:
            if other not in place:
                visit(other)
                lowest[name] = min(lowest[name], lowest[other])
            elif other in path:
                lowest[name] = min(lowest[name], place[other])
        if lowest[name] == place[name]:
            first = path.index(name)
            found.append(sorted(path[first:]))
            del path[first:]

    for name in imports:
        if name not in place:
            visit(name)
    return [group for group in found if len(group) > 1]


def graph_of(files):
    """Which module of the package imports which, also inside functions and for type checkers only."""
    sources = {module_of(file): file for file in files}
    graph = {}
    for name, file in sources.items():
        wanted = imported_modules(file, file.read_text(encoding="utf-8"))
        # "from hyla.ops import rows" names a module, "from hyla.ops.batch import Batch" something inside one.
        graph[name] = {w if w in sources else w.rpartition(".")[0] for w in wanted} & set(sources) - {name}
    return graph


FILES = sorted(SOURCE.rglob("*.py"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(SOURCE)))
def test_a_module_imports_only_what_stands_left_of_it(file):
    assert list(wrong_arrows(file, file.read_text(encoding="utf-8"))) == []


def test_no_modules_import_each_other_in_a_circle():
    assert circles(graph_of(FILES)) == []


def test_a_circle_is_found_through_a_third_module():
    graph = {"a": {"b"}, "b": {"c"}, "c": {"a", "d"}, "d": set(), "e": {"a"}}
    assert circles(graph) == [["a", "b", "c"]]


def test_every_package_has_its_place_in_the_order():
    assert {package_of(file) for file in FILES} - {"__init__", "__main__"} <= set(RANK)
    assert len(FILES) > 20


@pytest.mark.parametrize(
    ("place", "source"),
    [
        ("layers/norms.py", "from hyla.models.config import Config"),
        ("layers/norms.py", "def late():\n    import hyla.caches.pool"),
        ("layers/norms.py", "from .. import models"),
        ("ops/exact/rows.py", "from hyla import layers"),
        ("server/app.py", "from hyla.train import loss"),
        ("engine/engine.py", "import transformers"),
        ("evals/harness/run.py", "import lm_eval"),
        ("evals/harness/plugin.py", "import transformers"),
        ("models/trunk.py", "import hyla"),
        ("models/summary.py", "from hyla.cost import memory"),
        ("cost/work.py", "from hyla.checkpoints import load_model"),
    ],
)
def test_a_wrong_arrow_is_found(place, source):
    assert len(list(wrong_arrows(SOURCE / place, source))) == 1


@pytest.mark.parametrize(
    ("place", "source"),
    [
        ("layers/norms.py", "from hyla.ops import primitives\nfrom .linear import Linear"),
        ("server/app.py", "from hyla.engine import Engine"),
        ("engine/memory.py", "from hyla.cost import memory"),
        ("__init__.py", "def load():\n    from hyla.checkpoints import load_model"),
        ("cli/serve.py", "import hyla"),
        ("evals/harness/plugin.py", "from lm_eval.api.model import TemplateLM"),
    ],
)
def test_a_right_arrow_is_let_through(place, source):
    assert list(wrong_arrows(SOURCE / place, source)) == []
