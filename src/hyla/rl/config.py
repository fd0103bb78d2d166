"""What an RL recipe asks for: tasks, rewards, rollouts, and how a reward becomes an update."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from hyla.engine import EngineOptions
from hyla.models.config import Config, Count
from hyla.rl.advantages import AdvantageKind
from hyla.rl.objective import Normalisation
from hyla.rl.rewards.config import RewardConfig
from hyla.rl.tools.config import ToolsConfig
from hyla.train.run import RunRequest
from hyla.train.run_data import DataSource

Share = Annotated[float, Field(gt=0, lt=1)]


class HeldoutTasks(Config):
    """Tasks that are never trained on, answered along the way."""

    tasks: str
    """JSON lines, as `rl.tasks`."""
    every: Count = 10
    """Rounds between two scores; the last one always comes after the last round."""
    samples: Count = 1
    """Answers to each."""
    temperature: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    """0: the likeliest answer. Above 0 for more than one sample."""


class RolloutConfig(Config):
    """How answers are sampled. No number of these changes another answer's bits, but for those that choose it."""

    tasks_per_round: Count = 8
    """Tasks that are answered between two hand-overs of weights."""
    group_size: Count = 8
    """Answers to each task."""
    max_tokens: Count = 64
    """Longest answer: what the model draws for it, in all its turns together."""
    temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    """Of the distribution that answers are drawn from, which is the one that is trained."""
    top_p: float = 1.0
    """Only 1."""
    top_k: int = 0
    """Only 0."""
    min_p: float = 0.0
    """Only 0."""
    own_process: bool = False
    """Compute answers in a process of the engine's own, which is started again when it dies. The same answers; it takes
    memory for a second PyTorch and for a copy of the weights that change (Linux)."""
    tools: ToolsConfig | None = None
    """What the model may call between its turns; None: an answer is one turn."""
    engine: EngineOptions = EngineOptions()
    """How answers are computed: prefix cache, drafts, batches. The same answers whatever is set, but for what
    `EngineOptions` itself calls inexact (`numerics = "fast"`, `snapshot_dtype`, `acceptance = "rejection"`), which is
    refused."""

    @model_validator(mode="after")
    def _samples_from_the_whole_distribution(self):
        for name, neutral in (("top_p", 1.0), ("top_k", 0), ("min_p", 0.0)):
            if getattr(self, name) != neutral:
                raise ValueError(
                    f"{name} = {getattr(self, name)} leaves tokens out that the trained distribution has: every ratio "
                    f"would be wrong by the mass that was kept; leave it at {neutral}"
                )
        return self

    @model_validator(mode="after")
    def _is_exact(self):
        for name, value in EXACT.items():
            if getattr(self.engine, name) != value:
                raise ValueError(
                    f"engine.{name} = {getattr(self.engine, name)!r}: a round needs {value!r}; leave it out"
                )
        return self


EXACT = {
    "numerics": "exact",
    "snapshot_dtype": "float32",
    "acceptance": "exact",
    "dtype": None,
    "adapter": None,
    "device": "cpu",
}
"""Options of an engine that a run decides itself, or on which its exactness stands."""


class PolicyConfig(Config):
    """How rewards become a gradient. Formulas and sources: docs/rl.md."""

    advantage: AdvantageKind = "group"
    """What a reward is compared with."""
    normalise: Normalisation = "token"
    """Whether every token of an update, or every answer, weighs the same; "constant": every answer, by max_tokens."""
    clip_low: Share | None = 0.2
    """How far below 1 a ratio may fall and still be moved; None: no limit."""
    clip_high: Annotated[float, Field(gt=0)] | None = 0.2
    """How far above."""
    kl_weight: Annotated[float, Field(ge=0)] = 0.0
    """What it costs to leave the model that the run began with. Above 0 that model is kept in memory."""
    drop_equal_groups: bool = True
    """Leave out tasks whose answers all got the same reward: they say nothing."""
    updates_per_round: Count = 1
    """Optimizer steps on the answers of one round; only the first is on-policy."""
    replay_routes: bool = False
    """Let every token go through the experts that it went through when it was drawn; the choices are kept with the
    answers. In a model with experts alone. By exactness they are the same anyway: for numerics that differ."""


class RLConfig(Config):
    """The [rl] table."""

    tasks: str
    """JSON lines with `prompt`, a text, or `messages`, a conversation that the model's template writes; all other keys
    are for the reward."""
    reward: RewardConfig
    """What judges an answer."""
    rollout: RolloutConfig = RolloutConfig()
    """How answers are sampled."""
    policy: PolicyConfig = PolicyConfig()
    """How rewards become a gradient."""
    heldout: HeldoutTasks | None = None
    """Scores along the way."""

    @model_validator(mode="after")
    def _routes_are_of_one_turn(self):
        if self.policy.replay_routes and self.rollout.tools is not None:
            raise ValueError(
                "policy.replay_routes knows answers of one turn only; leave it out (with our numerics it changes "
                "nothing), or rollout.tools"
            )
        return self


class RLRequest(RunRequest):
    """What `hyla rl` is asked for: a recipe with the tables [model], [rl], [train] and perhaps [lora]."""

    rl: RLConfig
    """Tasks, rewards, rollouts, policy."""

    @model_validator(mode="after")
    def _needs_a_trained_model(self):
        if self.model.start_from is None:
            raise ValueError("rl needs a trained model: set model.start_from (docs/rl.md, a warm start)")
        if self.data != DataSource() or self.dpo is not None or self.minutes is not None:
            raise ValueError("rl reads rl.tasks and takes train.steps; leave data, dpo and minutes out")
        train = self.train
        names = ("mtp_weight", "z_loss", "indexer", "carry_state", "heldout", "ramp", "statistics", "average")
        wrong = next((name for name in names if getattr(train, name)), None)
        if wrong is not None:
            raise ValueError(f"rl has no use for train.{wrong}; leave it out")
        if train.spikes.action == "rollback":
            raise ValueError('rl cannot roll back over rollouts; set train.spikes.action to "skip" or "stop"')
        return self
