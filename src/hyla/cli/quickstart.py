"""`hyla quickstart`: train, judge, compare, save and serve a small hybrid model, from nothing but this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hyla.cli.serve import require_free_port, start_server

HOST = "127.0.0.1"


def quickstart(
    out: Annotated[Path, typer.Option(help="Folder of the run.")] = Path("runs/quickstart"),
    data: Annotated[
        Path | None, typer.Option(help="Any folder of text; default: the source of Python's standard library.")
    ] = None,
    minutes: Annotated[float | None, typer.Option(min=0.01, help="Training time; default 2.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Number of steps, instead of --minutes.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Start values and order of the documents.")] = 0,
    serve: Annotated[bool, typer.Option(help="Serve the model at the end.")] = True,
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8000,
    device: Annotated[str, typer.Option(help="Where to compute, as PyTorch names devices: cpu, cuda, cuda:1.")] = "cpu",
) -> None:
    """Train a hybrid for two minutes, show what it is worth, save it, serve it.

    Called again with the same --out, it continues after a kill, and goes straight to serving once all is done.
    """
    from hyla.cli.console import console
    from hyla.cli.training import make_request
    from hyla.train.report import report_path

    if serve:
        require_free_port(HOST, port)
    request = make_request(data, config=None, minutes=minutes, steps=steps, seed=seed)
    if report_path(out).is_file():
        show_finished(out, request)
    else:
        make_run(out, request, device)
    if serve:
        start_server(out / "model", host=HOST, port=port, model_name="hyla-quickstart", device=device)
    else:
        console.print(f"serve it with: hyla serve {out / 'model'}")


def make_run(out: Path, request, device: str) -> None:
    """All stages up to report.json, which is written last."""
    from dataclasses import asdict

    from hyla.cli.console import console
    from hyla.cli.quickstart_tables import show_completion, show_curves, show_scores
    from hyla.cli.training import train_with_bar
    from hyla.train import report
    from hyla.train.files import replace_json
    from hyla.train.twin import plot_curves

    run, model = train_with_bar(out, request, device)
    with console.status("scoring the held-out files"):
        scores = asdict(report.bits_per_byte(run, model))
    show_scores(scores)
    run.save_model(model)
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
