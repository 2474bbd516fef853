"""A real mail server on loopback, which keeps what it gets, and others that answer badly or not at all."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from email import message_from_bytes, policy
from email.message import EmailMessage
from ssl import SSLContext
from typing import Any

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, LoginPassword

PATIENCE = 300.0


class Inbox:
    """What the server got."""

    def __init__(self, answer: str = "250 OK") -> None:
        self.mails: list[EmailMessage] = []
        self.raw: list[bytes] = []
        self.answer = answer
        self.port = 0
        self.logins = 0
        self.takes_mail = threading.Event()
        """While it is not set, the last step of a mail goes on."""

        self.takes_mail.set()

    async def handle_MAIL(  # noqa: N802 - as aiosmtpd calls it
        self, server: Any, session: Any, envelope: Any, address: str, options: list[str]
    ) -> str:
        envelope.mail_from = address
        envelope.mail_options += options
        return "250 OK"

    async def handle_RCPT(  # noqa: N802 - as aiosmtpd calls it
        self, server: Any, session: Any, envelope: Any, address: str, options: list[str]
    ) -> str:
        envelope.rcpt_tos.append(address)
        envelope.rcpt_options += options
        return "250 OK"

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:  # noqa: N802 - as aiosmtpd calls it
        await asyncio.to_thread(self.takes_mail.wait)
        if self.answer.startswith("250"):
            self.raw.append(envelope.content)
            self.mails.append(message_from_bytes(envelope.content, policy=policy.default))
        return self.answer

    def wait_for(self, count: int) -> list[EmailMessage]:
        """Return the mails once there are so many."""
        deadline = time.monotonic() + PATIENCE
        while len(self.mails) < count:
            assert time.monotonic() < deadline, [mail["Subject"] for mail in self.mails]
            time.sleep(0.01)
        return self.mails


class _Controller(Controller):
    """A server that is on its port from the beginning: one that was only found may be another's by then."""

    def __init__(self, inbox: Inbox, **options: Any):
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.sessions: list[SMTP] = []
        super().__init__(inbox, hostname="127.0.0.1", port=self.socket.getsockname()[1], **options)

    def factory(self) -> SMTP:
        session: SMTP = super().factory()  # type: ignore[no-untyped-call]  # of aiosmtpd
        self.sessions.append(session)
        return session

    def stop(self, no_assert: bool = False) -> None:  # noqa: FBT001, FBT002 - as aiosmtpd has it
        """Close the connections too: the loop ends, and a client may only just have closed its side."""
        asyncio.run_coroutine_threadsafe(self._abort(), self.loop).result(PATIENCE)
        super().stop(no_assert)

    async def _abort(self) -> None:
        for session in self.sessions:
            if isinstance(session.transport, asyncio.WriteTransport):
                session.transport.abort()
        for _ in range(3):  # the callbacks that this schedules
            await asyncio.sleep(0)

    def _create_server(self) -> Any:
        return self.loop.create_server(self._factory_invoker, sock=self.socket, ssl=self.ssl_context)


@contextlib.contextmanager
def serving(
    inbox: Inbox,
    *,
    starttls: SSLContext | None = None,
    smtps: SSLContext | None = None,
    login: tuple[str, str] | None = None,
) -> Iterator[Inbox]:
    """Take mail for *inbox* while the block runs."""

    def check(server: Any, session: Any, envelope: Any, mechanism: str, data: Any) -> AuthResult:
        assert isinstance(data, LoginPassword)
        is_known = (data.login.decode(), data.password.decode()) == login
        inbox.logins += is_known
        return AuthResult(success=is_known, handled=is_known)

    options: dict[str, Any] = {"tls_context": starttls, "require_starttls": True} if starttls else {}
    if login:
        options |= {"authenticator": check, "auth_require_tls": False}
    controller = _Controller(inbox, ssl_context=smtps, **options)
    inbox.port = controller.port
    with controller.socket:
        controller.start()
        try:
            yield inbox
        finally:
            inbox.takes_mail.set()
            controller.stop()


@contextlib.contextmanager
def down() -> Iterator[int]:
    """Yield a port where nobody answers, and which nobody else can take meanwhile."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


@contextlib.contextmanager
def hanging() -> Iterator[int]:
    """Take connections on the port that is yielded, and say nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@contextlib.contextmanager
def talking(talk: Callable[[socket.socket], None]) -> Iterator[int]:
    """Let *talk* speak to whoever connects to the port that is yielded."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = server.accept()
                    with connection, contextlib.suppress(OSError):
                        talk(connection)

        threading.Thread(target=accept, daemon=True).start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
