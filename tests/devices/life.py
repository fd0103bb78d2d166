"""One family's whole life on a pretend device beside the same life on the CPU, both in the portable arithmetic.

    python tests/devices/life.py PARTS FAMILY [FAMILY ...]

PARTS: "computing" (start values, training, cached rows), "serving" (drafts, spill, new weights).

Prints one JSON object a line: for each part of the life whether every bit was equal, and what crossed to the host. In a
process of its own, because the device, once registered, stays.
"""

from __future__ import annotations

import json
import sys
import tempfile
import traceback
from pathlib import Path

import torch
from pretend import Traffic, counted, register

from hyla.caches import Cache
from hyla.checkpoints import load_model, save_model
from hyla.data.packing import TokenStore
from hyla.engine import Engine, SamplingParams
from hyla.models.formats.registry import family_of
from hyla.models.initialize import initialize
from hyla.models.trunk import Model
from hyla.ops import backends
from hyla.train.config import TrainConfig
from hyla.train.loop import Trainer
from hyla.train.sources import packer_of

CPU, DEVICE = torch.device("cpu"), register()
TRAIN = TrainConfig(steps=3, seed=3, batch_tokens=96, max_document_tokens=70, checkpoint_every=2, loss_rows=40)
PIECES = (70, 33, 20, *[1] * 8)
"""Of a sequence in the cache: prefill that ends inside chunks, then single rows over the end of one."""
DRAFTS = ("off", "lookup", "mtp", "draft")


def model_on(family: str, device: torch.device, seed: int = 5) -> Model:
    return initialize(Model(family_of(family).tiny), seed, std=0.2).to(device)


def tokens(model: Model, count: int, seed: int = 1) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(min(40, model.config.vocab_size), (count,), generator=generator).tolist()


def store(vocab_size: int) -> TokenStore:
    generator = torch.Generator().manual_seed(5)
    lengths = torch.randint(2, 100, (8,), generator=generator).tolist()
    return TokenStore.from_lists([torch.randint(vocab_size, (n,), generator=generator).tolist() for n in lengths])


def start_values(family: str) -> bool:
    """The same seed draws the same weights on every device."""
    here = model_on(family, CPU)
    with torch.device("meta"):
        blank = Model(here.config)
    there = initialize(blank.to_empty(device=DEVICE), 5, std=0.2)
    return all(torch.equal(a, b.cpu()) for a, b in zip(here.parameters(), there.parameters()))


def weights_equal(one: Model, other: Model) -> bool:
    pairs = zip(one.parameters(), other.parameters())
    return all(torch.equal(a.detach().cpu(), b.detach().cpu()) for a, b in pairs)


def training(family: str, folder: Path) -> tuple[bool, Traffic]:
    """All steps on the device; and some on the CPU, the rest after a resume on the device: the CPU's weights."""

    def trainer(name: str, device: torch.device) -> Trainer:
        model = model_on(family, device)
        (folder / name).mkdir(exist_ok=True)
        return Trainer(model, packer_of(store(model.config.vocab_size), TRAIN), TRAIN, folder / name)

    (expected := trainer("cpu", CPU)).run()
    (there := trainer("device", DEVICE)).run()
    is_equal = weights_equal(expected.model, there.model)
    with counted() as traffic:
        there.update(0)
    first = trainer("moved", CPU)
    first.update(0)
    first.finished_steps = 1
    first.save()
    said = []
    (moved := trainer("moved", DEVICE)).resume(said.append)
    moved.run()
    is_equal = is_equal and weights_equal(expected.model, moved.model)
    return is_equal and "device: cpu -> pretend:0" in said[0], traffic


def cached(family: str) -> tuple[bool, Traffic]:
    """Logits of rows that arrive in pieces; the traffic of a single row's step."""
    found = []
    for device in (CPU, DEVICE):
        model = model_on(family, device)
        ids, logits = tokens(model, sum(PIECES)), []
        with torch.inference_mode():
            cache = Cache(model.cache_specs(), num_pages=8, num_slots=2, device=device)
            sequence, first = cache.open(), 0
            for count in PIECES:
                with counted() as traffic:
                    batch = cache.batch([(sequence, count)])
                    hidden = model(batch.index(ids[first : first + count]), batch, cache.layers)
                    rows = model.head_logits(hidden)
                    cache.commit(sequence, count)
                logits.append(rows.cpu())
                first += count
        found.append(torch.cat(logits))
    return torch.equal(*found), traffic


def answers(engine: Engine, prompt: list[int]) -> tuple[list, int]:
    """Tokens and log-probabilities, and how many drafts were verified."""
    # Four ids alone, so that earlier text holds guesses.
    fields = {"max_tokens": 8, "temperature": 0.8, "seed": 3, "ignore_eos": True, "allowed_token_ids": (3, 4, 5, 6)}
    params = SamplingParams(logprobs=2, **fields)
    done = engine.generate([prompt, prompt[:40]], params) + engine.generate([[*prompt, 5, 6]], params)
    engine.cache.ledger.check()
    assert done[2].usage.cached_tokens > 0
    return [(one.token_ids, one.logprobs) for one in done], sum(one.usage.drafted_tokens for one in done)


def serving(family: str, drafts: str) -> tuple[bool, Traffic] | None:
    """Sampled answers with the prefix cache and one kind of drafts. None: the model has no such drafts."""
    found = []
    for device in (CPU, DEVICE):
        model = model_on(family, device)
        if drafts == "mtp" and not model.config.mtp:
            return None
        prompt = [3 + token % 4 for token in tokens(model, 70)]
        draft = {"draft_model": model_on(family, device, seed=6)} if drafts == "draft" else {}
        engine = Engine(model, memory=64 << 20, speculation=drafts, fixed_drafts=True, **draft)
        with counted() as traffic:
            given, drafted = answers(engine, prompt)
        found.append(given)
        steps = engine.num_steps
    traffic.copies, traffic.copied_bytes, traffic.waits = (
        round(value / steps, 1) for value in (traffic.copies, traffic.copied_bytes, traffic.waits)
    )
    return found[0] == found[1] and (drafted > 0) == (drafts != "off"), traffic


def spilling(family: str, folder: Path) -> bool:
    """A prefix that one engine on the device leaves on the disk is taken up by the next."""
    found = []
    for device in (CPU, DEVICE):
        model, place = model_on(family, device), folder / f"spill-{device.type}"
        for _ in range(2):
            options = {"memory": 64 << 20, "spill_folder": place, "spill_min_tokens": 64, "max_num_sequences": 3}
            engine = Engine(model, **options)
            params = SamplingParams(max_tokens=6, temperature=0.8, seed=3, ignore_eos=True)
            (done,) = engine.generate([tokens(model, 130)], params)
            found.append((done.token_ids, done.usage.cached_tokens > 0))
            engine.spill_now()
    return found[:2] == found[2:] and found[1][1]


def new_weights(family: str, folder: Path) -> bool:
    """A folder loaded onto the device, and weights that are replaced there in place."""
    save_model(model_on(family, CPU, seed=6), folder / "new")
    expected = load_model(folder / "new")
    loaded = load_model(folder / "new", device=str(DEVICE))
    from hyla.engine import Administration

    engine = Engine(model_on(family, DEVICE), memory=64 << 20)
    administration = Administration(engine)
    administration.pause()
    administration.update_weights(folder / "new")
    prompt = [tokens(expected, 40)]
    with torch.no_grad():
        logits = [model.logits(prompt)[0].cpu() for model in (expected, loaded, engine.model)]
    return torch.equal(logits[0], logits[1]) and torch.equal(logits[0], logits[2])


def life(family: str, half: str) -> dict:
    """Every part's outcome: true, false, or the error; and the traffic."""
    outcome, crossings = {}, {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        computing = {
            "start values": lambda: start_values(family),
            "training": lambda: training(family, folder),
            "cached": lambda: cached(family),
        }
        served = {
            **{f"drafts {kind}": (lambda kind=kind: serving(family, kind)) for kind in DRAFTS},
            "spill": lambda: spilling(family, folder),
            "new weights": lambda: new_weights(family, folder),
        }
        for part, run in {"computing": computing, "serving": served}[half].items():
            try:
                found = run()
            except Exception:
                outcome[part] = traceback.format_exc(limit=-6)
                continue
            if isinstance(found, tuple):
                found, traffic = found
                places = {place: count for place, count in sorted(traffic.places.items())}
                crossings[part] = [traffic.copies, traffic.copied_bytes, traffic.waits, places]
            outcome[part] = found
    return {"family": family, "equal": outcome, "traffic": crossings}


if __name__ == "__main__":
    torch.set_num_threads(1)
    backends.use("portable")
    for name in sys.argv[2:]:
        print(json.dumps(life(name, sys.argv[1])), flush=True)
