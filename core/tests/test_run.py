"""The options of a run, and its report."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from relevo import App, RunOptions
from relevo._runner.process_limit import Limits
from relevo.errors import ConfigurationError


@pytest.mark.parametrize(
    "given, stored",
    [
        ({"settle": "3s"}, 3.0),
        ({"max_seconds": "2m"}, 120.0),
        ({"max_seconds": timedelta(seconds=1.5)}, 1.5),
        ({"max_memory": "512M"}, 512 << 20),
        ({"queues": "default"}, ("default",)),
        ({"queues": ["media", "feed"]}, ("media", "feed")),
        ({"max_seconds": float("inf")}, float("inf")),
        ({"max_events": 0}, 0),
    ],
)
def test_values_are_stored_in_one_form(given: dict[str, Any], stored: object) -> None:
    assert getattr(RunOptions(**given), next(iter(given))) == stored


@pytest.mark.parametrize(
    "given, why",
    [
        ({"settle": "soon"}, 'RunOptions: settle: expected seconds as a number, or text such as "500ms"'),
        ({"max_seconds": -1}, "RunOptions: max_seconds: expected 0 s or more; got -1"),
        ({"max_seconds": "2"}, "RunOptions: max_seconds: expected seconds as a number"),
        ({"max_events": "2"}, "RunOptions: max_events: expected a whole number of at least 0; got '2'"),
        ({"max_events": True}, "RunOptions: max_events: expected a whole number"),
        ({"max_failures": 0}, "RunOptions: max_failures: expected a whole number of at least 1; got 0"),
        ({"max_memory": 512}, r"RunOptions: max_memory: .* at least 1M; got 512"),
        ({"max_memory": "lots"}, "RunOptions: max_memory: expected a number of bytes or text"),
        ({"concurrency": 0}, "RunOptions: concurrency: expected a whole number of at least 1; got 0"),
        ({"batch": 1.5}, "RunOptions: batch: expected a whole number"),
        ({"queues": 3}, "RunOptions: queues: expected a sequence of texts; got 3"),
        ({"queues": ["a", 3]}, "RunOptions: queues: expected a sequence of texts; got "),
        ({"transport": 3}, "RunOptions: transport: expected text; got 3"),
        ({"event_id": 3}, "RunOptions: event_id: expected text; got 3"),
        ({"until_empty": 1}, "RunOptions: until_empty: expected True or False; got 1"),
        ({"execution": "thread"}, 'RunOptions: execution: expected inline, threads, .*; did you mean "threads"'),
    ],
)
def test_a_wrong_value_is_refused_where_it_is_given(given: dict[str, Any], why: str) -> None:
    with pytest.raises(ConfigurationError, match=why):
        RunOptions(**given)


def test_a_size_as_text_limits_a_runner() -> None:
    assert Limits.of(RunOptions(max_memory="512M")).is_set


def test_the_reasons_of_a_report_are_plain_text() -> None:
    with App(transports={"main": "memory://"}) as app:
        app.dispatch("image.created")

        report = app.drain()

        assert repr(report.retry_reasons) == "{'unknown-event': 1}"


def test_an_id_that_no_queue_holds_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with App(transports={"main": "memory://"}) as app:
        sent = app.dispatch("image.created")
        app.drain(RunOptions(event_id=sent.id))
        assert "no event was handled" not in caplog.text

        assert app.drain(RunOptions(event_id="not-an-id")).handled == 0

    assert "no event was handled: none with the id not-an-id can be taken from main" in caplog.messages
