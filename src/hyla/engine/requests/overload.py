"""The refusal that says when to come back."""

from __future__ import annotations

from hyla.errors import CapacityError


class Overloaded(CapacityError):
    """Too much waits already; the same request may succeed later. `retry_after_seconds` estimates when."""

    def __init__(self, message: str, retry_after_seconds: int = 1):
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds
