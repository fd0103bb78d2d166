"""Deterministic tasks that are learnt from scratch: recall, sequences, state,
needles, conversations. No example is of both splits."""

from typing import Annotated

from pydantic import Field

from hyla.evals.synthetic.needles import Needle
from hyla.evals.synthetic.protocol import Examples, Split, SyntheticTask, examples, is_test, with_other_content
from hyla.evals.synthetic.recall import MQAR, Overwrite, Recall
from hyla.evals.synthetic.sequences import Copy, Palindrome
from hyla.evals.synthetic.state import Stack, Variables
from hyla.evals.synthetic.turns import Turns

AnyTask = Annotated[
    MQAR | Recall | Overwrite | Copy | Palindrome | Stack | Variables | Needle | Turns, Field(discriminator="kind")
]
"""A task as a table of a TOML file: `kind` says which."""

KINDS: dict[str, type[SyntheticTask]] = {
    task.model_fields["kind"].default: task
    for task in (MQAR, Recall, Overwrite, Copy, Palindrome, Stack, Variables, Needle, Turns)
}

__all__ = [
    "KINDS",
    "MQAR",
    "AnyTask",
    "Copy",
    "Examples",
    "Needle",
    "Overwrite",
    "Palindrome",
    "Recall",
    "Split",
    "Stack",
    "SyntheticTask",
    "Turns",
    "Variables",
    "examples",
    "is_test",
    "with_other_content",
]
