"""Load on an OpenAI server: a plan of requests, a driver that sends them, and what came of it."""

from hyla.loadtest.driver import drive
from hyla.loadtest.plan import Planned, Workload, make_plan
from hyla.loadtest.report import summarize

__all__ = ["Planned", "Workload", "drive", "make_plan", "summarize"]
