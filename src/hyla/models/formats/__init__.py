"""Published formats as data: families, their rules from tensor names to ours, and the sizes that exist. No PyTorch."""

from hyla.lazy import exports

_HOMES = {
    "Family": "hyla.models.formats.family",
    "assumptions": "hyla.models.formats.presets",
    "families": "hyla.models.formats.registry",
    "family_of": "hyla.models.formats.registry",
    "family_of_published": "hyla.models.formats.registry",
    "find_preset": "hyla.models.formats.presets",
    "is_preset": "hyla.models.formats.presets",
    "known_model_types": "hyla.models.formats.registry",
}

__all__ = list(_HOMES)

__getattr__, __dir__ = exports(__name__, _HOMES)
