"""`hyla eval`: tasks learnt from scratch tell mixers apart; long contexts and conversations tell models apart."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hyla.cli.run_flags import Settings

evals = typer.Typer(name="eval", help="What mixers and models can do.", no_args_is_help=True)


@evals.callback()
def describe() -> None:
    """What mixers and models can do."""


@evals.command()
def synthetic(
    plan: Annotated[Path, typer.Argument(metavar="PLAN.toml", help="Tasks, arms, rates and seeds (docs/evals.md).")],
    out: Annotated[Path, typer.Option(help="Folder of the results: a file for each run, report.md.")],
    settings: Settings = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say which runs there are and which are done.")] = False,
) -> None:
    """Learn tasks from scratch. A run whose file is there is not repeated; a killed one goes on."""
    from hyla.engine.waiting_threads import load_torch

    load_torch()  # before anything else does
    from hyla.cli.synthetic_lines import learn_all, show
    from hyla.evals.synthetic.plan import Plan
    from hyla.train.recipe_file import read_recipe

    request = read_recipe(plan, settings or (), Plan)
    if dry_run:
        show(request, out)
        return
    learn_all(request, out)


@evals.command("long-context")
def long_context(
    model: Annotated[str, typer.Argument(help="Model folder, .gguf file, known name (hyla pull), or org/name.")],
    out: Annotated[Path, typer.Option(help="Folder of the results: items.jsonl, report.md, heat-map.png.")],
    kinds: Annotated[
        list[str] | None, typer.Option("--kind", help="As docs/evals.md lists them; default: all.")
    ] = None,
    lengths: Annotated[
        list[int] | None, typer.Option("--length", help="Prompt and answer, tokens; again for more.")
    ] = None,
    samples: Annotated[int, typer.Option(min=1, help="Items of each kind and length.")] = 20,
    depths: Annotated[
        int | None, typer.Option(min=2, help="So many depths of a needle in turn, for a heat map.")
    ] = None,
    texts: Annotated[
        Path | None, typer.Option(help="Text file or folder for haystacks; default: Python's reference.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the draws.")] = 0,
    dtype: Annotated[str | None, typer.Option(help="float32 or bfloat16; default: as stored.")] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="That compute on the CPU; default: the cores that this process may use.")
    ] = None,
) -> None:
    """RULER's tasks at any length. An item that is answered is not asked again; a killed eval goes on."""
    from hyla.engine.waiting_threads import load_torch

    load_torch()  # before anything else does
    from hyla.cli.long_context_lines import ask_all
    from hyla.engine.threads import default_threads
    from hyla.evals.long_context.kinds import KINDS
    from hyla.evals.long_context.run import LongContextRequest

    request = LongContextRequest(
        kinds=tuple(kinds or KINDS), lengths=tuple(lengths or (4096,)), samples=samples, depths=depths, seed=seed
    )
    ask_all(model, out, request, texts, {"dtype": dtype, "threads": threads or default_threads()})


@evals.command("multi-turn")
def multi_turn(
    model: Annotated[str, typer.Argument(help="Model folder, .gguf file, known name (hyla pull), or org/name.")],
    out: Annotated[Path, typer.Option(help="Folder of the results: items.jsonl, report.md, turns.png; twin/.")],
    turns: Annotated[list[int] | None, typer.Option(min=1, help="Of a conversation; again for more.")] = None,
    samples: Annotated[int, typer.Option(min=1, help="Conversations of each number of turns.")] = 20,
    facts: Annotated[int, typer.Option(min=1, help="Statements of a turn.")] = 2,
    hops: Annotated[int, typer.Option(min=0, help="Most people from one who shares to whose number it is.")] = 2,
    filler_tokens: Annotated[int, typer.Option(min=0, help="Running text in a tool's result.")] = 60,
    answer_tokens: Annotated[int, typer.Option(min=1, help="Most of an answer.")] = 24,
    begin_answers: Annotated[
        bool, typer.Option("--begin-answers", help='Begin each ("The number of ... is"); the model says the rest.')
    ] = False,
    twin: Annotated[str | None, typer.Option(help="A model that is asked the same, beside the first.")] = None,
    texts: Annotated[
        Path | None, typer.Option(help="Text file or folder for fillers; default: Python's reference.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the draws.")] = 0,
    dtype: Annotated[str | None, typer.Option(help="float32 or bfloat16; default: as stored.")] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="That compute on the CPU; default: the cores that this process may use.")
    ] = None,
) -> None:
    """Facts told, changed and linked over many turns, and asked for. A conversation that is over is not had again."""
    from hyla.engine.waiting_threads import load_torch

    load_torch()  # before anything else does
    from hyla.cli.multi_turn_lines import converse_all
    from hyla.engine.threads import default_threads
    from hyla.evals.multi_turn.run import MultiTurnRequest

    request = MultiTurnRequest(
        turns=tuple(turns or (2, 8)),
        samples=samples,
        facts=facts,
        hops=hops,
        filler_tokens=filler_tokens,
        answer_tokens=answer_tokens,
        begin_answers=begin_answers,
        seed=seed,
    )
    models = [model] if twin is None else [model, twin]
    converse_all(models, out, request, texts, {"dtype": dtype, "threads": threads or default_threads()})
