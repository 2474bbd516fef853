from __future__ import annotations

import attrs
import pytest

from relevo import App, Report, Runner, RunOptions


def test_a_runner_without_limits_runs_for_ever_on_everything() -> None:
    options = RunOptions()

    assert attrs.asdict(options) == {
        "transport": None,
        "queues": (),
        "until_empty": False,
        "event_id": None,
        "settle": 0.0,
        "max_events": None,
        "max_seconds": None,
        "max_memory": None,
        "max_failures": None,
        "batch": None,
        "relay_only": False,
        "execution": None,
        "concurrency": None,
    }


def test_reports_share_nothing() -> None:
    assert Report().reasons is not Report().reasons


def test_a_report_shows_what_it_has_to_say() -> None:
    assert repr(Report()) == "Report(handled=0, done=0)"
    assert repr(Report(handled=3, done=2, dead=1, seconds=1.23456, stopped_by="events", reasons={"expired": 1})) == (
        "Report(handled=3, done=2, dead=1, seconds=1.235, stopped_by='events', reasons={'expired': 1})"
    )


def test_options_and_reports_do_not_change() -> None:
    for value in (RunOptions(), Report()):
        with pytest.raises(attrs.exceptions.FrozenInstanceError):
            value.__setattr__(attrs.fields(type(value))[0].name, 1)


def test_who_hosts_a_worker_says_how_it_runs_and_what_the_host_system_is_told() -> None:
    class _Half(Runner):
        def run(self, app: App, options: RunOptions) -> Report:
            return Report()

    with pytest.raises(TypeError, match="unit"):
        _Half()  # type: ignore[abstract]
