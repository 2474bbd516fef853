"""A history can be read: a line for each call."""

from __future__ import annotations

from relevo import Nack
from relevo_conformance._in_words import in_words

from .script import Script, event


def test_a_history_is_told_call_by_call() -> None:
    script = Script()
    script.setup("q")
    script.send(event(1))
    (delivery,) = script.receive(event(1))
    script.settle(delivery, Nack(state=b"s"))
    script.kill()

    told = in_words(script.records).splitlines()

    assert [line.partition("(")[0] for line in told[-4:]] == ["a: send", "a: receive", "a: settle", "a: kill"]
    assert "envelopes=['" in told[-4]
    assert f"# [delivery {delivery} of " in told[-3]
    assert f"{delivery}: Nack(" in told[-2]


def test_of_a_long_history_the_end_is_told() -> None:
    script = Script()
    script.setup("q")
    for number in range(20):
        script.send(event(number))

    told = in_words(script.records, most=5).splitlines()

    assert told[0].startswith("# … ")
    assert told[0].endswith(" calls before")
    assert len(told) == 6


def test_a_call_that_is_repeated_is_told_once_and_counted() -> None:
    script = Script()
    script.setup("q")
    for _ in range(30):
        script.receive()

    told = in_words(script.records, most=1).splitlines()

    assert told[-1].endswith("# []  # 30 times")
    assert told[0] == f"# … {len(script.records) // 2 - 30} calls before"


def test_of_a_long_batch_the_first_are_told() -> None:
    script = Script()
    script.setup("q")
    script.send(*map(event, range(50)))

    assert in_words(script.records).endswith(", 46 more], delay=0.0)")


def test_a_call_that_failed_or_never_ended_says_so() -> None:
    script = Script()
    script.setup("q")
    script.send(event(1), end="unknown", error="SendError")
    script.records.pop()

    assert in_words(script.records).endswith("# still running at the end of this history")


def test_the_time_that_passed_is_told_if_it_is_long() -> None:
    script = Script()
    script.setup("q")
    script.wait(0.5)
    script.count()
    script.wait(90.0)
    script.count()
    script.wait(-30.0)
    script.count()

    told = in_words(script.records).splitlines()

    assert [line.partition("(")[0] for line in told] == [
        "a: set_up",
        "a: count",
        "# 90 s later",
        "a: count",
        "# the clock is set 30 s back",
        "a: count",
    ]
    assert in_words(script.records, most=1).splitlines()[0] == "# … 3 calls before"


def test_what_decides_about_the_place_of_an_event_is_told() -> None:
    script = Script()
    script.send(event(1, urgency="high"), event(2, ordering_key="k"))

    told = in_words(script.records)

    assert "'e1' in 'q', urgency 'high'" in told
    assert "'e2' in 'q', ordering key 'k'" in told


def test_the_calls_on_an_event_that_is_named_are_shown_whenever_they_were() -> None:
    script = Script()
    script.setup("q")
    script.send(event(100))
    for number in range(20):
        script.send(event(number))
    script.receive(event(100))

    shown = in_words(script.records, about="""the event 'e100' in "q" was handed out twice (call 2)""", most=2)

    lines = shown.splitlines()
    assert [line.partition("(")[0] for line in lines] == [
        "# … 1 calls before",
        "a: send",
        "# … 19 calls before",
        *["a: send", "a: receive"],
    ]
    assert "# call 2" in lines[1]
