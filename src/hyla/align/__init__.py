"""How far an engine's log-probabilities are from the trainer's: zero, and what every way out of that costs."""

from hyla.lazy import exports

_HOMES = {
    "AlignConfig": "hyla.align.config",
    "Alignment": "hyla.align.run",
    "WAYS": "hyla.align.ways",
    "Way": "hyla.align.ways",
    "aligned": "hyla.align.run",
    "markdown": "hyla.align.report",
}

__all__ = list(_HOMES)

__getattr__, __dir__ = exports(__name__, _HOMES)
