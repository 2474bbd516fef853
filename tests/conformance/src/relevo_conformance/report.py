"""Write a card for a terminal, a program, a build server, or a page."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from xml.etree import ElementTree as ET

import attrs
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from relevo_conformance.card import Card, Counterexample, Line, Status
from relevo_conformance.promise import PROMISES

_STYLES: Mapping[Status, str] = {
    "PASS": "green",
    "FAIL": "bold red",
    "UNKNOWN": "yellow",
    "N/A": "dim",
    "DEVIATES": "magenta",
}
_SHOWN = 3
"""The number of failures of one promise that a terminal shows."""

_VERDICTS = {
    "conformant": "bold green",
    "conformant in part": "green",
    "not conformant": "bold red",
    "unknown": "bold yellow",
}


# --- in all forms ----------------------------------------------------------------------------------


def status_counts(card: Card) -> dict[str, int]:
    """Return the number of promises by status."""
    return {status: sum(line.status == status for line in card.lines) for status in _STYLES}


def _summary(card: Card) -> str:
    return ", ".join(f"{number} {status}" for status, number in status_counts(card).items() if number)


def _circumstances(card: Card) -> str:
    examination = card.examination
    seed = "" if examination.seed is None else f", seed {examination.seed}"
    versions = ", ".join(f"{name} {version}" for name, version in examination.versions.items())
    profile = f"profile {examination.profile}{seed}, {examination.duration:.0f} s"
    return f"{profile}{_part(card)}{_pairs(card)}{_allowances(card)}; {versions}"


def _part(card: Card) -> str:
    """Return how many of the promises were examined, if not all."""
    only = card.examination.only
    return f"; a part of the tests, for {len(only)} of {len(PROMISES)} promises" if only else ""


def _pairs(card: Card) -> str:
    """Return how many pairs of a feature and an operation were met."""
    return f"; pairs: {card.pairs - len(card.unmet_pairs)} of {card.pairs} that can exist" if card.pairs else ""


def _allowances(card: Card) -> str:
    """Return what the harness allows that it does not by default, as it makes the suite less strict."""
    values = ", ".join(
        f"{name} to {value:g} s" + ("" if default is None else f" ({default:g} s by default)")
        for name, (value, default) in card.examination.allows.items()
    )
    return f"; {card.examination.harness} sets {values}" if values else ""


def _exercised(line: Line) -> str:
    return ", ".join(f"{situation} {times}" for situation, (times, _) in line.met.items())


def _failed(card: Card) -> Iterator[tuple[Line, Counterexample]]:
    for line in card.lines:
        if line.status in ("FAIL", "DEVIATES"):
            yield from ((line, failure) for failure in line.failures)


# --- a terminal ------------------------------------------------------------------------------------


def to_terminal(card: Card, console: Console) -> None:
    """Print *card* for a person."""
    with console.capture() as captured:
        _print(card, console)
    for line in captured.get().splitlines():
        console.file.write(f"{line.rstrip()}\n")


def _print(card: Card, console: Console) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column, wraps in (("promise", False), ("level", False), ("", False), ("tests", False), ("", True)):
        table.add_column(column, overflow="fold", no_wrap=not wraps, justify="right" if column == "tests" else "left")
    for line in card.lines:
        table.add_row(
            Text(line.promise.id),
            Text(line.promise.level),
            Text(line.status, style=_STYLES[line.status]),
            Text(str(line.tests or "")),
            Text(line.why or _exercised(line), style="dim"),
        )
    console.print(Text(f"{card.examination.transport}, driven by {card.examination.harness}", style="bold"))
    console.print()
    console.print(table)
    for line in card.lines:
        if line.failures:
            console.print()
            _print_failures(line, console)
    for error in card.errors:
        console.print()
        console.print(Text("error  ", style="bold yellow") + Text(error))
    console.print()
    console.print(Text(card.verdict, style=_VERDICTS[card.verdict]) + Text(f": {_summary(card)}"))
    console.print(Text(_circumstances(card), style="dim"))


def _print_failures(line: Line, console: Console) -> None:
    """Print how a promise is broken, the shortest programs first."""
    console.print(Text(f"{line.status}  {line.promise.id}", style=_STYLES[line.status]))
    console.print(Text(line.promise.sentence, style="italic"))
    failures = sorted(line.failures, key=lambda failure: not failure.shrunk)
    for failure in failures[:_SHOWN]:
        console.print()
        console.print(Text(f"  {failure.test}{_doubt(failure)}"), soft_wrap=True)
        console.print(Padding(Text(failure.what), (0, 0, 0, 4)))
        if failure.program:
            console.print(Padding(Text(failure.program, style="cyan"), (1, 0, 1, 4)))
        if failure.written:
            console.print(Text(f"    history: {failure.written}{_alone(failure)}"), soft_wrap=True)
        if failure.replay:
            console.print(Text(f"    again:   {failure.replay}"), soft_wrap=True)
    if more := len(failures[_SHOWN:]):
        console.print(Text(f"\n  and {more} more test{'s' * (more > 1)}; --report has them all", style="dim"))


def _doubt(failure: Counterexample) -> str:
    return "" if failure.reproduced else " (not reproduced in a second try; the history shows it)"


def _alone(failure: Counterexample) -> str:
    match failure.replays:
        case True:
            return ""
        case False:
            return " (a replay of the history alone does not break the promise)"
        case None:
            return " (the replay of the history did not finish: no time was left, or the harness failed)"


# --- a program -------------------------------------------------------------------------------------


def to_dict(card: Card) -> dict[str, object]:
    """Return *card* as values of JSON."""
    examination = card.examination
    return {
        "verdict": card.verdict,
        "transport": examination.transport,
        "harness": examination.harness,
        "profile": examination.profile,
        "seed": examination.seed,
        "only": list(examination.only),
        "duration": round(examination.duration, 3),
        "versions": dict(examination.versions),
        "allows": {
            name: {"seconds": value, "default": default} for name, (value, default) in examination.allows.items()
        },
        "command": examination.command,
        "capabilities": attrs.asdict(examination.capabilities),
        "summary": status_counts(card),
        "promises": [_line_to_dict(line) for line in card.lines],
        "errors": list(card.errors),
        "met": dict(card.met),
        "hooks": dict(card.hooks),
        "pairs": {"can exist": card.pairs, "unmet": [list(pair) for pair in card.unmet_pairs]},
    }


def _line_to_dict(line: Line) -> dict[str, object]:
    return {
        "id": line.promise.id,
        "level": line.promise.level,
        "sentence": line.promise.sentence,
        "status": line.status,
        "why": line.why,
        "tests": line.tests,
        "met": {situation: {"times": times, "floor": floor} for situation, (times, floor) in line.met.items()},
        "failures": [
            attrs.asdict(failure, recurse=False, filter=lambda field, _: field.name != "history")
            for failure in line.failures
        ],
    }


def to_json(card: Card) -> str:
    """Return *card* as JSON."""
    return json.dumps(to_dict(card), indent=2) + "\n"


# --- a build server --------------------------------------------------------------------------------


def properties(card: Card) -> Mapping[str, str]:
    """Return the properties of the whole run in JUnit's XML."""
    about = {"verdict": card.verdict, "profile": card.examination.profile, "seed": str(card.examination.seed)}
    met = {f"met: {situation}": str(times) for situation, times in card.met.items()}
    hooks = {f"hook: {name}": str(calls) for name, calls in card.hooks.items()}
    allows = {name: str(value) for name, (value, _) in card.examination.allows.items()}
    return {**about, **allows, **card.examination.versions, **met, **hooks}


def to_junit(card: Card) -> str:
    """Return *card* as JUnit's XML: a test case for each promise, one for the harness."""
    counts = status_counts(card)
    root = ET.Element(
        "testsuite",
        name=f"relevo-conformance {card.examination.transport}",
        tests=str(len(card.lines) + 1),
        failures=str(counts["FAIL"]),
        errors=str(int(bool(card.errors))),
        skipped=str(counts["UNKNOWN"] + counts["N/A"] + counts["DEVIATES"]),
        time=f"{card.examination.duration:.3f}",
    )
    about = ET.SubElement(root, "properties")
    for name, value in properties(card).items():
        ET.SubElement(about, "property", name=name, value=value)
    for line in card.lines:
        case = ET.SubElement(root, "testcase", classname=card.examination.harness, name=line.promise.id)
        if line.status == "FAIL":
            failure = ET.SubElement(case, "failure", message=line.promise.sentence)
            failure.text = "\n\n".join(map(_in_words, line.failures))
        elif line.status != "PASS":
            ET.SubElement(case, "skipped", message=f"{line.status}: {line.why}")
        if exercised := _exercised(line):
            ET.SubElement(case, "system-out").text = exercised
    case = ET.SubElement(root, "testcase", classname=card.examination.harness, name="harness")
    if card.errors:
        ET.SubElement(case, "error", message="the harness is at fault").text = "\n".join(card.errors)
    ET.indent(root)
    return ET.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _in_words(failure: Counterexample) -> str:
    rows = (f"{failure.test}{_doubt(failure)}", failure.what, failure.program, failure.written, failure.replay)
    return "\n".join(row for row in rows if row)


# --- a page ----------------------------------------------------------------------------------------


def to_markdown(card: Card) -> str:
    """Return *card* as a page of Markdown."""
    circumstances = _circumstances(card)
    rows = [
        f"# {card.examination.transport}: {card.verdict}",
        "",
        f"{_summary(card)}. {circumstances[:1].upper()}{circumstances[1:]}.",
        "",
        "| promise | level | | tests | |",
        "|---|---|---|---|---|",
    ]
    rows += (
        f"| `{line.promise.id}` | {line.promise.level} | {line.status} | {line.tests or ''} | "
        f"{_cell(line.why or _exercised(line))} |"
        for line in card.lines
    )
    for line, failure in _failed(card):
        rows += ["", f"## {line.status}: {line.promise.id}", "", line.promise.sentence, ""]
        rows += [f"`{failure.test}`{_doubt(failure)}:", "", "```text", failure.what, "```"]
        rows += ["", "```text", failure.program, "```"] if failure.program else []
        rows += ["", f"History: `{failure.written}`{_alone(failure)}"] if failure.written else []
        rows += ["", "```sh", failure.replay, "```"] if failure.replay else []
    if card.errors:
        rows += ["", "## Errors", "", *(f"- {error}" for error in card.errors)]
    return "\n".join(rows) + "\n"


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())


WRITERS: Mapping[str, Callable[[Card], str]] = {".json": to_json, ".xml": to_junit, ".md": to_markdown}
"""By the ending of a file's name."""
