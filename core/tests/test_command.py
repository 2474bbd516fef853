"""The command of a unit is read back by the command line as the options that it was made of."""

from __future__ import annotations

from typing import Any

import attrs
import click
import pytest
from hypothesis import given, strategies as st

from relevo import App, RunOptions
from relevo._runner.command import command
from relevo._worker.run import Flag, flags
from relevo.cli._run import drain, relay, worker

VALUES = {
    "count": st.integers(1, 1000),
    "duration": st.integers(1, 10**12).map(lambda microseconds: microseconds / 1e6),
    "size": st.integers(2**20, 2**40),
}


def value_of(flag: Flag) -> st.SearchStrategy[object]:
    return st.sampled_from(flag.choices) if flag.kind == "choice" else VALUES[flag.kind]


settings = st.fixed_dictionaries({}, optional={field: value_of(flag) for field, flag in flags().items()})


@pytest.fixture(name="app", scope="module")
def _app() -> App:
    return App(transports={}, routes={})


@given(given_=settings)
def test_a_command_is_read_back_as_the_options_that_it_was_made_of(app: App, given_: dict[str, Any]) -> None:
    options = attrs.evolve(RunOptions(until_empty=True), **given_)
    _, _, _, _, *words = command(app, options)

    read = drain.make_context("drain", words).params

    assert {field: read[field] for field in flags()} == {field: getattr(options, field) for field in flags()}


def test_the_command_of_a_relay_is_read_back_too(app: App) -> None:
    options = RunOptions(until_empty=True, relay_only=True, max_events=7, max_seconds=55.0, settle=2.5)
    _, _, _, verb, *words = command(app, options)

    read = relay.make_context("relay", words).params

    assert verb == "relay"
    assert {name: read[name] for name in ("until_empty", "max_events", "max_seconds", "settle")} == {
        "until_empty": True,
        "max_events": 7,
        "max_seconds": 55.0,
        "settle": 2.5,
    }


def test_a_worker_has_all_flags_but_those_of_a_drain() -> None:
    def of(one: click.Command) -> set[str]:
        return {str(option.name) for option in one.params} & set(flags())

    assert of(drain) == set(flags())
    assert of(drain) - of(worker) == {"settle"}
