"""The starter recognises Redis, and its private server leaves nothing behind; the rest is as for RabbitMQ."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from contextlib import AbstractContextManager
from pathlib import Path

import attrs
import pytest
import redis

import redis_server
import server_starter

NOWHERE = "redis://127.0.0.1:1/0"
ELSEWHERE = {**os.environ, "RELEVO_TEST_REDIS": "", "RELEVO_TEST_REDIS_STANDARD": NOWHERE}


def test_a_named_server_is_used(redis_url: str) -> None:
    with redis_server.KIND.server(environ={"RELEVO_TEST_REDIS": redis_url}) as url:
        assert url == redis_url


def test_a_named_server_that_does_not_answer_is_an_error_and_nothing_else_is_tried(redis_url: str) -> None:
    environ = {"RELEVO_TEST_REDIS": NOWHERE, "RELEVO_TEST_REDIS_STANDARD": redis_url}

    with (
        pytest.raises(server_starter.NotAnsweringError, match=r"127\.0\.0\.1:1/"),
        redis_server.KIND.server(environ=environ),
    ):
        pass


def test_a_named_server_that_is_busy_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_starter, "AT_ONCE", 0.0)  # each refusal came too late to be final
    answers = iter(["it is busy", "it is busy", ""])
    kind = attrs.evolve(redis_server.KIND, refusal=lambda _: next(answers))

    with kind.server(environ={"RELEVO_TEST_REDIS": NOWHERE}) as url:
        assert url == NOWHERE


def test_a_private_server_can_be_preferred_to_the_one_at_the_standard_place(redis_url: str) -> None:
    environ = {**os.environ, "RELEVO_TEST_REDIS": "", "RELEVO_TEST_REDIS_STANDARD": redis_url}

    with redis_server.KIND.server(environ=environ, private=True) as url:
        assert url != redis_url
        assert not redis_server.refusal(url)


def test_what_cannot_be_started_is_not_preferred(
    redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_server, "_FOLDERS", ())
    environ = {"PATH": str(tmp_path), "RELEVO_TEST_REDIS_STANDARD": redis_url}

    with redis_server.KIND.server(environ=environ, private=True) as url:
        assert url == redis_url


def test_the_command_has_an_option_for_that(redis_url: str) -> None:
    environ = {**os.environ, "RELEVO_TEST_REDIS": "", "RELEVO_TEST_REDIS_STANDARD": redis_url}
    words = ["--private", "run", "--", "sh", "-c", 'echo "$RELEVO_TEST_REDIS"']

    done = subprocess.run(
        [sys.executable, redis_server.__file__, *words], env=environ, capture_output=True, text=True, check=True
    )

    assert done.stdout.strip() not in {"", redis_url}


def test_without_any_server_the_error_says_what_to_type(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis_server, "_FOLDERS", ())
    environ = {"PATH": str(tmp_path), "RELEVO_TEST_REDIS_STANDARD": NOWHERE}

    with (
        pytest.raises(server_starter.NotFoundError, match="apt-get install -y redis-server"),
        redis_server.KIND.server(environ=environ),
    ):
        pass


def test_an_open_port_that_speaks_something_else_is_no_server() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:

        def answer() -> None:
            line, _ = other.accept()
            with line:
                line.recv(100)
                line.sendall(b"no\r\n")

        answering = threading.Thread(target=answer)
        answering.start()

        assert redis_server.refusal(f"redis://127.0.0.1:{other.getsockname()[1]}/0")

        answering.join()


def test_a_server_that_answers_before_what_it_took_is_on_disk_is_not_used() -> None:
    with _private() as url, redis.Redis.from_url(url) as client:
        assert not redis_server.refusal(url)
        client.config_set("appendfsync", "everysec")

        assert redis_server.refusal(url) == "it is not set to appendfsync always"


def test_a_password_is_given_and_not_shown() -> None:
    with _private() as url, redis.Redis.from_url(url) as client:
        client.config_set("requirepass", "secret")
        named = url.replace("://", "://:secret@")

        assert not redis_server.refusal(named)
        assert "NOAUTH" in redis_server.refusal(url)
        assert redis_server.refusal(url.replace("://", "://:wrong@"))
        assert "secret" not in redis_server.KIND.shown(named)


def test_a_private_server_leaves_nothing_behind() -> None:
    with _private() as url, redis.Redis.from_url(url) as client:
        folder = Path(client.config_get("dir")["dir"])
        process = int(client.info("server")["process_id"])

        assert folder.exists()

    assert redis_server.refusal(url)
    assert not folder.exists()
    assert not Path(f"/proc/{process}").exists()


def test_the_command_gets_the_url_and_its_exit_code_is_passed_on(redis_url: str) -> None:
    command = ["run", "--", "sh", "-c", 'echo "$RELEVO_TEST_REDIS"; exit 7']

    done = subprocess.run(
        [sys.executable, redis_server.__file__, *command],
        env={**os.environ, "RELEVO_TEST_REDIS": redis_url},
        capture_output=True,
        text=True,
        check=False,
    )

    assert (done.stdout.strip(), done.returncode) == (redis_url, 7)


def _private() -> AbstractContextManager[str]:
    program = redis_server.KIND.program(ELSEWHERE)
    if program is None:
        pytest.skip("no Redis is installed from which a private one could be started")
    return redis_server.KIND.server(environ=ELSEWHERE)
