from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import attrs
import pytest
from hypothesis import given, strategies as st

from relevo import (
    App,
    Call,
    DeadLetter,
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
from relevo._worker.signing import _noted
from relevo.errors import ConfigurationError, DecodeError
from relevo.testing import FakeClock
from relevo_memory import MemoryTransport

OLD, NEW, OTHER = (f"{name} key {'x' * 32}" for name in ("old", "new", "another"))
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
SIGNED_FIELDS = ("source", "queue", "body", "urgency", "ordering_key", "expires")


# --- signatures --------------------------------------------------------------------------------------------


@given(envelopes)
def test_what_was_signed_fits_and_is_otherwise_unchanged(envelope: Envelope) -> None:
    signed = Signing(NEW).signed(envelope)

    assert Signing(NEW).fault(signed) is None
    assert {**signed.headers, **envelope.headers} == dict(signed.headers)
    assert attrs.evolve(signed, headers=envelope.headers) == envelope


@given(envelopes, envelopes, st.sampled_from(SIGNED_FIELDS))
def test_a_change_in_anything_that_was_signed_is_seen(envelope: Envelope, other: Envelope, field: str) -> None:
    signed = Signing(NEW).signed(envelope)

    changed = attrs.evolve(signed, **{field: getattr(other, field)})

    fault = Signing(NEW).fault(changed)
    assert (fault is None) == (getattr(other, field) == getattr(envelope, field))


@given(st.lists(st.none() | st.text(max_size=3), min_size=2, max_size=4).map(tuple))
def test_no_two_events_are_signed_alike_because_one_fields_end_is_the_nexts_beginning(said: tuple[Any, ...]) -> None:
    signing = Signing(NEW)
    key_id = next(iter(signing._by_id))
    joined = (f"{said[0] or ''}{said[1] or ''}", *said[2:])

    assert signing._mac(key_id, *said) != signing._mac(key_id, *joined)


@pytest.mark.parametrize(
    "header, why",
    [
        (None, "it is not signed"),
        ("", "its signature is malformed: ''"),
        ("v1", "its signature is malformed: 'v1'"),
        ("v2.1234.abc", "its signature is malformed: 'v2.1234.abc'"),
        (f"v2.feedfeed.{'0' * 64}", "its signature has the version v2; only v1 is known"),
        (f"v1.feedfeed.{'0' * 64}", "it is signed with the key feedfeed, which is unknown; known: "),
        ("v1.KEY.", "its signature is malformed"),
        ("v1.KEY.ÄÖÜ", "its signature is malformed"),
        (f"v1.KEY.{'0' * 63}g", "its signature is malformed"),
        (f"v1.KEY.{'0' * 64}\n", "its signature is malformed"),
        (f"v1.KEY.{'0' * 64}", "its signature does not fit"),
    ],
)
def test_what_is_no_signature_says_so_without_a_secret(header: str | None, why: str) -> None:
    signing = Signing(NEW)
    key_id = next(iter(signing._by_id))
    headers = {} if header is None else {"relevo-signature": header.replace("KEY", key_id)}

    fault = signing.fault(Envelope(id="1", source="shop", name="a.b", body=b"{}", headers=headers))

    assert fault is not None
    assert fault.startswith(why)
    assert NEW not in fault + repr(signing)


def test_keys_rotate() -> None:
    envelope = Envelope(id="1", source="shop", name="a.b", body=b"{}")
    before, during, after = Signing(OLD), Signing([NEW, OLD]), Signing(Secret(NEW))

    assert during.fault(before.signed(envelope)) is None
    assert during.fault(during.signed(envelope)) is None
    assert after.fault(during.signed(envelope)) is None
    assert after.fault(before.signed(envelope)) is not None
    assert Signing(OTHER).fault(during.signed(envelope)) is not None


def test_a_signature_may_be_missing_while_signing_is_introduced_but_not_be_wrong() -> None:
    envelope = Envelope(id="1", source="shop", name="a.b", body=b"{}")
    lenient = Signing(NEW, required=False)

    assert lenient.fault(envelope) is None
    assert lenient.fault(Signing(OTHER).signed(envelope)) is not None
    assert lenient.opened(b'{"v":1}', envelope) == b'{"v":1}'


@pytest.mark.parametrize("keys", ["short", [], [NEW, "short"]])
def test_keys_that_protect_nothing_are_refused_and_not_shown(keys: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"signing: expected keys of .*secrets.token_urlsafe") as caught:
        Signing(keys)

    assert "short" not in str(caught.value)


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
    transport.send([Envelope(id="1", source="shop", name="a.b", body=b"no JSON at all")])
    header = {"relevo-signature": f"v1.{next(iter(Signing(NEW)._by_id))}.{'0' * 64}"}
    transport.send([Envelope(id="2", source="shop", name="a.b", body=b"no JSON at all", headers=header)])

    app(hear, signing=Signing(NEW)).worker(DRAIN).run()

    assert heard == []
    assert [reason for reason, _ in _dead(transport)] == ["forged"] * 3
    assert [error[:16] for _, error in _dead(transport)] == ["it is not signed", "it is not signed", "its signature do"]
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
