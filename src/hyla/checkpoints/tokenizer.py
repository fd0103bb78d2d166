"""Tokenizer folders: tokenizer.json, tokenizer_config.json and the chat template, in and out."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from os.path import lexists
from pathlib import Path

import tokenizers

from hyla.checkpoints.chat_template import ChatTemplate
from hyla.errors import CheckpointError, RequestError
from hyla.json_files import read_json, write_json
from hyla.whole_files import read_whole, write_whole

MOST_BYTES = 256 << 20
"""Of a tokenizer.json."""
MOST_TEMPLATE_BYTES = 4 << 20
"""Of a chat template."""
SPECIAL_KEYS = ("bos_token", "eos_token", "pad_token", "unk_token")


class Tokenizer:
    """Text to token ids and back, and conversations to prompts.

    backend: the `tokenizers.Tokenizer`, for what is not wrapped here (streaming decoders).
    special: text of the special tokens by role (`bos_token`, `eos_token`, `pad_token`, `unk_token`).
    settings: the other keys of tokenizer_config.json, kept as they were read.
    """

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        *,
        special: dict[str, str] | None = None,
        chat_template: str | None = None,
        settings: dict | None = None,
    ):
        self.backend = backend
        self.special = dict(special or {})
        self.settings = dict(settings or {})
        self.chat_template = ChatTemplate(chat_template) if chat_template is not None else None
        for role, text in self.special.items():
            if self.token_id(text) is None:
                raise CheckpointError(
                    f"tokenizer_config.json: {role} = {text!r} is not in tokenizer.json; add it there or remove the key"
                )

    @property
    def vocab_size(self) -> int:
        """Size of the vocabulary: one more than the largest token id, added tokens included."""
        return max(self.backend.get_vocab(with_added_tokens=True).values(), default=-1) + 1

    def token_id(self, text: str) -> int | None:
        """Id of one token's text, None when the vocabulary does not have it."""
        return self.backend.token_to_id(text)

    @property
    def special_texts(self) -> tuple[str, ...]:
        """Texts of all special tokens: those that `decode` leaves out."""
        return tuple(token.content for token in self.backend.get_added_tokens_decoder().values() if token.special)

    def _special_id(self, role: str) -> int | None:
        return self.token_id(self.special[role]) if role in self.special else None

    @property
    def bos_token_id(self) -> int | None:
        return self._special_id("bos_token")

    @property
    def eos_token_id(self) -> int | None:
        return self._special_id("eos_token")

    @property
    def pad_token_id(self) -> int | None:
        return self._special_id("pad_token")

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Token ids of a text. add_special_tokens: let tokenizer.json's own template add e.g. a first token.

        Raises RequestError for a text that the tokenizer cannot encode, as one without a token for unknown characters.
        """
        with _failing("encode this text"):
            # The library lets other threads run in `encode_batch` alone, and megabytes of text take it seconds.
            return self.backend.encode_batch([text], add_special_tokens=add_special_tokens)[0].ids

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """The text of token ids; bytes that do not form a character (yet) become U+FFFD. Raises RequestError."""
        with _failing("decode these tokens"):
            return self.backend.decode(list(ids), skip_special_tokens=skip_special_tokens)

    def render_chat(
        self, messages: list[dict], *, tools: list[dict] | None = None, add_generation_prompt: bool = True, **names
    ) -> str:
        """The prompt text of a conversation; `names` reach the template (e.g. enable_thinking=False).

        Raises RequestError when there is no template or it refuses the messages.
        """
        if self.chat_template is None:
            raise RequestError(
                "this model has no chat template; use the completions endpoint or a raw prompt", "messages"
            )
        context = {**self.special, "tools": tools, "documents": None, **names}
        return self.chat_template.render(messages, add_generation_prompt=add_generation_prompt, **context)

    def encode_chat(self, messages: list[dict], **options) -> list[int]:
        """Token ids of `render_chat`: the template writes the special tokens itself."""
        return self.encode(self.render_chat(messages, **options), add_special_tokens=False)

    def save(self, folder: str | Path) -> None:
        """Write tokenizer.json, tokenizer_config.json and chat_template.jinja into a folder. Raises OSError."""
        folder = Path(folder)
        write_whole(folder / "tokenizer.json", self.backend.to_str(pretty=True))
        settings = {"tokenizer_class": "PreTrainedTokenizerFast", **self.settings, **self.special}
        write_json(folder / "tokenizer_config.json", settings)
        if self.chat_template is not None:
            write_whole(folder / "chat_template.jinja", self.chat_template.source)


@contextmanager
def _failing(what: str) -> Iterator[None]:
    """The library's errors, panics included, as a RequestError."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except BaseException as error:  # the library raises bare Exception, and panics are not even that
        raise RequestError(f"the model's tokenizer cannot {what}: {error}; its tokenizer.json may be broken") from error


def _token_text(value) -> str | None:
    """A special token is stored as its text or as a dict with `content`."""
    return value.get("content") if isinstance(value, dict) else value


def _template_source(folder: Path, settings: dict) -> str | None:
    """chat_template.jinja, else the key `chat_template` (a text, or a list of named ones)."""
    file = folder / "chat_template.jinja"
    stored = settings.pop("chat_template", None)
    if lexists(file):
        try:
            return read_whole(file, MOST_TEMPLATE_BYTES).decode("utf-8-sig")
        except (OSError, UnicodeError) as error:
            reason = (error.strerror if isinstance(error, OSError) else None) or error
            raise CheckpointError(f"{file} cannot be read: {reason}; fetch or remove it") from error
    if isinstance(stored, list):
        named: Iterable[dict] = (entry for entry in stored if isinstance(entry, dict))
        stored = next((entry.get("template") for entry in named if entry.get("name") == "default"), None)
    if stored is not None and not isinstance(stored, str):
        raise CheckpointError(
            f"{folder / 'tokenizer_config.json'}: chat_template is a {type(stored).__name__}; it must be a text"
        )
    return stored


def parse_backend(source: bytes, place: object) -> tokenizers.Tokenizer:
    """A tokenizer.json as a tokenizer. place: for messages. Raises CheckpointError."""
    try:
        backend = tokenizers.Tokenizer.from_str(source.decode("utf-8-sig"))
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # the library raises bare Exception, and panics are not even that
        raise CheckpointError(f"{place} is not a valid tokenizer: {error}; fetch or save it again") from error
    _forget_training(backend)
    return backend


def _forget_training(backend: tokenizers.Tokenizer) -> None:
    """Settings that training left in tokenizer.json and that would change prompts: here a text is whole and alone, and
    its ids are always the same."""
    backend.no_truncation()
    backend.no_padding()
    if getattr(backend.model, "dropout", None) is not None:
        backend.model.dropout = None


def folder_tokenizer(folder: Path) -> Tokenizer:
    """Read a published tokenizer. Nothing in the folder is executed; the template runs in a sandbox.

    Raises CheckpointError when tokenizer.json is missing or broken, or the other files do not fit it.
    """
    file = folder / "tokenizer.json"
    if not lexists(file):
        raise CheckpointError(f"{folder} has no tokenizer.json; Hyla reads only tokenizers saved in that format")
    try:
        source = read_whole(file, MOST_BYTES)
    except OSError as error:
        raise CheckpointError(f"{file} cannot be read: {error.strerror}; fetch or save it again") from error
    backend = parse_backend(source, file)
    config_file = folder / "tokenizer_config.json"
    settings = read_json(config_file) if lexists(config_file) else {}
    source = _template_source(folder, settings)
    special = {}
    for role in SPECIAL_KEYS:
        text = _token_text(settings.pop(role, None))
        if text is not None and not isinstance(text, str):
            raise CheckpointError(f"{config_file}: {role} = {json.dumps(text)} must be a text or have a `content`")
        if text is not None:
            special[role] = text
    try:
        return Tokenizer(backend, special=special, chat_template=source, settings=settings)
    except CheckpointError as error:
        raise CheckpointError(f"{folder}: {error}") from error
