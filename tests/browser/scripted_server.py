"""A live server whose model says what a test wants; everything else of it is real."""

import time
from dataclasses import replace

from live_server import Live
from tiny_text import END, byte_tokenizer, tiny_model

from hyla.engine import Engine
from hyla.engine.generation import Generation
from hyla.server.app import single_app


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


def scripted_app(**options):
    """An application of one tiny model, "tiny", with a long context."""
    engine = Engine(
        tiny_model("kimi_linear", max_len=8192), tokenizer=byte_tokenizer(), memory=48 << 20, max_num_sequences=8
    )
    return single_app(engine, model_name="tiny", **options)


__all__ = ["Live", "Script", "scripted_app"]
