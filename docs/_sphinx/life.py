"""The states of a delivery as a picture and as a table, both from the table that the code uses."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from relevo import TRANSITIONS, Action, Counters, State

PLACES = {
    State.SCHEDULED: (270, 45),
    State.READY: (80, 160),
    State.LEASED: (460, 160),
    State.DONE: (700, 45),
    State.DEAD: (700, 160),
    State.GONE: (270, 350),
}
"""The centre of each state."""

BENDS = {
    (State.LEASED, State.READY): 60,
    (State.DEAD, State.READY): 200,
    (State.DEAD, State.GONE): 130,
}
"""The distance of an arrow's control point from the straight line, to the left of its direction; 0 by default."""

WORDS = {(State.SCHEDULED, State.GONE): 0.82, (State.READY, State.LEASED): 0.65, (State.LEASED, State.READY): 0.35}
"""The position of an arrow's text along the arrow; halfway by default."""


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directives."""
    app.add_directive("mermaid", Life)
    app.add_directive("relevo-transitions", Transitions)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


class Life(SphinxDirective):
    """Shows the picture instead of the diagram, which the page has as text for readers of the source."""

    has_content = True

    def run(self) -> list[nodes.Node]:
        if list(self.content) != list(mermaid()):
            raise self.error("the diagram differs from relevo.TRANSITIONS")
        return [nodes.raw("", "\n".join(svg()), format="html")]


class Transitions(SphinxDirective):
    """Is replaced by the table of all steps, with the effect of each on the counters."""

    def run(self) -> list[nodes.Node]:
        return self.parse_text_to_nodes("\n".join(rows()))


def rows() -> Iterator[str]:
    """Yield the lines of the table."""
    yield "| from | action | to | attempt | lost leases |"
    yield "|---|---|---|---|---|"
    for (start, action), end in TRANSITIONS.items():
        yield f"| {start} | {action.replace('_', ' ')} | {end} | {' | '.join(counted(action))} |"


def counted(action: Action) -> tuple[str, str]:
    """Return the effect of *action* on the attempt and on the lost leases, as two cells."""
    before = Counters(attempt=5, lost_leases=3)
    after = before.after(action)
    pairs = ((before.attempt, after.attempt), (before.lost_leases, after.lost_leases))
    first, second = ("" if new == old else f"+ {new - old}" if new > old else f"{new}" for old, new in pairs)
    return first, second


def arrows() -> dict[tuple[State, State], list[str]]:
    """Return the actions that lead from one state to another, in the order of the table."""
    found: dict[tuple[State, State], list[str]] = {}
    for (start, action), end in TRANSITIONS.items():
        found.setdefault((start, end), []).append(action.replace("_", " "))
    return found


def mermaid() -> Iterator[str]:
    """Yield the lines of the diagram as text."""
    yield "stateDiagram-v2"
    yield "    [*] --> ready: send"
    for (start, end), actions in arrows().items():
        yield f"    {start} --> {end}: {', '.join(actions)}"
    for state in State:
        if state not in {start for start, _ in TRANSITIONS}:
            yield f"    {state} --> [*]"


def svg() -> Iterator[str]:
    """Yield the lines of the picture, which has the colours of the text around it."""
    yield '<svg viewBox="0 0 780 385" role="img" aria-label="The states of a delivery and the steps between"'
    yield '     style="max-width: 100%; font: 13px sans-serif" fill="none" stroke="currentColor">'
    yield '<defs><marker id="head" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="8" markerHeight="8" orient="auto">'
    yield '<path d="M0 0 8 4 0 8Z" fill="currentColor" stroke="none"/></marker></defs>'
    curves = [(_curve(start, end), actions) for (start, end), actions in arrows().items()]
    for (path, _), _ in curves:
        yield f'<path d="{path}" marker-end="url(#head)"/>'
    for (_, place), actions in curves:
        yield _text(*place, ", ".join(actions), around="var(--color-background-primary, white)")
    starts = {start for start, _ in TRANSITIONS}
    for state, (x, y) in PLACES.items():
        width = 1.2 if state in starts else 2.5
        yield f'<rect x="{x - 50}" y="{y - 17}" width="100" height="34" rx="8" stroke-width="{width}"/>'
        yield _text(x, y, state)
    yield "</svg>"


def _text(x: float, y: float, words: str, *, around: str = "none") -> str:
    style = f'style="paint-order: stroke; stroke: {around}; stroke-width: 6"'
    return f'<text x="{x:.0f}" y="{y + 5:.0f}" text-anchor="middle" fill="currentColor" {style}>{words}</text>'


def _curve(start: State, end: State) -> tuple[str, tuple[float, float]]:
    """Return the path from the edge of one state to the edge of another, and the position of its text."""
    ax, ay = PLACES[start]
    bx, by = PLACES[end]
    if start == end:
        return f"M{ax - 20} {ay - 17}C{ax - 50} {ay - 90} {ax + 50} {ay - 90} {ax + 20} {ay - 17}", (ax, ay - 73)
    length = ((bx - ax) ** 2 + (by - ay) ** 2) ** 0.5
    bend = BENDS.get((start, end), 0) / length
    x, y = (ax + bx) / 2 + (ay - by) * -bend, (ay + by) / 2 + (ax - bx) * bend
    (from_x, from_y), (to_x, to_y) = _edge(ax, ay, x, y), _edge(bx, by, x, y)
    path = f"M{from_x:.0f} {from_y:.0f}Q{x:.0f} {y:.0f} {to_x:.0f} {to_y:.0f}"
    t = WORDS.get((start, end), 0.5)
    share, bent, rest = t * t, 2 * t * (1 - t), (1 - t) * (1 - t)
    return path, (rest * from_x + bent * x + share * to_x, rest * from_y + bent * y + share * to_y)


def _edge(x: float, y: float, towards_x: float, towards_y: float) -> tuple[float, float]:
    """Return the point where a line from the centre of a state leaves its box."""
    dx, dy = towards_x - x, towards_y - y
    share = min(54 / abs(dx) if dx else 1e9, 20 / abs(dy) if dy else 1e9)
    return x + dx * share, y + dy * share
