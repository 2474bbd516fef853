"""The fixture ``relevo_app``, as a project's own tests use it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import entry_points

import pytest

pytest_plugins = ["pytester"]

SHOP = """
import relevo

heard = []

@relevo.listener("image.created")
def create_thumbnail(event):
    heard.append(event["path"])

app = relevo.App.from_config()

def upload(path):
    app.dispatch(relevo.Event("image.created", {"path": path}))
"""

CONFIGURATION = """
app = "shop:app"
listeners = ["shop"]
[transports]
main = "sqlite:////no/such/folder/shop.db"
"""

TESTS = """
import shop

def test_an_upload(relevo_app):
    assert relevo_app.app is shop.app
    shop.upload("sea.jpg")
    relevo_app.dispatched("image.created", path="sea.jpg", times=1)
    relevo_app.drain()
    assert shop.heard == ["sea.jpg"]

def test_nothing_is_left_of_another_test(relevo_app):
    relevo_app.refute_dispatched()
"""

ALONE = [f"-pno:{name}" for name in ("anyio", "hypothesispytest", "platformdirs", "pytest_cov", "randomly", "xdist")]
"""Leaves the other plugins out of a run in a process of its own: they take longer to import than all else."""

Shop = Callable[..., pytest.Pytester]


@pytest.fixture(name="shop")
def _shop(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Shop:
    """Make a project of these files; its own settings are strict."""
    monkeypatch.delenv("RELEVO_CONFIG", raising=False)

    def shop(ini: str = "", **files: str) -> pytest.Pytester:
        pytester.makefile(".ini", pytest=f"[pytest]\naddopts = -p no:cacheprovider\nfilterwarnings = error\n{ini}\n")
        pytester.makepyfile(**{"shop": SHOP, "test_shop": TESTS, **files})
        return pytester

    return shop


def configure(project: pytest.Pytester, text: str = CONFIGURATION) -> None:
    project.makefile(".toml", relevo=text)


def test_the_application_is_the_one_of_the_nearest_configuration(shop: Shop) -> None:
    project = shop()
    configure(project)

    project.runpytest().assert_outcomes(passed=2)


def test_the_configuration_is_found_from_whichever_folder_tests_are_run(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = shop()
    configure(project)
    elsewhere = project.mkdir("elsewhere")
    monkeypatch.chdir(elsewhere)

    result = project.runpytest("--rootdir", str(project.path), "-c", str(project.path / "pytest.ini"), project.path)

    result.assert_outcomes(passed=2)


def test_the_ini_option_wins(shop: Shop) -> None:
    # A name that no other test of this process can have imported.
    project = shop("relevo_app = named_by_ini:application", named_by_ini="from shop import app as application\n")
    configure(project, CONFIGURATION.replace("shop:app", "no_such:app"))

    project.runpytest().assert_outcomes(passed=2)


def test_a_fixture_of_the_project_wins_over_all(shop: Shop) -> None:
    project = shop(
        "relevo_app = no_such:app",
        conftest="""
            import pytest, relevo, shop
            from relevo_memory import MemoryTransport

            @pytest.fixture
            def relevo_application(monkeypatch):
                app = relevo.App(transports={"main": MemoryTransport()}, routes={"*": "main"}, listeners=[shop])
                monkeypatch.setattr(shop, "app", app)
                monkeypatch.setattr(shop, "heard", [])
                return app
        """,
    )
    configure(project)

    project.runpytest().assert_outcomes(passed=2)


def test_without_an_application_the_error_says_how_to_name_one(shop: Shop) -> None:
    project = shop(shop="")

    result = project.runpytest()

    result.assert_outcomes(errors=2)
    result.stdout.fnmatch_lines(
        [
            "*UsageError: the fixture relevo_app needs an application: there is no relevo.toml in *",
            'E*Name it in the configuration, or as relevo_app = "module:name" in pytest\'s settings, or write*',
        ]
    )


def test_a_configuration_without_an_application_is_told_as_such(shop: Shop) -> None:
    project = shop(shop="")
    configure(project, '[transports]\nmain = "memory://"\n')

    result = project.runpytest()

    result.assert_outcomes(errors=2)
    result.stdout.fnmatch_lines(
        ['*UsageError: *needs an application: */relevo.toml names no application; add app = "module:name"']
    )


@pytest.mark.lengthy("starts processes")
@pytest.mark.parametrize(
    "named, why",
    [
        ("shop", '*UsageError: *: app: expected "shop:app"; got *shop*'),
        (
            "shop:upload",
            '*UsageError: *: app: "shop:upload": expected a relevo.App; got function; name the App in that module',
        ),
        ("shop:ap", '*UsageError: *: app: "shop" has no "ap"; did you mean "app"?'),
        ("shopp:app", '*UsageError: *: app: there is no module "shopp"; *'),
    ],
)
def test_an_application_that_is_none_is_told_with_its_name(shop: Shop, named: str, why: str) -> None:
    project = shop(f"relevo_app = {named}")
    configure(project)

    result = project.runpytest()

    result.assert_outcomes(errors=2)
    result.stdout.fnmatch_lines([why])


def test_a_test_that_fails_shows_what_was_dispatched_and_not_the_inside_of_relevo(shop: Shop) -> None:
    project = shop(
        test_shop="""
            import shop

            def test_an_upload(relevo_app):
                shop.upload("sea.jpg")
                relevo_app.dispatched("image.created", path="sand.jpg")
        """
    )
    configure(project)

    result = project.runpytest()

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            ">*relevo_app.dispatched(*",
            "E*AssertionError: \"image.created\" with path='sand.jpg' was not dispatched; these were, the nearest*",
            "E*image.created(path='sea.jpg') to main/default",
            "test_shop.py:5: AssertionError",
        ]
    )
    result.stdout.no_fnmatch_line("*raise AssertionError*")


@pytest.mark.lengthy("starts processes")
def test_an_error_of_a_listener_is_shown_where_it_was_raised(shop: Shop) -> None:
    project = shop(
        shop=SHOP.replace('heard.append(event["path"])', "heard.append(event.path)"),
        test_shop="""
            import shop

            def test_an_upload(relevo_app):
                shop.upload("sea.jpg")
                relevo_app.drain()
        """,
    )
    configure(project)

    result = project.runpytest()

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines([">*relevo_app.drain()*", ">*heard.append(event.path)", "shop.py:*: AttributeError"])


def test_the_application_is_as_it_was_after_every_test(shop: Shop) -> None:
    project = shop(
        test_shop="""
            import relevo, shop
            from relevo_memory import MemoryTransport

            def test_with(relevo_app):
                assert isinstance(shop.app.transport(), MemoryTransport)
                shop.upload("sea.jpg")
                assert 0

            def test_without():
                assert not isinstance(shop.app.transport(), MemoryTransport)
                assert shop.app.clock.now() > 0
        """
    )
    configure(project)

    project.runpytest().assert_outcomes(passed=1, failed=1)


@pytest.mark.lengthy("starts processes")
def test_a_run_without_tests_of_relevo_imports_nothing_of_it(shop: Shop) -> None:
    project = shop(
        test_shop="""
            import sys

            def test_it():
                assert [name for name in sys.modules if name.split(".")[0] in ("relevo", "relevo_memory")] == []
        """
    )

    project.runpytest_subprocess(*ALONE).assert_outcomes(passed=1)


def test_asking_for_the_settings_and_fixtures_shows_ours(shop: Shop) -> None:
    project = shop(test_shop="def test_it(): ...")

    assert "relevo_app (string):" in project.runpytest("--help").stdout.str()
    assert "relevo_app -- " in project.runpytest("--fixtures").stdout.str()


@pytest.mark.lengthy("starts processes")
def test_the_plugin_is_announced_once_and_can_be_left_out(shop: Shop) -> None:
    (point,) = entry_points(group="pytest11", name="relevo")
    project = shop()
    configure(project)

    assert point.value == "pytest_relevo"
    project.runpytest_subprocess(*ALONE, "-p", "no:relevo").assert_outcomes(errors=2)


@pytest.mark.lengthy("starts processes")
def test_pytest_is_needed_by_the_plugin_alone() -> None:
    program = "import relevo_memory, relevo.testing, sys; sys.exit('pytest' in sys.modules)"

    subprocess.run([sys.executable, "-c", program], check=True)
