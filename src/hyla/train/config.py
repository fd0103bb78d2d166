"""Every number of a training run. The resolved config is kept in the run's folder."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from hyla.models.config import Config

Count = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(gt=0, lt=1)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Weight = Annotated[float, Field(ge=0, lt=1)]


class BatchRampConfig(Config):
    """A run that begins with small steps: many cheap updates while every one of them helps."""

    batch_tokens: Count
    """Rows of the first step. Fewer than `train.batch_tokens`."""
    steps: Count
    """Steps in which the rows rise, in a straight line, to `train.batch_tokens`."""


class AverageConfig(Config):
    """Averaged weights, which are saved and scored in the place of the last ones."""

    kind: Literal["ema", "merge"]
    """"ema": exponential average of all steps. "merge": the plain mean of the weights along the constant part, in the
    place of a decay (warm-up-stable-merge, arXiv 2507.17634)."""
    decay: Fraction = 0.999
    """Of "ema": what an average keeps in a step. Its memory is 1 / (1 - decay) steps."""
    fraction: Annotated[float, Field(gt=0, le=1)] = 0.3
    """Of "merge": share of the steps, at the end, whose weights are averaged."""
    every: Count = 10
    """Of "merge": steps between two weights that enter the mean."""


class RouterConfig(Config):
    """What keeps the experts of a mixture equally busy. Both off: nothing does."""

    bias_rate: Weight = 0.0
    """Step by which an expert's selection bias rises when it got fewer tokens than the mean, or falls when it got more
    (aux-loss-free balancing, arXiv 2408.15664; 1e-3 there). Needs a model whose routers have a bias."""
    z_loss: Weight = 0.0
    """Weight of the mean squared logsumexp of the routers' logits (arXiv 2202.08906; 1e-3 there)."""


class SpikeConfig(Config):
    """What a step does whose loss or gradient is not finite, or whose gradient is far longer than those before."""

    action: Literal["stop", "skip", "rollback"] = "stop"
    """"stop": end with an error; what was kept before stays. "skip": leave the weights as they are and go on.
    "rollback": back to the newest checkpoint, and over the data that came since then."""
    factor: Annotated[float, Field(gt=1)] | None = None
    """Longest gradient in medians of the last `window` ones; None: only numbers that are not finite are spikes."""
    window: Annotated[int, Field(ge=4)] = 64
    """Steps behind that median. None is judged before there are so many."""
    most: Count = 20
    """After so many spikes the run ends all the same."""


class RecomputeConfig(Config):
    """Which sublayers are computed twice, so that the backward pass needs less memory. No bit depends on it."""

    kinds: tuple[str, ...] = ()
    """Kinds of mixers and channel mixers, e.g. "kda", "mla", "moe"; "all" for every one."""


class HeldoutConfig(Config):
    """Held-out text while a run goes on."""

    every: Count = 100
    """Steps between two scores. The last step is always scored."""
    tokens: Count = 16_384
    """Most tokens that are scored each time."""
    samples: Annotated[int, Field(ge=0)] = 0
    """Beginnings of held-out documents that the model goes on with each time, greedily."""
    prompt_tokens: Count = 32
    """Tokens of such a beginning. Of a conversation: up to where the model has to write, if that is longer."""
    sample_tokens: Count = 48
    """Most tokens that it goes on with."""


class StatisticsConfig(Config):
    """Figures of every sublayer along the way (docs/training-progress.md). No bit of the run depends on them."""

    every: Count = 100
    """Steps between two looks. Each costs two forward passes over `rows`."""
    rows: Count = 512
    """The first rows of a step that are looked at. More: steadier figures; attention needs rows x rows for a head."""


class TrainConfig(Config):
    """What happens between the first and the last step. Two runs with equal configs and data have equal bits."""

    steps: Count
    """Optimizer steps of the whole run. The schedule depends on it, so a resumed run must keep it."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Start values of the weights and order of the documents. Change it to see how much of a difference is luck."""
    dtype: Literal["fp32", "bf16"] = "fp32"
    """"bf16": the model computes as it is served, in bf16 (decays, routers, head and the sums of norms in fp32); its
    weights are rounded copies of fp32 ones, which the optimizer updates."""
    batch_tokens: Count = 2048
    """Rows of one step, over all packed documents. Larger: steadier gradients, fewer steps in the same time."""
    micro_batch_tokens: Count | None = None
    """Most rows of one forward and backward pass; a step is the ordered sum over its passes. Less memory for smaller
    ones. Documents are not cut at their edges. None: the whole step at once."""
    ramp: BatchRampConfig | None = None
    """Smaller steps at the start; None: all have `batch_tokens`."""
    max_document_tokens: Count = 512
    """Longest piece of a document that is read as one sequence. Longer pieces teach longer memory and cost more."""
    optimizer: Literal["adamw", "muon"] = "muon"
    """"muon": the mixers' and channel mixers' matrices are updated by orthogonalised momentum, all else by AdamW. It
    needs about half the tokens of AdamW alone at this size, for a tenth more time a step."""
    muon_unit: Literal["matrix", "head"] = "matrix"
    """What is orthogonalised at once: each projection (queries, keys, values and gates apart, however a published file
    fuses them) and each expert, or of projections with heads each head's rows (Kimi K3)."""
    state_dtype: Literal["fp32", "bf16"] = "fp32"
    """Of the optimizer's memory. "bf16" halves it: numbers are rounded up or down by chance, whose bits are a function
    of seed and step."""
    learning_rate: Rate = 3e-3
    """AdamW's peak rate. Lower it when the loss spikes."""
    matrix_learning_rate: Rate = 0.02
    """Muon's peak rate; ignored by "adamw". Updates have unit-sized singular values, hence the larger number."""
    schedule: Literal["wsd", "cosine"] = "wsd"
    """How the rate falls: "wsd" in a straight line over the last `decay_fraction` of the steps, constant before;
    "cosine" from the end of the warm-up to the last step."""
    warmup_fraction: Fraction = 0.03
    """Share of the steps in which the rate rises from 0 to its peak."""
    decay_fraction: Fraction = 0.7
    """Share of the steps, at the end, in which the rate falls in a straight line. 0 keeps it constant after warm-up, as
    a merge of weights wants it."""
    final_rate_fraction: Fraction = 0.05
    """Rate at the last step, as a share of the peak."""
    average: AverageConfig | None = None
    """Averaged weights; None: the last ones count."""
    weight_decay: Weight = 0.05
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
    trainable: tuple[str, ...] = ("*",)
    """Patterns of the parameters' names that change ("*.module.router", "head.weight"); all others stay as they are."""
    z_loss: Weight = 0.0
    """Weight of the mean squared logsumexp of the head's logits, which keeps them small (PaLM: 1e-4)."""
    mtp_weight: Weight = 0.0
    """Weight of the mean loss of multi-token prediction (DeepSeek-V3: 0.3, later 0.1). 0: those modules are not
    trained, and a model that has them says so."""
    router: RouterConfig = RouterConfig()
    """Balance of experts."""
    spikes: SpikeConfig = SpikeConfig()
    """What to do when training goes wrong."""
    recompute: RecomputeConfig = RecomputeConfig()
    """Time against memory."""
    loss_rows: Count = 512
    """Rows whose logits live at once. Memory of the loss is this many rows of the vocabulary in fp32."""
    heldout: HeldoutConfig | None = None
    """Scores along the way; None: only the finished model is scored."""
    statistics: StatisticsConfig | None = None
    """Figures of every sublayer along the way, in statistics.jsonl; None: none."""
    report: tuple[Literal["tensorboard", "trackio"], ...] = ()
    """Where figures go besides the run's folder. Each needs the extra of its name: pip install 'hyla[tensorboard]'."""
    checkpoint_every: Count = 50
    """Steps between checkpoints. What a killed run loses is at most this many steps."""
    checkpoints_kept: Count = 2
    """Newest checkpoints left on the disk."""

    @model_validator(mode="after")
    def _schedule_fits(self):
        if self.warmup_fraction + self.decay_fraction > 1:
            raise ValueError("warmup_fraction + decay_fraction must not exceed 1")
        return self

    @model_validator(mode="after")
    def _ramp_rises(self):
        if self.ramp is not None and self.ramp.batch_tokens >= self.batch_tokens:
            raise ValueError(f"ramp.batch_tokens must be below batch_tokens = {self.batch_tokens}")
        return self
