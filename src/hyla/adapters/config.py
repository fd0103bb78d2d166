"""What an adapter is, as data. Needs no PyTorch."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, field_validator

from hyla.models.config import Config
from hyla.models.config.base import Count

Pattern = Annotated[str, Field(min_length=1, max_length=256)]


class LoraConfig(Config):
    """LoRA (arXiv 2106.09685) or DoRA (arXiv 2402.09353) on the matrices that the targets name."""

    rank: Count = 16
    """r, the inner width of each term. More learns more, and costs memory and time in proportion."""
    alpha: Annotated[float, Field(gt=0)] = 32.0
    """A term is scaled by alpha / rank, so that the rate of learning need not follow the rank."""
    targets: Annotated[tuple[Pattern, ...], Field(min_length=1)] = ("all-linear",)
    """Which matrices: words and glob patterns (`adapters.targets`, docs/adapters.md). One that matches nothing is an
    error."""
    dropout: float = 0.0
    """Only 0: a dropped input would make a row's result depend on more than the row, and two runs differ."""
    use_dora: bool = False
    """Learn the length of each output's row apart from its direction. Often better at small ranks, slower to train; not
    for routed experts."""
    use_rslora: bool = False
    """Scale by alpha / sqrt(rank) instead (arXiv 2312.03732), which suits large ranks."""
    modules_to_save: tuple[Pattern, ...] = ()
    """Parameters that are trained whole and saved beside the terms: "embed" and "head" for new tokens, or patterns over
    norms."""

    @field_validator("dropout")
    @classmethod
    def _no_dropout(cls, dropout: float) -> float:
        if dropout != 0.0:
            raise ValueError("dropout is 0 by design: results would not repeat bit for bit; leave lora dropout out")
        return dropout

    @property
    def scale(self) -> float:
        """What B A is multiplied with."""
        return self.alpha / (self.rank**0.5 if self.use_rslora else self.rank)
