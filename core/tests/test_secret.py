from __future__ import annotations

import copy
import logging
import pickle

import attrs
import pytest
from hypothesis import given, strategies as st

from relevo import Secret, masked_url


def test_a_secret_shows_itself_only_when_asked() -> None:
    secret = Secret("hunter2")

    shown = [repr(secret), str(secret), f"{secret}", f"{secret!r:>20}", f"{secret:x^9}", "%s %r" % (secret, secret)]  # noqa: UP031 - loggers do it so

    assert not any("hunter2" in each for each in shown)
    assert secret.reveal() == "hunter2"


def test_a_secret_is_not_shown_by_what_holds_it(caplog: pytest.LogCaptureFixture) -> None:
    holder = attrs.make_class("Holder", ["secret"])(Secret("hunter2"))

    logging.getLogger("test").warning("%s %r", holder, [holder])

    assert "hunter2" not in caplog.text + repr(attrs.asdict(holder))


@pytest.mark.parametrize("away", [pickle.dumps, copy.deepcopy, copy.copy])
def test_a_secret_does_not_leave_the_process(away: object) -> None:
    with pytest.raises(TypeError, match="cannot be pickled"):
        away(Secret("hunter2"))  # type: ignore[operator]


def test_secrets_of_one_text_are_equal() -> None:
    assert Secret("a") == Secret("a")
    assert Secret("a") != Secret("b")
    assert Secret("a") != "a"
    assert len({Secret("a"), Secret("a")}) == 1


@pytest.mark.parametrize(
    "url, masked",
    [
        ("amqp://guest:guest@localhost:5672/shop", "amqp://guest:***@localhost:5672/shop"),
        ("amqp://localhost/shop", "amqp://localhost/shop"),
        ("sqlite:///shop.db", "sqlite:///shop.db"),
        ("memory://", "memory://"),
        ("https://token@host/", "https://***@host/"),
        ("postgresql://me:p@ss:w@rd/@host/db", "postgresql://me:***@host/db"),
        ("db://me:se?cret@host/db", "db://me:***@host/db"),
        ("db://host/db?password=secret&b", "db://host/db?password=***&b=***"),
        ("db://host/db#secret", "db://host/db"),
        ("secret", "***"),
    ],
)
def test_an_address_is_shown_without_what_opens_it(url: str, masked: str) -> None:
    assert masked_url(url) == masked


@given(st.text(min_size=6), st.sampled_from(["{}://me:{}@host/db", "{}://me:{}@host:x/?a=b"]))
def test_no_password_is_shown_whatever_it_holds(noise: str, form: str) -> None:
    password = f"hunter2{noise}hunter2"

    assert "hunter2" not in masked_url(form.format("amqp", password))


@given(st.text(st.characters(exclude_characters=":")))
def test_credentials_without_a_name_are_a_token(noise: str) -> None:
    assert "hunter2" not in masked_url(f"amqp://hunter2{noise}@host")


def test_a_password_is_not_shown_where_the_host_was_forgotten() -> None:
    assert [masked_url(url) for url in ("amqp://guest:s3cret", "amqp://guest:s3cret/vh", "amqp://h:5672/v")] == [
        "amqp://***",
        "amqp://***",
        "amqp://h:5672/v",
    ]
