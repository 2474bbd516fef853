"""What benchmarks/relay.py prints is counted correctly."""

from __future__ import annotations

import pytest

from relay import main, measure

pytestmark = pytest.mark.slow("runs each measurement once")


@pytest.mark.parametrize("key", ["none", "each", "same"])
def test_all_events_reach_the_target(key: str) -> None:
    found = measure("sqlite://", "sqlite://", events=300, key=key)

    assert min(found.source, found.target, found.relay) > 0
    assert found.share == found.relay / min(found.source, found.target)


def test_a_line_for_each_pair_is_printed(capsys: pytest.CaptureFixture[str], rabbitmq_url: str) -> None:
    main(["--from", "sqlite://", "--to", "sqlite://", "--to", rabbitmq_url, "--events", "300", "--rounds", "1"])

    lines = capsys.readouterr().out.splitlines()
    assert [line[:14].strip() for line in lines] == ["events a secon", "sqlite to sqli", "sqlite to amqp"]
