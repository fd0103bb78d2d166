"""What `hyla train` and `hyla quickstart` share: from flags to a request, and a run under a progress bar."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hyla.checkpoints.card import HeldoutScore
from hyla.cli.config_file import read_toml
from hyla.cli.console import console
from hyla.cli.interrupts import stopped_by_ctrl_c
from hyla.cli.training_bar import training_bar
from hyla.errors import ConfigError
from hyla.ops.devices import resolve_device
from hyla.ops.host_memory import keep_freed_memory
from hyla.train.card import leave_card
from hyla.train.config import TrainConfig
from hyla.train.files import held
from hyla.train.model_source import ModelSource
from hyla.train.recipe import HybridRecipe
from hyla.train.recipe_file import read_recipe
from hyla.train.report import heldout_score
from hyla.train.run import Run, RunRequest, Trained, open_run
from hyla.train.run_data import DataSource, is_store

DEFAULT_STEPS = 350
"""About two minutes on two quiet cores. A number, not a time: what comes out must not depend on the neighbours."""

UNRESOLVED_STEPS = 1
"""Stands in a request that gives minutes; the run's own config has the real number."""


def make_request(
    data: Path | None,
    *,
    config: Path | None,
    minutes: float | None,
    steps: int | None,
    seed: int | None,
    settings: Sequence[str] = (),
) -> RunRequest:
    """What a recipe, or a folder or store with a file of sizes, asks for; flags win over files. Raises ConfigError.

    data: a .toml file is a recipe. Without one, and without steps or minutes, DEFAULT_STEPS.
    """
    if minutes is not None and steps is not None:
        raise ConfigError("give --minutes or --steps, not both: minutes are turned into a number of steps")
    if data is not None and data.suffix == ".toml":
        if config is not None:
            raise ConfigError(f"{data} is a recipe, which says all that --config could; leave one of them out")
        request = read_recipe(data, settings)
    else:
        request = _request_of_data(data, read_toml(config), settings)
    changed = {"seed": seed, "steps": UNRESOLVED_STEPS if minutes is not None else steps}
    changed = {key: value for key, value in changed.items() if value is not None}
    train = TrainConfig(**{**request.train.model_dump(), **changed})
    return request.model_copy(update={"train": train, **({} if minutes is None else {"minutes": minutes})})


def _request_of_data(data: Path | None, tables: dict, settings: Sequence[str]) -> RunRequest:
    """The quickstart's recipe on a folder of text, a token store, or (None) the standard library."""
    if settings:
        raise ConfigError("--set changes a recipe; give a RECIPE.toml, or --config FILE with what differs")
    source: dict = {}
    if data is not None:
        place = str(data.absolute())
        source = {"stores": [{"folder": place}]} if is_store(place) else {"texts": place}
    train = {"steps": DEFAULT_STEPS, **tables.get("train", {})}
    return RunRequest(
        model=ModelSource(hybrid=HybridRecipe(**tables.get("recipe", {}))),
        data=DataSource(**source),
        train=TrainConfig(**train),
    )


def train_with_bar(out: Path, request: RunRequest, device: str) -> tuple[Run, Trained]:
    """Open or prepare the run in `out`, bring it to its last step, or to the one in which Ctrl-C is pressed, and save
    the model with a card. Nobody else works in `out` meanwhile.

    device: as PyTorch names it.
    """
    keep_freed_memory()
    place = resolve_device(device)
    with held(out):
        run = open_run(out, request, lambda line: console.print(line), device=place)
        shown = training_bar(run.train.steps, total_tokens=run.total_tokens, utilisation=lambda: run.utilisation(place))
        with stopped_by_ctrl_c(lambda line: console.print(line)) as is_stopped, shown as bar:
            trained = run.trained(
                bar, bar.resumed, device=place, say=console.print, is_stopped=is_stopped, on_heldout=bar.heldout
            )
        run.save_model(trained.model)
        leave_card(run, trained, None)
    return run, trained


def keep(run: Run, trained: Trained) -> HeldoutScore | None:
    """Score the saved model for its card; None where nothing was held out.

    It was saved before: whoever presses Ctrl-C again while it is scored still has the model.
    """
    if not run.heldout:
        return None
    with console.status("scoring the held-out files"):
        score = heldout_score(run, trained.model)
    leave_card(run, trained, score)
    return score


def say_stopped(run: Run, trained: Trained, score: HeldoutScore | None) -> None:
    """One line on what a stopped run left."""
    found = "" if score is None else f"{score.bits_per_byte:.3f} bits per byte on held-out text, "
    console.print(
        f"stopped after step {trained.steps} of {trained.planned_steps}: {found}saved in {run.model_folder}; "
        f"the same command goes on, `hyla serve {run.model_folder}` serves it",
        soft_wrap=True,
    )


def say_saved(run: Run, score: HeldoutScore | None) -> None:
    """What a finished run is worth, where it is, and how to talk to it."""
    if score is not None:
        what = "text" if run.heldout_store.learnt is None else "conversations, with what is asked in them"
        console.print(f"{score.bits_per_byte:.3f} bits per byte on held-out {what}")
    words = f"chat {run.model_folder}" if run.tokenizer.chat_template else f"generate {run.model_folder} 'def '"
    console.print(f"saved {run.model_folder}; try: hyla {words}", soft_wrap=True)
    if run.request.lora is not None:
        place = run.adapter_folder
        what = f"its adapter alone: {place}; try: hyla chat {run.request.model.start_from} --adapter {place}"
        console.print(what, soft_wrap=True)
