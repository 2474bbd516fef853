"""The folder of one user on a host."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from relevo._runner.state_folder import home_of, state_folder
from relevo.errors import ConfigurationError

ME = os.geteuid()
REMEDY = r'set a folder that all processes of the application can write: lock = "…"$'


@pytest.fixture(name="home")
def _home(tmp_path: Path) -> Path:
    (tmp_path / "home").mkdir(mode=0o755)
    return tmp_path / "home"


@pytest.fixture(name="shared")
def _shared(tmp_path: Path) -> Path:
    (tmp_path / "shared").mkdir()
    return tmp_path / "shared"


def test_it_is_in_the_users_home_and_open_to_the_user_alone(home: Path, shared: Path) -> None:
    before = os.umask(0)
    try:
        found = state_folder(home, shared, ME)
    finally:
        os.umask(before)

    assert found == home / ".local/state/relevo" == state_folder(home, shared, ME)
    assert [each.stat().st_mode & 0o777 for each in (home / ".local", home / ".local/state", found)] == [0o700] * 3
    assert list(shared.iterdir()) == []


@pytest.mark.parametrize("why", ["none", "missing", "a file", "of another user", "open to others"])
def test_without_a_home_of_the_users_own_it_is_in_the_shared_folder(why: str, home: Path, shared: Path) -> None:
    place: Path | None = home
    user = ME
    match why:
        case "none":
            place = None
        case "missing":
            home.rmdir()
        case "a file":
            home.rmdir()
            home.touch()
        case "of another user":
            place = Path("/") if ME else home
            os.chown(home, 1, 1) if not ME else None
        case _:
            home.chmod(0o777)

    found = state_folder(place, shared, user)

    assert found == shared / f"relevo-{ME}"
    assert found.stat().st_mode & 0o777 == 0o700


@pytest.mark.skipif(ME == 0, reason="root may write everywhere")
def test_a_home_that_cannot_be_written_is_not_used(home: Path, shared: Path) -> None:
    home.chmod(0o500)

    assert state_folder(home, shared, ME).parent == shared


@pytest.mark.parametrize("where", ["home", "shared"])
@pytest.mark.parametrize(
    ("make", "why"),
    [
        ("link", "expected a folder; got a link; remove it, or "),
        ("file", "expected a folder; got a file; remove it, or "),
        (
            "other",
            r"expected a folder owned by user \d+; got one owned by user \d+, who could stop this application; ",
        ),
        ("open", r"expected the mode 0700; got 0750; run chmod 700 \S+relevo\S*, or "),
    ],
)
def test_a_folder_that_is_not_the_users_alone_is_refused(
    where: str, make: str, why: str, home: Path, shared: Path
) -> None:
    path = home / ".local/state/relevo" if where == "home" else shared / f"relevo-{ME}"
    path.parent.mkdir(parents=True, exist_ok=True)
    match make:
        case "link":
            path.symlink_to(shared)
        case "file":
            path.touch()
        case "other":
            path.mkdir(mode=0o700)
            if ME:
                pytest.skip("only root can give a folder away")
            os.chown(path, 1, 1)
        case _:
            path.mkdir()
            path.chmod(0o750)

    with pytest.raises(ConfigurationError, match=f"{path}: {why}{REMEDY}"):
        state_folder(home if where == "home" else None, shared, ME)


def test_what_is_in_the_way_is_reported_with_a_remedy(home: Path, shared: Path) -> None:
    (home / ".local").touch()
    with pytest.raises(ConfigurationError, match=f"the folder for locks cannot be used: .*: Not a directory; {REMEDY}"):
        state_folder(home, shared, ME)
    with pytest.raises(ConfigurationError, match=f"the folder for locks cannot be used: .*: No such file .*; {REMEDY}"):
        state_folder(None, shared / "none", ME)


def test_the_home_is_that_of_the_user_database(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = home_of(ME)

    monkeypatch.setenv("HOME", "/elsewhere")

    assert expected is not None
    assert home_of(ME) == expected
    assert home_of(2**31 - 7) is None
