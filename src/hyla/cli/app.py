"""The verbs, put together."""

from __future__ import annotations

import typer

from hyla.cli.align import align
from hyla.cli.bench import bench
from hyla.cli.chat import chat
from hyla.cli.cost import cost
from hyla.cli.data import data
from hyla.cli.eval import evals
from hyla.cli.generate import generate
from hyla.cli.inspect import inspect
from hyla.cli.pull import pull
from hyla.cli.quickstart import quickstart
from hyla.cli.rl import rl
from hyla.cli.score import score
from hyla.cli.serve import serve
from hyla.cli.study import study
from hyla.cli.train import train

app = typer.Typer(
    name="hyla",
    help="Train, inspect and serve hybrid-attention language models.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for verb in (quickstart, train, rl, align, generate, chat, serve, pull, inspect, score, cost, study):
    app.command()(verb)
app.add_typer(bench)
app.add_typer(data)
app.add_typer(evals)
