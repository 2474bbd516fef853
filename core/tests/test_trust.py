"""A configuration that the search finds is only read if no other user can have written it."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from importlib.util import cache_from_source
from pathlib import Path
from stat import S_IFDIR, S_IFLNK, S_IFMT, S_IFREG
from types import SimpleNamespace

import pytest
from hypothesis import example, given, strategies as st

import server_starter
from relevo import App
from relevo.__main__ import _is_plainly_own
from relevo._config.opening import read
from relevo._config.trust import RunningUser, WayPoint, unmapped_owner, weakness_on
from relevo.errors import ConfigurationError

ME, OTHER, UNMAPPED = 1000, 1001, 65534
HERE = Path("/srv/me/shop")
FILE = HERE / "relevo.toml"

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to another user")


def way(**changes: tuple[int, int, int]) -> list[WayPoint]:
    """Return the way to ``FILE`` to a project; *changes* are owner, group and mode by the name of a step."""
    usual = {
        "root": (Path("/"), (0, 0, 0o755)),
        "srv": (HERE.parents[1], (0, 0, 0o755)),
        "me": (HERE.parents[0], (ME, ME, 0o750)),
        "shop": (HERE, (ME, ME, 0o755)),
        "file": (FILE, (ME, ME, 0o644)),
    }
    found = {name: (path, changes.get(name, own)) for name, (path, own) in usual.items()}
    return [
        WayPoint(
            path=path, uid=uid, gid=gid, mode=mode if S_IFMT(mode) else mode | (S_IFREG if path == FILE else S_IFDIR)
        )
        for path, (uid, gid, mode) in found.values()
    ]


def told(steps: list[WayPoint], *, uid: int = ME, unmapped: int | None = None) -> str | None:
    """Return the name of the step that is not trusted, and why."""
    weakness = weakness_on(
        steps, HERE, RunningUser(uid=uid, own_groups=lambda owner: {owner, uid, 0}, unmapped=unmapped)
    )
    return None if weakness is None else f"{weakness.step.path.name or '/'} {weakness.why}"


# --- the decision -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"file": (ME, ME, 0o664), "shop": (ME, ME, 0o775), "me": (ME, ME, 0o775)},  # Debian's umask 002
        {"file": (0, 0, 0o644), "shop": (0, 0, 0o755), "me": (0, 0, 0o755)},  # root owns /app in a container
        {"file": (0, 0, 0o664), "shop": (0, 0, 0o775)},  # as OpenShift wants it
        {"file": (0, ME, 0o664), "shop": (ME, 0, 0o775)},  # only this user and root are in these groups
        {"me": (0, 0, 0o1777)},  # a folder of mine in /tmp
        {"file": (ME, 50, 0o640), "shop": (ME, 50, 0o2750)},  # others of a group may read it
    ],
)
def test_what_only_the_user_and_root_can_write_is_trusted(changes: dict[str, tuple[int, int, int]]) -> None:
    assert told(way(**changes)) is None


@pytest.mark.parametrize(
    "changes, why",
    [
        ({"file": (OTHER, OTHER, 0o644)}, "relevo.toml belongs to another user"),
        ({"file": (ME, ME, 0o646)}, "relevo.toml can be written by every user"),
        ({"file": (ME, 50, 0o664)}, "relevo.toml can be written by other users of its group"),
        ({"file": (ME, OTHER, 0o664)}, "relevo.toml can be written by other users of its group"),
        ({"file": (0, OTHER, 0o664)}, "relevo.toml can be written by other users of its group"),
        ({"shop": (OTHER, ME, 0o755)}, "shop belongs to another user"),
        ({"shop": (ME, ME, 0o757)}, "shop can be written by every user"),
        ({"shop": (ME, 50, 0o775)}, "shop can be written by other users of its group"),
        ({"shop": (0, 0, 0o1777)}, "shop can be written by every user"),  # they could add modules beside the file
        ({"shop": (ME, 50, 0o1775)}, "shop can be written by other users of its group"),
        ({"me": (OTHER, OTHER, 0o755)}, "me belongs to another user"),
        ({"me": (OTHER, OTHER, 0o1777)}, "me belongs to another user"),  # who may replace what is in it
        ({"srv": (0, 0, 0o777)}, "srv can be written by every user"),
        ({"root": (OTHER, 0, 0o755)}, "/ belongs to another user"),
        ({"file": (OTHER, 0, S_IFLNK | 0o777)}, "relevo.toml belongs to another user"),
    ],
)
def test_what_another_user_can_write_or_replace_is_refused(changes: dict[str, tuple[int, int, int]], why: str) -> None:
    assert told(way(**changes)) == why


def test_root_trusts_only_what_is_its_own() -> None:
    assert told(way(), uid=0) == "relevo.toml belongs to another user"


def test_a_link_of_the_user_is_trusted_though_its_mode_says_that_all_may_write() -> None:
    assert told(way(file=(ME, ME, S_IFLNK | 0o777))) is None


def test_the_folders_of_the_host_above_a_mount_may_belong_to_a_user_without_a_number() -> None:
    steps = way(root=(UNMAPPED, UNMAPPED, 0o755), srv=(UNMAPPED, UNMAPPED, 0o1777))

    assert told(steps) == "srv belongs to another user"
    assert told(steps, unmapped=UNMAPPED) is None
    assert told(way(srv=(UNMAPPED, UNMAPPED, 0o777)), unmapped=UNMAPPED) == "srv can be written by every user"
    for name in ("shop", "file"):
        assert "belongs to another user" in str(told(way(**{name: (UNMAPPED, UNMAPPED, 0o755)}), unmapped=UNMAPPED))


def test_the_file_is_told_before_its_folder_and_that_before_the_folders_above() -> None:
    other = (OTHER, OTHER, 0o777)

    assert told(way(file=other, shop=other, srv=other)) == "relevo.toml belongs to another user"
    assert told(way(shop=other, srv=other)) == "shop belongs to another user"


@pytest.mark.parametrize(
    "uid_map, number",
    [
        ("         0          0 4294967295\n", None),
        ("         0       1000          1\n", UNMAPPED),
        ("0 1000 1\n1 100000 65536\n", None),
        ("", UNMAPPED),
    ],
)
def test_a_user_without_a_number_is_known_by_the_map_of_the_namespace(uid_map: str, number: int | None) -> None:
    assert unmapped_owner(uid_map, UNMAPPED) == number


# --- the search ---------------------------------------------------------------------------------------


@pytest.fixture(name="shop")
def _shop(tmp_path: Path) -> Path:
    """Make a folder with a configuration of this user."""
    folder = tmp_path / "shop"
    folder.mkdir(mode=0o755)
    folder.joinpath("relevo.toml").write_text('source = "shop"\n[transports]\nmain = "memory://"\n')
    return folder


def refused(start: Path) -> str:
    with pytest.raises(ConfigurationError) as caught:
        read(None, {}, start=start)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_file_that_every_user_can_write_is_refused_with_owner_mode_and_remedy(shop: Path) -> None:
    file = shop / "relevo.toml"
    file.chmod(0o666)

    text = refused(shop)

    assert text.startswith(f"{file}: not read, since {file} can be written by every user (owner ")
    assert "mode 0666)" in text
    assert f"--config {file}, RELEVO_CONFIG or App.from_config(path); otherwise chmod o-w {file}" in text


def test_a_file_in_a_folder_that_every_user_can_write_is_refused(shop: Path) -> None:
    for mode in (0o777, 0o1777):
        shop.chmod(mode)

        assert f"since {shop} can be written by every user" in refused(shop)


def test_a_folder_above_may_be_like_tmp_but_not_be_written_by_all(shop: Path) -> None:
    shop.parent.chmod(0o1777)
    assert read(None, {}, start=shop).source == "shop"

    shop.parent.chmod(0o777)
    assert f"since {shop.parent} can be written by every user" in refused(shop)


def test_a_folder_below_the_file_may_be_written_by_all(shop: Path) -> None:
    uploads = shop / "uploads"
    uploads.mkdir()
    uploads.chmod(0o777)

    assert read(None, {}, start=uploads).source == "shop"


def test_the_search_does_not_go_on_behind_a_file_that_is_refused(shop: Path) -> None:
    near = shop / "near" / "relevo.toml"
    near.parent.mkdir()
    near.write_text("")
    near.chmod(0o666)

    assert f"since {near} can be" in refused(near.parent)


def _dangle(path: Path) -> None:
    path.symlink_to("nowhere")


def _loop(path: Path) -> None:
    path.symlink_to(path.name)


def _to_a_pipe(path: Path) -> None:
    os.mkfifo(path.with_name("pipe"))
    path.symlink_to("pipe")


@pytest.mark.lengthy("starts processes")
@pytest.mark.parametrize(
    "make, kind",
    [
        (os.mkfifo, "a pipe"),
        (os.mkdir, "a directory"),
        (_dangle, "a broken link (No such file or directory)"),
        (_loop, "a broken link (Too many levels of symbolic links)"),
        (_to_a_pipe, "a pipe"),
    ],
)
def test_what_has_the_name_of_the_file_and_is_none_is_refused(
    shop: Path, make: Callable[[Path], None], kind: str
) -> None:
    near = shop / "near"
    near.mkdir()
    make(near / "relevo.toml")

    done = run(near, "config", "show")

    assert done.returncode == 78
    assert done.stderr.startswith(f"relevo: {near / 'relevo.toml'}: expected a file; got {kind}; ")
    assert done.stderr.count("\n") == 1


def test_a_folder_with_the_name_of_a_project_file_is_none_of_relevos(shop: Path) -> None:
    near = shop / "near"
    (near / "pyproject.toml").mkdir(parents=True)

    assert read(None, {}, start=near).source == "shop"


# --- modules beside it --------------------------------------------------------------------------------


@pytest.fixture(name="project")
def _project(shop: Path) -> Path:
    """Make a project whose modules tell when they are imported; return its folder."""
    shop.joinpath("relevo.toml").write_text('app = "web:app"\nlisteners = ["inner.deep.late"]\nplugins = ["extra"]\n')
    deep = shop / "inner" / "deep"
    deep.mkdir(parents=True)
    for module in ("web.py", "inner/__init__.py", "inner/deep/late.py", "extra.py", "named.py"):  # "deep" has none
        shop.joinpath(module).write_text(f"import pathlib\npathlib.Path({str(shop / 'sprung')!r}).touch()\n")
    for folder in (shop, shop / "inner", deep):
        folder.joinpath("__pycache__").mkdir()
    return shop


@pytest.mark.lengthy("starts processes")
@pytest.mark.parametrize(
    "name, mode",
    [
        ("web.py", 0o666),
        ("extra.py", 0o666),
        ("inner", 0o777),
        ("inner", 0o1777),  # others could add modules
        ("inner/__init__.py", 0o646),
        ("inner/deep", 0o777),
        ("inner/deep/late.py", 0o666),
        ("__pycache__", 0o777),
        ("inner/__pycache__", 0o1777),
    ],
)
def test_a_module_that_others_can_write_is_refused_before_anything_is_imported(
    project: Path, name: str, mode: int
) -> None:
    weak = project / name
    weak.chmod(mode)

    done = run(project, "check")
    named = run(project, "--config", "relevo.toml", "config", "show")

    assert done.returncode == 78
    assert done.stderr.count("\n") == 1
    assert f": not imported, since {weak} can be written by every user (owner " in done.stderr
    assert f"name the configuration: --config {project / 'relevo.toml'}, RELEVO_CONFIG or App.from_" in done.stderr
    assert done.stderr.endswith(f"; otherwise chmod o-w {weak}\n")
    assert not (project / "sprung").exists()
    assert named.returncode == 0


@needs_root
@pytest.mark.parametrize("name", ["web.py", "extra.py", "inner", "inner/__init__.py", "inner/deep/late.py"])
def test_a_module_of_another_user_is_refused(project: Path, name: str) -> None:
    os.chown(project / name, OTHER, OTHER)

    assert f"not imported, since {project / name} belongs to another user" in refused(project)


def test_a_compiled_module_that_others_can_write_is_refused(project: Path) -> None:
    compiled = Path(cache_from_source(str(project / "web.py")))
    compiled.write_bytes(b"")
    compiled.chmod(0o666)

    assert refused(project).startswith(f"{compiled}: not imported, since ")


def test_a_link_to_a_package_is_followed(project: Path) -> None:
    project.joinpath("inner").rename(project.parent / "inner-3")
    project.joinpath("inner").symlink_to(project.parent / "inner-3")
    assert read(None, {}, start=project).is_found

    project.parent.joinpath("inner-3").chmod(0o1777)
    assert f"since {project.parent / 'inner-3'} can be written by every user" in refused(project)


@pytest.mark.lengthy("starts processes")
def test_a_module_that_the_command_line_names_is_judged_too(project: Path) -> None:
    (project / "relevo.toml").write_text("")
    (project / "named.py").chmod(0o666)

    done = run(project, "--app", "named:app", "check")

    assert f"not imported, since {project / 'named.py'} can be written by every user" in done.stderr
    assert not (project / "sprung").exists()


def test_what_is_not_beside_the_file_or_not_named_is_not_judged(project: Path) -> None:
    project.joinpath("other.py").write_text("")
    project.joinpath("other.py").chmod(0o666)
    (project / "relevo.toml").write_text(
        'app = "json:app"\nlisteners = ["no.such", "in valid", "..other", "json.tool"]'
    )

    assert read(None, {}, start=project).app == "json:app"


def test_a_named_file_is_not_checked(shop: Path) -> None:
    shop.chmod(0o777)
    file = shop / "relevo.toml"

    assert read(file, {}, start=shop).source == "shop"
    assert read(None, {"RELEVO_CONFIG": str(file)}, start=shop).source == "shop"
    assert App.from_config(file, environ={}).source == "shop"


def test_an_application_does_not_load_what_the_search_refuses(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shop.joinpath("relevo.toml").chmod(0o666)
    monkeypatch.chdir(shop)

    with pytest.raises(ConfigurationError, match="can be written by every user"):
        App.from_config(environ={})


def test_a_project_file_is_refused_only_if_it_configures_relevo(shop: Path) -> None:
    project = shop / "below" / "pyproject.toml"
    project.parent.mkdir()
    for text in ('[project]\nname = "x"', '[project]\ndependencies = ["relevo"]', "not = TOML = at all", "#" * 2**21):
        project.write_text(text)
        project.chmod(0o666)
        assert read(None, {}, start=project.parent).source == "shop"

    project.write_text('[tool.relevo]\nsource = "evil"')
    assert f"{project}: not read, since {project} can be written by every user" in refused(project.parent)


def test_a_link_is_followed_and_each_folder_on_the_way_is_checked(shop: Path) -> None:
    releases = shop.parent / "releases"
    (releases / "42").mkdir(parents=True)
    shop.joinpath("relevo.toml").rename(releases / "42" / "relevo.toml")
    releases.joinpath("current").symlink_to("42")
    shop.joinpath("relevo.toml").symlink_to(Path("..") / "releases" / "current" / "relevo.toml")
    assert read(None, {}, start=shop).source == "shop"

    releases.chmod(0o777)  # the link in it can be replaced
    assert f"since {releases} can be written by every user" in refused(shop)

    releases.chmod(0o755)
    (releases / "42" / "relevo.toml").chmod(0o666)
    assert f"since {releases / '42' / 'relevo.toml'} can be written by every user" in refused(shop)


@needs_root
@pytest.mark.parametrize("name", ["relevo.toml", "pyproject.toml"])
def test_root_refuses_a_file_of_another_user(shop: Path, name: str) -> None:
    file = shop / name
    file.write_text("[tool.relevo]\n[tool.relevo.transports]\n" if name == "pyproject.toml" else "")
    if name == "pyproject.toml":
        shop.joinpath("relevo.toml").unlink()
    os.chown(file, OTHER, OTHER)

    text = refused(shop)

    assert (
        f"{file} belongs to another user (owner {OTHER}, group {OTHER}, mode 0644), and its code would run as" in text
    )
    assert text.endswith(f"otherwise chown 0 {file}")


@needs_root
def test_root_refuses_a_file_of_its_own_in_a_folder_of_another_user(shop: Path) -> None:
    os.chown(shop, OTHER, OTHER)
    assert f"since {shop} belongs to another user" in refused(shop)

    os.chown(shop, 0, 0)
    os.chown(shop.parent, OTHER, OTHER)
    assert f"since {shop.parent} belongs to another user" in refused(shop)


@needs_root
def test_root_refuses_a_link_of_another_user(shop: Path) -> None:
    shop.joinpath("relevo.toml").rename(shop / "own.toml")
    link = shop / "relevo.toml"
    link.symlink_to("own.toml")
    os.chown(link, OTHER, OTHER, follow_symlinks=False)

    assert f"since {link} belongs to another user" in refused(shop)


# --- the command line ---------------------------------------------------------------------------------


@pytest.fixture(name="shared")
def _shared() -> Iterator[Path]:
    """Make a folder that every user can enter; ``tmp_path`` is closed to others."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def run(folder: Path, *words: str, user: int | None = None, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run a command in *folder*."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RELEVO_")}
    return subprocess.run(
        [Path(sys.executable).with_name("relevo"), *words],
        cwd=folder,
        env={**kept, **environ},
        user=user,
        group=user,
        extra_groups=None if user is None else [],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


TRAP = """
from pathlib import Path
Path(__file__).with_name("sprung").touch()
"""


@pytest.mark.lengthy("starts processes")
@needs_root
@pytest.mark.parametrize("command", ["config show", "dispatch a.b", "worker"])
def test_no_command_of_root_runs_the_code_of_a_user_in_a_folder_above(shared: Path, command: str) -> None:
    shared.chmod(0o1777)
    for name, text in {
        "relevo.toml": 'app = "evil:app"\nlisteners = ["evil"]',
        "evil.py": TRAP,
        "click.py": TRAP,
    }.items():
        shared.joinpath(name).write_text(text)
        os.chown(shared / name, UNMAPPED, UNMAPPED)
    below = shared / "work"
    below.mkdir()

    done = run(below, *command.split())

    assert done.returncode == 78
    assert done.stderr.startswith(f"relevo: {shared / 'relevo.toml'}: not read, since ")
    assert done.stderr.count("\n") == 1
    assert not shared.joinpath("sprung").exists()


# --- python -m ----------------------------------------------------------------------------------------

INSTALLED = ["typing", "pathlib", "shlex", "msgspec", "attrs", "click"]
"""Modules that are imported after Python's own start."""


def run_module(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a command in *folder* with ``python -m relevo``."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RELEVO_", "PYTHON"))}
    return subprocess.run(
        [sys.executable, "-m", "relevo", *words],
        cwd=folder,
        env=kept,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.fixture(name="trapped")
def _trapped(shared: Path) -> Path:
    """Make a folder whose modules have the names of installed ones."""
    for name in INSTALLED:
        shared.joinpath(f"{name}.py").write_text(TRAP)
    return shared


@pytest.mark.lengthy("starts processes")
@pytest.mark.parametrize("mode", [0o777, 0o1777])
@pytest.mark.parametrize("words", [["--version"], ["config", "show"]])
def test_python_does_not_import_from_a_working_directory_that_others_can_write(
    trapped: Path, words: list[str], mode: int
) -> None:
    trapped.chmod(mode)

    done = run_module(trapped, *words)

    assert (done.returncode, done.stderr) == (0, "")
    assert not trapped.joinpath("sprung").exists()


@needs_root
def test_a_working_directory_that_cannot_be_judged_is_left_out(tmp_path: Path) -> None:
    below = tmp_path / "closed" / "here"
    below.mkdir(parents=True)
    below.parent.chmod(0o700)
    words = "import os, runpy, sys; os.setuid(65534); sys.argv = ['relevo', '--version']; sys.path[0] = os.getcwd()"
    words += "; runpy.run_module('relevo', run_name='__main__')"

    done = subprocess.run(
        [sys.executable, "-c", words], cwd=below, capture_output=True, text=True, timeout=300, check=False
    )

    assert "PermissionError" not in done.stderr


@needs_root
def test_python_does_not_import_from_a_working_directory_of_another_user(trapped: Path) -> None:
    for path in (trapped, *trapped.iterdir()):
        os.chown(path, OTHER, OTHER)

    done = run_module(trapped, "--version")

    assert (done.returncode, done.stderr) == (0, "")
    assert not trapped.joinpath("sprung").exists()


@pytest.mark.parametrize("mode", [0o755, 0o775])
def test_a_working_directory_of_the_user_alone_is_judged_without_an_import(shop: Path, mode: int) -> None:
    shop.chmod(mode)
    words = [sys.executable, "-X", "importtime", "-m", "relevo", "--version"]

    done = subprocess.run(words, cwd=shop, capture_output=True, text=True, timeout=300, check=True)

    assert ("relevo._config.trust" in done.stderr) is (mode == 0o775)


def owners_and_modes() -> st.SearchStrategy[tuple[int, int]]:
    return st.tuples(st.sampled_from([0, os.geteuid(), OTHER]), st.integers(0, 0o1777))


@given(st.lists(owners_and_modes(), min_size=3, max_size=3))
@example([(0, 0o755), (0, 0o1777), (os.geteuid(), 0o755)])
@example([(0, 0o755), (0, 0o755), (os.geteuid(), 0o1777)])
def test_what_is_accepted_without_an_import_would_be_accepted_after_it(found: list[tuple[int, int]]) -> None:
    folders = [Path("/"), Path("/srv"), Path("/srv/shop")]
    steps = [
        WayPoint(path=path, uid=uid, gid=4321, mode=S_IFDIR | mode)
        for path, (uid, mode) in zip(folders, found, strict=True)
    ]
    known = {str(step.path): SimpleNamespace(st_uid=step.uid, st_mode=step.mode) for step in steps}
    user = RunningUser(uid=os.geteuid(), own_groups=lambda owner: {owner, os.geteuid(), 0})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "lstat", lambda path: known[path])
        is_plain = _is_plainly_own("/srv/shop")

    assert not is_plain or weakness_on(steps, folders[-1], user) is None
    assert is_plain or weakness_on(steps, folders[-1], user) is not None, "no group here is private"


@pytest.mark.lengthy("starts processes")
def test_python_imports_from_a_working_directory_of_the_user_as_always(shop: Path) -> None:
    below = shop / "below"
    below.mkdir()
    below.joinpath("here.py").write_text("import relevo\napp = relevo.App(transports={'main': 'memory://'})\n")
    words = ["--config", "../relevo.toml", "-a", "here:app", "transports"]

    done = run_module(below, *words)
    shop.chmod(0o777)
    distrusted = run_module(below, *words)

    assert done.returncode == 0
    assert distrusted.returncode == 78
    assert 'there is no module "here"' in distrusted.stderr


# --- users and containers -----------------------------------------------------------------------------

READ_AS = """
import ctypes, grp, os, pwd, sys
from pathlib import Path
from relevo._config.opening import read
from relevo.errors import ConfigurationError
user, folder, is_in_container = int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3] == "True"
read(folder / "relevo.toml", {}, start=folder)  # imports the rest
os.chdir(folder)
os.setgroups([])
os.setgid(user)
os.setuid(user)
if is_in_container:  # a namespace in which this user is root, and every other one has no number
    libc = ctypes.CDLL(None)
    libc.prctl(4, 1)  # PR_SET_DUMPABLE: it may write its own files in /proc
    if libc.unshare(0x10000000):  # CLONE_NEWUSER
        sys.exit("no user namespaces")
    Path("/proc/self/uid_map").write_text(f"0 {user} 1")
    assert (os.getuid(), os.stat("/").st_uid) == (0, 65534)
try:
    print(read(None, {}, start=folder).source)
except ConfigurationError as error:
    print(error)
"""
"""The interpreter may be in a folder that other users cannot enter, so the user changes after the imports."""


def read_as(user: int, folder: Path, *, in_container: bool = False) -> str:
    """Return what *user* reads in *folder*, or the error."""
    words = [sys.executable, "-c", READ_AS, str(user), str(folder), str(in_container)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300, check=False)
    if done.stderr == "no user namespaces\n":
        if server_starter.in_ci():
            pytest.fail(done.stderr)
        pytest.skip(done.stderr)
    assert done.stderr == ""
    return done.stdout


@pytest.mark.lengthy("starts processes")
@needs_root
def test_a_user_works_with_files_of_root_and_with_own_ones_in_a_group_of_one(shared: Path) -> None:
    file = shared / "relevo.toml"
    file.write_text('source = "shop"')
    file.chmod(0o664)
    shared.chmod(0o775)
    assert read_as(OTHER, shared) == "shop\n"  # the group of root has no other member

    for path in (shared, file):
        os.chown(path, OTHER, OTHER)
    assert read_as(OTHER, shared) == "shop\n"
    assert f"{file} belongs to another user (owner {OTHER}, " in read_as(OTHER + 1, shared)

    os.chown(file, OTHER, 4321)
    assert "can be written by other users of its group" in read_as(OTHER, shared)


@pytest.mark.lengthy("starts processes")
@needs_root
def test_in_a_container_the_folders_of_the_host_lead_to_an_own_file(shared: Path) -> None:
    folder = shared / "project"
    folder.mkdir()
    folder.joinpath("relevo.toml").write_text('source = "shop"')
    assert "relevo.toml belongs to another user (owner " in read_as(OTHER, folder, in_container=True)

    for path in (folder, folder / "relevo.toml"):
        os.chown(path, OTHER, OTHER)
    assert read_as(OTHER, folder, in_container=True) == "shop\n"


MODULES = ["stevedore", "sqlalchemy", "relevo_sql", "rich", "tomllib"]


@pytest.mark.lengthy("starts processes")
def test_without_a_configuration_a_folder_of_others_is_not_searched_for_modules(tmp_path: Path) -> None:
    for name in MODULES:
        tmp_path.joinpath(f"{name}.py").write_text(TRAP)
    tmp_path.chmod(0o1777)
    database = f"sqlite:///{tmp_path}/own/x.db"
    tmp_path.joinpath("own").mkdir()

    done = run(tmp_path, "setup", RELEVO_TRANSPORTS__MAIN=database)

    assert (done.returncode, done.stderr) == (0, "")
    assert not tmp_path.joinpath("sprung").exists()


@pytest.mark.lengthy("starts processes")
def test_a_module_that_is_missing_for_that_reason_is_told(tmp_path: Path) -> None:
    tmp_path.joinpath("shop.py").write_text("import relevo\napp = relevo.App.from_config()\n")
    main = "memory://"

    tmp_path.chmod(0o755)
    assert run(tmp_path, "-a", "shop:app", "transports", RELEVO_TRANSPORTS__MAIN=main).returncode == 0

    tmp_path.chmod(0o1777)
    done = run(tmp_path, "-a", "shop:app", "transports", RELEVO_TRANSPORTS__MAIN=main)
    assert done.returncode == 78
    assert f"the working directory is not searched: {tmp_path} can be written by every user (owner " in done.stderr


# --- access control lists -----------------------------------------------------------------------------

ANY_ID = 0xFFFFFFFF


def grant(path: Path, user: int) -> None:
    """Let *user* write the file at *path* by its access control list, as ``setfacl -m u:USER:rw`` does."""
    # linux/posix_acl_xattr.h: a version, then entries of a tag, permissions and an id, in the order of the tags.
    entries = [(0x01, 6, ANY_ID), (0x02, 6, user), (0x04, 4, ANY_ID), (0x10, 6, ANY_ID), (0x20, 4, ANY_ID)]
    value = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)
    try:
        os.setxattr(path, "system.posix_acl_access", value)
    except (OSError, AttributeError) as error:
        pytest.skip(f"no access control lists here: {error}")


def can_write(path: Path, user: int) -> bool:
    words = ["sh", "-c", ': >>"$1"', "sh", str(path)]
    done = subprocess.run(words, user=user, group=user, extra_groups=[], stderr=subprocess.DEVNULL, check=False)
    return done.returncode == 0


@needs_root
def test_an_access_control_list_is_refused_by_its_mask_which_shows_as_the_rights_of_the_group(shared: Path) -> None:
    file = shared / "relevo.toml"
    file.write_text('source = "shop"')
    os.chown(file, 0, 4321)

    grant(file, OTHER)

    assert can_write(file, OTHER)
    assert f"{file} can be written by other users of its group (owner root, group 4321, mode 0664)" in refused(shared)


@needs_root
def test_an_access_control_list_is_not_noticed_if_the_group_of_the_file_is_private(shared: Path) -> None:
    file = shared / "relevo.toml"
    file.write_text('source = "shop"')

    grant(file, OTHER)

    assert can_write(file, OTHER)
    assert read(None, {}, start=shared).source == "shop", "docs/how-to/configure.md says that lists are not checked"


# --- a private mount ----------------------------------------------------------------------------------


def in_private_mount(folder: Path, script: str) -> subprocess.CompletedProcess[str]:
    """Run the shell's *script* where a file system of its own is mounted on *folder*, ``$1``; ``relevo`` is ``$2``."""
    if shutil.which("unshare") is None:
        pytest.skip("unshare is not installed")
    shell = ["unshare", "--mount", "sh", "-ec"]
    mount = 'mount -t tmpfs -o mode=0755 tmpfs "$1"\n'
    words = ["sh", str(folder), str(Path(sys.executable).with_name("relevo"))]
    probe = subprocess.run([*shell, mount, *words], capture_output=True, text=True, timeout=300, check=False)
    if probe.returncode:
        pytest.skip(f"no private mounts here: {probe.stderr.strip()}")
    return subprocess.run([*shell, mount + script, *words], capture_output=True, text=True, timeout=300, check=False)


FILL = """
mkdir "$1/work"
printf 'source = "shop"\napp = "evil:app"\nlisteners = ["evil"]' >"$1/relevo.toml"
printf 'import pathlib; pathlib.Path(__file__).with_name("sprung").touch()' >"$1/evil.py"
cd "$1/work"
"""


@pytest.mark.lengthy("starts processes")
@needs_root
@pytest.mark.parametrize(
    ("change", "why"),
    [
        ("", None),
        ('chmod 1777 "$1"', "{folder} can be written by every user (owner root, group 0, mode 1777)"),
        (f'chown {OTHER} "$1"', f"{{folder}} belongs to another user (owner {OTHER}, group 0, mode 0755)"),
        (
            f'chown {OTHER} "$1/relevo.toml"',
            f"{{folder}}/relevo.toml belongs to another user (owner {OTHER}, group 0, mode 0644)",
        ),
        (
            f'chown {OTHER} "$1/evil.py"',
            f"{{folder}}/evil.py belongs to another user (owner {OTHER}, group 0, mode 0644)",
        ),
    ],
)
def test_root_judges_what_the_search_finds_in_a_private_mount(shared: Path, change: str, why: str | None) -> None:
    script = f'{FILL}{change}\n"$2" config show >/dev/null || code=$?\ntest ! -e "$1/sprung"\nexit ${{code:-0}}'

    done = in_private_mount(shared, script)

    if why is None:
        assert (done.returncode, done.stderr) == (0, "")
    else:
        assert done.returncode == 78
        assert f"since {why.format(folder=shared)}, and its code would run as root" in done.stderr
    assert [*shared.iterdir()] == [], "the mount is not private"


SIGNED = """
printf '%s\\n' 'source = "shop"' 'signing = "uBuXx0s6JESGnCIANG0FwdWJMNbTxj_zX7_oM2q_yPI"' '[transports]' \
    'main = "memory://"' >"$1/relevo.toml"
chmod 0600 "$1/relevo.toml"
chmod 0777 "$1"
"""
SHOW = '"$2" --config "$1/relevo.toml" config show >/dev/null'


@pytest.mark.lengthy("starts processes")
@needs_root
def test_keys_in_a_folder_that_all_can_write_are_refused_unless_it_is_mounted_read_only(shared: Path) -> None:
    writable = in_private_mount(shared, SIGNED + SHOW)
    read_only = in_private_mount(shared, f'{SIGNED}mount -o remount,ro "$1"\n{SHOW}')

    assert writable.returncode == 78
    assert f"signing: {shared} can be written by every user (owner root, group 0, mode 0777)" in writable.stderr
    assert (read_only.returncode, read_only.stderr) == (0, "")
