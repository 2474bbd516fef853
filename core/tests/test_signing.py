from __future__ import annotations

import base64
import functools
import hashlib
import hmac
from collections.abc import Callable
from typing import Any

import attrs
import pytest
from hypothesis import given, settings, strategies as st

from relevo import (
    App,
    Call,
    DeadLetter,
    DeferredDispatcher,
    Delivery,
    Envelope,
    Event,
    Nack,
    Outcome,
    Retry,
    RunOptions,
    Secret,
    Signing,
    listener,
)
from relevo._transport.delivery import MAX_STATE
from relevo._worker.progress import Progress, dumped, loaded
from relevo._worker.signing import HEADER, _noted
from relevo._worker.signing_key import weakness
from relevo.errors import ConfigurationError, DecodeError
from relevo.testing import FakeClock
from relevo.wire import pack, unpack
from relevo_memory import MemoryTransport

OLD = "ICl1y4JgHHCMPzFuR0eDBVcNmsBqKtd_4-wYpJw2oT8"
NEW = "9tZr7dX0bQ3mWkLhE5vYgUa1SfJc6RnOiP2TqHxKs8M"
OTHER = "fD2wGy8UoR4aLzNp7JbXsEc1QhTkVm0I5xBrKd9ZiYg"
DRAIN = RunOptions(until_empty=True, settle=60)

texts = st.text(min_size=1, max_size=20)
envelopes = st.builds(
    Envelope,
    id=texts,
    source=texts,
    name=texts,
    queue=texts,
    body=st.binary(max_size=40),
    headers=st.dictionaries(texts, texts, max_size=2),
    urgency=st.sampled_from(["normal", "high"]),
    ordering_key=st.none() | texts,
    expires=st.none() | st.floats(0, 4e9),
)


def verify(signing: Signing, envelope: Envelope, *, source: str | None = None) -> str | None:
    """Return why *envelope* is refused where it claims to be from and to be for, if it is."""
    try:
        signing.verify(envelope, queue=envelope.queue, source=envelope.source if source is None else source)
    except DecodeError as error:
        return str(error)
    return None


# --- signatures --------------------------------------------------------------------------------------------


@given(envelopes)
def test_what_was_signed_fits_and_is_otherwise_unchanged(envelope: Envelope) -> None:
    signed = Signing(NEW).signed(envelope)

    assert verify(Signing(NEW), signed) is None
    assert {**signed.headers, **envelope.headers} == dict(signed.headers)
    assert attrs.evolve(signed, headers=envelope.headers) == envelope


@given(envelopes, envelopes, st.sampled_from([field.name for field in attrs.fields(Envelope)]))
def test_a_change_of_any_field_is_seen(envelope: Envelope, other: Envelope, field: str) -> None:
    signed = Signing(NEW).signed(envelope)
    value = getattr(other, field)
    if field == "headers":
        value = {**value, HEADER: signed.headers[HEADER]}

    changed = attrs.evolve(signed, **{field: value})

    fault = verify(Signing(NEW), changed)
    assert (fault is None) == (value == getattr(signed, field))


@given(envelopes, st.data())
def test_a_change_of_any_byte_is_seen(envelope: Envelope, data: st.DataObject) -> None:
    packed = pack(Signing(NEW).signed(envelope))
    position = data.draw(st.integers(0, len(packed) - 1))
    changed = packed[:position] + bytes([packed[position] ^ data.draw(st.integers(1, 255))]) + packed[position + 1 :]

    try:
        read = unpack(changed)
    except DecodeError:
        return  # it is no envelope any more

    assert (verify(Signing(NEW), read) is None) == (read == unpack(packed))


@given(envelopes, envelopes)
def test_no_two_events_have_the_same_input(one: Envelope, other: Envelope) -> None:
    signing = Signing(NEW)

    assert (one == other) == (signing.signed(one).headers[HEADER] == signing.signed(other).headers[HEADER])


@given(st.lists(st.none() | st.text(max_size=3), min_size=2, max_size=4).map(tuple))
def test_no_two_events_are_signed_alike_because_one_fields_end_is_the_nexts_beginning(said: tuple[Any, ...]) -> None:
    signing = Signing(NEW)
    key_id = next(iter(signing._by_id))
    joined = (f"{said[0] or ''}{said[1] or ''}", *said[2:])

    assert signing._mac("v2", key_id, *said) != signing._mac("v2", key_id, *joined)


@pytest.mark.parametrize(
    "field, changed",
    [
        ("id", "2"),
        ("source", "shop2"),
        ("name", "a.c"),
        ("queue", "feed"),
        ("body", b"{ }"),
        ("headers", {"tenant": "2"}),
        ("headers", {"tenant": "1", "other": ""}),
        ("headers", {"tenan": "t1"}),
        ("headers", {}),
        ("urgency", "high"),
        ("ordering_key", None),
        ("ordering_key", ""),
        ("expires", None),
        ("expires", 4e9 + 0.000001),
    ],
)
def test_each_field_is_signed(field: str, changed: Any) -> None:
    envelope = Envelope(
        id="1", source="shop", name="a.b", body=b"{}", headers={"tenant": "1"}, ordering_key="k", expires=4e9
    )
    signed = Signing(NEW).signed(envelope)
    if field == "headers":
        changed = {**changed, HEADER: signed.headers[HEADER]}

    fault = verify(Signing(NEW), attrs.evolve(signed, **{field: changed}), source="shop" if field != "source" else None)

    assert fault == "its signature is invalid: the event was changed after signing"


@pytest.mark.parametrize(
    "header, why",
    [
        (None, "it is not signed"),
        ("", "its signature is malformed: ''"),
        ("v1", "its signature is malformed: 'v1'"),
        ("v2.1234.abc", "its signature is malformed: 'v2.1234.abc'"),
        (f"v3.feedfeed.{'0' * 64}", "its signature has the version v3; known: v1, v2"),
        (f"v2.feedfeed.{'0' * 64}", "it is signed with the key feedfeed, which is unknown; known: "),
        (f"v1.feedfeed.{'0' * 64}", "it is signed with the key feedfeed, which is unknown; known: "),
        ("v2.KEY.", "its signature is malformed"),
        ("v2.KEY.ÄÖÜ", "its signature is malformed"),
        (f"v2.KEY.{'0' * 63}g", "its signature is malformed"),
        (f"v2.KEY.{'0' * 64}\n", "its signature is malformed"),
        (f"v2.KEY.{'0' * 64}", "its signature is invalid"),
        (f"v1.KEY.{'0' * 64}", "its signature is invalid"),
    ],
)
def test_what_is_no_signature_says_so_without_a_secret(header: str | None, why: str) -> None:
    signing = Signing(NEW)
    key_id = next(iter(signing._by_id))
    headers = {} if header is None else {HEADER: header.replace("KEY", key_id)}

    fault = verify(signing, Envelope(id="1", source="shop", name="a.b", body=b"{}", headers=headers))

    assert fault is not None
    assert fault.startswith(why)
    assert NEW not in fault + repr(signing)


@given(st.text(max_size=100) | st.from_regex(r"v\d+\.[0-9a-f]{8}\.[0-9a-f]{64}"))
def test_whatever_is_in_the_header_is_refused(header: str) -> None:
    envelope = Envelope(id="1", source="shop", name="a.b", body=b"\xff", headers={HEADER: header})

    assert verify(Signing(NEW), envelope) is not None
    assert verify(Signing(NEW, required=False, unsigned=["shop"]), envelope, source="bank") is not None


def test_keys_rotate() -> None:
    envelope = Envelope(id="1", source="shop", name="a.b", body=b"{}")
    before, during, after = Signing(OLD), Signing([NEW, OLD]), Signing(Secret(NEW))

    assert verify(during, before.signed(envelope)) is None
    assert verify(during, during.signed(envelope)) is None
    assert verify(after, during.signed(envelope)) is None
    assert verify(after, before.signed(envelope)) is not None
    assert verify(Signing(OTHER), during.signed(envelope)) is not None


@given(envelopes, st.permutations([OLD, NEW, OTHER]), st.integers(1, 3), st.permutations([OLD, NEW, OTHER]))
def test_an_event_is_verified_wherever_the_key_that_signed_it_is_known(
    envelope: Envelope, signs: list[str], count: int, verifies: list[str]
) -> None:
    here = Signing(verifies[:count])

    fault = verify(here, Signing(signs).signed(envelope))

    assert (fault is None) == (signs[0] in verifies[:count])
    assert fault is None or "which is unknown" in fault


def test_a_signature_may_be_missing_while_signing_is_introduced_but_not_be_wrong() -> None:
    envelope = Envelope(id="1", source="shop", name="a.b", body=b"{}")
    lenient = Signing(NEW, required=False)

    assert verify(lenient, envelope) is None
    assert verify(lenient, Signing(OTHER).signed(envelope)) is not None
    assert lenient.opened(b'{"v":1}', envelope) == b'{"v":1}'


# --- what an earlier release signed ------------------------------------------------------------------------


def signed_earlier(envelope: Envelope, key: str = NEW) -> Envelope:
    """Return *envelope* with the signature of a release that signed its body, audience, urgency, key and expiry."""
    key_id = hmac.digest(key.encode(), b"key id", "sha256").hex()[:8]
    expires = None if envelope.expires is None else repr(float(envelope.expires))
    covered = ("event", envelope.source, envelope.queue, envelope.urgency, envelope.ordering_key, expires)
    message = bytearray(b"v1")
    for each in (key_id, *covered, envelope.body):
        data = each.encode() if isinstance(each, str) else each
        message += b"-" if data is None else len(data).to_bytes(8) + data
    mac = hmac.digest(key.encode(), bytes(message), "sha256").hex()
    return attrs.evolve(envelope, headers={**envelope.headers, HEADER: f"v1.{key_id}.{mac}"})


def sent(**changes: Any) -> Envelope:
    """Return an envelope as a dispatch makes it, with *changes*."""
    transport = MemoryTransport()
    DeferredDispatcher(transport, source="shop").dispatch(Event("a.b"), ordering_key=None)
    (one,) = transport.receive(["default"], limit=1, lease=60.0, wait=0.0)
    assert isinstance(one.envelope, Envelope)
    return attrs.evolve(one.envelope, **changes)


def test_an_event_that_an_earlier_release_signed_is_accepted() -> None:
    envelope = signed_earlier(sent(expires=4e9, ordering_key="k"))

    assert verify(Signing(NEW), envelope) is None
    assert verify(Signing([OTHER, NEW]), envelope) is None


@pytest.mark.parametrize(
    "change, why",
    [
        ({"id": "2"}, "its signature is invalid: its id or name was changed after signing"),
        ({"name": "a.c"}, "its signature is invalid: its id or name was changed after signing"),
        ({"expires": 4e9}, "its signature is invalid: the event was"),
        ({"queue": "feed"}, "its signature is invalid: the event was"),
        ({"body": b"{}"}, "its signature is invalid: the event was"),
        (
            {"headers": {"tenant": "2"}},
            "its signature has the version v1, which does not cover its header 'tenant'",
        ),
    ],
)
def test_what_an_earlier_release_did_not_sign_is_verified_otherwise(change: dict[str, Any], why: str) -> None:
    envelope = signed_earlier(sent())
    if "headers" in change:
        change = {"headers": {**change["headers"], **envelope.headers}}

    fault = verify(Signing(NEW), attrs.evolve(envelope, **change))

    assert fault is not None
    assert fault.startswith(why)


def test_a_state_is_sealed_as_an_earlier_release_does_so_that_both_work_side_by_side() -> None:
    envelope = sent(id="1")
    key_id = hmac.digest(NEW.encode(), b"key id", "sha256").hex()[:8].encode()
    message = b"v1" + b"".join(
        len(each).to_bytes(8) + each for each in (key_id, b"state", b"shop", b"default", b"1", b"progress")
    )
    theirs = b"s1" + key_id + hmac.digest(NEW.encode(), message, "sha256") + b"progress"

    assert Signing(NEW).sealed(b"progress", envelope) == theirs
    assert Signing(NEW).opened(theirs, envelope) == b"progress"


# --- sources -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options, is_signed, is_accepted",
    [
        ({}, True, False),
        ({}, False, False),
        ({"accept": ["bank"]}, True, True),
        ({"accept": "bank"}, True, True),
        ({"accept": ["bank"]}, False, False),
        ({"unsigned": ["bank"]}, False, True),
        ({"unsigned": ["bank"]}, True, True),
        ({"accept": ["banks", "ban", "BANK"], "unsigned": ["banks", "ban", "BANK"]}, True, False),
        ({"accept": ["banks", "ban", "BANK"], "unsigned": ["banks", "ban", "BANK"]}, False, False),
        ({"required": False}, True, False),
        ({"required": False}, False, True),
    ],
)
def test_the_event_of_another_application_is_accepted_only_if_its_source_is_listed(
    options: dict[str, Any],
    is_signed: bool,  # noqa: FBT001 - a parameter of pytest
    is_accepted: bool,  # noqa: FBT001 - as above
) -> None:
    signing = Signing(NEW, **options)
    envelope = Envelope(id="1", source="bank", name="a.b", body=b"{}")

    fault = verify(signing, signing.signed(envelope) if is_signed else envelope, source="shop")

    assert (fault is None) == is_accepted
    if fault is not None:
        assert "'bank'" in fault
        assert "add it to signing.accept" in fault if is_signed else "add it to signing.unsigned" in fault


def test_the_applications_own_events_need_no_listing_and_need_a_signature() -> None:
    signing = Signing(NEW, accept=["bank"], unsigned=["partner"])
    envelope = Envelope(id="1", source="shop", name="a.b", body=b"{}")

    assert verify(signing, signing.signed(envelope)) is None
    assert verify(signing, envelope) == "it is not signed"


def test_a_signature_that_is_there_is_verified_even_if_its_source_may_come_without() -> None:
    signing = Signing(NEW, unsigned=["partner"])
    signed = signing.signed(Envelope(id="1", source="partner", name="a.b", body=b"{}"))

    fault = verify(signing, attrs.evolve(signed, body=b"{ }"), source="shop")

    assert fault == "its signature is invalid: the event was changed after signing"


@pytest.mark.parametrize("name", ["accept", "unsigned"])
@pytest.mark.parametrize("pattern", ["*", "bank*", "/*/web"])
def test_a_pattern_is_refused_where_sources_are_exact(name: str, pattern: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"^signing\.{name}: expected exact sources") as caught:
        Signing(NEW, **{name: ["shop", pattern]})  # type: ignore[arg-type]  # mypy does not know which option it is

    assert pattern in str(caught.value)


@pytest.mark.parametrize("name", ["accept", "unsigned"])
@pytest.mark.parametrize("given_", [3, "", "a b", ["shop", 3], ["shop", ""], {"shop": 1}, b"shop"])
def test_what_is_not_a_source_is_refused(name: str, given_: Any) -> None:
    with pytest.raises(ConfigurationError, match=rf"^signing\.{name}: expected .*source.*; got "):
        Signing(NEW, **{name: given_})


# --- sending on --------------------------------------------------------------------------------------------


@given(envelopes)
def test_an_event_is_signed_again_for_its_new_queue_and_with_the_first_key(envelope: Envelope) -> None:
    moved = Signing([NEW, OLD]).readdressed(
        Signing(OLD).signed(envelope), to="new/queue", queue=envelope.queue, source=envelope.source
    )

    Signing(NEW).verify(moved, queue="new/queue", source=envelope.source)
    assert attrs.evolve(moved, queue=envelope.queue, headers=envelope.headers) == envelope


@pytest.mark.parametrize(
    "forged",
    [
        Envelope(id="1", source="shop", name="a.b", body=b"{}"),
        attrs.evolve(Signing(NEW).signed(Envelope(id="1", source="shop", name="a.b", body=b"{}")), id="2"),
        Signing(OTHER).signed(Envelope(id="1", source="shop", name="a.b", body=b"{}")),
        Signing(NEW).signed(Envelope(id="1", source="bank", name="a.b", body=b"{}")),
        Signing(NEW).signed(Envelope(id="1", source="shop", name="a.b", queue="feed", body=b"{}")),
    ],
)
def test_a_forged_event_is_not_signed_again(forged: Envelope) -> None:
    with pytest.raises(DecodeError):
        Signing(NEW).readdressed(forged, to="media", queue="default", source="shop")


@pytest.mark.parametrize("signing", [Signing(NEW, required=False), Signing(NEW, unsigned=["partner"])])
def test_an_event_that_may_be_unsigned_is_not_signed_when_it_is_moved(signing: Signing) -> None:
    envelope = Envelope(id="1", source="partner", name="a.b", body=b"{}")

    moved = signing.readdressed(envelope, to="media", queue="default", source="shop")

    assert moved == attrs.evolve(envelope, queue="media")


# --- keys --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keys", ["short", [], [NEW, "short"]])
def test_keys_that_protect_nothing_are_refused_and_not_shown(keys: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"signing: expected keys of .*secrets.token_urlsafe") as caught:
        Signing(keys)

    assert "short" not in str(caught.value)


@pytest.mark.parametrize(
    "key, why",
    [
        (f" {NEW}", "begins or ends with white space"),
        (f"{NEW}\n", "begins or ends with white space"),
        (" " * 32, "begins or ends with white space"),
        ("k" * 32, "has only 1 different character"),
        ("0110" * 8, "has only 2 different characters"),
        ("x" * 20 + NEW[:20], "repeats one character"),
        ("a b c d e f g h i j k l m n o p q r s", "repeats one character"),
        ("0123456789abcdef" * 2, "repeats its beginning"),
        (f"{NEW[:20]}{NEW[:20]}", "repeats its beginning"),
        ("abcdefghijklmnopqrstuvwxyz012345", "counts up or down"),
        ("ZYXWVUTSRQPONMLKJIHGFEDCBA987654", "counts up or down"),
        ("changeme-please-this-is-not-secure", "is made of the words of an example"),
        ("your-secret-key-goes-here-32-characters", "is made of the words of an example"),
        ("REPLACE_ME_WITH_A_LONG_RANDOM_STRING", "is made of the words of an example"),
        ("django-insecure-shop-password-2026", "is made of the words of an example"),
        ("<a random key of at least 32 characters>", "is made of the words of an example"),
        ("super-secret-signing-key-0123456789", "is made of the words of an example"),
    ],
)
def test_a_weak_key_is_refused_and_not_shown(key: str, why: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Signing([OLD, key])

    assert str(caught.value).startswith(f"signing: expected random keys; got one that {why}; generate one with")
    assert key.strip(" ") not in str(caught.value) or not key.strip()
    assert OLD not in str(caught.value)


@pytest.mark.lengthy("tries many cases")
@given(st.binary(min_size=16, max_size=32), st.sampled_from(["hex", "base64", "urlsafe"]))
@settings(max_examples=500)
def test_a_random_key_is_not_weak(seed: bytes, form: str) -> None:
    random_bytes = hashlib.sha256(seed).digest()  # hypothesis prefers simple values, and a key is random
    key = {
        "hex": random_bytes.hex()[:32],
        "base64": base64.b64encode(random_bytes).decode(),
        "urlsafe": base64.urlsafe_b64encode(random_bytes).decode().rstrip("="),
    }[form]

    assert weakness(key) is None


# --- states ------------------------------------------------------------------------------------------------


@given(st.binary(min_size=1, max_size=50), envelopes, st.data())
def test_a_state_fits_its_own_event_and_no_other_and_cannot_be_changed(
    state: bytes, envelope: Envelope, data: st.DataObject
) -> None:
    signing = Signing(NEW)
    sealed = signing.sealed(state, envelope)
    position = data.draw(st.integers(0, len(sealed) - 1))
    changed = sealed[:position] + bytes([sealed[position] ^ data.draw(st.integers(1, 255))]) + sealed[position + 1 :]

    assert signing.opened(sealed, envelope) == state
    assert signing.opened(b"", envelope) == b""
    for wrong, whose in [
        (changed, envelope),
        (sealed, attrs.evolve(envelope, id=f"{envelope.id}x")),
        (state, envelope),
        (sealed[:-1], envelope),
    ]:
        with pytest.raises(DecodeError, match=r"not signed by a worker|its state is signed with the key"):
            signing.opened(wrong, whose)


# --- in an application ---------------------------------------------------------------------------------------


@pytest.fixture(name="transport")
def _transport(clock: FakeClock) -> MemoryTransport:
    return MemoryTransport(clock=clock)


@pytest.fixture(name="app")
def _app(transport: MemoryTransport, clock: FakeClock) -> Callable[..., App]:
    def app(*listeners: object, signing: Signing | None = None) -> App:
        return App(
            transports={"main": transport},
            routes={"*": "main"},
            listeners=listeners,
            signing=signing,
            clock=clock,
            chance=lambda: 0.0,
        )

    return app


MakeApp = Callable[..., App]


def _dead(transport: MemoryTransport) -> list[tuple[str, str]]:
    return [(dead.reason, dead.error) for dead in transport.dead_letters(["default"], after=None, limit=9)]


def test_signed_events_are_handled_retried_and_revived(app: MakeApp, transport: MemoryTransport) -> None:
    runs: list[str] = []

    @listener("a.b", retry=Retry(2, first=1))
    def fails(event: Event, call: Call) -> None:
        runs.append(f"fails {call.attempt}")
        if len(runs) < 4:
            raise ValueError

    done = listener("a.b", id="done", priority=1)(functools.partial(lambda event: None))
    shop = app(fails, done, signing=Signing(NEW))
    shop.dispatch(Event("a.b"))
    shop.worker(DRAIN).run()
    (dead,) = transport.dead_letters(["default"], after=None, limit=9)
    transport.revive({dead.ref: shop.revived(dead)})
    shop.worker(DRAIN).run()

    assert runs == ["fails 1", "fails 2", "fails 1", "fails 2"]
    assert dead.state.startswith(b"s1")
    assert _dead(transport) == []


def test_what_nobody_or_somebody_else_signed_is_set_aside_unread(app: MakeApp, transport: MemoryTransport) -> None:
    heard: list[Event] = []
    hear = listener("a.b")(functools.partial(heard.append))
    app(hear).dispatch(Event("a.b"))
    app(hear, signing=Signing(OTHER)).dispatch(Event("a.b"))
    transport.send([Envelope(id="1", source="app", name="a.b", body=b"no JSON at all")])
    header = {"relevo-signature": f"v1.{next(iter(Signing(NEW)._by_id))}.{'0' * 64}"}
    transport.send([Envelope(id="2", source="app", name="a.b", body=b"no JSON at all", headers=header)])

    app(hear, signing=Signing(NEW)).worker(DRAIN).run()

    assert heard == []
    assert [reason for reason, _ in _dead(transport)] == ["forged"] * 3
    assert [error[:13] for _, error in _dead(transport)] == ["it is not sig", "it is not sig", "its signature"]
    assert transport.stats("default").scheduled == 1, "the one of a key that may still come"


def _keep(shop: App, transport: MemoryTransport, clock: FakeClock, *, seconds: float) -> None:
    """Let a worker of *shop* take whatever is due, for so long."""
    end = clock.now() + seconds
    while clock.now() < end and not _dead(transport):
        if transport.stats("default").ready:
            shop.worker(RunOptions(until_empty=True)).run()
        clock.advance(1.0)


@pytest.mark.parametrize("state", [b"", b"kept"])
def test_the_key_of_a_later_deploy_is_waited_for_by_a_worker_that_has_not_got_it(
    state: bytes, app: MakeApp, transport: MemoryTransport, clock: FakeClock
) -> None:
    heard: list[str] = []

    @listener("a.b", id="fails", retry=Retry(3, first=10.0))
    def fails(event: Event, call: Call) -> None:
        heard.append("fails")
        if len(heard) < 3:
            raise ValueError

    done = listener("a.b", id="done", priority=1)(functools.partial(lambda event: heard.append("done")))
    earlier, later = app(fails, done, signing=Signing(OLD)), app(fails, done, signing=Signing([NEW, OLD]))
    (earlier if state else later).dispatch(Event("a.b"))
    if state:  # then the event is of a key that both know, and only what the later worker noted is not
        later.worker(RunOptions(until_empty=True)).run()

    _keep(earlier, transport, clock, seconds=1800.0)
    assert heard == (["done", "fails"] if state else [])
    assert _dead(transport) == []
    _keep(later, transport, clock, seconds=200.0)

    assert heard == ["done", "fails", "fails"]
    assert _dead(transport) == []
    assert transport.stats("default").scheduled == 0


def test_a_key_that_never_comes_is_waited_for_as_long_as_patience_lasts_from_when_it_was_met(
    app: MakeApp, transport: MemoryTransport, clock: FakeClock
) -> None:
    app(signing=Signing(OTHER)).dispatch(Event("a.b"), delay="5h")
    shop = app(listener("a.b", id="hear")(functools.partial(lambda event: None)), signing=Signing(NEW))
    clock.advance(5 * 3600.0)
    began = clock.now()

    _keep(shop, transport, clock, seconds=8000.0)

    assert clock.now() - began == pytest.approx(3600.0, abs=5.0)
    ((reason, error),) = _dead(transport)
    assert reason == "forged"
    assert error.startswith("it is signed with the key ")
    (dead,) = transport.dead_letters(["default"], after=None, limit=9)
    assert dead.state == b""


@pytest.mark.parametrize("required", [True, False])
def test_what_a_later_worker_noted_outlives_the_wait_for_its_key_and_a_revival(
    *, required: bool, app: MakeApp, transport: MemoryTransport, clock: FakeClock
) -> None:
    heard: list[str] = []

    @listener("a.b", id="fails", retry=Retry(2, first="3h", cap="3h"))
    def fails(event: Event) -> None:
        heard.append("fails")
        if len(heard) == 2:
            raise ValueError

    done = listener("a.b", id="done", priority=1)(functools.partial(lambda event: heard.append("done")))
    earlier = app(fails, done, signing=Signing(OLD, required=required))
    later = app(fails, done, signing=Signing([NEW, OLD], required=required))
    earlier.dispatch(Event("a.b"))
    later.worker(RunOptions(until_empty=True)).run()
    clock.advance(3 * 3600.0)
    _keep(earlier, transport, clock, seconds=8000.0)
    (dead,) = transport.dead_letters(["default"], after=None, limit=9)

    with pytest.raises(DecodeError, match="its state is signed with the key"):
        earlier.revived(dead)
    transport.revive({dead.ref: later.revived(dead)})
    later.worker(RunOptions(until_empty=True)).run()

    assert (dead.reason, dead.error[:30]) == ("forged", "its state is signed with the k")
    assert heard == ["done", "fails", "fails"]


@pytest.mark.parametrize("progress", [b"", dumped(Progress(1, stopped=True))])
def test_an_application_that_gave_signing_up_reads_a_state_with_a_note(
    progress: bytes, app: MakeApp, transport: MemoryTransport
) -> None:
    app(signing=Signing(OTHER)).dispatch(Event("a.b"))
    (one,) = transport.receive(["default"], limit=1, lease=60.0, wait=0.0)
    assert isinstance(one.envelope, Envelope)
    kept = attrs.evolve(one, state=Signing(OTHER).sealed(progress, one.envelope))

    outcome = app(signing=Signing(NEW)).worker()._handle(kept)

    assert isinstance(outcome, Nack)
    assert outcome.state
    assert loaded(outcome.state) == loaded(progress)


@given(st.binary(max_size=60), st.floats(0, 4e9))
def test_a_note_before_a_state_changes_nothing_of_it(state: bytes, now: float) -> None:
    noted = b"s1awaiting%032.3f%b" % (now, state)

    first, without = _noted(noted)
    assert first == pytest.approx(now, abs=0.001)
    assert without == state


@pytest.mark.parametrize("state", [b"s1awaiting", b"s1awaitingnonsense", b"s1awaiting" + b"x" * 32 + b"rest"])
def test_a_note_that_is_none_is_passed_over(state: bytes) -> None:
    assert _noted(state) == (None, b"rest" if state.endswith(b"rest") else b"")


@pytest.mark.parametrize("time", [b"inf", b"nan", b"1e308", b"-1e308", b"9999999999"])
def test_a_note_cannot_make_the_wait_for_a_key_endless(
    app: MakeApp, transport: MemoryTransport, clock: FakeClock, time: bytes
) -> None:
    app(signing=Signing(OTHER)).dispatch(Event("a.b"))
    shop = app(signing=Signing(NEW))
    (one,) = transport.receive(["default"], limit=1, lease=60.0, wait=0.0)
    hostile = attrs.evolve(one, state=b"s1awaiting" + time.rjust(32) + b"rest")

    first = shop.worker()._handle(hostile)
    assert isinstance(first, Nack)
    assert first.state == b"s1awaiting%032.3frest" % clock.now()
    clock.advance(3601.0)
    last = shop.worker()._handle(attrs.evolve(hostile, state=first.state))

    assert isinstance(last, DeadLetter)


def test_where_no_note_fits_a_key_is_waited_for_from_when_the_event_was_sent(
    app: MakeApp, transport: MemoryTransport, clock: FakeClock
) -> None:
    app(signing=Signing(OTHER)).dispatch(Event("a.b"))
    shop = app(signing=Signing(NEW))
    (one,) = transport.receive(["default"], limit=1, lease=60.0, wait=0.0)
    full = attrs.evolve(one, state=b"s1" + b"feedfeed" + b"x" * (MAX_STATE - 10))

    first = shop.worker()._handle(full)
    clock.advance(3601.0)
    last = shop.worker()._handle(full)

    assert first == Nack(delay=1.0)
    assert isinstance(last, DeadLetter)
    assert (last.reason, last.state) == ("forged", full.state)


def test_a_state_that_its_signature_makes_too_long_stays_as_it_was(app: MakeApp, transport: MemoryTransport) -> None:
    app(signing=Signing(NEW)).dispatch(Event("a.b"))
    (one,) = transport.receive(["default"], limit=1, lease=60.0, wait=0.0)
    newer = b'{"v":99,"zz":"%b"}' % (b"x" * (MAX_STATE - 70))  # room for a note, and not for a signature

    outcome = app(signing=Signing(NEW, required=False)).worker()._handle(attrs.evolve(one, state=newer))

    assert outcome == Nack(delay=1.0)


def test_a_state_that_was_too_long_when_it_came_is_not_given_back(
    app: MakeApp, transport: MemoryTransport, clock: FakeClock
) -> None:
    app(signing=Signing(OTHER)).dispatch(Event("a.b"))
    (one,) = transport.receive(["default"], limit=1, lease=60.0, wait=0.0)
    clock.advance(3601.0)

    outcome = app(signing=Signing(NEW)).worker()._handle(attrs.evolve(one, state=b"x" * (MAX_STATE + 1)))

    assert isinstance(outcome, DeadLetter)
    assert (outcome.reason, outcome.state) == ("forged", None)


def test_an_event_that_was_moved_to_another_queue_by_hand_is_forged(app: MakeApp, transport: MemoryTransport) -> None:
    heard: list[Event] = []
    shop = app(listener("a.b", id="hear")(functools.partial(heard.append)), signing=Signing(NEW))
    shop.dispatch(Event("a.b"))
    (one,) = transport.receive(["default"], limit=1, lease=60.0, wait=0.0)

    outcome = shop.worker()._handle(attrs.evolve(one, queue="feed"))

    assert isinstance(outcome, DeadLetter)
    assert (outcome.reason, outcome.error) == (
        "forged",
        'it was signed for the queue "default" and was received from another',
    )
    assert heard == []


def test_a_state_that_somebody_else_wrote_is_not_believed(
    app: MakeApp, transport: MemoryTransport, delivery: Callable[..., Delivery]
) -> None:
    heard: list[Event] = []
    shop = app(listener("a.b", id="hear")(functools.partial(heard.append)), signing=Signing(NEW))
    shop.dispatch(Event("a.b"))
    (one,) = transport.receive(["default"], limit=1, lease=60.0, wait=0.0)
    forged = b'{"v":1,"listeners":{"hear":["done",1,0.0,"",""]}}'

    outcome = shop.worker()._handle(attrs.evolve(one, state=forged))

    assert isinstance(outcome, DeadLetter)
    assert outcome.reason == "forged"
    assert heard == []


def test_an_application_that_gave_signing_up_still_knows_how_far_an_event_is(
    app: MakeApp, transport: MemoryTransport
) -> None:
    heard: list[Event] = []
    hear = listener("a.b", id="hear", priority=1)(functools.partial(heard.append))

    @listener("a.b", id="fails", retry=2)
    def fails(event: Event) -> None:
        raise ValueError

    before, after = app(hear, fails, signing=Signing(NEW)), app(hear, fails)
    before.dispatch(Event("a.b"))
    (one,) = transport.receive(["default"], limit=1, lease=60.0, wait=0.0)
    first: Outcome = before.worker()._handle(one)
    assert isinstance(first, Nack)
    transport.settle([(one, first)])

    after.worker(DRAIN).run()

    assert len(heard) == 1
    assert [reason for reason, _ in _dead(transport)] == ["retries-exhausted"]


def test_a_checkpoint_is_signed_too(app: MakeApp, transport: MemoryTransport) -> None:
    seen: list[bytes] = []

    class Watching(MemoryTransport):
        def checkpoint(self, delivery: Delivery, state: bytes) -> None:
            seen.append(state)
            super().checkpoint(delivery, state)

    watching = Watching(transport.store, clock=FakeClock())
    marks = [listener("a.b", id=name)(functools.partial(lambda event: None)) for name in "ab"]
    shop = App(transports={"main": watching}, routes={"*": "main"}, listeners=marks, signing=Signing(NEW))
    shop.dispatch(Event("a.b"))
    report = shop.worker(RunOptions(until_empty=True)).run()

    assert report.done == 1
    assert [state[:2] for state in seen] == [b"s1"]


def test_an_unreadable_delivery_is_left_to_the_worker(app: MakeApp, transport: MemoryTransport) -> None:
    shop = app(signing=Signing(NEW))
    transport.setup(["default"])
    transport.store.put_raw("default", b"?")

    shop.worker(DRAIN).run()

    assert [reason for reason, _ in _dead(transport)] == ["unreadable"]
