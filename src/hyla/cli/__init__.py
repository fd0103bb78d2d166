"""The `hyla` command: one file per verb."""

from __future__ import annotations

import logging
import sys


def main() -> None:
    """Run the command line. Errors that Hyla raises on purpose, and the system's, end in one line and status 1."""
    if sys.argv[1:2] == ["serve"] and not {"--help", "-h"} & set(sys.argv):
        from hyla.engine.hosting.newborn import expect

        expect()  # it loads PyTorch while we find out what it is to serve
    from hyla.cli.app import app
    from hyla.errors import HylaError
    from hyla.terminal_text import escaped, shortened

    if logging.lastResort is not None:  # what is logged where no verb has set up a log
        logging.lastResort.setFormatter(LineFormatter())
    try:
        app()
    except (HylaError, OSError) as error:
        print(f"error: {escaped(shortened(str(error)))}", file=sys.stderr)
        sys.exit(1)


class LineFormatter(logging.Formatter):
    """A message as one line."""

    def format(self, record: logging.LogRecord) -> str:
        from hyla.terminal_text import escaped, shortened

        return escaped(shortened(super().format(record)))
