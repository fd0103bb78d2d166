"""Published sizes by name, over all families."""

from __future__ import annotations

from difflib import get_close_matches
from functools import lru_cache

from hyla.errors import ConfigError
from hyla.models.formats.family import Family
from hyla.models.formats.registry import families


@lru_cache(maxsize=1)
def presets() -> dict[str, Family]:
    """The name of each published size and its family, in alphabetical order."""
    named = {name: family for family in families() for name in family.sizes}
    return dict(sorted(named.items(), key=lambda item: item[0].lower()))


def assumptions(name: str) -> dict[str, str]:
    """What no source of a published size gives, by its exact name: key -> value and where it comes from."""
    family = presets()[name]
    published, reasons = family.sizes[name], family.assumed.get(name, {})
    return {key: f"{published[key]}, {why}" if key in published else why for key, why in reasons.items()}


def is_preset(name: str) -> bool:
    """Whether `find_preset` knows the name."""
    return name.rsplit("/", 1)[-1].lower() in {known.lower() for known in presets()}


def find_preset(name: str) -> tuple[str, Family]:
    """A published size in any case, with or without its owner ("Qwen/..."): its exact name and its family.

    Raises ConfigError that suggests the closest names.
    """
    wanted = name.rsplit("/", 1)[-1].lower()
    by_lower = {known.lower(): known for known in presets()}
    if wanted not in by_lower:
        begun = [known for known in by_lower if known.startswith(wanted)]
        similar = get_close_matches(wanted, by_lower, n=3, cutoff=0.5)
        close = [by_lower[known] for known in dict.fromkeys([*begun, *similar])][:3]
        advice = f"did you mean {', '.join(close)}?" if close else f"there are {', '.join(presets())}"
        raise ConfigError(f"{name!r} is neither a model folder nor a preset; {advice}")
    return by_lower[wanted], presets()[by_lower[wanted]]
