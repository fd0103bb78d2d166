"""What judges a sample: the user's function in a process of its own, or a model behind an OpenAI server. No PyTorch."""

from __future__ import annotations

from hyla.lazy import exports

__all__ = ["JudgeConfig", "Judgement", "RewardConfig", "Rewards"]

__getattr__, __dir__ = exports(
    __name__,
    {
        "JudgeConfig": "hyla.rl.rewards.config",
        "Judgement": "hyla.rl.rewards.judgement",
        "RewardConfig": "hyla.rl.rewards.config",
        "Rewards": "hyla.rl.rewards.rewards",
    },
)
