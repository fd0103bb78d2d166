"""A live server whose model says what a test wants; everything else of it is real."""

import time
from dataclasses import replace

from live_server import Live
from tiny_text import END, byte_tokenizer, tiny_model

from hyla.checkpoints.card import HeldoutScore, ModelCard, SamplingAdvice, TrainingFacts
from hyla.engine import Engine
from hyla.engine.generation import Generation
from hyla.server import Limits, create_app, serve_model, single_app


class Script:
    """What the model says next: one reply for each request, then the last one again; None: whatever it samples."""

    def __init__(self):
        self.replies: list[str] = []
        self.prompts: list[str] = []
        self.token_seconds = 0.0

    def say(self, *replies: str, token_seconds: float = 0.0) -> None:
        self.replies, self.token_seconds = list(replies), token_seconds
        self.prompts.clear()

    def install(self, monkeypatch) -> None:
        """Replace the sampled ids of every engine of this process."""
        accept, chosen = Generation.accept, {}

        def scripted(generation, token_id, logprob):
            if not self.replies:
                return accept(generation, token_id, logprob)
            if generation.num_output_tokens == 0:
                prompt = bytes(token for token in generation.request.prompt if token < 256)
                self.prompts.append(prompt.decode())
                chosen[generation] = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
            time.sleep(self.token_seconds)
            wanted = [*chosen[generation].encode(), END]
            token = wanted[min(generation.num_output_tokens, len(wanted) - 1)]
            return accept(generation, token, logprob and replace(logprob, token_id=token))

        monkeypatch.setattr(Generation, "accept", scripted)


CARD = ModelCard(
    family="kimi_linear",
    parameters=5_678_901,
    active_parameters=4_567_890,
    mixers={"KDA": 3, "MLA": 1},
    channel_mixers={"MLP": 1, "MoE": 3},
    context_len=8192,
    training=TrainingFacts(
        data="the <b>standard</b> library: 574 files", tokens=716_800, steps=350, planned_steps=350, seconds=120, seed=0
    ),
    heldout=HeldoutScore(bits_per_byte=1.8012, num_bytes=398_000, gzip_bits_per_byte=2.113),
    sampling=SamplingAdvice(temperature=0.8, top_p=0.9),
    examples=("def read_lines(path):\n", "import os\nimport sys\n"),
)


def scripted_engine(tokenizer):
    """A tiny model with a long context."""
    model = tiny_model("kimi_linear", max_len=8192)
    return Engine(model, tokenizer=tokenizer, memory=48 << 20, max_num_sequences=8)


def scripted_app(**options):
    """An application of one tiny model, "tiny"."""
    return single_app(scripted_engine(byte_tokenizer()), model_name="tiny", **options)


def two_models_app():
    """A base model, "base", with a card; after it "tiny", which can talk."""
    base = serve_model(scripted_engine(byte_tokenizer(None)), "base", limits=Limits(), card=CARD)
    return create_app([base, serve_model(scripted_engine(byte_tokenizer()), "tiny", limits=Limits())])


__all__ = ["CARD", "Live", "Script", "scripted_app", "two_models_app"]
