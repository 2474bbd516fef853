from __future__ import annotations

import copy
import json
import logging
import pickle
from collections.abc import Callable
from typing import Any

import attrs
import pytest
from hypothesis import example, given, strategies as st

from relevo import Secret, TransportUnavailableError, masked, masked_url
from relevo._secret import abridged, without_secrets
from relevo._worker.decision import sanitised
from relevo.errors import described, shown


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
        (":secret@://", ":***@://"),
        ("me:secret@amqp://host/", "me:***@amqp://host/"),
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


@pytest.mark.parametrize(
    "text, expected",
    [
        ("see amqp://u:pw@h/v: refused", "see amqp://u:***@h/v: refused"),
        ("see amqp://u:p w@h/v: refused", "see amqp://u:***@h/v: refused"),
        ('see amqp://u:p"w@h/v: refused', "see amqp://u:***@h/v: refused"),
        ("see amqp://u:p/w?#@h/v: refused", "see amqp://u:***@h/v: refused"),
        ("no file /etc/amqp:/u:pw@h", "no file /etc/amqp:/u:***@h"),
        ("amqp://guest:pw without a host", "amqp://*** without a host"),
        ("['amqp://u:pw@h', 'amqp://u:pw@i']", "['amqp://u:***@h', 'amqp://u:***@i']"),
        ("https://token@host/ and https://host/?id=3&token=pw", "https://***@host/ and https://host/?id=3&token=***"),
        ("host=h password='p w' dbname=x", "host=h password=*** dbname=x"),
        ("connect(password=settings.password)", "connect(password=***)"),
        (
            'no transport is called "me:pw@host"; there are: main',
            'no transport is called "me:***@host"; there are: main',
        ),
        ("'me:pw@host:5672/v' is not a number", "'me:***@host:5672/v' is not a number"),
        ("url=me:p@:/?#w@host", "url=me:***:/***@host"),
        ("me:/pw@host and me:p/w@host", "me:/***@host and me:***@host"),
        (":pw@:// and :pw@host and me:pw@", ":***@:// and :***@host and me:***@"),
        ("see amqp://me:1234/pw@h/v: refused", "see amqp://me:***@h/v: refused"),
        ("amqp://me:1/2/pw@h and https://h:1/a@b.example", "amqp://me:***@h and https://h:1/a@b.example"),
        ("https://sso/?next=%2Flogin%3Fpassword%3Dhunter2", "https://sso/?next=/login?password=***"),
        ('{"password":   "x"}', '{"password":   "***"}'),
        ("amqp://me:/pw@h and amqp://me:12:/pw@h", "amqp://me:***@h and amqp://me:***@h"),
        ("image/amqp%3A%2F%2Fme%3Apw%20x%40h is missing", "image/amqp://me:***@h is missing"),
        ("https://h/?to=x%3a//me%3apw%40i&a=b and me%3Apw%40h", "https://h/?to=x://me:***@i&a=b and me:***@h"),
        ("https://h/?to=x://me:pw@i&and=x://me:pw@j", "https://h/?to=x://me:***@i&and=x://me:***@j"),
        ("api_key=pw API-KEY=pw db_token=pw token = 'p w'", "api_key=*** API-KEY=*** db_token=*** token = ***"),
        ("{'api_key': 'p w', 'b': 1}", "{'api_key': '***', 'b': 1}"),
        (r'{"db_password": "p\"w", "b": "c"}', '{"db_password": "***", "b": "c"}'),
        (r"'{\"token\": \"pw\", \"b\": \"c\"}'", r"'{\"token\": \"***\", \"b\": \"c\"}'"),
        ('{"secret": "pw that was cut', '{"secret": "***'),
        ("headers = {'Authorization': b'Bearer pw'}", "headers = {'Authorization': b'***'}"),
        ("Authorization: Bearer pw, Cookie: a=pw; b=pw", "Authorization: Bearer ***, Cookie: a=***"),
        ("DB_PASSWORD: 'p w'", "DB_PASSWORD: '***'"),
        ("Command '['dump', '--password', 'p w', 'x']' failed", "Command '['dump', '--password', '***', 'x']' failed"),
    ],
)
def test_a_password_is_masked_wherever_it_stands_in_a_text(text: str, expected: str) -> None:
    assert masked(text) == expected
    assert masked(expected) == expected


@pytest.mark.parametrize(
    "text",
    [
        "write amqp://user:password@host:port/vhost, or amqps:// for TLS",
        "write amqp://user:${VARIABLE}@host",
        "(amqp://h:5672), [amqp://[::1]:5672/v], memory://",
        "https://host/@name and https://host/?mail=me@example.org#part",
        "sqlite:///file:shop.db?mode=rwc&uri=true",
        "transports.main.password: expected text",
        "12:30, C:/Users, me@example.org",
        "a:b, <a:b>, a: me@example.org, Me <me@example.org>, (mailto:me@example.org), git@example.org:me/shop",
        '{"a:b":"me@example.org"}',
        "user:password@host, a:@b, @a:b",
        "http://localhost:4873/@scope/name@1.0 and https://host:8443/a?mail=me@example.org",
        "git+https://host/shop@v1 and sqlite:////srv/me@home/shop.db",
        "12%3A30, https://host/?next=https%3A%2F%2Fhost%2F%40me, 100%3",
        """unexpected token: "}", or a key: 'x'; no secret: "why" """,
        "token = next(tokens); max_tokens=7, keys=['a'], primary_key=True, author='Ada', sort_key=3, design=4",
        "authorization: expected text, cookie: expected text, password: expected text",
        "Option '--password' requires an argument; --token is missing; '--secret', and '--key'",
        "['password', 'name'], {'tokens': 'a', 'key': 'b'}",
        "WHERE token = :token AND api_key = ? AND token IS NULL",
    ],
)
def test_a_text_without_a_password_stays(text: str) -> None:
    assert masked(text) == text


@given(st.text(st.characters(exclude_characters="\n")), st.sampled_from(["{}", "see {} x", "['{}']", '{{"a": "{}"}}']))
def test_no_password_of_an_address_is_left_in_a_text(noise: str, form: str) -> None:
    address = f"amqp://me:hunter2{noise.replace('@', '')}hunter2@host/v"

    assert "hunter2" not in masked(form.format(address))
    assert "hunter2" not in shown(form.format(address), 1000) + shown({"x": [(address,)]}, 1000)


NO_END = st.characters(exclude_categories=["Z", "C"], exclude_characters='"<>`@')
"""What does not end a word."""


@given(
    st.text("0123456789"),
    st.text("/:") | st.just("/"),
    st.text(NO_END),
    st.sampled_from(["amqp", "postgresql", "x+y"]),
    st.sampled_from(["{}", "see {} x", "['{}']", '{{"a": "{}"}}']),
)
def test_no_password_that_begins_like_a_port_is_left_in_a_text(
    digits: str, slashes: str, noise: str, scheme: str, form: str
) -> None:
    address = f"{scheme}://me:{digits}{slashes}{noise}hunter2@host/v"

    assert "hunter2" not in masked(form.format(address))


SETTINGS = st.lists(
    st.sampled_from(
        [
            *(
                "password",
                "api_key",
                "token",
                "-",
                "--",
                "_",
                "=",
                ":",
                " ",
                ", ",
                "'",
                '"',
                "\\",
                "\n",
                "hunter2",
                "://",
            ),
            *("Authorization", "Cookie", "Bearer", "a", "@", "{", "}"),
        ]
    ),
    max_size=14,
).map("".join)


@given(SETTINGS)
@example("password:' '@")
def test_masking_what_looks_like_settings_twice_changes_nothing_more(text: str) -> None:
    once = masked(text)

    assert masked(once) == once


@given(st.text(st.characters(exclude_characters="\n")))
def test_no_secret_of_a_table_is_left_in_its_text(noise: str) -> None:
    table = {"a": 1, "api_key": f"hunter2{noise}hunter2", "b": [{"access_token": f"hunter2{noise}hunter2"}]}
    plain = json.dumps(table)

    for text in (repr(table), plain, json.dumps(table, ensure_ascii=False), json.dumps(plain)):
        assert "hunter2" not in masked(f"got {text}")


@given(st.text(), st.text())
def test_masking_twice_changes_nothing_more(one: str, other: str) -> None:
    once = masked(f"{one}://{other}")

    assert masked(once) == once


@given(st.text(st.characters(exclude_characters="\n")))
def test_masking_an_address_without_a_scheme_twice_changes_nothing_more(noise: str) -> None:
    once = masked(f"see me:{noise}@{noise} or :{noise}@://")

    assert masked(once) == once


@given(st.text(st.characters(exclude_categories=["Z", "C"], exclude_characters='"<>`'), min_size=1))
def test_no_password_of_an_address_without_a_scheme_is_left_in_a_text(noise: str) -> None:
    assert "hunter2" not in masked(f'no "me:hunter2{noise}hunter2@host" here')


def test_an_error_shows_no_password_that_is_in_its_text() -> None:
    error = TransportUnavailableError("main", "no answer from amqp://me:hunter2@host/")

    assert "hunter2" not in f"{error} {error!r} {shown(error)}"
    assert "amqp://me:***@host/" in str(error)


def test_a_text_that_a_table_calls_a_password_is_masked() -> None:
    table = {
        "password": "hunter2",
        "list": [{"db_passwd": "hunter2"}],
        "api_token": "hunter2",
        "name": "a",
        "pwd": 7,
    }

    assert without_secrets(table) == {
        "password": "***", "list": [{"db_passwd": "***"}], "api_token": "***", "name": "a", "pwd": 7
    }  # fmt: skip


class Counted(str):  # noqa: SLOT000 - it counts
    """A text that counts how often it is searched from its end."""

    searches = 0

    def rfind(self, *where: Any) -> int:
        self.searches += 1
        return super().rfind(*where)


def test_each_line_is_searched_once_however_many_addresses_it_has() -> None:
    text = Counted("a:/b:c " * 1000 + "\n" + "amqp://me:pass word@host a:/b:c " * 1000)

    shown = masked(text)

    assert text.searches == 2
    assert "pass" not in shown


@pytest.mark.parametrize("show", [shown, sanitised, lambda text: described(ValueError(text))])
def test_the_middle_of_a_very_long_text_is_left_out_before_it_is_masked(show: Callable[[str], str]) -> None:
    words = "amqp://me:secret@host " * 100_000

    found = show(words)

    assert "secret" not in found
    assert len(found) < 70_000


@pytest.mark.lengthy("tries many cases")
def test_an_address_whose_password_has_a_space_is_not_cut_in_two() -> None:
    for padding in range(30):
        text = "x" * padding + "\namqp://me:a23 45@host" * 10_000

        assert "a23" not in masked(abridged(text))
        assert "45@" not in masked(abridged(text))
        assert len(abridged(text)) <= 1 << 16


@pytest.mark.lengthy("tries many cases")
def test_an_address_is_not_cut_in_two() -> None:
    for padding in range(30):
        text = "x" * padding + " amqp://me:12345@host" * 10_000

        assert "123" not in masked(abridged(text))
        assert len(abridged(text)) <= 1 << 16
