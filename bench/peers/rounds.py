"""Rounds in which the engines take turns, and what they say: medians, and ratios within rounds."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass, field

from bench.peers.process import Peer, PeerError

Work = Callable[[Peer], float]
"""One engine's rate of one round: tokens (or bytes) a second."""


@dataclass
class Row:
    """One piece of work: what every engine gave in every round, or why it gave nothing."""

    title: str
    rates: dict[str, list[float]]
    reasons: dict[str, str] = field(default_factory=dict)
    token_bytes: float | None = None
    """What a token must read, where that is what bounds it."""
    bandwidth: list[float] = field(default_factory=list)
    """Bytes a second of a plain sum, in the same rounds."""
    notes: dict[str, str] = field(default_factory=dict)
    first: str = "hyla"
    """Who is held against the others."""

    def median(self, name: str) -> float:
        return statistics.median(self.rates[name])

    def ratios(self, other: str) -> tuple[float, float, float] | None:
        """Median, least and largest ratio of the first one's rates to another's, within rounds; None without them."""
        pairs = [one / two for one, two in zip(self.rates.get(self.first, ()), self.rates.get(other, ()))]
        return (statistics.median(pairs), min(pairs), max(pairs)) if pairs else None

    def best(self) -> str | None:
        """The fastest of the others, by medians."""
        names = [name for name in self.rates if name != self.first]
        return max(names, key=self.median, default=None)

    def share(self, name: str) -> float | None:
        """Of the bandwidth: the median over rounds of (bytes a token x tokens a second) / bytes a second."""
        pairs = zip(self.rates.get(name, ()), self.bandwidth)
        shares = [self.token_bytes * rate / read for rate, read in pairs] if self.token_bytes else []
        return statistics.median(shares) if shares else None


def interleaved(
    title: str, peers: dict[str, Peer], work: Work, rounds: int, *, memory: Peer | None = None, warm_up: int = 1
) -> Row:
    """Every engine's rate in every round; all but one are stopped at any time. One that fails leaves the row, with its
    reason. memory: reads between the engines."""
    row, left = Row(title, {name: [] for name in peers}), dict(peers)
    for number in range(-warm_up, rounds):
        if memory is not None:
            read = _turn(memory, lambda peer: peer.ask("read", passes=3))
            row.bandwidth += [read] if number >= 0 else []
        for name in _order(list(left), number):
            try:
                rate = _turn(left[name], work)
            except PeerError as error:
                row.reasons[name] = str(error)
                del row.rates[name], left[name]
                continue
            row.rates[name] += [rate] if number >= 0 else []
    return row


def _order(names: list[str], number: int) -> list[str]:
    """Every other round backwards, so that nobody always follows the same one."""
    return names if number % 2 else names[::-1]


def _turn(peer: Peer, work: Work) -> float:
    peer.wake()
    try:
        return work(peer)
    finally:
        peer.rest()


def each(peers: dict[str, Peer], ask: Callable[[Peer], object]) -> tuple[dict[str, object], dict[str, str]]:
    """One answer of everyone, outside any round: answers, and the reasons of those that have none."""
    answers: dict[str, object] = {}
    reasons: dict[str, str] = {}
    for name, peer in peers.items():
        peer.wake()
        try:
            answers[name] = ask(peer)
        except PeerError as error:
            reasons[name] = str(error)
        finally:
            peer.rest()
    return answers, reasons


def tokens_per_second(seconds: list[float], skipped: int) -> float:
    """By the median token; the first ones of a round warm the caches that the engine before used."""
    return 1 / statistics.median(seconds[skipped:])


def as_json(row: Row) -> dict:
    found: dict = {"rates": row.rates, "reasons": row.reasons, "notes": row.notes}
    if row.token_bytes:
        found |= {"token_bytes": row.token_bytes, "bandwidth": row.bandwidth}
    return found
