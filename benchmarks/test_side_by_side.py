"""The results of `make bench` are computed correctly, and the peers that it measures exist."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

import pytest

from peers.meter import VARIABLE, Meter
from peers.quiet import Machine
from peers.workload import Measured
from side_by_side import (
    LATENCY_ON_MARIADB,
    LATENCY_ON_POSTGRESQL,
    ON_MARIADB,
    ON_POSTGRESQL,
    ON_SQLITE,
    SENDING_ON_MARIADB,
    SENDING_ON_POSTGRESQL,
    SENDING_ON_SQLITE,
    SERVERS,
    Contestant,
    absent,
    measure,
    without,
)
from summary import Bar, Figures, bars, latencies, rates

pytestmark = pytest.mark.slow("measures most contestants once")

BENCHMARKS = Path(__file__).parent

PEERS_ON_POSTGRESQL = (
    ("peers.postgresql:Floor", "psycopg"),
    ("peers.relevo:OnPostgresql", "psycopg"),
    ("peers.pgqueuer:PgQueuer", "pgqueuer"),
    ("peers.procrastinate:Procrastinate", "procrastinate"),
    ("peers.django_tasks_db:Django", "django_tasks_db"),
    ("peers.chancy:Chancy", "chancy"),
    ("peers.dbos:Dbos", "dbos"),
    ("peers.oban:Oban", "oban"),
)
"""The classes of the peers, and what each of them needs."""


def rounds(*values: float, left: int = 0) -> Figures:
    machine = Machine(busy=None, sync=100.0)
    return Figures([Measured(value=value, p95=value * 2, events=100, left=left, machine=machine) for value in values])


def test_ratios_are_those_of_the_medians() -> None:
    table = {"driver alone": rounds(4000, 100, 5000), "relevo": rounds(2000, 2100, 9), "Other": rounds(500, 7000, 499)}

    heads, *lines = (line.split() for line in rates("consuming", table, {"Oth": "lost", "relevo": "again"}))

    assert heads[0] == "consuming"
    assert lines == [
        ["driver", "alone", "4,000", "100", "to", "5,000", "100%", "0.50", "x"],
        ["relevo", "2,000", "9", "to", "2,100", "50%", "again"],
        ["Other", "500", "499", "to", "7,000", "12%", "4.00", "x", "lost"],
    ]


def test_latencies_are_told_by_how_much_more_they_are_than_the_floor() -> None:
    table = {"driver alone": rounds(1.5, 1.0, 9.0), "relevo": rounds(2.25, 2.0, 8.0)}

    _, *lines = (line.split() for line in latencies("on its way", table))

    assert lines == [
        ["driver", "alone", "1.50", "1.00", "to", "9.00", "3.00", "+0.00"],
        ["relevo", "2.25", "2.00", "to", "8.00", "4.50", "+0.75"],
    ]


def test_what_was_handled_and_not_done_is_told() -> None:
    line = list(rates("consuming", {"Other": rounds(500, left=36)}, {}))[-1]

    assert line.endswith("36 left")


@pytest.mark.parametrize(("other", "met"), [((400, 500, 9000), True), ((400, 501, 9000), False)])
def test_a_bar_is_met_from_its_number_on(other: tuple[float, ...], met: bool) -> None:  # noqa: FBT001
    table = {"Other, slow": rounds(1), "Other, quick": rounds(*other), "relevo": rounds(1500)}
    bar = Bar(table="consuming", beside="Other", times=3.0)

    verdict = bar.verdict(table)

    assert verdict is not None
    assert verdict.met is met
    assert next(line for line in bars([verdict]) if "consuming" in line).endswith("MISSED") is not met


@pytest.mark.parametrize(("own", "met"), [(3.5, True), (3.6, False)])
def test_a_bar_of_milliseconds_is_met_up_to_its_number(own: float, met: bool) -> None:  # noqa: FBT001
    table = {"driver alone": rounds(1.5), "relevo": rounds(own)}

    verdict = Bar(table="on its way", beside="driver alone", within=2.0).verdict(table)

    assert verdict is not None
    assert verdict.met is met


def test_a_bar_beside_whom_nobody_measured_has_no_verdict() -> None:
    bar = Bar(table="consuming", beside="Other", times=3.0)

    assert bar.verdict({"relevo": rounds(1500)}) is None
    assert bar.verdict({"Other": rounds(1500)}) is None


def test_another_process_notes_in_a_meter(tmp_path: Path) -> None:
    meter = Meter.made(tmp_path / "meter", events=2)
    environ = {**os.environ, "PYTHONPATH": str(BENCHMARKS), VARIABLE: str(meter.path)}

    for program, came in (("note(7)", False), ("note(7); note(8)", True)):
        words = [sys.executable, "-c", f"from peers.meter import note; {program}"]
        subprocess.run(words, env=environ, check=True)
        assert meter.came(2) is came

    assert [sent for sent, _ in meter.read()] == [7, 8]
    assert meter.read() == sorted(meter.read(), key=lambda pair: pair[1])


def test_relevo_is_measured_by_a_worker_that_leaves_nothing() -> None:
    options = argparse.Namespace(events=50, patience=0.0)

    measured = measure(Contestant(ON_SQLITE, "relevo", "peers.relevo:OnSqlite"), options)

    assert (measured.events, measured.left, measured.twice) == (50, 0, 0)
    assert measured.value > 0


@pytest.mark.parametrize("kind", ["peers.sqlite:Sqlite", "peers.relevo:OnSqliteResident"])
def test_sending_is_measured_too(kind: str) -> None:
    options = argparse.Namespace(events=20, patience=0.0)

    measured = measure(Contestant(SENDING_ON_SQLITE, "a peer", kind), options)

    assert measured.events == 20
    assert measured.value > 0


@pytest.mark.parametrize(("kind", "library"), PEERS_ON_POSTGRESQL)
def test_a_peer_on_postgresql_handles_every_event_once(kind: str, library: str, postgresql_url: str) -> None:
    pytest.importorskip(library, reason="only make bench installs it")
    options = argparse.Namespace(events=50, postgresql=postgresql_url, patience=0.0)

    measured = measure(Contestant(ON_POSTGRESQL, "a peer", kind), options)

    assert (measured.events, measured.left, measured.twice) == (50, 0, 0)
    assert measured.value > 0


@pytest.mark.parametrize(("kind", "library"), PEERS_ON_POSTGRESQL)
def test_sending_of_a_peer_on_postgresql_is_measured(kind: str, library: str, postgresql_url: str) -> None:
    pytest.importorskip(library, reason="only make bench installs it")
    options = argparse.Namespace(events=5, postgresql=postgresql_url, patience=0.0)

    measured = measure(Contestant(SENDING_ON_POSTGRESQL, "a peer", kind), options)

    assert measured.events == 5
    assert measured.value > 0


@pytest.mark.parametrize("kind", ["peers.mariadb:Floor", "peers.relevo:OnMariadb"])
def test_a_peer_on_mariadb_handles_every_event_once(kind: str, mariadb_url: str) -> None:
    options = argparse.Namespace(events=50, amqp=None, postgresql=None, mariadb=mariadb_url, patience=0.0)
    if (reason := absent(options).get(ON_MARIADB)) is not None:
        pytest.skip(reason)

    measured = measure(Contestant(ON_MARIADB, "a peer", kind), options)

    assert (measured.events, measured.left, measured.twice) == (50, 0, 0)


@pytest.mark.slow("waits until workers are calm, alike on every Python")
@pytest.mark.parametrize("kind", ["peers.postgresql:Floor", "peers.relevo:OnPostgresql"])
def test_events_on_their_way_through_postgresql_are_timed(kind: str, postgresql_url: str) -> None:
    options = argparse.Namespace(seconds=0.2, postgresql=postgresql_url, patience=0.0)

    measured = measure(Contestant(LATENCY_ON_POSTGRESQL, "a peer", kind), options)

    assert (measured.events, measured.left, measured.twice) == (10, 0, 0)
    assert 0 < measured.value <= (measured.p95 or 0.0)


def test_a_bar_may_be_a_time_of_its_own() -> None:
    slow, quick = ({"relevo": rounds(value)} for value in (3.5, 2.5))
    bar = Bar(table="on its way", most=3.0)

    assert (bar.text, bar.verdict({})) == ("p50 of 3 ms at most", None)
    found = [verdict for table in (slow, quick) if (verdict := bar.verdict(table))]
    assert [(each.reached, each.met) for each in found] == [("3.50 ms", False), ("2.50 ms", True)]


def test_a_table_whose_server_is_not_named_is_left_out() -> None:
    options = argparse.Namespace(amqp=None, postgresql=None, mariadb=None)

    assert set(absent(options)) == set(SERVERS)
    assert absent(options)[ON_POSTGRESQL] == "no server; name one with --postgresql"


def test_a_table_of_a_database_that_is_not_supported_is_left_out() -> None:
    options = argparse.Namespace(amqp="amqp://x", postgresql="postgresql://x/y", mariadb="oracle://x/y")

    reasons = absent(options)

    assert set(reasons) == {SENDING_ON_MARIADB, ON_MARIADB, LATENCY_ON_MARIADB}
    assert "oracle" in reasons[ON_MARIADB]


def test_a_peer_that_this_python_cannot_install_is_left_out() -> None:
    older, newer = (without("oban", python=python) for python in ((3, 11, 7), (3, 12, 0)))

    assert older == "oban needs Python 3.12 or newer; this is 3.11.7"
    assert newer == "oban is not installed; make bench installs everything that is measured"
