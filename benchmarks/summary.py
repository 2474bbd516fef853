"""The results of a run of benchmarks/side_by_side.py: medians, ratios of them, and which bars were met."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence

import attrs

from peers.workload import Measured

RELEVO = "relevo"


@attrs.frozen
class Figures:
    """The rounds of one contestant in one of the tables."""

    rounds: Sequence[Measured]

    @property
    def value(self) -> float:
        """The median of the rounds."""
        return statistics.median(each.value for each in self.rounds)

    @property
    def span(self) -> tuple[float, float]:
        """The minimum and the maximum of the rounds."""
        values = [each.value for each in self.rounds]
        return min(values), max(values)

    @property
    def p95(self) -> float:
        """The median of the rounds' 95th percentiles, in milliseconds."""
        return statistics.median(each.p95 or 0.0 for each in self.rounds)

    @property
    def left(self) -> int:
        """The number of events that were handled but not done, in the worst round."""
        return max(each.left for each in self.rounds)

    @property
    def twice(self) -> int:
        """The number of repeated calls, in the worst round."""
        return max(each.twice for each in self.rounds)


Table = Mapping[str, Figures]
"""By contestant, in order; the first is the floor."""


@attrs.frozen(kw_only=True)
class Bar:
    """The result that relevo has to reach in one of the tables, relative to a contestant or by itself."""

    table: str
    beside: str = ""
    """The beginning of the contestant's name; the best of several counts."""

    times: float | None = None
    """The required ratio of events a second."""

    most: float | None = None
    """The maximum of milliseconds."""

    within: float | None = None
    """The maximum of additional milliseconds."""

    @property
    def text(self) -> str:
        """The requirement, in words."""
        if self.most is not None:
            return f"p50 of {self.most:g} ms at most"
        if self.within is not None:
            return f"p50 within {self.within:g} ms of {self.beside}"
        return f"{self.times:g} times {self.beside}"

    def verdict(self, table: Table) -> Verdict | None:
        """Return the verdict, or ``None`` unless both were measured."""
        if self.most is not None:
            return None if RELEVO not in table else self._absolute(table[RELEVO].value, self.most)
        rivals = [figures.value for name, figures in table.items() if name.startswith(self.beside)]
        if RELEVO not in table or not rivals:
            return None
        own = table[RELEVO].value
        if self.within is not None:
            more = own - min(rivals)
            return Verdict(self, f"{more:+.2f} ms", met=more <= self.within)
        ratio = own / max(rivals)
        return Verdict(self, f"{ratio:.2f} times", met=ratio >= (self.times or 0.0))

    def _absolute(self, value: float, most: float) -> Verdict:
        return Verdict(self, f"{value:.2f} ms", met=value <= most)


@attrs.frozen
class Verdict:
    """The result for a bar."""

    bar: Bar
    reached: str
    met: bool = attrs.field(kw_only=True)


def rates(title: str, table: Table, crashes: Mapping[str, str]) -> Iterator[str]:
    """Yield the lines of a table of events a second, with what a killed worker does to its event (*crashes*)."""
    floor = next(iter(table.values())).value
    own = table[RELEVO].value if RELEVO in table else None
    yield f"{title:38}{'events/s':>10}{'least to most':>20}{'of the floor':>14}{'relevo is':>12}   after a kill"
    for name, figures in table.items():
        least, most = figures.span
        ratio = "" if own is None or name == RELEVO else f"{own / figures.value:.2f} x"
        span = f"{least:,.0f} to {most:,.0f}"
        crash = next((what for peer, what in crashes.items() if name.startswith(peer)), "")
        line = f"  {name:36}{figures.value:10,.0f}{span:>20}{figures.value / floor:14.0%}{ratio:>12}   {crash}"
        yield line.rstrip() + remark(figures)


def latencies(title: str, table: Table) -> Iterator[str]:
    """Yield the lines of a table of milliseconds."""
    floor = next(iter(table.values())).value
    yield f"{title:38}{'p50 ms':>10}{'least to most':>20}{'p95 ms':>14}{'more':>12}"
    for name, figures in table.items():
        least, most = figures.span
        span = f"{least:.2f} to {most:.2f}"
        line = f"  {name:36}{figures.value:10.2f}{span:>20}{figures.p95:14.2f}{figures.value - floor:+12.2f}"
        yield line + remark(figures)


def remark(figures: Figures) -> str:
    """Return the remark at the end of a line, empty if there is none."""
    remarks = [f"{number} {what}" for number, what in ((figures.left, "left"), (figures.twice, "twice")) if number]
    return f"   {', '.join(remarks)}" if remarks else ""


def bars(verdicts: Sequence[Verdict]) -> Iterator[str]:
    """Yield a line for each bar."""
    yield f"{'relevo has to reach':38}{'required':>34}{'reached':>18}"
    for each in verdicts:
        said = "" if each.met else "   MISSED"
        yield f"  {each.bar.table:36}{each.bar.text:>34}{each.reached:>18}{said}"
