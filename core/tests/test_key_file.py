"""A file with the keys of signatures that other users can write or read."""

from __future__ import annotations

import grp
import json
import os
import pwd
from pathlib import Path

import pytest

from relevo._config.key_file import key_file_advice, key_file_problems
from relevo._config.opening import read
from relevo._config.trust import RunningUser, WayPoint, weakness_on
from relevo._user import name_of
from relevo.errors import ConfigurationError

from .shop import CONFIGURATION, opened

KEY = "hunter2-Vq3TnB7xZk9RwLf2HsJd8Mpy"
WRITTEN = f'signing = ["{KEY}"]\n'

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to another user")


@pytest.fixture(name="file")
def _file(tmp_path: Path) -> Path:
    return tmp_path / "relevo.toml"


def write(file: Path, text: str, mode: int) -> Path:
    file.write_text(f'{text}[transports]\nmain = "memory://"\n')
    file.chmod(mode)
    return file


@pytest.mark.parametrize(
    "text", [WRITTEN, 'signing = "${KEY}"\n', f'signing = {{ keys = "{KEY}", required = false }}\n']
)
@pytest.mark.parametrize("mode", [0o606, 0o646, 0o777])
def test_a_file_with_signing_that_every_user_can_write_is_refused(file: Path, text: str, mode: int) -> None:
    with pytest.raises(ConfigurationError) as caught:
        read(write(file, text, mode), {"KEY": KEY}, start=file.parent)

    owner = name_of(os.geteuid())
    assert str(caught.value) == (
        f"{file}:1: signing: {file} can be written by every user (owner {owner}, group {file.stat().st_gid}, mode "
        f"{mode:04o}), so that other users could replace the keys in {file}; run chmod o-w {file}"
    )
    assert "hunter2" not in str(caught.value)


def test_keys_in_the_environment_do_not_help_a_file_that_every_user_can_write(file: Path) -> None:
    with pytest.raises(ConfigurationError, match="can be written by every user"):
        read(write(file, "", 0o666), {"RELEVO_SIGNING": KEY}, start=file.parent)


@pytest.mark.parametrize("mode", [0o777, 0o703])
def test_a_folder_in_which_every_user_can_replace_the_file_is_refused(file: Path, mode: int) -> None:
    write(file, WRITTEN, 0o600)
    file.parent.chmod(mode)

    with pytest.raises(ConfigurationError) as caught:
        read(file, {}, start=file.parent)

    assert f"signing: {file.parent} can be written by every user" in str(caught.value)
    assert str(caught.value).endswith(f"could replace the keys in {file}; run chmod o-w {file.parent}")


@pytest.fixture(name="deep")
def _deep(file: Path) -> Path:
    """Return a file that two links lead to, as of a release that is current."""
    release = file.parent / "releases" / "42"
    release.mkdir(parents=True)
    release.parent.joinpath("current").symlink_to("42")
    write(release / "own.toml", WRITTEN, 0o644)
    file.parent.joinpath("etc").mkdir()
    file.parent.joinpath("etc", "relevo.toml").symlink_to("../releases/current/own.toml")
    return file.parent / "etc" / "relevo.toml"


@pytest.mark.parametrize("weak", [".", "etc", "releases", "releases/42"])
def test_each_folder_that_leads_to_the_file_is_judged(deep: Path, weak: str) -> None:
    folder = deep.parents[1] / weak
    folder.chmod(0o755)
    read(deep, {}, start=deep.parent)
    read(None, {"RELEVO_CONFIG": str(deep)}, start=deep.parent)

    folder.chmod(0o777)
    with pytest.raises(ConfigurationError, match=rf"signing: {folder} can be written by every user .*; run chmod o-w"):
        read(deep, {}, start=deep.parent)
    with pytest.raises(ConfigurationError, match=rf"signing: {folder} can be written by every user"):
        read(None, {"RELEVO_CONFIG": str(deep)}, start=deep.parent)

    folder.chmod(0o1777)  # others cannot replace what is there
    read(deep, {}, start=deep.parent)


@needs_root
@pytest.mark.parametrize("weak", [".", "etc", "etc/relevo.toml", "releases", "releases/current", "releases/42"])
def test_a_folder_or_link_of_another_user_than_the_owner_of_the_file_is_refused(deep: Path, weak: str) -> None:
    owner, stranger = 54321, 54322
    target, step = deep.resolve(), deep.parents[1] / weak

    os.chown(target, owner, owner)
    os.chown(step, owner, owner, follow_symlinks=False)
    read(deep, {}, start=deep.parent)  # who deploys the program need not be who runs it

    os.chown(step, stranger, owner, follow_symlinks=False)
    with pytest.raises(ConfigurationError, match=rf"signing: {step} belongs to another user \(owner {stranger}, "):
        read(deep, {}, start=deep.parent)


@needs_root
def test_a_file_of_root_in_a_folder_of_root_is_read_by_a_service_of_another_user(file: Path) -> None:
    steps = [WayPoint.at(each) for each in (file.parent, write(file, WRITTEN, 0o644))]
    user = RunningUser(uid=54321, own_groups=lambda owner: {owner, 54321, 0})

    assert {step.uid for step in steps} == {0}
    assert weakness_on(steps, None, user) is None


def test_a_file_that_is_gone_since_it_was_read_is_refused(file: Path) -> None:
    config = read(write(file, WRITTEN, 0o644), {}, start=file.parent)
    file.unlink()

    (problem,) = key_file_problems(config)

    assert str(problem.error) == (
        f"signing: {file} was replaced or removed while it was read: No such file or directory; try again"
    )


def test_a_folder_with_the_sticky_bit_is_as_good_as_an_own_one(file: Path) -> None:
    write(file, WRITTEN, 0o600)
    file.parent.chmod(0o1777)

    read(file, {}, start=file.parent)


def test_a_file_without_signing_may_have_any_mode(file: Path) -> None:
    read(write(file, "", 0o666), {}, start=file.parent)


@pytest.mark.parametrize("mode", [0o600, 0o644, 0o664])
def test_the_own_group_may_write(file: Path, mode: int) -> None:
    read(write(file, WRITTEN, mode), {}, start=file.parent)


@needs_root
def test_another_group_may_not_write_unless_it_is_that_of_the_owner(file: Path) -> None:
    owner = next(each for each in pwd.getpwall() if each.pw_uid and each.pw_gid != os.getegid())
    other = next(each.gr_gid for each in grp.getgrall() if each.gr_gid not in (os.getegid(), owner.pw_gid))
    write(file, WRITTEN, 0o664)

    os.chown(file, owner.pw_uid, owner.pw_gid)
    read(file, {}, start=file.parent)
    os.chown(file, owner.pw_uid, other)
    with pytest.raises(ConfigurationError, match=f"can be written by other users of its group .*group {other}, "):
        read(file, {}, start=file.parent)
    os.chown(file, 54321, other)
    with pytest.raises(ConfigurationError, match=f"can be written by other users of its group .*group {other}, "):
        read(file, {}, start=file.parent)


@pytest.mark.parametrize(
    "text, mode, is_advised",
    [
        (WRITTEN, 0o644, True),
        (WRITTEN, 0o640, False),
        (WRITTEN, 0o600, False),
        (f'signing = "{KEY}"\n', 0o644, True),
        (f'signing = {{ keys = ["{KEY}"] }}\n', 0o644, True),
        (f'signing = {{ keys = "{KEY}" }}\n', 0o644, True),
        (f'signing = ["${{KEY}}", "{KEY[::-1]}"]\n', 0o644, True),
        (f'signing = {{ keys = ["${{KEY}}", "{KEY[::-1]}"] }}\n', 0o644, True),
        ('signing = "${KEY}"\n', 0o644, False),
        ('signing = ["${KEY}"]\n', 0o644, False),
        ('signing = { keys = "${KEY}" }\n', 0o644, False),
        ('signing = { keys = ["${KEY}"] }\n', 0o644, False),
        ("", 0o644, False),
    ],
)
def test_keys_that_others_can_read_are_advised_against(
    file: Path,
    text: str,
    mode: int,
    is_advised: bool,  # noqa: FBT001 - a parameter of pytest
) -> None:
    config = read(write(file, text, mode), {"KEY": KEY}, start=file.parent)

    advice = key_file_advice(config)

    assert (advice is not None) == is_advised
    if advice is not None:
        assert advice.startswith(f"{file} has keys and can be read by every user; run chmod go-r {file}")


@pytest.mark.parametrize("variable", ["RELEVO_SIGNING", "RELEVO_SIGNING__KEYS"])
def test_keys_in_a_variable_of_relevo_are_not_in_the_file(file: Path, variable: str) -> None:
    config = read(write(file, "", 0o644), {variable: KEY}, start=file.parent)

    assert key_file_advice(config) is None


def test_a_check_tells_that_others_can_read_the_keys(tmp_path: Path) -> None:
    shop = opened(tmp_path)
    shop.write("relevo.toml", f'signing = "{KEY}"\n{CONFIGURATION}')
    shop.folder.joinpath("relevo.toml").chmod(0o644)

    done = shop.run("check --json")

    (row,) = [row for row in json.loads(done.stdout) if row["check"] == "signing keys"]
    assert done.returncode == 0
    assert "has keys and can be read by every user" in row["detail"]
    assert row["ok"] is False
    assert "hunter2" not in done.stdout


def test_readable_keys_are_a_warning_in_the_table_and_fail_a_strict_check(tmp_path: Path) -> None:
    shop = opened(tmp_path)
    shop.write("relevo.toml", f'signing = "{KEY}"\n{CONFIGURATION}')
    shop.folder.joinpath("relevo.toml").chmod(0o644)

    usual, strict = shop.run("check"), shop.run("check --strict")

    (row,) = [line for line in usual.stdout.splitlines() if line.startswith("signing keys")]
    assert row.split()[2] == "warning"
    assert usual.returncode == 0
    assert "signing keys: " in strict.stderr
    assert strict.returncode == 78
