"""The `hyla` command: one file per verb."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line. Errors that Hyla raises on purpose, and the system's, end in one line and status 1."""
    from hyla.cli.app import app
    from hyla.errors import HylaError

    try:
        app()
    except (HylaError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
