"""Where the programs of one application meet on a host."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs
import pytest

from relevo import App
from relevo._app.app import parts_of, using
from relevo._app.parts import LoadedFrom
from relevo._runner import lock_path
from relevo._runner.lock_path import deploy_guard, drain_lock
from relevo_memory import MemoryTransport


@pytest.fixture(name="own", autouse=True)
def _own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let the user's home be another folder; return the user's own folder in it."""
    (tmp_path / "shared").mkdir()
    (tmp_path / "home").mkdir()
    monkeypatch.setattr(lock_path, "_SHARED", tmp_path / "shared")
    monkeypatch.setattr(lock_path, "home_of", lambda user: tmp_path / "home")
    return tmp_path / "home/.local/state/relevo"


def app(**how: Any) -> App:
    """Return an application with a transport in memory."""
    return App(**{"transports": {"main": MemoryTransport()}, "routes": {"*": "main"}, "source": "shop", **how})


def configured(folder: Path, text: str) -> App:
    """Return the application that *text* describes."""
    folder.mkdir(exist_ok=True)
    path = folder / "relevo.toml"
    path.write_text(text)
    return App.from_config(path, environ={})


def test_they_are_beside_the_database_file(tmp_path: Path) -> None:
    with configured(tmp_path / "shop", 'source = "shop"\ntransports.main = "sqlite:///shop.db"') as shop:
        assert drain_lock(shop, "main", ()).path.parent == tmp_path / "shop"
        assert deploy_guard(shop).path == tmp_path / "shop" / "shop.deploy"


def test_the_database_of_an_outbox_does_as_well(tmp_path: Path) -> None:
    text = 'transports.main = { url = "amqp://localhost", outbox = "sqlite:///outbox.db" }'
    with configured(tmp_path / "shop", text) as shop:
        assert drain_lock(shop, "main", ()).path.parent == tmp_path / "shop"


def test_without_any_file_they_are_in_a_folder_of_the_users_own(own: Path) -> None:
    lock = drain_lock(app(), "main", ())

    assert lock.path.parent == own
    assert own.stat().st_mode & 0o777 == 0o700
    assert deploy_guard(app()).path == own / "shop.deploy"


def test_configuration_has_the_last_word_and_is_relative_to_its_file(tmp_path: Path) -> None:
    text = 'source = "shop"\ntransports.main = "sqlite:///shop.db"\nlock = "var"\n'
    with configured(tmp_path / "shop", text) as shop:
        assert drain_lock(shop, "main", ()).path.parent == tmp_path / "shop" / "var"
        assert deploy_guard(shop).path == tmp_path / "shop" / "var" / "shop.deploy"
    with configured(tmp_path / "shop", text + 'deploy = "/srv/shop/deploying"\n') as shop:
        assert deploy_guard(shop).path == Path("/srv/shop/deploying")


def test_the_folder_is_the_same_for_a_shell_cron_and_a_service(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = set()
    for environ in (
        {"HOME": "/root", "XDG_RUNTIME_DIR": "/run/user/0", "XDG_STATE_HOME": "/srv/state", "TMPDIR": "/srv/tmp"},
        {"HOME": "/", "XDG_RUNTIME_DIR": "", "XDG_STATE_HOME": "", "TMPDIR": ""},
    ):
        for name, value in environ.items():
            monkeypatch.setenv(name, value)
        found.add(drain_lock(app(), "main", ()).path.parent)

    assert found == {own}


def test_applications_of_one_folder_that_are_made_in_code_have_a_lock_each(tmp_path: Path) -> None:
    found = []
    for name in ("shop:one", "shop:two", "shop:one"):
        shop = app()
        place = LoadedFrom(name=name, folder=tmp_path)
        with using(shop, attrs.evolve(parts_of(shop), loaded_from=place)):
            found.append(drain_lock(shop, "main", ()).path)

    assert found[0] == found[2] != found[1]


def test_every_transport_and_choice_of_queues_has_its_lock() -> None:
    shop = app()
    paths = [
        drain_lock(shop, "main", ()),
        drain_lock(shop, "other", ()),
        drain_lock(shop, "main", ("feed",)),
        drain_lock(shop, "main", ("feed", "media")),
        drain_lock(app(source="shop/main"), "main", ()),
        drain_lock(app(source="https://shop.example/a%20b"), "main", ()),
    ]

    assert len({lock.path for lock in paths}) == len(paths)
    assert drain_lock(shop, "main", ("media", "feed")).path == paths[3].path
    assert all(lock.path.parent == paths[0].path.parent and len(lock.path.name) < 100 for lock in paths)
    assert paths[0].path.name.startswith("shop.main.")


def test_the_same_name_at_another_address_has_another_lock(tmp_path: Path) -> None:
    found = []
    for text in (
        'transports.main = "amqp://user:one@live/"',
        'transports.main = "amqp://user:one@staging/"',
        'transports.main = { url = "amqp://user:one@live/", prefix = "mine" }',
        'transports.main = "amqp://user:two@live/"',
    ):
        with configured(tmp_path / "a", f'source = "shop"\n{text}') as shop:
            found.append(drain_lock(shop, "main", ()).path)

    assert len(set(found[:3])) == 3
    assert found[3] == found[0], "a password is no part of an address, and nothing is made of it"


def test_a_deploy_is_one_of_a_name_and_its_servers(own: Path, tmp_path: Path) -> None:
    found = []
    for text in (
        'transports.main = "amqp://user:one@live/"',
        'transports.main = "amqp://user:one@staging/"',
        'transports.main = { url = "amqp://user:two@live/", prefetch = 3 }',
    ):
        with configured(tmp_path / "a", f'source = "shop"\n{text}') as shop:
            found.append(deploy_guard(shop).path)

    assert found[0] == found[2], "the next release of an application may have another password and other options"
    assert found[0] != found[1]
    assert all(path.parent == own and path.name.startswith("shop.") for path in found)


def test_applications_without_a_name_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    text = 'transports.main = "amqp://localhost/"'
    with configured(tmp_path / "a", text) as one, configured(tmp_path / "b", text) as other:
        assert deploy_guard(one).path != deploy_guard(other).path
        assert drain_lock(one, "main", ()).path != drain_lock(other, "main", ()).path
