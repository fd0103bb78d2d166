"""HTTP/1.1 as h11 reads it, without what two servers on a way could read in two ways (request smuggling)."""

from __future__ import annotations

import h11

MOST_HEADERS = 256
"""Lines of one head."""
FREE_CHUNKS = 4096
"""Chunks of one body whose size is not looked at."""
LEAST_CHUNK_BYTES = 64
"""Of more chunks, the bytes that each must have on average: reading one takes as long as reading thousands of bytes."""
LONGEST_REASON = 200
"""Characters of what h11 says, which may repeat what was sent."""


class StrictConnection(h11.Connection):
    """Refuses a request whose length is told twice, one whose head has very many lines, one whose body comes in very
    many small chunks, and HTTP/1.0 with an encoding.

    mistake: the status and the reason of what was refused last, h11's own refusals included.
    """

    mistake: tuple[int, str] | None = None
    _num_chunks = _num_bytes = 0
    """Of the present body."""

    def next_event(self):
        try:
            event = super().next_event()
            if isinstance(event, h11.Request):
                self._num_chunks = self._num_bytes = 0
                _check_head(event)
            elif isinstance(event, h11.Data):
                self._check_chunks(event)
        except h11.RemoteProtocolError as error:
            # h11 would say 501 to an encoding: what a client sends is no failure of the server.
            status = error.error_status_hint if error.error_status_hint < 500 else 400
            self.mistake = (status, str(error)[:LONGEST_REASON])
            raise
        return event

    def _check_chunks(self, data: h11.Data) -> None:
        """Raises RemoteProtocolError for too many small ones."""
        self._num_bytes += len(data.data)
        self._num_chunks += data.chunk_start
        if self._num_chunks > FREE_CHUNKS + self._num_bytes // LEAST_CHUNK_BYTES:
            raise h11.RemoteProtocolError("the body comes in very many small chunks")


def _check_head(request: h11.Request) -> None:
    """Raises RemoteProtocolError for what is refused."""
    if len(request.headers) > MOST_HEADERS:
        raise h11.RemoteProtocolError(f"the head has more than {MOST_HEADERS} lines", error_status_hint=431)
    if request.http_version not in (b"1.0", b"1.1"):
        version = request.http_version.decode("ascii")
        raise h11.RemoteProtocolError(f"HTTP/{version} is not spoken here")
    names = [name for name, _ in request.headers]
    if b"transfer-encoding" not in names:
        return
    if b"content-length" in names:
        raise h11.RemoteProtocolError("Content-Length and Transfer-Encoding exclude each other")
    if request.http_version != b"1.1":
        raise h11.RemoteProtocolError("HTTP/1.0 has no Transfer-Encoding")
