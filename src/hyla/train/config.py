"""Every number of a training run. The resolved config is kept in the run's folder."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from hyla.models.config import Config

Count = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(gt=0, lt=1)]
Fraction = Annotated[float, Field(ge=0, le=1)]


class TrainConfig(Config):
    """What happens between the first and the last step. Two runs with equal configs and data have equal bits."""

    steps: Count
    """Optimizer steps of the whole run. The schedule depends on it, so a resumed run must keep it."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Start values of the weights and order of the documents. Change it to see how much of a difference is luck."""
    batch_tokens: Count = 2048
    """Rows of one step, over all packed documents. Larger: steadier gradients, fewer steps in the same time."""
    max_document_tokens: Count = 512
    """Longest piece of a document that is read as one sequence. Longer pieces teach longer memory and cost more."""
    optimizer: Literal["adamw", "muon"] = "muon"
    """"muon": the mixers' and channel mixers' matrices are updated by orthogonalised momentum, all else by AdamW. It
    needs about half the tokens of AdamW alone at this size, for a tenth more time a step."""
    learning_rate: Rate = 3e-3
    """AdamW's peak rate. Lower it when the loss spikes."""
    matrix_learning_rate: Rate = 0.02
    """Muon's peak rate; ignored by "adamw". Updates have unit-sized singular values, hence the larger number."""
    warmup_fraction: Fraction = 0.03
    """Share of the steps in which the rate rises from 0 to its peak."""
    decay_fraction: Fraction = 0.7
    """Share of the steps, at the end, in which the rate falls in a straight line. 0 keeps it constant after warm-up."""
    final_rate_fraction: Fraction = 0.05
    """Rate at the last step, as a share of the peak."""
    weight_decay: Annotated[float, Field(ge=0, lt=1)] = 0.05
    """Decoupled decay of matrices, per step times the rate. Norms, biases, decays (A_log, dt_bias), convolutions and
    the embedding are never decayed. More of it for many passes over little data."""
    beta1: Fraction = 0.9
    """AdamW's memory of the gradient."""
    beta2: Fraction = 0.95
    """AdamW's memory of the squared gradient. 0.99 for runs of many thousands of steps."""
    momentum: Fraction = 0.95
    """Muon's memory of the gradient (Nesterov)."""
    clip_norm: Annotated[float, Field(gt=0)] = 1.0
    """Largest global gradient norm; longer gradients are scaled down to it."""
    loss_rows: Count = 512
    """Rows whose logits live at once. Memory of the loss is this many rows of the vocabulary in fp32."""
    checkpoint_every: Count = 50
    """Steps between checkpoints. What a killed run loses is at most this many steps."""
    checkpoints_kept: Count = 2
    """Newest checkpoints left on the disk."""

    @model_validator(mode="after")
    def _schedule_fits(self):
        if self.warmup_fraction + self.decay_fraction > 1:
            raise ValueError("warmup_fraction + decay_fraction must not exceed 1")
        return self
