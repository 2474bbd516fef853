"""Where the programs of one application meet on a host."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from relevo import App
from relevo._runner import lock_path
from relevo._runner.lock_path import deploy_guard, drain_lock
from relevo.errors import ConfigurationError
from relevo_memory import MemoryTransport


@pytest.fixture(name="own", autouse=True)
def _own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let the folder of the user's own lie elsewhere."""
    (tmp_path / "shared").mkdir()
    monkeypatch.setattr(lock_path, "_SHARED", tmp_path / "shared")
    return tmp_path / "shared" / f"relevo-{os.geteuid()}"


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


@pytest.mark.parametrize("make", ["link", "file", "open to all"])
def test_a_folder_that_somebody_else_may_have_laid_there_is_refused(make: str, own: Path, tmp_path: Path) -> None:
    if make == "link":
        own.symlink_to(tmp_path)
    elif make == "file":
        own.touch()
    else:
        own.mkdir()
        own.chmod(0o777)

    with pytest.raises(ConfigurationError, match=r'relevo-\d+.*: lock = "…"'):
        drain_lock(app(), "main", ())


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


def test_applications_without_a_name_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    text = 'transports.main = "amqp://localhost/"'
    with configured(tmp_path / "a", text) as one, configured(tmp_path / "b", text) as other:
        assert deploy_guard(one).path != deploy_guard(other).path
        assert drain_lock(one, "main", ()).path != drain_lock(other, "main", ()).path
