"""`hyla eval`: tasks learnt from scratch tell mixers apart; long contexts and conversations tell models apart."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hyla.cli.model_flags import Dtype, ModelName, Threads
from hyla.cli.run_flags import Settings

Memory = Annotated[int | None, typer.Option(min=1, help="Bytes for caches; default: as `hyla serve` has it.")]
DrawSeed = Annotated[int, typer.Option(min=0, help="Of the draws.")]
RunningText = Annotated[
    Path | None, typer.Option(help="Text file or folder for haystacks and fillers; default: Python's reference.")
]
Price = Annotated[float | None, typer.Option(help="Of an hour, in any currency: what a right answer costs.")]
CostDevice = Annotated[
    str | None, typer.Option(help="An hour of this device (hyla cost), not of this machine's seconds.")
]

evals = typer.Typer(name="eval", help="What mixers and models can do.", no_args_is_help=True)


@evals.callback()
def describe() -> None:
    """What mixers and models can do."""


@evals.command()
def synthetic(
    plan: Annotated[Path, typer.Argument(metavar="PLAN.toml", help="Tasks, arms, rates and seeds (docs/evals.md).")],
    out: Annotated[Path, typer.Option(help="Folder of the results: a file for each run, report.md, plots.")],
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
    model: ModelName,
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
    texts: RunningText = None,
    seed: DrawSeed = 0,
    dtype: Dtype = None,
    threads: Threads = None,
    memory: Memory = None,
    price: Price = None,
    cost_device: CostDevice = None,
) -> None:
    """RULER's tasks at any length. An item that is answered is not asked again; a killed eval goes on."""
    from hyla.engine.waiting_threads import load_torch

    load_torch()  # before anything else does
    from hyla.cli.long_context_lines import ask_all
    from hyla.evals.long_context.kinds import KINDS
    from hyla.evals.long_context.run import LongContextRequest

    request = LongContextRequest(
        kinds=tuple(kinds or KINDS), lengths=tuple(lengths or (4096,)), samples=samples, depths=depths, seed=seed
    )
    ask_all(model, out, request, texts, _engine(dtype, threads, memory), (price, cost_device))


@evals.command("multi-turn")
def multi_turn(
    model: ModelName,
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
    texts: RunningText = None,
    seed: DrawSeed = 0,
    dtype: Dtype = None,
    threads: Threads = None,
    memory: Memory = None,
    price: Price = None,
    cost_device: CostDevice = None,
) -> None:
    """Facts told, changed and linked over many turns, and asked for. A conversation that is over is not had again."""
    from hyla.engine.waiting_threads import load_torch

    load_torch()  # before anything else does
    from hyla.cli.multi_turn_lines import converse_all
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
    converse_all(models, out, request, texts, _engine(dtype, threads, memory), (price, cost_device))


@evals.command()
def harness(
    model: ModelName,
    out: Annotated[Path, typer.Option(help="Folder of the results: answers.jsonl, samples_TASK.jsonl, report.md.")],
    tasks: Annotated[str, typer.Option(help="Names of lm-evaluation-harness, with commas between them.")],
    include_path: Annotated[
        Path | None, typer.Option(help="Folder with tasks of your own (.yaml), or data by path.")
    ] = None,
    num_fewshot: Annotated[int | None, typer.Option(min=0, help="Solved examples; default: as a task has it.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Questions of each task; default: all.")] = None,
    apply_chat_template: Annotated[bool, typer.Option("--apply-chat-template", help="Ask as in a chat.")] = False,
    truncate: Annotated[
        bool, typer.Option("--truncate", help="Cut contexts that are too long off at their beginning.")
    ] = False,
    batch_size: Annotated[int, typer.Option(min=1, help="Prompts at once; no bit of a score depends on it.")] = 16,
    dtype: Dtype = None,
    threads: Threads = None,
    memory: Memory = None,
) -> None:
    """lm-evaluation-harness's tasks, in this process. What is answered is not asked again; a killed eval goes on."""
    from hyla.engine.waiting_threads import load_torch

    load_torch()  # before anything else does
    from hyla.cli.harness_lines import ask_all
    from hyla.evals.harness.run import HarnessRequest

    request = HarnessRequest(
        tasks=tuple(name for part in tasks.split(",") if (name := part.strip())),
        include_path=None if include_path is None else str(include_path),
        num_fewshot=num_fewshot,
        limit=limit,
        apply_chat_template=apply_chat_template,
        truncates=truncate,
    )
    ask_all(model, out, request, {**_engine(dtype, threads, memory), "max_num_sequences": batch_size})


@evals.command()
def positions(
    models: Annotated[list[str], typer.Argument(metavar="MODEL...", help="One, or several beside each other.")],
    out: Annotated[
        Path, typer.Option(help="Folder of the results: a folder for each model, report.md, positions.png.")
    ],
    texts: Annotated[list[Path], typer.Option(help="Text files or folders; again for more.")],
    length: Annotated[int, typer.Option(min=64, help="Tokens that are read of a document; a power of two.")] = 4096,
    pieces: Annotated[int, typer.Option(min=1, help="Most pieces of that length, of all documents in turn.")] = 64,
    limit: Annotated[int | None, typer.Option(min=1, help="Read so many bytes in all; the last text is cut.")] = None,
    dtype: Dtype = None,
    threads: Threads = None,
    memory: Memory = None,
) -> None:
    """Bits per byte by position in the context. A piece that is scored is not scored again; a killed eval goes on."""
    from hyla.engine.waiting_threads import load_torch

    load_torch()  # before anything else does
    from hyla.cli.positions_lines import score_all
    from hyla.evals.positions.run import PositionsRequest
    from hyla.train.score_texts import read_texts

    request = PositionsRequest(length=length, pieces=pieces)
    documents = read_texts(texts, limit).documents
    score_all(models, out, request, documents, _engine(dtype, threads, memory))


def _engine(dtype: str | None, threads: int | None, memory: int | None) -> dict[str, str | int | None]:
    """Options of the engine that an eval goes through."""
    from hyla.engine.threads import default_threads

    return {"dtype": dtype, "threads": threads or default_threads(), "memory": memory}
