"""Queues that no route leads to any more, which the command line cannot find on RabbitMQ."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from relevo import DeadLetter, Envelope, SystemClock
from relevo.cli._main import main
from relevo_amqp import AmqpTransport

from .conftest import LEVELS, Server

CONFIGURATION = """
source = "shop"

[transports]
main = "sqlite:///shop.db"
old = {{ url = "{url}", prefix = "{prefix}", levels = {levels}, settle_in = 0 }}

[routes]
"*" = "main"
"""


def test_a_command_says_which_queues_of_an_old_server_it_looked_at(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    queue = server.queue()
    server.queue("default")
    with AmqpTransport.open(server.options(), name="old", clock=SystemClock()) as transport:
        transport.setup([queue])
        transport.send([Envelope(id="7", source="shop", name="a.b", body=b"{}", queue=queue)])
        (delivery,) = transport.receive([queue], limit=1, lease=60, wait=60)
        transport.settle([(delivery, DeadLetter(reason="gave-up"))])
    text = CONFIGURATION.format(url=server.url, prefix=server.prefix, levels=LEVELS)
    (tmp_path / "relevo.toml").write_text(text)
    monkeypatch.chdir(tmp_path)

    def run(*words: str) -> tuple[str, list[str]]:
        monkeypatch.setattr(sys, "argv", ["relevo", *words])
        with pytest.raises(SystemExit):
            main()
        done = capfd.readouterr()
        return done.out, done.err.splitlines()

    note = 'relevo: the transport "old" cannot list its queues; looked only at: default; name others with -q'
    assert run("status", "-t", "old")[1] == [note]
    assert run("dead", "list", "-t", "old") == ("no dead letters\n", [note])
    assert run("dead", "revive", "-t", "old", "--all") == ("0 revived\n", [note])
    assert run("dead", "discard", "-t", "old", "--all", "--yes") == ("0 discarded\n", [note])
    assert "remove the transport" not in run("check")[0]
    assert "is within the limits" in run("status", "-q", f"old/{queue}", "--max-dead", "1", "--max-oldest", "1h")[0]
    assert "1 dead, at most 0" in run("status", "-q", f"old/{queue}", "--max-dead", "0")[0]
    assert run("dead", "revive", "-t", "old", "-q", queue, "--all") == ("1 revived\n", [])
    unknown = f"old/{queue}: --max-oldest cannot be judged, since its transport does not know that figure\n"
    assert run("status", "-q", f"old/{queue}", "--max-oldest", "1h")[0] == unknown
