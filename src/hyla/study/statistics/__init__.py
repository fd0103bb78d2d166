"""Statistics of a study: laws with intervals, comparisons by paired seeds, power, a recommendation.

Pure functions of points; no files, no torch. What is computed, and why so: docs/study-statistics.md.
"""

from hyla.study.statistics.comparison import Comparison, all_others, compare, compare_all
from hyla.study.statistics.efficiency import Crossing, Efficiency, crossing, efficiency
from hyla.study.statistics.laws import Law, LawKind, NotFitted, fit_law, fit_laws
from hyla.study.statistics.points import Better, Interval, NoiseOf, Point
from hyla.study.statistics.power import NextRuns, next_runs, power, smallest_difference
from hyla.study.statistics.recommend import Cost, Recommendation, recommend

__all__ = [
    "Better",
    "Comparison",
    "Cost",
    "Crossing",
    "Efficiency",
    "Interval",
    "Law",
    "LawKind",
    "NextRuns",
    "NoiseOf",
    "NotFitted",
    "Point",
    "Recommendation",
    "all_others",
    "compare",
    "compare_all",
    "crossing",
    "efficiency",
    "fit_law",
    "fit_laws",
    "next_runs",
    "power",
    "recommend",
    "smallest_difference",
]
