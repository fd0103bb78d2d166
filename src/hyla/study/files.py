"""A study's TOML file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hyla.study.plan import LanguageStudy, SyntheticStudy, study_of
from hyla.toml_files import read_tables
from hyla.train.recipe_file import with_settings


def read_study(path: Path, settings: Sequence[str] = ()) -> LanguageStudy | SyntheticStudy:
    """settings: "seeds=[0]" and the like, which win over the file. Raises ConfigError that names file and key."""
    return study_of(with_settings(read_tables(path), settings), str(path), path.absolute().parent)
