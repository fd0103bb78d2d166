"""The five errors of Hyla. Each message names the thing, the value, and the way out."""


class HylaError(Exception):
    """Base of every error that Hyla raises on purpose."""


class ConfigError(HylaError):
    """A configuration field is unknown, missing, out of range, or contradicts another one."""


class CheckpointError(HylaError):
    """A checkpoint folder or tensor file is missing, damaged, or does not fit the model."""


class BackendUnavailable(HylaError):
    """The chosen backend cannot compute this on this machine; the message gives the reason and the alternatives."""


class CapacityError(HylaError):
    """A request needs more memory than the engine was given, even when it runs alone."""


class RequestError(HylaError):
    """A request is not valid. `param` names the offending field, as in OpenAI's error body; `code` says which kind of
    error it is, where programs tell them apart."""

    def __init__(self, message: str, param: str | None = None, code: str | None = None):
        super().__init__(message)
        self.param, self.code = param, code
