"""A run of `hyla rl` whose answers transformers draws."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path

from bench.rollouts.answers import Answer, Draws, TransformersAnswers
from hyla.engine import Engine
from hyla.models.trunk import Model
from hyla.rl.config import RLRequest
from hyla.rl.handover import HandOver
from hyla.rl.places import seed_of
from hyla.rl.policy import PolicyTrainer
from hyla.rl.rewards import Rewards
from hyla.rl.rollouts import Rollouts
from hyla.rl.run import Listeners, RLRun, open_rl_run
from hyla.rl.samples import Sample
from hyla.rl.tasks import Task


class PeerHandOver(HandOver):
    """The engine, which answers held-out tasks, gets the trainer's weights, and then transformers does."""

    def __init__(self, source: Model, engine: Engine, names: Iterable[str], peer: TransformersAnswers):
        super().__init__(source, engine, names)
        self.peer = peer

    def __call__(self) -> None:
        super().__call__()
        self.peer.renew(self.engine.model)


class PeerRollouts(Rollouts):
    """Rounds like another's, drawn by transformers. The noise of a round is of one generator, so what a killed process
    has drawn of it decides what is drawn of the rest."""

    def __init__(self, other: Rollouts, peer: TransformersAnswers):
        super().__init__(other.engine, other.tasks, other.rewards, other.config, seed=other.seed, folder=other.folder)
        self.peer = peer

    def sampled(self, number: int, keys: Sequence[tuple[int, int]]) -> Iterable[list[Sample]]:
        if not keys:
            return
        order = self.order.of(number)
        tasks = [self.tasks[order[group]] for group, _ in keys]
        draws = Draws(self.config.max_tokens, self.config.temperature, seed_of(self.seed, number), self.engine.eos_ids)
        answers = self.peer.of([task.prompt_ids for task in tasks], draws)
        yield [self._sample(key, task, answer) for key, task, answer in zip(keys, tasks, answers)]

    def _sample(self, key: tuple[int, int], task: Task, answer: Answer) -> Sample:
        tokenizer = self.engine.tokenizer
        assert tokenizer is not None
        ended = answer.token_ids[-1] in self.engine.eos_ids
        text = tokenizer.decode(answer.token_ids[:-1] if ended else answer.token_ids)
        return Sample(
            *key,
            task=task.number,
            prompt_ids=task.prompt_ids,
            token_ids=answer.token_ids,
            logprobs=answer.logprobs,
            text=text,
            finish_reason="stop" if ended else "length",
        )


class PeerRun(RLRun):
    """The same run but for who draws."""

    def trainer(self, rewards: Rewards, listeners: Listeners, closing: ExitStack) -> PolicyTrainer:
        trainer = super().trainer(rewards, listeners, closing)
        ours, engine = trainer.rollouts, trainer.rollouts.engine
        peer = TransformersAnswers(engine.model, engine.model.dtype)
        hand_over = PeerHandOver(trainer.model, engine, trainer.learnt_names, peer)
        trainer.sample_with(PeerRollouts(ours, peer), hand_over)
        return trainer


def open_peer_run(folder: Path, request: RLRequest) -> PeerRun:
    """As `open_rl_run`."""
    run = open_rl_run(folder, request)
    return PeerRun(run.folder, run.request, run.record, run.tokenizer)
