"""Which users of the system can write or read a file."""

from __future__ import annotations

import os

import pytest

from relevo._user import others, own_groups, private_group, private_group_of

ME = 1000


@pytest.mark.parametrize(
    "uid, account, group, private",
    [
        (ME, ("me", ME), ("me", []), ME),
        (ME, ("me", ME), ("me", ["me"]), ME),
        (ME, ("me", 1234), ("me", []), 1234),
        (ME, ("me", ME), ("me", ["me", "other"]), None),
        (ME, ("me", 100), ("users", []), None),  # one group for all users
        (ME, ("me", ME), None, ME),
        (ME, ("me", 100), None, None),
        (ME, None, None, ME),  # docker run --user 1000:1000
        (100, None, ("users", []), None),
        (0, ("root", 0), ("root", []), 0),
        (0, ("root", 0), ("wheel", ["root", "admin"]), None),
    ],
)
def test_a_private_group_has_the_name_of_its_user_and_no_other_member(
    uid: int, account: tuple[str, int] | None, group: tuple[str, list[str]] | None, private: int | None
) -> None:
    assert private_group(uid, account, group) == private


@pytest.mark.parametrize(
    "mode, gid, write, expected",
    [
        (0o600, 7, True, None),
        (0o644, 7, True, None),
        (0o664, 7, True, "the group 7"),
        (0o664, 1, True, None),
        (0o646, 1, True, "every user"),
        (0o666, 7, True, "every user"),
        (0o622, 7, False, None),
        (0o640, 7, False, "the group 7"),
        (0o640, 1, False, None),
        (0o604, 1, False, "every user"),
        (0o100777, 1, False, "every user"),
    ],
)
def test_others_are_every_user_and_any_group_but_the_own_one(
    mode: int,
    gid: int,
    write: bool,  # noqa: FBT001 - a parameter of pytest
    expected: str | None,
) -> None:
    assert others(mode, gid, own_groups={1, 2}, write=write) == expected


def test_the_private_groups_of_the_owner_and_of_root_are_as_good_as_the_owner() -> None:
    expected = {private_group_of(uid) for uid in (54321, os.geteuid(), 0)} - {None}

    assert 54321 in expected  # a number without an account
    assert set(own_groups(54321)) == expected
