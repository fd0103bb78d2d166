"""The card of a model that was trained here."""

from __future__ import annotations

from pathlib import Path

from hyla.checkpoints.card import HeldoutScore, ModelCard, SamplingAdvice, TrainingFacts, derived_card, write_card
from hyla.cost import count_parameters
from hyla.train.run import Run, Trained

STDLIB_EXAMPLES = (
    'def read_lines(path):\n    """',
    "class Stack:\n    def __init__(self",
    "import os\nimport sys\n",
    'if __name__ == "__main__":\n',
)
"""Beginnings that suit the source of Python's standard library."""

SAMPLING = SamplingAdvice(temperature=0.8, top_p=0.9)
"""Of models that saw little: their rare tokens are mostly wrong ones."""

NUM_EXAMPLES, EXAMPLE_CHARS = 4, 80


def leave_card(run: Run, trained: Trained, score: HeldoutScore | None) -> None:
    """Put the card into the saved model's folder. score: None while nothing is measured."""
    write_card(run.model_folder, make_card(run, trained, score), name=run.folder.name)


def make_card(run: Run, trained: Trained, score: HeldoutScore | None) -> ModelCard:
    """What is known of a run's model."""
    counts = count_parameters(run.model_config)
    training = TrainingFacts(
        data=describe_data(run),
        tokens=trained.steps * run.train.batch_tokens,
        steps=trained.steps,
        planned_steps=trained.planned_steps,
        seconds=round(trained.seconds, 1),
        seed=run.train.seed,
    )
    return derived_card(
        run.model_config,
        parameters=counts.total,
        active=counts.active,
        training=training,
        heldout=score,
        sampling=SAMPLING,
        examples=examples_of(run),
    )


def describe_data(run: Run) -> str:
    """What the run reads, in words; of folders their names only, since cards travel."""
    corpus, tokens = run.record["corpus"], f"{run.data.num_tokens:,} tokens"
    if "pairs" in corpus:
        return f"{corpus['pairs']:,} pairs of {corpus['file'][:200]}: {tokens}"
    if "stores" in corpus:
        names = ", ".join(Path(store["folder"]).name for store in corpus["stores"])
        return f"the token stores {names[:200]}: {tokens}"
    texts = run.request.data.texts
    name = f"the folder {Path(texts).name}" if texts else f"the standard library of Python {run.record['python']}"
    return f"{name[:200]}: {corpus['train_files']:,} files, {tokens}"


def examples_of(run: Run) -> tuple[str, ...]:
    """Beginnings that a reader can have continued: of held-out files, where nothing better is known."""
    if "folder" in run.record["corpus"] and run.request.data.texts is None:
        return STDLIB_EXAMPLES
    openings = (document.text.strip().partition("\n")[0][:EXAMPLE_CHARS].rstrip() for document in run.heldout)
    return tuple(dict.fromkeys(opening for opening in openings if opening))[:NUM_EXAMPLES]
