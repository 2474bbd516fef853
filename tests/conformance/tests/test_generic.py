"""A transport that has no harness is opened by its options, and what cannot be done to it stays unknown."""

from __future__ import annotations

from pathlib import Path

import attrs
import pytest

from relevo import Capabilities, Secret
from relevo.errors import ConfigurationError, TransportClosedError
from relevo_conformance import HookMissing
from relevo_conformance._generic import converted, generic_harness
from relevo_conformance._naming import harness_of
from relevo_conformance.bench import Bench
from relevo_conformance.examination import examine
from relevo_memory import MemoryTransport
from relevo_memory.conformance import MemoryHarness
from relevo_sql import SqlTransport


@attrs.frozen(kw_only=True)
class Options:
    url: Secret
    directory: Path = Path()
    folder: Path | None = None
    number: int = 1
    share: float = 0.5
    quick: bool = False


def test_texts_become_what_the_options_are() -> None:
    options = converted(Options, {"url": "x://y", "folder": "f", "number": "3", "share": "0.25", "quick": "true"})

    assert options.url.reveal() == "x://y"
    assert (options.folder, options.number, options.share, options.quick) == (Path("f"), 3, 0.25, True)


@pytest.mark.parametrize(
    "given, told",
    [
        ({"url": "x", "number": "many"}, "number: "),
        ({}, 'Options: expected the option "url"; pass --option url=…'),
    ],
)
def test_a_text_that_cannot_be_meant_is_refused(given: dict[str, str], told: str) -> None:
    with pytest.raises(ConfigurationError, match=told):
        converted(Options, given)


def test_a_name_leads_to_the_harness_of_that_name() -> None:
    assert harness_of("memory") is MemoryHarness
    assert harness_of("relevo_memory.conformance:MemoryHarness") is MemoryHarness


def test_a_transport_takes_its_own_options_and_no_others(tmp_path: Path) -> None:
    harness = harness_of("relevo_sql:SqlTransport")

    assert harness.transport is SqlTransport
    options = {"url", "busy_timeout", "poll", "notify", "schema", "dialect", "tls", "file_mode", "inbox_keep", "keep"}
    assert set(harness.takes) == options
    with pytest.raises(ConfigurationError, match='"ur"; did you mean "url"'):
        harness.with_options({"ur": "x"})


def test_it_is_opened_killed_and_looked_at(tmp_path: Path) -> None:
    harness = generic_harness(SqlTransport, "sql").with_options(
        {"url": f"sqlite:///{tmp_path}/events.db", "poll": "0.05"}
    )
    wanted = {"test_no_more_is_handed_out_than_was_asked_for", "test_what_was_sent_outlives_a_sender_that_is_killed"}

    findings = {one.test: one for one in examine(harness, matching=lambda name, _: name in wanted)}

    assert set(findings) == wanted
    assert {one.status for one in findings.values()} == {"kept"}


def test_a_worker_that_is_killed_loses_its_lease_and_nothing_else(tmp_path: Path) -> None:
    harness = generic_harness(SqlTransport, "sql").with_options({"url": f"sqlite:///{tmp_path}/events.db"})()

    with Bench(harness) as bench:
        first, second = bench.worker(), bench.worker()
        first.send([bench.envelope()])
        bench.one(first)
        bench.lose(first)

        assert bench.one(second).lost_leases == 1

    harness.close()
    with pytest.raises(TransportClosedError):
        first.transport.stats("default")


def test_a_stranger_cannot_put_bytes_into_it() -> None:
    with pytest.raises(HookMissing, match="put_raw"):
        generic_harness(MemoryTransport, "memory")().put_raw("q", b"", {})


class Connected(MemoryTransport):
    capabilities = Capabilities(durability="process", lease="connection")


@pytest.mark.parametrize("options, told", [({}, "--option url="), ({"url": "x://localhost"}, "has no port")])
def test_where_a_lease_is_a_connection_its_address_must_be_known(options: dict[str, str], told: str) -> None:
    harness = generic_harness(Connected, "connected").with_options(options)()

    with pytest.raises(ConfigurationError, match=told):
        harness.open()
