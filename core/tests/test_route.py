from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, strategies as st

from relevo import Routes, Target
from relevo._config.check import target_problems
from relevo._transport.route import Routing, checked_queue
from relevo.errors import ConfigurationError, RouteNotFoundError

parts = st.sampled_from(["image", "feed", "image.created", "image.deleted", "image.created.again", "i", ""])


def test_an_exact_name_beats_the_longest_pattern_and_that_the_star() -> None:
    routes = Routes({"*": "rest", "image.*": "images", "image.created*": "longer", "image.created": "exact"})

    assert routes.targets("image.created") == (Target("exact"),)
    assert routes.targets("image.created.again") == (Target("longer"),)
    assert routes.targets("image.deleted") == (Target("images"),)
    assert routes.targets("imagine") == (Target("rest"),)


def test_a_routing_knows_what_is_sent_to_which_transport() -> None:
    first, now, second, third = Target("main", "media"), Target("now"), Target("other"), Target("main", "feed")

    routing = Routing.of((first, now, second, third))

    assert (routing.deferred, routing.transports) == ((first, second, third), ("main", "other"))
    assert routing.of_transport("main", "abc") == ["a", "c"]
    assert routing.of_transport("other", "abc") == ["b"]
    assert (routing.is_now, routing.first) == (True, "")


@given(
    st.dictionaries(
        st.builds("{}{}".format, parts.filter(bool), st.sampled_from(["", "*"])), st.just("main"), min_size=1
    ),
    parts.filter(bool),
)
def test_the_most_exact_pattern_is_found_wherever_it_stands(table: dict[str, str], name: str) -> None:
    fitting = [p for p in table if p == name or (p.endswith("*") and name.startswith(p[:-1]))]
    best = max(fitting, key=lambda p: (p == name, len(p)), default=None)
    routes = Routes({pattern: f"to/{pattern}".replace("*", "+") for pattern in table})

    if best is None:
        with pytest.raises(RouteNotFoundError):
            routes.targets(name)
    else:
        assert routes.targets(name) == (Target("to", best.replace("*", "+")),)


def test_a_target_is_a_transport_and_perhaps_a_queue() -> None:
    routes = Routes({"*": ["main/media", "main", "now", "main/a/b"]})

    assert [str(target) for target in routes.targets("a")] == ["main/media", "main/default", "now", "main/a/b"]


def test_queues_are_those_of_the_table_in_its_order_whatever_was_asked_before() -> None:
    routes = Routes({"*": ["main/rest", "other"], "image.*": "main/media", "image.created": ["main/feed", "main/rest"]})
    before = routes.queues("main")

    for name in ("image.deleted", "image.created", "x", "y"):
        routes.targets(name)

    assert before == routes.queues("main") == ("rest", "media", "feed")
    assert routes.queues("other") == ("default",)
    assert routes.queues("third") == ()


@pytest.mark.parametrize(
    ("pattern", "event", "is_hinted"),
    [
        ("gallery.model.ImageCreated", "image.created", True),
        (r"App\\Message\\ImageCreated", "image.created", True),
        ("image.created", "feed.read", False),
        ("*.Created", "Feed.Read", False),
        ("Image", "feed.read", False),
    ],
)
def test_a_route_by_the_name_of_a_class_is_pointed_out(pattern: str, event: str, is_hinted: bool) -> None:  # noqa: FBT001
    text = str(RouteNotFoundError(event, [pattern]))

    assert ("; routes take the event's name, not its class; add one" in text) is is_hinted


def test_no_route_is_told_with_what_there_is() -> None:
    with pytest.raises(
        RouteNotFoundError, match=r'no route for "feed.read"; routes: "image.\*", "mail.sent"; add one'
    ) as caught:
        Routes({"image.*": "main", "mail.sent": "main"}).targets("feed.read")

    assert caught.value.patterns == ("image.*", "mail.sent")
    with pytest.raises(RouteNotFoundError, match="routes: none"):
        Routes({}).targets("feed.read")


def test_the_route_that_is_suggested_leads_to_a_transport_that_exists() -> None:
    with pytest.raises(RouteNotFoundError, match=r'for example "\*" = "db"$'):
        Routes({"image.*": "db/media"}).targets("feed.read")


def test_unknown_transports_are_told_together() -> None:
    routes = Routes({"a": "mian", "b": ["main", "now"], "c": "other/q"})

    found = list(target_problems(routes, ["main"]))

    assert [each.keys for each in found] == [("routes", "a"), ("routes", "c")]
    assert [str(each.error) for each in found] == [
        "routes.a: no transport is called 'mian'; did you mean \"main\"?",
        "routes.c: no transport is called 'other'; there are: main, now",
    ]


def test_bytes_are_one_invalid_target() -> None:
    with pytest.raises(ConfigurationError) as caught:
        Routes({"*": b"main"})  # type: ignore[dict-item]

    assert str(caught.value) == 'routes."*": expected a target, "transport", "transport/queue" or "now"; got b\'main\''


def test_all_that_is_wrong_in_a_table_is_reported_together() -> None:
    with pytest.raises(ConfigurationError) as caught:
        Routes({"a": ["main/", "main", "main", 3], "b*c": "main"})  # type: ignore[list-item]

    assert str(caught.value).splitlines() == [
        "routes.a: '' cannot name a queue: it has 0 characters, 1 to 128 are allowed",
        'routes.a: expected a target, "transport", "transport/queue" or "now"; got 3',
        "routes.a: duplicate target; remove one",
        'routes."b*c": a * is only allowed at the end',
    ]


@pytest.mark.parametrize(
    "table, why",
    [
        ({"*": []}, "at least one target"),
        ({"*": None}, "expected a target, .*; got None"),
        ({"*": 3}, "expected a target, .*; got 3"),
        ({"*": ["main", 3]}, "expected a target, .*; got 3"),
        ({"*": "/q"}, "expected a target, .*; got '/q'"),
        ({"*": ""}, "expected a target, .*; got ''"),
        ({"*": "now/q"}, "expected a target, .*; got 'now/q'"),
        ({"*": "main/"}, "it has 0 characters"),
        ({"*": "main/a b"}, "spaces and control"),
        ({"*": "main/" + "q" * 129}, "129 characters"),
        ({"*": "main/outbox/x"}, "are reserved"),
        ({"*": "main/amq.q"}, "are reserved"),
        ({"*": "main/now"}, r'routes."\*": a queue cannot be called "now"'),
        ({"*": ["main", "main/default"]}, "duplicate target"),
        ({"im*ge": "main"}, "only allowed at the end"),
        ({"**": "main"}, "only allowed at the end"),
        ({"": "main"}, "'' cannot match an event"),
        ({"image created": "main"}, "cannot match an event"),
        ({"a\nb": "main"}, r"'a\\nb' cannot match an event"),
        ({3: "main"}, "3 cannot match an event"),
    ],
)
def test_what_is_no_route_is_refused(table: Any, why: str) -> None:
    with pytest.raises(ConfigurationError, match=why) as caught:
        Routes(table)

    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("queue", [None, 3, b"q", "", "a b", "a\0", "\ud800", "outbox/main"])
def test_what_cannot_name_a_queue_is_refused(queue: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"dispatch: .* cannot name a queue"):
        checked_queue(queue, where="dispatch")
