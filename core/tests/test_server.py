"""What is known about any server."""

from __future__ import annotations

from hashlib import sha1
from pathlib import Path

import pytest

from relevo._config.opening import read, refuse
from relevo._server import WELL_KNOWN, is_loopback, is_well_known
from relevo.cli._supervisor import examine
from relevo.errors import ConfigurationError
from relevo.ext.mail._options import MailOptions


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST", "db.localhost", "127.0.0.1", "127.8.8.8", "::1", "[::1]", "[::1%lo]"]
)
def test_this_machine_has_many_names(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["", "db", "localhost.example", "128.0.0.1", "0.0.0.0", "::", "127.0.0.1.example"])  # noqa: S104 - an input
def test_every_other_host_is_another_machine(host: str) -> None:
    assert not is_loopback(host)


@pytest.mark.parametrize("host", ["db.localhost", "127.8.8.8", "[::1]", "LOCALHOST"])
def test_a_server_on_this_machine_may_have_the_password_of_its_installation(host: str) -> None:
    refuse(read(None, {"RELEVO_TRANSPORTS__MAIN": f"postgresql://guest:guest@{host}/x"}, start=Path("/")))


@pytest.mark.parametrize("credentials", ["guest:guest", "shop:changeme", "shop:YourPasswordHere"])
def test_another_one_may_not(credentials: str) -> None:
    config = read(None, {"RELEVO_TRANSPORTS__MAIN": f"postgresql://{credentials}@db.example/x"}, start=Path("/"))

    with pytest.raises(ConfigurationError, match="has a publicly known default password"):
        refuse(config)


def test_a_password_to_a_mail_server_on_this_machine_needs_no_encryption() -> None:
    options = MailOptions(to="dev@example.org", server="smtp://me:pw@mail.localhost", starttls=False)

    assert options.parsed_server().host == "mail.localhost"


@pytest.mark.parametrize("password", WELL_KNOWN)
def test_a_password_that_everyone_tries_first_is_reported_for_supervisor_too(tmp_path: Path, password: str) -> None:
    file = tmp_path / "supervisord.conf"

    for written in (password, password.upper(), f"{{SHA}}{sha1(password.encode()).hexdigest()}"):  # noqa: S324 - supervisor's own form
        file.write_text(f"[inet_http_server]\nport=127.0.0.1:9001\nusername=me\npassword={written}\n")
        with pytest.raises(ConfigurationError, match=r"well-known example|no password"):
            examine(file, time_limit=1.0, environ={})

    assert is_well_known(password.title())
    assert not is_well_known("correct-horse-battery")
