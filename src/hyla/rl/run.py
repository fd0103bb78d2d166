"""An RL run's folder: requested once, prepared once, then only continued.

run.json         what was requested, and of which files and machine
tasks.jsonl      the tasks; heldout-tasks.jsonl: those that are never trained on
rollouts/        every answer of every round, with its log-probabilities and reward
rounds.jsonl     a line a round; updates.jsonl: a line an optimizer step; metrics.jsonl: its rates and norms
heldout-rewards.jsonl   scores of the held-out tasks
events.jsonl     what happened besides
checkpoints/     newest states
model/           the trained model as a Hugging Face folder
adapter/         the adapter, if one was trained; model/ has it merged
"""

from __future__ import annotations

import platform
import shutil
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch

from hyla.adapters import report
from hyla.checkpoints import Tokenizer, load_tokenizer
from hyla.checkpoints.fetching import checksum
from hyla.engine import Engine, EngineProcess, Launch
from hyla.errors import CheckpointError, ConfigError
from hyla.json_files import read_json
from hyla.models.config import ModelConfig
from hyla.models.state import cast
from hyla.models.trunk import Model
from hyla.rl.config import RLRequest
from hyla.rl.engine_process import RolloutProcess
from hyla.rl.handover import HandOver, HandsOver, ProcessHandOver
from hyla.rl.heldout import HeldoutScores
from hyla.rl.metrics import HeldoutReward, RoundMetrics, UpdateMetrics
from hyla.rl.policy import PolicyTrainer
from hyla.rl.rewards import Rewards
from hyla.rl.rollouts import Rollouts
from hyla.rl.routes import replayed_shape
from hyla.rl.tasks import read_tasks, round_tasks
from hyla.rl.tools.between import Between
from hyla.rl.tools.tools import Tools
from hyla.train.files import filling, replace_json
from hyla.train.model_source import trained_config, trained_digest
from hyla.train.precision import DTYPES
from hyla.train.run_folder import RUN_FILE, check_start, differs, is_begun, keep_adapter, keep_model
from hyla.train.run_state import environment

FORMAT = "rl-1"
MOST_OPEN = 1 << 20
"""Requests that an engine's process takes at once: those of a round."""
TASKS_FILE, HELDOUT_TASKS_FILE = "tasks.jsonl", "heldout-tasks.jsonl"


@dataclass
class Listeners:
    """Who is told of what, while it happens."""

    say: Callable[[str], None] = lambda line: None
    on_resume: Callable[[int], None] = lambda step: None
    on_round: Callable[[RoundMetrics], None] = lambda line: None
    on_update: Callable[[UpdateMetrics], None] = lambda line: None
    on_heldout: Callable[[HeldoutReward], None] = lambda line: None
    is_stopped: Callable[[], bool] = lambda: False


@dataclass(frozen=True)
class RLRun:
    """An opened run."""

    folder: Path
    request: RLRequest
    record: dict
    tokenizer: Tokenizer = field(repr=False)

    @property
    def model_folder(self) -> Path:
        return self.folder / "model"

    @property
    def start_from(self) -> str:
        name = self.request.model.start_from
        assert name is not None
        return name

    def trained(self, listeners: Listeners) -> tuple[Model, int]:
        """Train, or go on, to the last step, or the one in which `is_stopped` comes true; the model, which is saved,
        and its number of steps. Killed at any moment, the next call goes on bit for bit."""
        check_start(self.folder, self.start_from, self.record["start_digest"])
        with Rewards(self.request.rl.reward) as rewards, ExitStack() as closing:
            trainer = self.trainer(rewards, listeners, closing)
            listeners.on_resume(trainer.resume(listeners.say))
            trainer.run(is_stopped=listeners.is_stopped, say=listeners.say)
            trainer.score(trainer.finished_steps)
        trainer.keep_final_weights()
        if trainer.adapters is not None:
            keep_adapter(trainer.adapters, self.folder / "adapter", self.start_from, self.tokenizer)
        keep_model(trainer.model, self.model_folder, self.tokenizer)
        return trainer.model, trainer.finished_steps

    def _made(self) -> Model:
        return self.request.model.made(trained_config(self.start_from), self.request.train.seed)

    def trainer(self, rewards: Rewards, listeners: Listeners, closing: ExitStack) -> PolicyTrainer:
        """The trainer as the run begins, with what samples for it. closing: ends what computes elsewhere."""
        rl, train = self.request.rl, self.request.train
        reference = None
        if rl.policy.kl_weight:
            reference = cast(self._made(), DTYPES[train.dtype]).requires_grad_(False)
        trainer = PolicyTrainer(
            self._made(),
            train,
            self.folder,
            rl.policy,
            temperature=rl.rollout.temperature,
            max_tokens=rl.rollout.max_tokens,
            reference=reference,
            lora=self.request.lora,
        )
        if trainer.adapters is not None:
            listeners.say(report(trainer.adapters))
        trainer.on_round, trainer.on_update = listeners.on_round, listeners.on_update
        engine, hand_over = self._engine(trainer, closing)
        if trainer.adapters is not None:
            hand_over.share(trainer.adapters)
        kit = opened_tools(self.request, trainer.model.config, self.tokenizer, closing)
        chat_ids = None if kit is None else kit.between.prompt_ids
        tasks = read_tasks(self.folder / TASKS_FILE, self.tokenizer, chat_ids)
        folder = self.folder / "rollouts"
        records = rl.policy.replay_routes
        rollouts = Rollouts(engine, tasks, rewards, rl.rollout, seed=train.seed, folder=folder, records_routes=records)
        if kit is not None:
            rollouts.use_tools(*kit, rl.rollout.engine.context_len or trainer.model.config.max_len)
        trainer.sample_with(rollouts, hand_over)
        if rl.heldout is not None:
            tasks = read_tasks(self.folder / HELDOUT_TASKS_FILE, self.tokenizer, chat_ids)
            trainer.scores = HeldoutScores(rl.heldout, tasks, rollouts, hand_over, self.folder, listeners.on_heldout)
        return trainer

    def _engine(self, trainer: PolicyTrainer, closing: ExitStack) -> tuple[Engine | RolloutProcess, HandsOver]:
        """What samples, and how it gets the weights."""
        rollout, dtype = self.request.rl.rollout, DTYPES[self.request.train.dtype]
        options = rollout.engine.model_dump(exclude_unset=True)
        if not rollout.own_process:
            model = cast(self._made(), dtype).requires_grad_(False)
            engine = Engine(model, tokenizer=self.tokenizer, **options)
            return engine, HandOver(trainer.model, engine, trainer.learnt_names)
        options |= {"dtype": dtype, "threads": rollout.engine.threads or torch.get_num_threads()}
        process = EngineProcess(Launch(self.start_from, options, max_requests=MOST_OPEN))
        process.start()
        closing.callback(process.stop)
        elsewhere = RolloutProcess(process, self.tokenizer)
        return elsewhere, ProcessHandOver(trainer.model, elsewhere, trainer.learnt_names)


def open_rl_run(folder: Path, request: RLRequest) -> RLRun:
    """The run in `folder`, prepared now if there is none. The folder appears whole or not at all.

    Raises ConfigError when the folder holds another run, or other files.
    """
    folder = folder.absolute()
    if not is_begun(folder):
        _prepare(folder, request)
    record = read_json(folder / RUN_FILE)
    if record.get("format") != FORMAT:
        raise CheckpointError(f"{folder} holds no run of `hyla rl`, or another version's; choose another --out")
    recorded = RLRequest(**record["request"])
    if recorded != request:
        raise differs(folder, recorded, request)
    _check_files(folder, request, record)
    assert request.model.start_from is not None
    return RLRun(folder, request, record, load_tokenizer(request.model.start_from))


def _prepare(folder: Path, request: RLRequest) -> None:
    """Check everything that can be checked before an answer is sampled, and write the folder."""
    rl, name = request.rl, request.model.start_from
    assert name is not None
    config, tokenizer = trained_config(name), load_tokenizer(name)
    if rl.policy.replay_routes:
        replayed_shape(config)
    longest = 0
    with ExitStack() as closing:
        kit = opened_tools(request, config, tokenizer, closing)
        for file in _task_files(request).values():
            tasks = read_tasks(file, tokenizer, None if kit is None else kit.between.prompt_ids)
            longest = max(longest, *(len(task.prompt_ids) for task in tasks))
            if file == Path(rl.tasks):
                round_tasks(len(tasks), rl.rollout.tasks_per_round, request.train.seed)
    if longest + rl.rollout.max_tokens > config.max_len:
        raise ConfigError(
            f"a prompt of {longest} tokens and rl.rollout.max_tokens = {rl.rollout.max_tokens} are more than the "
            f"model's context of {config.max_len}; lower it, or shorten the prompts"
        )
    with Rewards(rl.reward):
        pass
    with filling(folder) as partial:
        for target, file in _task_files(request).items():
            shutil.copyfile(file, partial / target)
        replace_json(
            partial / RUN_FILE,
            {
                "format": FORMAT,
                "request": request.model_dump(),
                "start_digest": trained_digest(name),
                **{key: None if file is None else checksum(file) for key, file in _code_files(request).items()},
                "python": platform.python_version(),
                "environment": environment(torch.device("cpu")),
            },
        )


def _task_files(request: RLRequest) -> dict[str, Path]:
    """By their names in the run's folder."""
    heldout = request.rl.heldout
    files = {TASKS_FILE: Path(request.rl.tasks)}
    return files if heldout is None else files | {HELDOUT_TASKS_FILE: Path(heldout.tasks)}


def _check_files(folder: Path, request: RLRequest, record: dict) -> None:
    """Raise ConfigError where tasks or code are others now than when the run began."""
    changed = [
        file
        for target, file in _task_files(request).items()
        if file.is_file() and file.read_bytes() != (folder / target).read_bytes()
    ]
    changed += [
        file for key, file in _code_files(request).items() if file is not None and checksum(file) != record[key]
    ]
    if changed:
        raise ConfigError(
            f"{changed[0]} is not what the run in {folder} began with; put the old one back, or choose another --out"
        )


def _code_files(request: RLRequest) -> dict[str, Path | None]:
    """Files of the user's that a run calls, by the key of their checksum in the record; None: there is none."""
    function, tools = request.rl.reward.function, request.rl.rollout.tools
    return {
        "reward_digest": None if function is None else Path(function.rpartition(":")[0]),
        "tools_digest": None if tools is None else Path(tools.file),
    }


class ToolKit(NamedTuple):
    """What answers in several turns need."""

    tools: Tools
    between: Between


def opened_tools(request: RLRequest, config: ModelConfig, tokenizer: Tokenizer, closing: ExitStack) -> ToolKit | None:
    """The recipe's tools, which `closing` ends; None without any. Raises ConfigError for those that cannot be, and a
    model that cannot call any."""
    own = request.rl.rollout.tools
    if own is None:
        return None
    tools = closing.enter_context(Tools(own))
    return ToolKit(tools, Between(tokenizer, config, tools.use, str(request.model.start_from)))
