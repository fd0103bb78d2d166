"""The innermost loops of a compiled library, from objdump's text."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

FUNCTION = re.compile(r"^[0-9a-f]+ <([^>]+)>:\n((?:.+\n)+)", re.MULTILINE)
LINE = re.compile(r"^\s*([0-9a-f]+):\s+(.*?)\s*$")
ENDS = frozenset({"jmp", "ret", "b", "br", "ud2", "hlt"})
TAILS = re.compile(r"_some|_tail|\.cold")
"""Functions for what is left at a row's end, and parts that the compiler moved out of the way."""


@dataclass(frozen=True)
class Language:
    """How the interesting instructions look."""

    jump: re.Pattern
    call: re.Pattern
    vector_fma: re.Pattern
    vector_multiply: re.Pattern
    scalar_fma: re.Pattern
    stack: re.Pattern
    """A vector that goes to the stack or comes from it. (Of x86, also through a register that holds the stack's
    address; and a stack that grows inside the loop.)"""
    frame_pointer: re.Pattern | None
    """Where a function has it, `framed_stack` counts besides."""
    framed_stack: re.Pattern | None


X86 = Language(
    jump=re.compile(r"j\w+\s+([0-9a-f]+)\b"),
    call=re.compile(r"call\w*\s+[0-9a-f]+ <([^>+]+)"),
    vector_fma=re.compile(r"vfn?m\w+p[sd]\s|vdpbf16ps\s|tdpbf16ps\s"),
    vector_multiply=re.compile(r"vmulps\s"),
    scalar_fma=re.compile(r"vfn?m\w+s[sd]\s"),
    stack=re.compile(r"(?=.*%[xyz]mm)(?!v?\w+s[sd]\s)(?!vmov[dq]\s)(?!vbroadcast).*\(%rsp"),
    frame_pointer=re.compile(r"mov\s+%rsp,%rbp"),
    framed_stack=re.compile(r"(?=.*%[xyz]mm)(?!v?\w+s[sd]\s)(?!vmov[dq]\s)(?!vbroadcast).*\(%rbp"),
)
ARM = Language(
    jump=re.compile(r"(?:b|b\.\w+|cbn?z|tbn?z)\s+(?:.*,\s*)?([0-9a-f]+) <"),
    call=re.compile(r"bl\s+[0-9a-f]+ <([^>+]+)"),
    vector_fma=re.compile(r"fml[as]\s+v"),
    vector_multiply=re.compile(r"fmul\s+v"),
    scalar_fma=re.compile(r"fn?m(?:add|sub)\s+[sd]"),
    stack=re.compile(r"(?:ldr|str|ldp|stp|ldur|stur)\s+q\d+.*\[sp"),
    frame_pointer=None,
    framed_stack=None,
)


@dataclass(frozen=True)
class Loop:
    """An innermost loop: its instructions, in the order of their places."""

    function: str
    code: tuple[str, ...]
    calls: frozenset[str]
    vector_fmas: int
    vector_multiplies: int
    scalar_fmas: tuple[str, ...]
    stack_moves: tuple[str, ...]


def loops_of(file: Path, language: Language, objdump: str = "objdump") -> list[Loop]:
    """All innermost loops of a library."""
    command = [objdump, "--disassemble", "--no-show-raw-insn", str(file)]
    text = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    return [loop for name, body in FUNCTION.findall(text) for loop in _function_loops(name, body, language)]


WRITTEN = re.compile(r"(?!cmp|test|push|call|j)\S+\s+(?:.*,\s*)?(%r\w+)$")
FROM_STACK = re.compile(r"(?:lea\s+-?(?:0x)?[0-9a-f]*\(%rsp\)|mov\s+%rsp),(%r\w+)$")
MOVED = re.compile(r"(?:and|add|sub)\s+\$\S+,(%r\w+)$")


def _stack_pointers(code: list[str]) -> set[str]:
    """Registers of x86 that a stretch of code sets from the stack pointer and from nothing else."""
    own = {match[1] for text in code if (match := FROM_STACK.search(text))} - {"%rsp"}
    other = {
        match[1]
        for text in code
        if (match := WRITTEN.match(text)) and not FROM_STACK.search(text) and not MOVED.match(text)
    }
    return own - other


def _function_loops(name: str, body: str, language: Language) -> Iterator[Loop]:
    found = [match.groups() for line in body.splitlines() if (match := LINE.match(line))]
    code = [text for _, text in found]
    has_frame = language.frame_pointer is not None and any(map(language.frame_pointer.search, code))
    for places in _innermost(code, {int(address, 16): i for i, (address, _) in enumerate(found)}, language):
        own = tuple(code[i] for i in sorted(places))
        on_stack = [text for text in own if language.stack.match(text)]
        for register in _stack_pointers(list(own)) | _stack_pointers(code):
            on_stack += [text for text in own if re.match(rf"(?=.*%[xyz]mm).*\({register}", text)]
        on_stack += [text for text in own if re.search(r"(?:add|sub|mov|and)\s+\S+,%rsp$", text)]
        if has_frame:
            on_stack += [text for text in own if language.framed_stack.match(text)]
        yield Loop(
            name,
            own,
            frozenset(match[1] for text in own if (match := language.call.match(text))),
            sum(bool(language.vector_fma.match(text)) for text in own),
            sum(bool(language.vector_multiply.match(text)) for text in own),
            tuple(text for text in own if language.scalar_fma.match(text)),
            tuple(on_stack),
        )


def _innermost(code: list[str], place: dict[int, int], language: Language) -> list[set[int]]:
    """The loops that hold no other loop: what leads from a jump's target back to that jump."""
    following: list[list[int]] = [[] for _ in code]
    leading: list[list[int]] = [[] for _ in code]
    back = []
    for i, text in enumerate(code):
        match = language.jump.match(text)
        targets = [] if text.split()[0] in ENDS or i + 1 == len(code) else [i + 1]
        if match and int(match[1], 16) in place:
            targets.append(place[int(match[1], 16)])
        for target in targets:
            following[i].append(target)
            leading[target].append(i)
            if target <= i:
                back.append((target, i))
    found: dict[int, set[int]] = {}
    for head, tail in back:
        after = _reached(head, following)
        if tail in after:
            found.setdefault(head, set()).update(_reached(tail, leading, head) & after | {head})
    return [own for head, own in found.items() if not any(other < own for at, other in found.items() if at != head)]


def _reached(start: int, edges: list[list[int]], stop: int | None = None) -> set[int]:
    seen, waiting = {start}, [start]
    while waiting:
        place = waiting.pop()
        if place == stop:
            continue
        new = [other for other in edges[place] if other not in seen]
        seen.update(new)
        waiting += new
    return seen


def is_tail(loop: Loop) -> bool:
    """Whether it works on what is left at a row's end."""
    return bool(TAILS.search(loop.function)) or any(TAILS.search(name) for name in loop.calls)


def faults_of(loops: list[Loop], own: frozenset[str]) -> list[str]:
    """Scalar multiply-adds, vectors through the stack and calls of foreign functions in innermost loops.

    own: functions of the library. A loop that calls one of them is not where the work is: that function is.
    """
    found = []
    for loop in loops:
        if is_tail(loop) or loop.calls & own:
            continue
        for what, lines in (
            ("a scalar multiply-add", loop.scalar_fmas),
            ("a vector through the stack", loop.stack_moves),
            ("a call", tuple(name for name in loop.calls if re.search(r"fma|exp|sqrt", name))),
        ):
            if lines:
                found.append(f"{loop.function}: {what}, {len(lines)} times: {lines[0]}")
    return found


def functions_of(file: Path, objdump: str = "objdump") -> frozenset[str]:
    """The names of the functions that the library defines."""
    text = subprocess.run([objdump, "--syms", str(file)], capture_output=True, text=True, check=True, timeout=60).stdout
    return frozenset(line.split()[-1] for line in text.splitlines() if " F .text" in line)


def base_name(function: str) -> str:
    """Without what the compiler appends to its copies."""
    return function.partition(".")[0]
