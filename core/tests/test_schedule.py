"""Schedules: ticks of cron expressions, and what is due."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import islice, pairwise, takewhile
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, strategies as st

from relevo import Event, Schedule
from relevo._schedule.cron import NICKNAMES, Cron
from relevo._schedule.schedule import Due, Missed
from relevo.errors import ConfigurationError

MADRID = ZoneInfo("Europe/Madrid")
YEAR_2026 = int(datetime(2026, 1, 1, tzinfo=UTC).timestamp())
TWO_YEARS = 2 * 366 * 86_400
CRONS = st.sampled_from(
    [
        "* * * * *",
        "*/5 * * * *",
        "30 * * * *",
        "0 */2 * * *",
        "0,30 2 * * *",
        "30 2 * * *",
        "0 1-4 * * *",
        "15 3 * * MON-FRI",
        "0 0 1 * *",
        "0 12 L * *",
        "0 0 1 1 *",
        "0 0 29 2 *",
    ]
)
ZONES = st.sampled_from(["UTC", "Europe/Madrid", "America/New_York", "Australia/Lord_Howe", "Asia/Kolkata"])
MOMENTS = st.integers(YEAR_2026, YEAR_2026 + TWO_YEARS)
NEAR_A_CHANGE = st.sampled_from([datetime(2026, 3, 29, 0, tzinfo=UTC), datetime(2026, 10, 25, 0, tzinfo=UTC)]).flatmap(
    lambda change: st.integers(-7200, 4 * 3600).map(lambda away: int(change.timestamp()) + away)
)


def schedule(
    cron: str = "*/5 * * * *", *, timezone: str = "UTC", missed: Missed = "once", grace: float = 60.0
) -> Schedule:
    return Schedule(name="one", cron=cron, event="feed.aged", timezone=timezone, missed=missed, grace=grace)


def at(text: str, zone: ZoneInfo = MADRID) -> int:
    """Return the time of day *text* of a clock in *zone*, in seconds since the epoch; an offset tells times apart."""
    moment = datetime.fromisoformat(text)
    return int((moment if moment.tzinfo else moment.replace(tzinfo=zone)).timestamp())


def ticks_of(cron: str, day: str) -> list[str]:
    """Return the ticks in the first five hours of *day* in Madrid, as the clocks there show them."""
    start = at(f"{day}T00:00")
    found = takewhile(lambda tick: tick <= at(f"{day}T05:00"), Cron(cron, "Europe/Madrid").after(start))
    return [datetime.fromtimestamp(tick, MADRID).strftime("%H:%M%z")[:-2] for tick in found]


# --- ticks ----------------------------------------------------------------------------------------------


@given(cron=CRONS, zone=ZONES, start=MOMENTS | NEAR_A_CHANGE)
def test_ticks_are_whole_minutes_after_the_start_and_grow(cron: str, zone: str, start: int) -> None:
    ticks = list(islice(Cron(cron, zone).after(start), 20))

    assert ticks[0] > start
    assert all(tick % 60 == 0 for tick in ticks)
    assert all(one < other for one, other in pairwise(ticks))


@given(cron=CRONS, zone=ZONES, start=MOMENTS | NEAR_A_CHANGE, later=st.integers(0, 86_400))
def test_the_ticks_are_the_same_wherever_the_walk_begins(cron: str, zone: str, start: int, later: int) -> None:
    ticks = Cron(cron, zone)
    end = start + 2 * 86_400

    walked = [tick for tick in takewhile(lambda tick: tick <= end, ticks.after(start)) if tick > start + later]

    assert walked == list(takewhile(lambda tick: tick <= end, ticks.after(start + later)))


@given(cron=CRONS, zone=ZONES, start=MOMENTS | NEAR_A_CHANGE, length=st.integers(0, 40 * 86_400))
def test_the_latest_tick_is_the_last_of_all(cron: str, zone: str, start: int, length: int) -> None:
    ticks = Cron(cron, zone)
    start = max(start, start + length - 5 * 86_400) if cron.startswith("*") else start

    every = list(takewhile(lambda tick: tick <= start + length, ticks.after(start)))

    assert ticks.latest(start, start + length) == (every[-1] if every else None)


def test_the_latest_tick_of_a_long_outage_is_found() -> None:
    ticks = Cron("0 0 29 2 *", "UTC")

    assert ticks.latest(YEAR_2026, YEAR_2026 + TWO_YEARS) is None
    assert ticks.latest(YEAR_2026, YEAR_2026 + 2 * TWO_YEARS) == at("2028-02-29", ZoneInfo("UTC"))


@pytest.mark.parametrize(
    ("cron", "spring", "autumn"),
    [
        ("30 2 * * *", ["03:00+02"], ["02:30+02"]),
        ("0,30 2 * * *", ["03:00+02"], ["02:00+02", "02:30+02"]),
        ("30 * * * *", ["00:30+01", "01:30+01", "03:30+02", "04:30+02"], None),
        ("30 1-3 * * *", ["01:30+01", "03:00+02", "03:30+02"], ["01:30+02", "02:30+02", "03:30+01"]),
        (
            "30 * * * *",
            None,
            ["00:30+02", "01:30+02", "02:30+02", "02:30+01", "03:30+01", "04:30+01"],
        ),
        ("0 */2 * * *", ["04:00+02"], ["02:00+02", "02:00+01", "04:00+01"]),
    ],
)
def test_a_change_of_the_clocks_is_handled_as_cron_does(
    cron: str, spring: list[str] | None, autumn: list[str] | None
) -> None:
    if spring is not None:
        assert ticks_of(cron, "2026-03-29") == spring
    if autumn is not None:
        assert ticks_of(cron, "2026-10-25") == autumn


@pytest.mark.parametrize(
    ("cron", "day", "ticks"),
    [
        ("30 * * * *", "2026-10-04", ["00:30+1030", "01:30+1030", "02:30+1100", "03:30+1100"]),
        ("30 * * * *", "2026-04-05", ["00:30+1100", "01:30+1100", "01:30+1030", "02:30+1030", "03:30+1030"]),
        ("0 */2 * * *", "2026-04-05", ["02:00+1030", "04:00+1030"]),
        ("15 2 * * *", "2026-10-04", ["02:30+1100"]),
    ],
)
def test_clocks_that_are_changed_by_half_an_hour_lose_no_tick(cron: str, day: str, ticks: list[str]) -> None:
    zone = ZoneInfo("Australia/Lord_Howe")
    start, end = at(f"{day}T00:00", zone), at(f"{day}T04:00", zone)

    found = takewhile(lambda tick: tick <= end, Cron(cron, zone.key).after(start))

    assert [datetime.fromtimestamp(tick, zone).strftime("%H:%M%z") for tick in found] == ticks


@pytest.mark.parametrize("nickname", NICKNAMES)
def test_a_nickname_of_crontab_is_its_expression(nickname: str) -> None:
    named = schedule(nickname, timezone="Europe/Madrid")

    assert named.cron == nickname
    assert named.next(NOON) == schedule(NICKNAMES[nickname], timezone="Europe/Madrid").next(NOON)


def test_after_the_second_of_two_equal_times_the_first_one_does_not_come_again() -> None:
    ticks = Cron("30 2 * * *", "Europe/Madrid")

    assert ticks.next(at("2026-10-25T02:15+01:00")) == at("2026-10-26T02:30+01:00")


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ({"cron": "* * * *"}, r"cron: expected minute, hour, .+; got '\* \* \* \*'$"),
        ({"cron": "* * * * * *"}, r"cron: expected minute, hour, .+; got '\* \* \* \* \* \*'$"),
        ({"cron": "61 * * * *"}, r"cron: expected minute, hour, .+; got '61 \* \* \* \*', with an invalid minute"),
        ({"cron": "0 0 31 2 *"}, "cron: expected minute, .+with an invalid day-of-month"),
        ({"cron": "@reboot"}, "cron: expected @hourly or @daily or .+; got '@reboot'"),
        ({"cron": "9" * 5000 + " * * * *"}, "cron: expected minute, hour, .+; got '9999"),
        ({"cron": 5}, "cron: expected minute, hour, .+; got 5"),
        ({"timezone": "Europe/Atlantis"}, "timezone: expected a name such as Europe/Madrid or UTC; got 'Europe/Atlan"),
        ({"timezone": "../etc/passwd"}, "timezone: expected a name such as Europe/Madrid or UTC"),
        ({"timezone": 1}, "timezone: expected a name such as Europe/Madrid or UTC; got 1"),
        ({"missed": "never"}, 'missed: expected "once", "all" or "skip"; got'),
        ({"grace": "long"}, "grace: expected seconds"),
        ({"event": Event("feed.aged", id="7")}, "schedule: expected an event without an id"),
        ({"event": 7}, "7"),
        ({"name": ""}, "schedule: expected a name of 1 to 100 printable characters; got ''"),
        ({"name": "a" * 101}, "schedule: expected a name of 1 to 100 printable characters"),
    ],
)
def test_an_invalid_argument_is_an_error(fault: dict[str, object], error: str) -> None:
    valid: dict[str, object] = {"name": "one", "cron": "* * * * *", "event": "feed.aged"}

    with pytest.raises(ConfigurationError, match=error):
        Schedule(**{**valid, **fault})  # type: ignore[arg-type]  # on purpose


# --- what is due ------------------------------------------------------------------------------------------

NOON = int(datetime(2026, 5, 1, 12, tzinfo=UTC).timestamp())


@pytest.mark.parametrize(
    ("missed", "minutes", "fired"),
    [
        ("once", 4, None),
        ("once", 5, [5]),
        ("once", 17, [15]),
        ("all", 4, None),
        ("all", 17, [5, 10, 15]),
        ("skip", 4, None),
        ("skip", 16, [15]),
        ("skip", 17, []),
    ],
)
def test_ticks_that_were_missed_are_handled_as_chosen(missed: Missed, minutes: int, fired: list[int] | None) -> None:
    due = schedule(missed=missed).due(NOON, NOON + minutes * 60)

    assert due == (None if fired is None else Due(tuple(NOON + each * 60 for each in fired), NOON + minutes // 5 * 300))


@given(start=MOMENTS, outages=st.lists(st.integers(1, 7 * 3600), min_size=1, max_size=5))
def test_with_all_each_tick_fires_once(start: int, outages: list[int]) -> None:
    every_one = schedule(missed="all")
    fired, now, ticks = start, start, list[int]()
    for outage in outages:
        now += outage
        while (due := every_one.due(fired, now)) is not None:
            ticks += due.ticks
            fired = due.until

    assert ticks == list(takewhile(lambda tick: tick <= now, Cron("*/5 * * * *", "UTC").after(start)))


def test_many_missed_ticks_are_fired_in_parts() -> None:
    due = schedule(missed="all").due(NOON, NOON + 7 * 86_400)

    assert due is not None
    assert (len(due.ticks), due.until) == (100, due.ticks[-1])


def test_grace_is_how_late_a_tick_may_be() -> None:
    patient = schedule(missed="skip", grace=240.0)

    assert patient.due(NOON, NOON + 539) == Due((NOON + 300,), NOON + 300)
    assert patient.due(NOON, NOON + 540) == Due((NOON + 300,), NOON + 300)
    assert patient.due(NOON, NOON + 541) == Due((), NOON + 300)


def test_a_clock_that_was_set_back_fires_nothing_again() -> None:
    assert schedule().due(NOON, NOON - 86_400) is None


def test_a_tick_has_the_same_id_each_time_and_no_other_has_it() -> None:
    one, other = schedule(), Schedule(name="other", cron="*/5 * * * *", event="feed.aged")

    ids = [one.event_id("shop", NOON), one.event_id("shop", NOON + 300), one.event_id("web", NOON)]
    ids.append(other.event_id("shop", NOON))

    assert one.event_id("shop", NOON) == ids[0]
    assert len(set(ids)) == 4
    assert int(ids[0].replace("-", "")[:12], 16) == NOON * 1000


def test_an_hour_of_ticks_takes_an_hour() -> None:
    tick = schedule().next(NOON)

    assert tick == NOON + timedelta(minutes=5).total_seconds()
