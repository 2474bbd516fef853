"""Encrypted connections to real servers, with an authority that the tests make: PostgreSQL, MariaDB and RabbitMQ."""

from __future__ import annotations

import os
import shutil
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import attrs
import pytest

import mariadb_server
import postgresql_server
import rabbitmq
import rabbitmq_node
import server_starter
import waiting
from certificate import Authority, Certificate
from relevo import App, Event
from relevo.backend.tls import Tls
from relevo.errors import ConfigurationError, TransportUnavailableError

pytestmark = pytest.mark.slow("starts servers with certificates")

KINDS = ("postgresql", "mariadb", "amqp")


@attrs.frozen(kw_only=True)
class Servers:
    """Servers that are started when they are needed."""

    authority: Authority
    client: Certificate
    _stack: ExitStack
    _ports: dict[str, int] = attrs.field(factory=dict)

    def port(self, kind: str) -> int:
        if kind not in self._ports:
            try:
                self._ports[kind] = self._started(kind)
            except server_starter.NotFoundError as error:
                if server_starter.in_ci():
                    pytest.fail(str(error), pytrace=False)
                pytest.skip(str(error))
        return self._ports[kind]

    def _started(self, kind: str) -> int:
        own = self.authority.sign("localhost")
        if kind == "amqp":
            return self._node(own)
        start = {"postgresql": postgresql_server, "mariadb": mariadb_server}[kind].encrypted
        return urlsplit(self._stack.enter_context(start(own))).port or 0

    def _node(self, own: Certificate) -> int:
        launcher = rabbitmq_node.launcher()
        if launcher is None:
            raise server_starter.NotFoundError("RabbitMQ is not installed")
        settings = {"certfile": str(own.certificate), "keyfile": str(own.key), "cacertfile": str(own.ca)}
        settings |= {"verify": "verify_peer", "fail_if_no_peer_cert": "true", "versions.1": "tlsv1.2"}
        node = self._stack.enter_context(rabbitmq_node.PrivateNode(launcher, tls=settings))
        node.wait_until(lambda: not rabbitmq.refusal(node.url) and _is_open(node.tls_port))  # it opens the other first
        return node.tls_port

    def address(self, kind: str, *, host: str = "localhost", user: str = "") -> str:
        port = self.port(kind)
        return {
            "postgresql": f"postgresql://{user or 'postgres'}@{host}:{port}/postgres",
            "mariadb": f"mariadb://{user or 'root'}@{host}:{port}/test",
            "amqp": f"amqps://guest:guest@{host}:{port}/",
        }[kind]

    def tls(self, kind: str, **changes: str | bool | None) -> dict[str, Any]:
        """Return what a connection needs, with *changes*."""
        own: dict[str, Any] = {"ca": self.client.ca}
        if kind == "amqp":  # its server wants a certificate of everyone
            own |= {"certificate": self.client.certificate, "key": self.client.key}
        return {name: value for name, value in (own | changes).items() if value is not None}


def _is_open(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1.0):
        return True
    return False


@pytest.fixture(name="servers", scope="module")
def _servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    authority = Authority(tmp_path_factory.mktemp("tls"), "good")
    with ExitStack() as stack:
        yield Servers(authority=authority, client=authority.sign("client"), stack=stack)


@contextmanager
def opened(folder: Path, url: str, tls: dict[str, Any] | None) -> Iterator[App]:
    shown = ", ".join(f"{name} = {str(value).lower() if isinstance(value, bool) else repr(str(value))}"
                      for name, value in (tls or {}).items())  # fmt: skip
    option = "" if tls is None else f", tls = {{ {shown} }}"
    path = folder / "relevo.toml"
    path.write_text(f'[transports]\nmain = {{ url = "{url}"{option} }}\n')
    with App.from_config(path) as app:
        yield app


def refused(folder: Path, url: str, tls: dict[str, Any] | None) -> str:
    """Return why the configuration is refused at the first use."""
    text = answer(folder, url, tls)
    assert len(text.splitlines()) == 1
    return text


def accepted(folder: Path, url: str, tls: dict[str, Any] | None) -> None:
    """Check that the configuration is not refused at the first use."""
    assert answer(folder, url, tls) == ""


def answer(folder: Path, url: str, tls: dict[str, Any] | None) -> str:
    """
    Return why the configuration is refused, empty if it is not; an outage is no answer, and it is tried again.

    Python 3.13 may report the end of one encrypted connection on the next one of the thread.
    """
    found: list[str] = []

    def has_an_answer() -> bool:
        try:
            with opened(folder, url, tls) as app:
                app.transport("main").setup(["default"])
        except TransportUnavailableError:
            return False
        except ConfigurationError as error:
            found.append(str(error))
        return True

    assert waiting.eventually(has_an_answer)
    return "".join(found)


@pytest.mark.parametrize("kind", KINDS)
def test_events_pass_over_an_encrypted_connection(kind: str, servers: Servers, tmp_path: Path) -> None:
    with opened(tmp_path, servers.address(kind), servers.tls(kind)) as app:
        app.transport("main").setup(["default"])
        app.dispatch(Event("a.b"))
        found = app.transport("main").receive(["default"], limit=1, lease=60, wait=20)
        app.transport("main").ack(found[0])

    assert len(found) == 1


def test_threads_share_an_encrypted_connection_to_rabbitmq(servers: Servers, tmp_path: Path) -> None:
    events = [Event("a.b", {"text": "x" * size}) for size in (0, 900_000, 20_000)]
    with opened(tmp_path, servers.address("amqp"), servers.tls("amqp")) as app:
        app.transport("main").setup(["default"])
        before = app.transport("main").stats("default").ready or 0
        with ThreadPoolExecutor(8) as pool:
            for result in [pool.submit(app.dispatch_many, events * 5) for _ in range(8)]:
                result.result()

        assert waiting.eventually(lambda: app.transport("main").stats("default").ready == before + 120)


@pytest.mark.parametrize("kind", KINDS)
def test_a_certificate_of_an_unknown_authority_is_refused(kind: str, servers: Servers, tmp_path: Path) -> None:
    other = Authority(tmp_path, "other")

    for ca in (other.ca, None):
        said = refused(tmp_path, servers.address(kind), servers.tls(kind, ca=str(ca) if ca else None))

        assert said.endswith(
            "signed by an authority that is not known here; set ca in tls to the file of its certificate"
        )


@pytest.mark.parametrize("kind", KINDS)
def test_the_name_of_the_host_is_checked_unless_that_is_turned_off(kind: str, servers: Servers, tmp_path: Path) -> None:
    address = servers.address(kind, host="127.0.0.1")

    said = refused(tmp_path, address, servers.tls(kind))

    assert said.endswith("is for another host; name the host that is in the certificate in the address")
    accepted(tmp_path, address, servers.tls(kind, check_host=False))


@pytest.mark.parametrize("kind", KINDS)
def test_a_server_with_an_older_version_is_refused(kind: str, servers: Servers, tmp_path: Path) -> None:
    said = refused(tmp_path, servers.address(kind), servers.tls(kind, version="1.3"))

    assert "no version of TLS in common" in said


@pytest.mark.parametrize("kind", KINDS)
def test_a_server_can_ask_for_a_certificate(kind: str, servers: Servers, tmp_path: Path) -> None:
    address = servers.address(kind, user="certified")
    own = {"certificate": str(servers.client.certificate), "key": str(servers.client.key)}
    if kind == "postgresql":
        with opened(tmp_path, servers.address(kind), servers.tls(kind)) as app:
            engine = app.transport("main")._database.engine  # type: ignore[attr-defined]  # to create the user
            with engine.begin() as connection:
                connection.exec_driver_sql("CREATE USER certified SUPERUSER")

    said = refused(tmp_path, address, servers.tls(kind, certificate=None, key=None))
    accepted(tmp_path, address, servers.tls(kind, **own))

    assert "certificate" in said or kind == "mariadb"  # which says only that access is denied


@pytest.mark.parametrize("kind", KINDS)
def test_a_worker_ends_with_78_instead_of_waiting(kind: str, servers: Servers, tmp_path: Path) -> None:
    other = Authority(tmp_path, "other")
    with opened(tmp_path, servers.address(kind), servers.tls(kind, ca=str(other.ca))):
        pass
    (tmp_path / "heard.py").write_text('import relevo\n\n@relevo.listener("image.created")\ndef note(event): ...\n')
    configuration = tmp_path / "relevo.toml"
    configuration.write_text(f'source = "shop"\nlisteners = ["heard"]\n{configuration.read_text()}')

    done = subprocess.run(
        [sys.executable, "-m", "relevo", "worker"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )

    assert (done.returncode, len(done.stderr.splitlines())) == (78, 1), done.stderr
    assert "authority" in done.stderr


def test_an_expired_certificate_of_a_server_is_refused(servers: Servers, tmp_path: Path) -> None:
    own = servers.authority.sign("localhost", expired=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(own.certificate, own.key)
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=_shake_hands, args=(server, context), daemon=True).start()
        port = server.getsockname()[1]

        said = refused(tmp_path, f"amqps://guest:guest@localhost:{port}/", {"ca": servers.client.ca})

    assert said.endswith("the server's certificate has expired; renew it")


def _shake_hands(server: socket.socket, context: ssl.SSLContext) -> None:
    while True:
        try:
            connection, _ = server.accept()
        except OSError:
            return
        try:
            context.wrap_socket(connection, server_side=True).close()
        except OSError:
            connection.close()


def test_a_server_without_tls_is_refused(tmp_path: Path, rabbitmq_url: str) -> None:
    parts = urlsplit(rabbitmq_url)

    said = refused(tmp_path, f"amqps://guest:guest@localhost:{parts.port}/", None)

    assert said.endswith("does not speak TLS at this port; check the port, or the server's settings")


# --- files -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ca", "certificate", "key"])
@pytest.mark.parametrize(
    "content, expected",
    [
        (None, "does not exist; create the file, or fix the path"),
        (b"\x30\x82\x01", "in PEM format, which begins with -----BEGIN"),
        ("folder", "expected a file; got a folder"),
    ],
)
def test_a_file_that_cannot_be_used_is_reported(
    name: str, content: object, expected: str, servers: Servers, tmp_path: Path
) -> None:
    path = tmp_path / "file.pem"
    if isinstance(content, bytes):
        path.write_bytes(content)
        path.chmod(0o600)
    elif content == "folder":
        path.mkdir()
    own: dict[str, Any] = {"certificate": servers.client.certificate, "key": servers.client.key} | {name: path}

    with pytest.raises(ConfigurationError) as caught:
        Tls(**own)
    with pytest.raises(ConfigurationError) as of_the_file, opened(tmp_path, "amqps://localhost", own):
        pass

    assert str(caught.value).startswith(f"{name}: {path}")
    assert expected in str(caught.value)
    assert "relevo.toml:2: transports.main.tls" in str(of_the_file.value)
    assert str(caught.value) in str(of_the_file.value)


def test_a_key_in_place_of_a_certificate_and_the_reverse_are_not_to_be_converted(servers: Servers) -> None:
    mine = servers.client

    with pytest.raises(ConfigurationError) as of_certificate:
        Tls(ca=mine.key)
    with pytest.raises(ConfigurationError) as of_key:
        Tls(certificate=mine.certificate, key=mine.certificate)

    assert str(of_certificate.value).endswith("; it has a private key; name the file of the certificate")
    assert str(of_key.value).endswith("; it has a certificate; name the file of the key")


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660])
@pytest.mark.parametrize("name", ["certificate", "ca"])
def test_a_file_of_certificates_with_a_key_in_it_is_as_private_as_a_key(
    name: str, mode: int, servers: Servers, tmp_path: Path
) -> None:
    mine, file = servers.client, tmp_path / "both.pem"
    file.write_text(mine.certificate.read_text() + mine.key.read_text())
    os.chown(file, os.geteuid() or 54321, -1)  # a group may read what is root's
    file.chmod(mode)
    arguments: list[dict[str, Any]] = [{name: file}, *([{name: file, "key": mine.key}] if name != "ca" else [])]

    remedy = f"run: chmod 600 {file}" if name != "ca" else "remove the key from it: certificates are enough"
    for own in arguments:
        with pytest.raises(ConfigurationError) as caught:
            Tls(**own)
        assert str(caught.value) == f"{name}: {file} has a private key and can be read by other users; {remedy}"

    file.chmod(0o600)
    for own in arguments:
        Tls(**own)


def test_a_certificate_without_a_key_may_be_read_by_all(servers: Servers) -> None:
    mine = servers.client
    mine.certificate.chmod(0o644)

    assert Tls(ca=mine.ca, certificate=mine.certificate, key=mine.key).key_file == mine.key


def test_the_remedy_for_another_format_does_not_overwrite_the_file(tmp_path: Path) -> None:
    file = tmp_path / "k.pem"
    file.write_bytes(b"\x30\x82\x01")

    options: list[dict[str, Any]] = [{"ca": file}, {"key": file}]
    for arguments in options:
        with pytest.raises(ConfigurationError, match=rf"^{next(iter(arguments))}: .* -in {file} -out NEW\.pem$"):
            Tls(**arguments)


def test_a_special_file_is_called_one() -> None:
    with pytest.raises(ConfigurationError, match=r"^ca: /dev/null: expected a file; got a special file$"):
        Tls(ca=Path("/dev/null"))


@pytest.mark.parametrize(("given", "got"), [("true", "a boolean"), ("3", "a whole number")])
def test_a_switch_in_place_of_the_options_is_refused_as_no_table(given: str, got: str, tmp_path: Path) -> None:
    file = tmp_path / "relevo.toml"
    file.write_text(f'[transports]\nmain = {{ url = "amqps://x:y@mq.example", tls = {given} }}\n')

    with pytest.raises(ConfigurationError) as caught:
        App.from_config(file)

    assert str(caught.value) == f"{file}:2: transports.main.tls: expected a table such as {{}}; got {got}"


def test_certificates_and_keys_that_do_not_fit_are_reported(servers: Servers, tmp_path: Path) -> None:
    other, expired = servers.authority.sign("other"), servers.authority.sign("expired", expired=True)
    mine = servers.client
    locked, open_to_all = tmp_path / "locked.pem", tmp_path / "open.pem"
    locked.write_text("-----BEGIN ENCRYPTED PRIVATE KEY-----\n")
    open_to_all.write_text(mine.key.read_text())
    open_to_all.chmod(0o644)
    broken = tmp_path / "broken.pem"
    broken.write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")

    for arguments, expected in (
        ({"certificate": mine.certificate, "key": other.key}, f"key: {other.key} is not the key of {mine.certificate}"),
        ({"certificate": expired.certificate, "key": expired.key}, "expired on 2020-02-01; renew it"),
        ({"certificate": mine.certificate}, "has no private key; name its file with key"),
        ({"key": mine.key}, "key: needs certificate; set both"),
        ({"certificate": mine.certificate, "key": locked}, "is encrypted, and nothing can ask for its passphrase"),
        ({"certificate": mine.certificate, "key": open_to_all}, f"run: chmod 600 {open_to_all}"),
        ({"ca": broken}, f"ca: {broken} cannot be read as a certificate"),
        ({"version": "1.1"}, 'version: expected "1.2" or "1.3"'),
    ):
        with pytest.raises(ConfigurationError) as caught:
            Tls(**arguments)
        assert expected in str(caught.value)


@pytest.mark.parametrize(
    "url, expected",
    [
        ("amqp://localhost", "tls: amqp://localhost is not encrypted; write amqps://, or remove tls"),
        ("sqlite:///shop.db", "is a file, which has no connection to encrypt; remove tls"),
        ("postgresql://db/shop?sslrootcert=x.pem", "the address has sslrootcert too"),
        ("postgresql://db/shop?sslmode=disable", "the address has sslmode=disable too"),
        ("postgresql:///shop", "the address names no host, and a local socket is not encrypted"),
    ],
)
def test_an_address_that_does_not_fit_is_reported(url: str, expected: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"relevo\.toml:2: ") as caught, opened(tmp_path, url, {}):
        pass

    assert expected in str(caught.value)
