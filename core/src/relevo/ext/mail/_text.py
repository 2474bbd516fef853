"""The text of a mail: plain, narrow enough for a telephone, with headers that are safe from injection."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime, parseaddr
from itertools import islice
from uuid import uuid4

import attrs

from relevo._event.codec import Document, context_of, decoded, generic
from relevo._secret import MASK, abridged, masked as without_passwords
from relevo._transport.envelope import Envelope
from relevo.errors import RelevoError
from relevo.ext.mail._book import FailureGroup
from relevo.ext.mail._incident import Incident, without_machinery

WIDTH = 72
_LONGEST_SUBJECT = 150
_LONGEST_WHO = 60
_MOST_SECTIONS = 5
_MOST_LINES = 30
_MOST_VALUES = 20
_LONGEST_VALUE = 200
_LONGEST_TRACE = 3000
_MARGIN = 10

_CALLED = r"passw|passphrase|pwd|secret|token|api[_-]?key|private[_-]?key|credential|authorization|cookie"
_NAME = rf"(?:{_CALLED})[\w-]{{0,30}}"
_SAID = re.compile(rf"(?i)({_NAME})(['\"]?\s*[=:]\s*['\"]?)((?:bearer |basic )?[^\s'\",;&)}}\]]+)")
_OPTION = re.compile(rf"(?i)(?<![\w-])(--?[\w-]{{0,30}}{_NAME})(['\"]?,?\s+['\"]?)((?!-)[^\s'\",;)}}\]]+)")
"""
As in a command that failed.

These forms are those of sentences too. Other texts than a mail show them, since a mail leaves the machine.
"""

_SECRET_KEY = re.compile(rf"(?i){_CALLED}|signature|(?<![a-z])(?:auth|pin)(?![a-z])")
"""The name of a secret value; in a text, auth and pin are followed by other things too."""


@attrs.frozen(kw_only=True)
class Letterhead:
    """What all mails of a process have in common."""

    source: str
    """The application's name."""

    host: str
    process: int
    sender: str
    recipients: Sequence[str]
    arguments: bool


@attrs.frozen(kw_only=True)
class MailSection:
    """Failures of one kind, to be mailed."""

    key: str
    group: FailureGroup
    incident: Incident | None
    """One of them, if it happened in this process."""


def line(text: str, limit: int = _LONGEST_VALUE) -> str:
    """Return *text* in one printable line, with its secrets masked, cut at *limit* characters."""
    flat = " ".join("".join(each if each.isprintable() else " " for each in masked(text)).split())
    return flat if len(flat) <= limit else flat[: limit - 1] + "…"


def masked(text: str) -> str:
    """
    Return *text* without passwords, and without what may be one by its name.

    Mask before a text is cut: half an address is not recognised as one.
    """
    hidden = without_passwords(abridged(text))
    for pattern, marks in ((_SAID, ":="), (_OPTION, "-")):
        if any(mark in hidden for mark in marks):
            hidden = pattern.sub(lambda match: f"{match[1]}{match[2]}{MASK}", hidden)
    return hidden


def summary(incident: Incident) -> str:
    """Return the listener or the event, and its error."""
    who = incident.listener or incident.event
    return f"{line(who, _LONGEST_WHO)}: {line(incident.error, _LONGEST_SUBJECT)}"


def compose(sections: Sequence[MailSection], letterhead: Letterhead, *, now: float) -> EmailMessage:
    """Return the mail about *sections*, of which there is at least one."""
    first = sections[0]
    root = first.key.rpartition(" ")[2]
    domain = re.sub(r"[^A-Za-z0-9.-]+", "-", masked(letterhead.source)).strip(".-") or "app"
    others = f" (and {len(sections) - 1} more)" if sections[1:] else ""
    source = line(letterhead.source, _LONGEST_WHO)
    subject = line(f"{source}: {first.group.what}", _LONGEST_SUBJECT - len(others)) + others
    # Folded, a long first word would leave the first line of the header empty, which some programs show as no subject.
    mail = EmailMessage(policy=SMTP.clone(max_line_length=998) if subject.isascii() else SMTP)
    mail["Subject"] = subject
    mail["From"] = _header_address(letterhead.sender)
    mail["To"] = tuple(map(_header_address, letterhead.recipients))
    mail["Date"] = format_datetime(datetime.fromtimestamp(now, UTC))
    # Every mail has an id of its own, since some servers drop a second mail with the same one. Mails about failures of
    # one kind answer one id, so that programs show them as a thread; no mail with that id need exist.
    mail["Message-ID"] = f"<{root}.{uuid4().hex}@{domain}.relevo>"
    mail["In-Reply-To"] = mail["References"] = f"<{root}@{domain}.relevo>"
    mail["Auto-Submitted"] = "auto-generated"
    mail["X-Auto-Response-Suppress"] = "All"
    mail.set_content("\n".join(_body(sections, letterhead)), cte="quoted-printable")
    return mail


def _header_address(text: str) -> Address:
    name, bare = parseaddr(text)
    return Address(display_name=name, addr_spec=bare)


def _body(sections: Sequence[MailSection], letterhead: Letterhead) -> Iterator[str]:
    detailed = [section for section in sections if section.incident is not None][:_MOST_SECTIONS]
    brief = [section for section in sections if section not in detailed]
    if sections[1:]:
        total = sum(section.group.count for section in sections)
        yield from _wrapped(f"{len(sections)} different failures, {total} in all.")
        yield ""
    for section in detailed:
        yield from _section(section, letterhead)
        yield ""
        yield "-" * 20
        yield ""
    for section in brief[:_MOST_LINES]:
        yield from _wrapped(f"{line(section.group.what, 2 * _LONGEST_SUBJECT)} ({_times(section.group)})", margin=2)
        yield ""
    if brief[_MOST_LINES:]:
        yield from _wrapped(f"… and {len(brief) - _MOST_LINES} more.")
        yield ""
    yield from _wrapped(f"Sent by {line(letterhead.source)}, process {letterhead.process} on {line(letterhead.host)}.")
    yield from _wrapped("All of it is in the log, and what is dead: relevo dead list")


def _section(section: MailSection, letterhead: Letterhead) -> Iterator[str]:
    incident = section.incident
    assert incident is not None  # noqa: S101 - a section without one is only listed
    envelope = incident.delivery.envelope
    document = _document(envelope)
    yield from _wrapped(_headline(incident))
    yield ""
    yield from _wrapped(line(incident.error, 1000))
    yield ""
    facts: list[tuple[str, str]] = [("event", incident.event), ("id", incident.event_id)]
    if document is not None:
        facts += [("subject", document.subject or ""), ("from", f"{document.source}, {document.time or 'at no time'}")]
        facts += [("correlation", document.correlationid or ""), ("caused by", document.causationid or "")]
    facts += [
        ("queue", incident.delivery.queue),
        ("listener", incident.listener),
        ("attempt", _attempt(incident)),
        ("reason", incident.reason),
        ("next", _next(incident)),
        ("times", _times(section.group)),
        ("died", incident.died),
        ("sent by", f"{letterhead.host}, process {letterhead.process}"),
    ]
    for name, value in facts:
        if value:
            yield from _wrapped(f"{name:<{_MARGIN}}{' ' * (len(name) >= _MARGIN)}{line(value)}", margin=_MARGIN)
    if document is not None:
        yield from _values("Context", context_of(document))
        if letterhead.arguments:
            yield from _values("Arguments", _arguments(document))
    yield from _block(incident.detail, cut="The end of a longer text")
    yield from _block(without_machinery(incident.trace), cut="The end of a longer traceback")
    if incident.output:
        yield from ("", "The last output")
        yield from _block(incident.output, cut="The end of a longer output")


def _block(text: str, *, cut: str) -> Iterator[str]:
    """
    Return *text* line by line, or its end after the line *cut* if it is too long.

    The lines of *text* are indented, so that none looks like one of the mail's own.
    """
    if not text:
        return
    yield ""
    text = masked(text)
    if len(text) > _LONGEST_TRACE:
        yield cut
        text = text[-_LONGEST_TRACE:].partition("\n")[2] or text[-_LONGEST_TRACE:]
    for each in text.splitlines():
        yield from _wrapped(each, indent=2, margin=4)


def _headline(incident: Incident) -> str:
    event = line(incident.event)
    match incident.kind:
        case "died":
            return f"A process died while it held {event}." if incident.died else f"{event} was interrupted."
        case "lost":
            return (
                f"A lease of {event} was lost: its worker was killed or suspended, or could not reach its server. The "
                f"worker may have held other events too, so this one need not be the cause."
            )
        case "failed":
            return f"{line(incident.listener)} failed on {event}."
        case _ if incident.due is not None:
            return f"{event} cannot be handled: {line(incident.reason)}."
        case _:
            return f"{event} is dead: {line(incident.reason)}."


def _attempt(incident: Incident) -> str:
    lost_leases = incident.delivery.lost_leases
    died = f", {lost_leases} lease{'s' if lost_leases > 1 else ''} lost before" if lost_leases else ""
    return f"run {incident.runs}{died}" if incident.runs else f"{incident.delivery.attempt}{died}"


def _next(incident: Incident) -> str:
    if incident.kind == "died" and not incident.died:
        return "it is delivered again, alone"
    if incident.kind in ("lost", "died"):
        return "it is delivered again, alone; after three deaths of its process it becomes a dead letter"
    if incident.kind == "dead" and incident.due is not None:
        return f"its transport keeps no dead letters, so it is tried again at {_time(incident.due)}"
    if incident.kind == "dead":
        return "nothing by itself; once it is fixed, relevo dead list shows what to pass to relevo dead revive"
    if incident.due is None:
        return "this listener is not run again for it"
    return f"the listener is run again at {_time(incident.due)}"


def _times(group: FailureGroup) -> str:
    if group.count == 1:
        return f"once, at {_time(group.since)}"
    return f"{group.count} times, {_time(group.since)} to {_time(group.last)}"


def _time(seconds: float) -> str:
    try:
        return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S} UTC"
    except (ValueError, OverflowError, OSError):  # any program may have written the time
        return f"{seconds:g} s after 1970"


def _document(envelope: object) -> Document | None:
    try:
        return decoded(envelope.body) if isinstance(envelope, Envelope) else None
    except RelevoError:
        return None


def _arguments(document: Document) -> Mapping[str, object]:
    try:
        return generic(document).arguments
    except RelevoError:
        return {}


def _values(title: str, values: Mapping[str, object]) -> Iterator[str]:
    if not values:
        return
    yield ""
    yield title
    for key, value in list(values.items())[:_MOST_VALUES]:
        text = MASK if _SECRET_KEY.search(key) else line(json.dumps(_without_secrets(value), ensure_ascii=False))
        yield from _wrapped(f"  {line(key, 40)} = {text}", margin=4)
    if len(values) > _MOST_VALUES:
        yield f"  … and {len(values) - _MOST_VALUES} more"


def _without_secrets(value: object) -> object:
    if isinstance(value, dict):
        return {
            masked(str(key)): MASK if _SECRET_KEY.search(str(key)) else _without_secrets(each)
            for key, each in islice(value.items(), _MOST_VALUES)
        }
    if isinstance(value, list):
        return [_without_secrets(each) for each in value[:_MOST_VALUES]]
    if isinstance(value, bytes):  # binary data of another program
        return f"{len(value)} bytes"
    return masked(value)[: _LONGEST_VALUE * 2] if isinstance(value, str) else value


def _wrapped(text: str, *, indent: int = 0, margin: int = 0) -> Iterable[str]:
    """Return *text* in lines of limited length, the first indented by *indent* and the others by *margin*."""
    plain = "".join(each if each.isprintable() else " " for each in text.expandtabs(4)).rstrip()
    lines = textwrap.wrap(
        plain,
        WIDTH,
        initial_indent=" " * indent,
        subsequent_indent=" " * margin,
        break_on_hyphens=False,
        replace_whitespace=False,
    )
    return lines or [""]
