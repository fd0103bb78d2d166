"""What GPTQ and AWQ share: codes in words, by module, with zero points and scales of groups. Needs no PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from hyla.checkpoints.quantised.protocol import Packed
from hyla.checkpoints.quantised.stored import Headers

ROLES = {".qweight": "codes", ".qzeros": "zeros", ".scales": "scales"}
NEEDED = ((".qzeros", "zeros"), (".scales", "scales"))


def find_words(
    headers: Headers, roles: Mapping[str, str], packed: Callable[[Headers, dict[str, str]], Packed]
) -> dict[str, Packed]:
    """Each module's weight by published name. packed: makes it of the module's parts (role -> stored name).

    Raises CheckpointError for one without zero points or scales.
    """
    found = {}
    for module, parts in headers.modules(roles).items():
        if "codes" in parts:
            headers.need(module, parts, *NEEDED)
            found[f"{module}.weight"] = packed(headers, parts)
    return found


def groups_title(size: int) -> str:
    """In words; -1: one group.

    >>> groups_title(128)
    'groups of 128 inputs'
    """
    return "one group of inputs" if size == -1 else f"groups of {size} inputs"
