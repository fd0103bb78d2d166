"""The kinds by name."""

from __future__ import annotations

from hyla.evals.long_context.chains import Chains
from hyla.evals.long_context.frequencies import CodedWords, CommonWords
from hyla.evals.long_context.needles import Needles
from hyla.evals.long_context.task import Kind

ALL: tuple[Kind, ...] = (
    Needles("niah_single_1", "repeat"),
    Needles("niah_single_2", "essay"),
    Needles("niah_single_3", "essay", values="uuids"),
    Needles("niah_multikey_1", "essay", num_keys=4),
    Needles("niah_multikey_2", "needle"),
    Needles("niah_multikey_3", "needle", keys="uuids", values="uuids"),
    Needles("niah_multivalue", "essay", num_values=4),
    Needles("niah_multiquery", "essay", num_queries=4),
    Chains(),
    CommonWords(),
    CodedWords(),
)
KINDS: dict[str, Kind] = {kind.name: kind for kind in ALL}
"""lm-evaluation-harness's names. Its two question-answering tasks are missing: their texts are not on the machine."""
