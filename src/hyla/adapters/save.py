"""An adapter as a folder in PEFT's format, which `peft.PeftModel.from_pretrained` loads beside transformers' model."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import torch

from hyla.adapters.attached import Adapters
from hyla.adapters.peft_config import OWN_FILE, TENSORS_FILE, written_peft_config
from hyla.adapters.peft_names import MISREAD, MISREAD_LEAVES, REFUSED, Experts, Matrix, layout, theirs
from hyla.adapters.peft_tensors import flat_experts, joined, published_magnitude, published_up
from hyla.checkpoints.foreign import ADAPTER_CONFIG
from hyla.checkpoints.tensor_files import write_tensors
from hyla.checkpoints.tokenizer import Tokenizer
from hyla.errors import CheckpointError
from hyla.json_files import write_json
from hyla.models.formats.registry import family_of
from hyla.models.state import NamedWeights
from hyla.ops.weights import LowRank
from hyla.ops.weights.adapted import row_norms

logger = logging.getLogger("hyla.adapters")

PREFIX = "base_model.model."
HEAD = ("head.weight",)


def save_adapter(
    adapters: Adapters, folder: str | Path, *, base: str | None = None, tokenizer: Tokenizer | None = None
) -> None:
    """Write `adapter_config.json`, `adapter_model.safetensors` and our own settings beside them.

    Terms are written under the names of the published matrices, in fp32, exactly: several of ours in one published
    matrix share its A, and rows without a term have zeros in B. base: name of the model that was adapted, for people
    and for PEFT. tokenizer: of a model that got new tokens; the folder is then all that serving needs beside the base.
    Files of an older adapter are replaced. Raises CheckpointError when the folder cannot be written.
    """
    folder = Path(folder)
    written = _Written(adapters)
    written.fill()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        scratch = folder / f".{TENSORS_FILE}"
        write_tensors({name: tensor.detach().cpu().contiguous() for name, tensor in written.tensors.items()}, scratch)
        scratch.replace(folder / TENSORS_FILE)
        write_json(folder / OWN_FILE, adapters.config.model_dump(mode="json"))
        write_json(folder / ADAPTER_CONFIG, written.settings(base))
        if tokenizer is not None:
            tokenizer.save(folder)
    except OSError as error:
        raise CheckpointError(f"cannot write {folder}: {error}; free some space or choose another place") from error


class _Written:
    """What goes into the files."""

    def __init__(self, adapters: Adapters):
        self.adapters, self.config = adapters, adapters.model.config
        self.weights = NamedWeights(adapters.model)
        self.terms: Mapping[str, LowRank] = adapters.terms
        self.tensors: dict[str, torch.Tensor] = {}
        self.modules: list[str] = []
        self.parameters: list[str] = []
        self.ranks: dict[str, int] = {}
        self.whole: list[str] = []

    @torch.no_grad()
    def fill(self) -> None:
        found = layout(self.config)
        for matrix in found.matrices:
            if any(name in self.terms for name in matrix.rule.ours):
                self._matrix(matrix)
        adapted = [experts for experts in found.experts if any(name in self.terms for name in experts.ours)]
        for experts in adapted:
            self._experts(experts, {other.parameter for other in adapted if other.path == experts.path})
        for name in self.adapters.whole:
            published = theirs(self.config.family, found.rules[name].published[0])
            self.tensors[PREFIX + published] = self.weights.read(name)
            self.whole.append(published.removesuffix(".weight"))
            if name == "embed.weight" and self.config.tie_embeddings:  # PEFT asks for both
                (head,) = (rule.published[0] for rule in family_of(self.config.family).trunk if rule.ours == HEAD)
                self.tensors[PREFIX + theirs(self.config.family, head)] = self.weights.read(name).clone()
        self._warn()

    def settings(self, base: str | None) -> dict:
        """adapter_config.json."""
        config = self.adapters.config
        return written_peft_config(
            rank=config.rank,
            alpha=config.alpha,
            use_rslora=config.use_rslora,
            use_dora=config.use_dora,
            target_modules=self.modules,
            target_parameters=self.parameters,
            ranks=self.ranks,
            modules_to_save=self.whole,
            is_tied=self.config.tie_embeddings and "embed.weight" in self.adapters.whole,
            base=base,
        )

    def _matrix(self, matrix: Matrix) -> None:
        names = matrix.rule.ours
        down, ups, _ = joined([self.terms.get(name) for name in names], [self.weights.shapes[name] for name in names])
        self._note(matrix.path, down.shape[0])
        self.modules.append(matrix.path)
        self.tensors[f"{PREFIX}{matrix.path}.lora_A.weight"] = down
        self.tensors[f"{PREFIX}{matrix.path}.lora_B.weight"] = published_up(matrix.rule, ups)
        if self.adapters.config.use_dora:
            lengths = published_magnitude(matrix.rule, [self._length(name, down.dtype) for name in names])
            self.tensors[f"{PREFIX}{matrix.path}.lora_magnitude_vector"] = lengths

    def _length(self, name: str, dtype: torch.dtype) -> torch.Tensor:
        """DoRA's magnitudes of a matrix; of one without a term those that leave it as it is."""
        term = self.terms.get(name)
        if term is not None and term.magnitude_O is not None:
            return term.magnitude_O
        return row_norms(self.weights.read(name).to(dtype))

    def _experts(self, experts: Experts, adapted: set[str]) -> None:
        names = experts.ours
        down, ups, _ = joined([self.terms.get(name) for name in names], [self.weights.shapes[name] for name in names])
        self._note(experts.target, down.shape[1])
        self.parameters.append(experts.target)
        path = f"{experts.path}.base_layer" if experts.is_inner and len(adapted) > 1 else experts.path
        lora_a, lora_b = flat_experts(down, ups)
        self.tensors[f"{PREFIX}{path}.lora_A.weight"] = lora_a
        self.tensors[f"{PREFIX}{path}.lora_B.weight"] = lora_b

    def _note(self, path: str, rank: int) -> None:
        if rank != self.adapters.config.rank:
            self.ranks[path] = rank

    def _warn(self) -> None:
        """Say where PEFT will not read what is written as it is meant."""
        refused = next((path for path in self.modules if path.endswith(REFUSED.get(self.config.family, ()))), None)
        if refused is not None:
            logger.warning(
                "PEFT 0.21 refuses terms of %s, ... in a model with Mamba layers; Hyla reads them. For PEFT, leave "
                "these modules out of the targets",
                refused,
            )
        has_experts = any(sublayer.module.kind == "moe" for sublayer in self.config.sublayers)
        if self.config.family not in MISREAD or not has_experts:
            return
        taken = [path for path in self.modules if path.rpartition(".")[2] in MISREAD_LEAVES]
        if taken:
            logger.warning(
                "PEFT 0.21 takes %s, ... for the routed experts and leaves their terms out; Hyla reads them. For PEFT, "
                "leave these modules out of the targets",
                taken[0],
            )
