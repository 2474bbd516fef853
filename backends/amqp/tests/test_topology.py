from __future__ import annotations

import math
import re

import pytest
from hypothesis import given, strategies as st

from relevo.errors import ConfigurationError
from relevo_amqp._topology import ARGUMENTS, MAX_WORD, Role, Topology, word

NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=300)
TOPOLOGY = Topology("shop", 0.1, 20)


@given(NAMES)
def test_a_word_has_only_letters_that_neither_divide_nor_match(name: str) -> None:
    assert re.fullmatch(r"[A-Za-z0-9_%~-]+", word(name))
    assert len(word(name)) <= MAX_WORD


@given(NAMES, NAMES)
def test_two_names_never_make_the_same_word(one: str, other: str) -> None:
    assert (word(one) == word(other)) == (one == other)


def test_a_long_name_is_cut_between_escapes_and_stays_unique() -> None:
    names = ["ü" * 200 + end for end in ("", "a", "b")]

    words = [word(name) for name in names]

    assert len(set(words)) == 3
    assert all(re.fullmatch(r"(%[0-9A-F]{2})+~[0-9a-f]{32}", each) for each in words)


@given(NAMES)
def test_every_name_and_key_on_the_server_fits(name: str) -> None:
    topology = Topology("p" * 60, 3600.0, 28)

    names = [each.name for each in (*topology.own_queues(name), *topology.shared_queues())]
    names += [each.name for each in topology.exchanges()]
    patterns = [each.pattern for each in (*topology.own_bindings(name), *topology.shared_bindings())]

    assert all(len(each.encode()) <= 255 for each in (*names, *patterns, topology.route(name, 1e6).key))


def walk(topology: Topology, exchange: str, key: str) -> list[str]:
    """Follow a message through the bindings as a server does; return the queues it stays in, its goal last."""
    bindings = [*topology.shared_bindings(), *topology.own_bindings("mail.eu"), *topology.own_bindings("mail")]
    exchanges = {each.name: each for each in topology.exchanges()}
    ends = {
        queue.name: dict(queue.extra)["x-dead-letter-exchange"] for queue in topology.shared_queues() if queue.extra
    }
    stays: list[str] = []
    while True:
        kind = exchanges[exchange].kind
        goals = [each for each in bindings if each.source == exchange and _matches(kind, each.pattern, key)]
        assert len(goals) == 1, f"{len(goals)} ways from {exchange} with {key}"
        (goal,) = goals
        if goal.to_exchange:
            exchange = goal.target
            continue
        stays.append(goal.target)
        if goal.target not in ends:
            return stays
        exchange = str(ends[goal.target])


def _matches(kind: str, pattern: str, key: str) -> bool:
    if kind == "direct":
        return pattern == key
    words, wanted = key.split("."), pattern.split(".")
    return len(words) == len(wanted) and all(want in ("*", have) for want, have in zip(wanted, words, strict=True))


@given(st.floats(0.0, 200_000.0), st.sampled_from(["mail", "mail.eu"]))
def test_a_delay_leads_through_the_ladder_to_its_own_queue_and_is_never_early(delay: float, queue: str) -> None:
    times = {each.name: dict(each.extra).get("x-message-ttl", 0) for each in TOPOLOGY.shared_queues()}

    route = TOPOLOGY.route(queue, delay)
    *rungs, goal = walk(TOPOLOGY, route.exchange, route.key)

    stayed = sum(int(times[rung]) for rung in rungs) / 1000
    assert goal == TOPOLOGY.queue(queue, Role.MAIN)
    assert len(rungs) <= TOPOLOGY.levels
    assert route.passes == (delay > 0.1 * (2**20 - 1))
    if not route.passes:
        assert delay <= stayed <= delay + 0.1 + 0.001 * (1 + TOPOLOGY.levels)


@given(st.floats(0.0, 2e6), st.floats(0.01, 3600.0), st.integers(1, 28))
def test_the_whole_stay_in_the_ladder_is_never_shorter_than_the_delay(
    delay: float, resolution: float, levels: int
) -> None:
    """The server stamps and compares in whole milliseconds, so a stay may be almost one millisecond too short."""
    topology = Topology("shop", resolution, levels)
    times = [int(dict(each.extra)["x-message-ttl"]) for each in topology.shared_queues() if each.role is Role.RUNG]

    route = topology.route("mail", delay)
    bits = route.key.split(".")[:levels] if delay else ["0"] * levels

    shortest = sum(time - 1 for bit, time in zip(reversed(bits), times, strict=True) if bit == "1")
    assert shortest >= delay * 1000 or route.passes


@pytest.mark.parametrize(
    ("delay", "bits"), [(0.05, "000001"), (0.1, "000001"), (0.1001, "000010"), (0.5, "000101"), (6.3, "111111")]
)
def test_delays_are_rounded_up_to_the_step(delay: float, bits: str) -> None:
    route = Topology("p", 0.1, 6).route("mail", delay)

    assert route.key == ".".join([*bits, "mail"])
    assert not route.passes


@pytest.mark.parametrize("delay", [6.4, 1e9, math.inf])
def test_a_delay_beyond_the_ladder_takes_all_of_it_and_passes_again(delay: float) -> None:
    route = Topology("p", 0.1, 6).route("mail", delay)

    assert route.key == "1.1.1.1.1.1.mail"
    assert route.passes


def test_without_a_delay_an_event_goes_straight_to_its_queue() -> None:
    route = TOPOLOGY.route("mail", 0.0)

    assert walk(TOPOLOGY, route.exchange, route.key) == ["shop.q.mail"]


def test_another_step_or_height_is_another_ladder() -> None:
    ladders = {Topology("p", step, levels).ladder for step in (0.1, 0.2) for levels in (6, 7)}

    assert len(ladders) == 4


def test_every_queue_of_events_is_a_quorum_queue_and_nothing_in_it_expires_by_itself() -> None:
    for queue in (*TOPOLOGY.own_queues("mail"), *TOPOLOGY.shared_queues()):
        if queue.role is Role.BEGUN:
            continue
        assert queue.arguments["x-queue-type"] == "quorum"
        assert "x-expires" not in queue.arguments
        assert ("x-message-ttl" in queue.arguments) == (queue.role is Role.RUNG)


def test_the_stream_of_notes_has_segments_that_its_limit_can_drop() -> None:
    arguments = TOPOLOGY.begun.arguments

    assert arguments["x-queue-type"] == "stream"
    assert int(arguments["x-max-length-bytes"]) >= 5 * int(arguments["x-stream-max-segment-size-bytes"])


def test_what_dead_letters_does_so_at_least_once() -> None:
    for queue in (*TOPOLOGY.own_queues("mail"), *TOPOLOGY.shared_queues()):
        if "x-dead-letter-exchange" in queue.arguments:
            assert queue.arguments["x-dead-letter-strategy"] == "at-least-once"
            assert queue.arguments["x-overflow"] == "reject-publish"


def test_no_queue_that_hands_out_has_a_delivery_limit_within_reach() -> None:
    for queue in (*TOPOLOGY.own_queues("mail"), TOPOLOGY.stray):
        assert int(queue.arguments["x-delivery-limit"]) >= 10**15


def test_every_queue_of_events_refuses_what_it_has_no_room_for() -> None:
    for queue in (*TOPOLOGY.own_queues("mail"), *TOPOLOGY.shared_queues()):
        if queue.role is Role.BEGUN:
            continue
        assert queue.arguments["x-overflow"] == "reject-publish"


def test_every_argument_has_its_reason() -> None:
    assert all(len(argument.why) > 10 for arguments in ARGUMENTS.values() for argument in arguments.values())


def test_what_an_exchange_refers_to_is_declared_before_it() -> None:
    seen: set[str] = set()
    for exchange in TOPOLOGY.exchanges():
        assert exchange.alternate is None or exchange.alternate in seen
        seen.add(exchange.name)
    for binding in (*TOPOLOGY.shared_bindings(), *TOPOLOGY.own_bindings("mail")):
        assert binding.source in seen


def test_a_name_that_cannot_be_written_is_an_error_of_the_program() -> None:
    with pytest.raises(ConfigurationError, match="cannot be the name of a queue"):
        word("\ud800")
