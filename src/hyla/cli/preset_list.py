"""`hyla inspect` without a name: the published sizes."""

from __future__ import annotations

import json


def list_presets(as_json: bool) -> None:
    """Print each published size with its family, its context and what is assumed of it."""
    from hyla.cli.console import console
    from hyla.models.formats.presets import assumptions, presets

    found = {
        name: {"family": family.name, "context": family.preset(name).max_len, "assumed": assumptions(name)}
        for name, family in presets().items()
    }
    if as_json:
        print(json.dumps(found))
        return
    for name, about in found.items():
        assumed = f"  assumed: {', '.join(about['assumed'])}" if about["assumed"] else ""
        line = f"{name:<28}{about['family']:<20}{about['context']:>12,} tokens{assumed}"
        console.print(line, markup=False, soft_wrap=True)
    console.print("`hyla inspect NAME` shows one.", markup=False)
