"""``relevo check --supervisor``: what is wrong with a configuration of supervisor."""

from __future__ import annotations

import os
import traceback
from pathlib import Path

import pytest

from relevo.cli._supervisor import examine
from relevo.errors import ConfigurationError

from .shop import CONFIGURATION, Shop, lines, opened

SECRET = "password=8c1f6a0b3d"
GOOD = "[program:shop]\ncommand=/srv/python -m relevo worker\nstopwaitsecs=930\n"


def faults(tmp_path: Path, text: str, **environ: str) -> list[str]:
    """Return what is told of *text*, without the place."""
    path = tmp_path / "supervisord.conf"
    path.write_text(text)
    try:
        examine(path, time_limit=900.0, environ=environ)
    except ConfigurationError as error:
        return [line.removeprefix(f"{path}: ") for line in str(error).splitlines()]
    return []


@pytest.mark.parametrize(
    "port", ["*:9001", "9001", ":9001", "0.0.0.0:9001", "[::]:9001", "[::0]:9001", "+9001", "9_001"]
)
def test_a_port_on_every_address_is_refused(port: str, tmp_path: Path) -> None:
    (fault,) = faults(tmp_path, f"[inet_http_server]\nport={port}\nusername=me\n{SECRET}\n")

    assert fault.startswith(f"[inet_http_server] port={port} is open on every address of this host: every client can")
    assert "remove the section" in fault


@pytest.mark.parametrize("host", ["0", "00", "0x0", "0.0", "shop.example", "127.1"])
def test_a_port_on_what_may_be_every_address_is_refused(host: str, tmp_path: Path) -> None:
    (fault,) = faults(tmp_path, f"[inet_http_server]\nport={host}:9001\nusername=me\n{SECRET}\n")

    assert fault.startswith(f"[inet_http_server] port={host}:9001 may be open on every address of this host")


@pytest.mark.parametrize("name", ["inet_http_server:two", "inet_http_server2"])
def test_every_section_that_supervisor_takes_for_a_port_is_looked_at(name: str, tmp_path: Path) -> None:
    found = faults(tmp_path, f"[{name}]\nport=*:9001\nusername=user\npassword=123\n")

    assert [fault.startswith(f"[{name}] ") for fault in found] == [True, True]


@pytest.mark.parametrize("port", ["%(ENV_P)s", "*:%(ENV_N)s", "%(ENV_HOST)s:9001"])
def test_a_port_is_what_the_environment_makes_of_it(port: str, tmp_path: Path) -> None:
    text = f"[inet_http_server]\nport={port}\nusername=me\n{SECRET}\n"

    (fault,) = faults(tmp_path, text, P="*:9001", N="9001", HOST="[::]")
    (unknown,) = faults(tmp_path, text)

    assert "is open on every address" in fault
    assert unknown.startswith(f"[inet_http_server] port={port}: ENV_")
    assert unknown.endswith("is not defined here; run this with the environment variables that supervisor has")
    if "*" not in port:
        assert faults(tmp_path, text, P="127.0.0.1:9001", HOST="127.0.0.1") == []


def test_a_password_may_come_from_the_environment(tmp_path: Path) -> None:
    text = "[inet_http_server]\nport=127.0.0.1:9001\nusername=me\npassword=%(ENV_PW)s\n"

    assert faults(tmp_path, text, PW="8c1f6a0b3d") == []
    assert len(faults(tmp_path, text, PW="123")) == 1


def test_a_value_that_supervisor_cannot_read_is_told(tmp_path: Path) -> None:
    (fault,) = faults(tmp_path, "[inet_http_server]\nport=127.0.0.1:9001\nusername=me\npassword=8c1f%zq0b3d\n")

    assert fault.startswith("[inet_http_server] password: a percent sign is neither %% nor a short placeholder")
    assert "8c1f" not in fault


def test_a_password_without_a_user_is_asked_of_nobody(tmp_path: Path) -> None:
    (fault,) = faults(tmp_path, f"[inet_http_server]\nport=127.0.0.1:9001\nusername=\n{SECRET}\n")

    assert "there is no password" in fault


@pytest.mark.parametrize(
    "password",
    [
        "123",
        "YourPasswordHere",
        "'YourPasswordHere'",
        '"changeme"',
        "changeme",
        "{SHA}40bd001563085fc35165329ea1ff5c5ecbdbbeef",
        "{SHA}40BD001563085FC35165329EA1FF5C5ECBDBBEEF",
        "123 ; as in the sample",
    ],
)
def test_a_password_that_everybody_knows_is_refused(password: str, tmp_path: Path) -> None:
    text = f"[inet_http_server]\nport=127.0.0.1:9001\nusername=user\npassword={password}\n"

    (fault,) = faults(tmp_path, text)

    assert fault.startswith("[inet_http_server] the password is a well-known example; remove the section")
    assert "123" not in fault


def test_no_password_is_refused(tmp_path: Path) -> None:
    (fault,) = faults(tmp_path, "[inet_http_server]\nport=127.0.0.1:9001\n")

    assert "there is no password" in fault


@pytest.mark.parametrize("port", ["127.0.0.1:9001", "localhost:9001", "[::1]:9001"])
def test_a_port_on_loopback_with_a_password_of_its_own_is_left_alone(port: str, tmp_path: Path) -> None:
    assert faults(tmp_path, f"[inet_http_server]\nport={port}\nusername=me\n{SECRET}\n{GOOD}") == []


def test_the_well_known_example_has_all_of_it(tmp_path: Path) -> None:
    text = "[inet_http_server]\nport = *:9001\nusername = root\npassword = YourPasswordHere\n"

    assert len(faults(tmp_path, text)) == 2


@pytest.mark.parametrize(
    ("mode", "number"), [("0700", 0), ("0770", 0), ("700", 0), ("0777", 1), ("0702", 1), ("all", 1)]
)
def test_a_socket_for_everybody_is_refused(mode: str, number: int, tmp_path: Path) -> None:
    for name in ("unix_http_server", "unix_http_server:b"):
        assert len(faults(tmp_path, f"[{name}]\nfile=/run/s.sock\nchmod={mode}\n")) == number


@pytest.mark.parametrize(("limit", "number"), [("128", 1), ("128M", 0), ("%(ENV_LIMIT)s", 0)])
def test_a_limit_of_the_memory_that_a_worker_refuses_is_told(limit: str, number: int, tmp_path: Path) -> None:
    found = faults(tmp_path, f"{GOOD}startsecs=0\n".replace("worker", f"worker --max-memory {limit}"))

    assert len(found) == number
    assert all(each.endswith('did you mean "128M"?') for each in found)


@pytest.mark.parametrize("said", ["", "stopwaitsecs=10\n", "stopwaitsecs=900\n"])
def test_a_worker_that_is_killed_before_its_listener_is_told(said: str, tmp_path: Path) -> None:
    (fault,) = faults(tmp_path, f"[program:shop]\ncommand=/srv/python -m relevo worker -t main\n{said}")

    assert fault.startswith("[program:shop] stopwaitsecs=")
    assert fault.endswith("time limit of 900 s; write stopwaitsecs=930")


def test_a_signal_that_a_worker_does_not_survive_is_told(tmp_path: Path) -> None:
    assert faults(tmp_path, f"{GOOD}stopsignal=INT\n") == []
    (fault,) = faults(tmp_path, f"{GOOD}stopsignal=KILL\n")

    assert "write stopsignal=TERM" in fault


@pytest.mark.parametrize(
    ("limit", "said", "number"),
    [
        ("--max-events 1", "", 1),
        ("--max-events=100", "startsecs=5\n", 1),
        ("--max-memory 200M", "startsecs=5\nstartretries=1000000\n", 1),
        ("--max-time 5s", "startsecs=5\n", 1),
        ("--max-time 4", "startsecs=5\n", 1),
        ("--max-time 1h", "startsecs=5\n", 0),
        ("--max-time soon", "startsecs=5\n", 0),
        ("--max-failures 3", "startsecs=5\nstartretries=1000000\n", 0),
        ("--max-events 1", "startsecs=0\n", 0),
        ("", "startsecs=5\n", 0),
    ],
)
def test_a_limit_that_supervisor_takes_for_a_failed_start_is_told(
    limit: str, said: str, number: int, tmp_path: Path
) -> None:
    found = faults(tmp_path, f"[program:shop]\ncommand=/srv/python -m relevo worker {limit}\nstopwaitsecs=930\n{said}")

    assert len(found) == number
    for fault in found:
        assert "counts as not started" in fault
        assert fault.endswith("write startsecs=0")


@pytest.mark.parametrize(
    ("said", "number"),
    [
        ("", 1),
        ("startsecs=5\n", 1),
        ("startretries=3\n", 1),
        ("startretries=999\n", 1),
        ("startretries=1000\n", 0),
        ("startsecs=0\n", 0),
        ("startretries=many\n", 0),  # supervisor does not start with it
    ],
)
@pytest.mark.parametrize("limit", ["--max-failures 3", "--max-failures=3", "--max-time 1h --max-failures 3"])
def test_a_worker_that_supervisor_gives_up_while_its_listeners_fail_is_told(
    said: str, number: int, limit: str, tmp_path: Path
) -> None:
    found = faults(tmp_path, f"[program:shop]\ncommand=/srv/python -m relevo worker {limit}\nstopwaitsecs=930\n{said}")

    assert len(found) == number
    for fault in found:
        assert "--max-failures ends a worker before startsecs=" in fault
        assert fault.endswith("write startretries=1000000")


def test_a_limit_that_needs_no_delay_is_told_before_failures(tmp_path: Path) -> None:
    command = "/srv/python -m relevo worker --max-failures 3 --max-events 1"

    (fault,) = faults(tmp_path, f"[program:shop]\ncommand={command}\nstopwaitsecs=930\n")

    assert fault.endswith("write startsecs=0")


def test_numbers_of_thousands_of_digits_are_read(tmp_path: Path) -> None:
    many = "9" * 9000
    text = f"{GOOD}stopwaitsecs={many}\nstartsecs={many}\nstartretries={many}\n"

    (fault,) = faults(tmp_path, text.replace("worker", "worker --max-events 1 --max-failures 1"))

    assert fault.endswith("write startsecs=0")


def test_other_programs_are_none_of_our_business(tmp_path: Path) -> None:
    assert faults(tmp_path, "[program:web]\ncommand=/srv/gunicorn shop:app\n") == []


def test_what_is_included_is_looked_at_too(tmp_path: Path) -> None:
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "conf.d" / "port.conf").write_text("[inet_http_server]\nport=*:9001\n" + SECRET)

    for files in ("conf.d/*.conf", "%(here)s/conf.d/*.conf", f"{tmp_path}/conf.d/*.conf nothing/*"):
        (fault,) = faults(tmp_path, f"[include]\nfiles={files}\n")
        assert f"{tmp_path / 'conf.d' / 'port.conf'}: [inet_http_server] port=*:9001 is open" in fault


def test_what_the_environment_says_is_included_is_looked_at_too(tmp_path: Path) -> None:
    (tmp_path / "port.conf").write_text("[inet_http_server]\nport=*:9001\n" + SECRET)
    text = "[include]\nfiles=%(ENV_HERE)s/*.conf\n"

    (fault,) = faults(tmp_path, text, HERE=str(tmp_path))
    (unknown,) = faults(tmp_path, text)

    assert "port.conf: [inet_http_server] port=*:9001 is open" in fault
    assert unknown.startswith("[include] files=%(ENV_HERE)s/*.conf: ENV_HERE is not defined here")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (b"[half hunter2", "line 1: expected a section, as in [program:shop]"),
        (b"\n# comment\nroot:hunter2:19000:0:99999:7:::\n", "line 3: expected a section, as in [program:shop]"),
        (b"[program:shop]\ncommand=x\nhunter2\n", "line 3: expected key=value"),
        (b"[program:shop]\n=hunter2\n", "line 2: expected key=value"),
        (b"[program:shop]\n hunter2\n", "line 2: expected key=value"),
        (b"[program:shop]\nkey=\xff\xfehunter2\n", "it is not UTF-8 text"),
        (b"[program:shop]\na" + b" " * 20_000 + b"hunter2\n", "line 2: expected at most 10000 characters; got 20008"),
        (b"[program:shop]\n" + b"x\n" * 20_000, "line 20001: expected at most 20000 lines"),
    ],
)
def test_of_a_file_that_is_no_configuration_only_the_line_number_is_shown(
    text: bytes, why: str, tmp_path: Path
) -> None:
    (tmp_path / "other.conf").write_bytes(text)
    path = tmp_path / "supervisord.conf"
    path.write_text("[include]\nfiles=other.conf\n")

    for file in (path, tmp_path / "other.conf"):
        with pytest.raises(ConfigurationError) as found:
            examine(file, time_limit=900.0, environ={})
        assert str(found.value) == f"{tmp_path / 'other.conf'} is not a configuration of supervisor: {why}"
        assert "hunter2" not in "".join(traceback.format_exception(found.value))


@pytest.mark.parametrize("kind", ["missing", "a directory", "a pipe", "a device"])
@pytest.mark.parametrize("is_included", [False, True])
def test_what_is_no_regular_file_is_refused_at_once(kind: str, *, is_included: bool, tmp_path: Path) -> None:
    path = tmp_path / "included.conf"
    if kind == "a pipe":
        os.mkfifo(path)
    elif kind == "a directory":
        path.mkdir()
    elif kind == "a device":
        path.symlink_to("/dev/zero")
    start = tmp_path / "supervisord.conf"
    start.write_text(f"[include]\nfiles={path}\n")
    if kind == "missing" and is_included:
        assert examine(start, time_limit=900.0, environ={}) == str(start), "supervisor only warns"
        return

    with pytest.raises(ConfigurationError) as found:
        examine(start if is_included else path, time_limit=900.0, environ={})

    what = "cannot be read: No such file or directory" if kind == "missing" else f"expected a regular file; got {kind}"
    assert str(found.value) in (f"{path} {what}", f"{path}: {what}")


def test_a_configuration_has_a_limited_size_and_includes_a_limited_number_of_files(tmp_path: Path) -> None:
    path = tmp_path / "supervisord.conf"
    path.write_bytes(b"#\n" * 200_000)
    with pytest.raises(ConfigurationError, match="expected a file of at most 256 KiB; got a larger one"):
        examine(path, time_limit=900.0, environ={})
    path.write_text("[include]\nfiles=many/* many/*\n")
    (tmp_path / "many").mkdir()
    for number in range(101):
        (tmp_path / "many" / f"{number}.conf").touch()
    with pytest.raises(ConfigurationError, match="files: expected at most 200 files; got more"):
        examine(path, time_limit=900.0, environ={})


def test_all_files_together_have_a_limited_size_even_if_they_are_one(tmp_path: Path) -> None:
    (tmp_path / "large.conf").write_bytes((b"#" * 99 + b"\n") * 2_000)

    few = faults(tmp_path, "[include]\nfiles=large.conf ../*/large.conf\n")
    many = faults(tmp_path, f"[include]\nfiles={'large.conf ' * 100}\n")

    assert few == []
    assert many == ["[include] files: expected at most 1 MiB; got more"]


@pytest.mark.parametrize(
    "value",
    [
        "%3000000000s",
        "%99999999999s",
        "%.3000000000s",
        "%-3000000000s",
        "%(ENV_P)999999999s",
        "%(ENV_P)0000000009999s",
        "%(ENV_P).999999999s",
        "%(ENV_P)*s",
        "%s",
        "%r",
        "%%%s",
        "%(ENV_P)s %s",
        "%",
        "%(ENV_P)",
        "%(%(%(",
        "%(" * 4000,
        "%(ENV_P" + "(" * 4000,
        "%(ENV_P)" + "0" * 9000,
    ],
)
@pytest.mark.parametrize(
    ("section", "key"),
    [
        ("inet_http_server", "port"),
        ("inet_http_server", "username"),
        ("inet_http_server", "password"),
        ("unix_http_server", "chmod"),
        ("program:shop", "stopwaitsecs"),
        ("program:shop", "stopsignal"),
        ("program:shop", "startsecs"),
        ("program:shop", "startretries"),
        ("include", "files"),
    ],
)
def test_only_short_placeholders_with_a_name_are_expanded(section: str, key: str, value: str, tmp_path: Path) -> None:
    found = faults(tmp_path, f"[{section}]\ncommand=relevo worker\n{key}={value}\n", P="1", API_KEY="hunter2")

    told = [each for each in found if each.startswith(f"[{section}] {key}")]
    assert len(told) == 1
    assert "a percent sign is neither %% nor a short placeholder with a name" in told[0]
    assert "hunter2" not in str(found)


@pytest.mark.parametrize("value", ["%(ENV_P)3s", "%(ENV_P)-3s", "%(ENV_P).4s", "%(ENV_P)03s", "%(ENV_P)r%%"])
def test_what_supervisor_can_expand_is_expanded(value: str, tmp_path: Path) -> None:
    (fault,) = faults(tmp_path, f"[unix_http_server]\nchmod={value}\n", P="no mode")

    assert fault.startswith(f"[unix_http_server] chmod={value}: every user of this host can open the socket")


@pytest.mark.parametrize("value", ["%(ENV_P)d", "%(ENV_P)c", "%(ENV_P)y"])
def test_a_placeholder_for_another_type_says_nothing_of_the_value(value: str, tmp_path: Path) -> None:
    (fault,) = faults(tmp_path, f"[unix_http_server]\nchmod={value}\n", P="hunter2")

    assert fault.endswith(
        "supervisor cannot read it: a placeholder does not end as %(ENV_PORT)s does; write %% for a percent sign"
    )


def test_a_value_has_a_limited_number_of_placeholders(tmp_path: Path) -> None:
    (fault,) = faults(tmp_path, f"[unix_http_server]\nchmod={'%(ENV_P)s' * 101}\n", P="x" * 100_000)

    assert fault.endswith(": expected at most 100 placeholders; got 101")


@pytest.mark.parametrize(
    ("section", "setting"),
    [
        ("inet_http_server", "port=%(ENV_API_KEY)s"),
        ("inet_http_server", "port=*:%(ENV_API_KEY)s"),
        ("unix_http_server", "chmod=%(ENV_API_KEY)s"),
        ("program:shop", "stopwaitsecs=%(ENV_API_KEY)s"),
        ("program:shop", "stopsignal=%(ENV_API_KEY)s"),
        ("program:shop", "startsecs=%(ENV_FIVE)s"),
        ("program:shop", "startretries=%(ENV_FIVE)s"),
    ],
)
def test_a_value_is_shown_as_it_is_written(section: str, setting: str, tmp_path: Path) -> None:
    text = f"[{section}]\ncommand=relevo worker --max-failures 3 --max-memory 1G\n{setting}\n"

    found = faults(tmp_path, text, API_KEY="/../../hunter2/..", FIVE="5" + " " * 50)

    assert any(setting[:80] in fault for fault in found)
    assert "hunter2" not in str(found)
    assert "5   " not in str(found)


def test_only_the_first_problems_are_told(tmp_path: Path) -> None:
    found = faults(tmp_path, "".join(f"[unix_http_server:{number}]\nchmod=0777\n" for number in range(1000)))

    assert len(found) == 101
    assert found[-1] == "only the first 100 problems are shown; fix them, and check again"


@pytest.mark.parametrize(
    "pattern", ["many/*/../*/nothing", "many/*/../*/../*/../*/nothing", "many/*/../*/../*/nothing/*"]
)
def test_patterns_of_included_files_stand_for_a_limited_number_of_names(pattern: str, tmp_path: Path) -> None:
    for number in range(101):
        (tmp_path / "many" / str(number)).mkdir(parents=True)

    (fault,) = faults(tmp_path, f"[include]\nfiles={pattern}\n")
    (expanded,) = faults(tmp_path, "[include]\nfiles=%(ENV_P)s\n", P=pattern)

    why = "more than 10000 files and folders would be looked at; name the folders"
    assert fault == f"[include] files={pattern}: {why}"
    assert expanded == f"[include] files=%(ENV_P)s: {why}"


def test_a_long_command_does_not_take_long(tmp_path: Path) -> None:
    lines = "\n ".join(["relevo " * 1400] * 20)
    assert faults(tmp_path, f"[program:shop]\ncommand={lines}\n") == []


def test_a_long_value_is_cut_and_is_one_line(tmp_path: Path) -> None:
    (fault,) = faults(tmp_path, f"[unix_http_server]\nchmod=07\n relevo: forged{'x' * 500}\n")

    assert fault.startswith(r"[unix_http_server] chmod=07\nrelevo: forgedx")
    assert "… (517 characters in all): every user" in fault


def test_errors_of_the_command_show_no_content(tmp_path: Path) -> None:
    shop = opened(tmp_path)
    shop.write("secret", "root:hunter2:19000:0:99999:7:::\n")
    shop.write("supervisord.conf", "[include]\nfiles=secret\n")

    done = shop.run("--debug check --supervisor supervisord.conf")

    assert done.returncode == 78
    assert lines(done)[-1].endswith("line 1: expected a section, as in [program:shop]")
    assert "hunter2" not in done.stdout + done.stderr


# --- the command ----------------------------------------------------------------------------------------------------


def test_check_says_what_is_wrong_and_ends_with_78(shop: Shop) -> None:
    shop.write("supervisord.conf", "[inet_http_server]\nport=*:9001\nusername=user\npassword=123\n")

    done = shop.run("check --supervisor supervisord.conf")

    assert done.returncode == 78
    assert "supervisor" in done.stdout
    assert [line.split(":")[0] for line in lines(done)] == ["relevo", "relevo"]


def test_what_unit_prints_passes_the_check(shop: Shop) -> None:
    pytest.importorskip("relevo_amqp")
    shop.write("supervisord.conf", shop.run("unit supervisor --processes 3 --folder .").stdout)

    done = shop.run("check --supervisor supervisord.conf")

    assert (done.returncode, done.stderr) == (0, "")


def test_a_worker_that_is_killed_before_its_longest_listener_is_told(shop: Shop) -> None:
    shop.write("shop_listeners.py", 'import relevo\n@relevo.listener("a.b", time_limit="1h")\ndef hear(event): ...\n')
    shop.write("supervisord.conf", GOOD)

    done = shop.run("check --supervisor supervisord.conf")

    assert done.returncode == 78
    assert lines(done)[0].endswith("time limit of 3600 s; write stopwaitsecs=3630")


def program(command: str, more: str = "") -> str:
    return f"[program:shop]\ncommand={command}\nstopwaitsecs=930\n{more}"


@pytest.mark.parametrize(
    ("command", "why"),
    [
        (
            "relevo messenger:consume async",
            'there is no command "messenger:consume"; it is called "relevo worker" here',
        ),
        ("/srv/bin/relevo wroker", 'there is no command "wroker"; did you mean "worker"? see relevo --help'),
        ("relevo worker -m 1", 'worker: there is no option -m; it is called "--max-events" here; see relevo worker'),
        ("relevo worker async", 'extra argument (async); a transport is chosen with "-t NAME"'),
        ("relevo worker -q media -q nosuch", 'nothing is routed to the queue "nosuch" of "main"; there are: media, '),
        ("relevo worker --max-events 1 -t mian", 'no transport is called "mian"; did you mean "main"?'),
        ("/srv/bin/python -m relevo worker -t mian", 'no transport is called "mian"; did you mean "main"?'),
        ("relevo worker -t main -q other/media", 'nothing is routed to the queue "other/media" of "main"'),
        ("relevo worker --max-memory 1", "worker: invalid value for "),
        ("relevo worker -t main -t main", "it is given twice; a command uses one transport"),
        ("relevo -t main worker", 'write it after the command: "relevo worker -t …"'),
        ("nice -n 5 sudo -u relevo relevo worker --nosuch", "worker: there is no option --nosuch"),
        ("relevo worker -t 'main", "no closing quotation"),
        ("relevo relay -t mian", 'no transport is called "mian"'),
        ("gosu relevo relevo worker -t mian", 'no transport is called "mian"'),
        ("gosu relevo relevo --config=relevo.toml worker -t mian", 'no transport is called "mian"'),
        ("nice -n 5 /srv/bin/relevo wroker", 'there is no command "wroker"'),
    ],
)
def test_a_command_that_the_shell_would_refuse_is_wrong(command: str, why: str, shop: Shop) -> None:
    shop.write("supervisord.conf", program(command, "startsecs=0\n"))

    done = shop.run("check --supervisor supervisord.conf")

    assert done.returncode == 78
    assert lines(done)[0].startswith("relevo: supervisord.conf: [program:shop] command: ")
    assert why in lines(done)[0]
    assert len(lines(done)) == 1


@pytest.mark.lengthy("runs commands")
@pytest.mark.parametrize(
    "command",
    [
        "relevo worker",
        "/srv/bin/python -X dev -m relevo worker -t main -q media -q main/feed -l info",
        "'/srv/my app/bin/relevo' worker\n  --transport=main\n  --max-time '1h'",
        "relevo --config relevo.toml -a shop:app worker",
        "relevo --config %(here)s/relevo.toml worker",
        "relevo worker -t %(ENV_T)s -q %(ENV_Q)s --concurrency=%(ENV_N)s %(ENV_MORE)s",
        "relevo %(ENV_COMMAND)s",
        "relevo --config other.toml worker -t other",
        "relevo -a other:app worker -t other",
        'sh -c "exec relevo worker $OPTIONS"',
        "su relevo -c 'relevo worker'",
        "docker exec relevo relevo worker",
        "docker exec relevo python -m relevo worker",
        "relevo relay",
        "setuidgid relevo gunicorn shop:app",
        "gosu relevo gunicorn -w 4 shop:app",
        "su-exec relevo celery -A shop worker",
        "chroot /srv/relevo gunicorn shop:app",
        "gosu relevo relevo --config=relevo.toml worker",
        "setuidgid relevo /srv/shop/bin/relevo worker -t main",
        "nice -n 5 sudo -u relevo relevo worker",
    ],
)
def test_a_command_that_may_start_is_accepted(command: str, shop: Shop) -> None:
    shop.write("supervisord.conf", program(command))

    done = shop.run("check --supervisor supervisord.conf")

    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("command", "more"),
    [
        ("relevo worker -t other", "environment=PATH='/bin',RELEVO_CONFIG='other.toml'\n"),
        ("relevo drain", "autostart=false\nautorestart=false\nstartsecs=0\n"),
        ("relevo drain", "autorestart=No\nstartsecs=0\n"),
        ("relevo drain", "autorestart=off\nstartsecs = 0 ; it may be quick\n"),
        ("relevo drain", "autorestart=0\nstartsecs=%(ENV_S)s\n"),
        ("relevo drain", "autorestart=unexpected\nstartsecs=0\n"),
        ("relevo drain", "startsecs=0\n"),
        ("relevo worker -t blog -q posts", "directory=/srv/blog\n"),
        ("relevo worker -t blog", "directory=%(here)s/blog\n"),
        ("relevo --config relevo.toml worker -t blog", "directory=blog\n"),
        ("relevo --config ../other.toml worker -t blog", "directory=blog\n"),
        ("relevo worker -t main", "directory=%(here)s\n"),
        ("relevo worker -t blog", "[supervisord]\nenvironment=RELEVO_CONFIG='/srv/blog/relevo.toml'\n"),
        ("relevo --help", ""),
    ],
)
def test_a_section_that_may_be_meant_so_is_accepted(command: str, more: str, shop: Shop) -> None:
    shop.write("supervisord.conf", program(command, more))

    done = shop.run("check --supervisor supervisord.conf")

    assert (done.returncode, done.stderr) == (0, "")
    assert "Usage" not in done.stdout


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ("autorestart=true\nstartsecs=0\n", "nothing is due, and supervisor starts it again and again; write relevo w"),
        ("autorestart=YES\nstartsecs=0\n", "nothing is due, and supervisor starts it again and again; write relevo w"),
        ("autorestart=1\n", "nothing is due, and supervisor starts it again and again; write relevo w"),
        ("", "perhaps before startsecs=1, so that supervisor starts it again, and gives up; write startsecs=0, or let"),
        ("autorestart=false\nstartsecs=10\n", "perhaps before startsecs=10, so that supervisor starts it again, and"),
    ],
)
def test_a_drain_that_supervisor_starts_again_is_wrong(more: str, why: str, shop: Shop) -> None:
    shop.write("supervisord.conf", program("relevo drain", more))

    done = shop.run("check --supervisor supervisord.conf")

    assert done.returncode == 78
    assert "[program:shop] command: relevo drain exits when nothing is due, " in lines(done)[0]
    assert why in lines(done)[0]
    assert len(lines(done)) == 1


@pytest.mark.parametrize(
    ("command", "more"),
    [
        ("relevo worker -t blog", "directory=%(here)s\n"),
        ("relevo worker -t blog", "directory=.\n"),
        ("relevo --config ../relevo.toml worker -t blog", "directory=%(here)s/blog\n"),
    ],
)
def test_a_program_of_this_application_is_compared_with_it(command: str, more: str, shop: Shop) -> None:
    shop.write("supervisord.conf", program(command, more))

    done = shop.run("check --supervisor supervisord.conf")

    assert done.returncode == 78
    assert 'no transport is called "blog"' in lines(done)[0]


def test_a_worker_of_another_application_has_time_limits_and_transports_of_its_own(shop: Shop) -> None:
    shop.write("shop_listeners.py", 'import relevo\n@relevo.listener("a.b", time_limit="1h")\ndef hear(event): ...\n')
    shop.write("relevo.toml", f"{CONFIGURATION}\n[transports.second]\nurl = 'sqlite:///second.db'\n")
    other = "[program:blog]\ndirectory=/srv/blog\ncommand=relevo worker\n"
    own = "[program:shop]\ncommand=relevo worker -t main\nstopwaitsecs=3630\n"
    shop.write("supervisord.conf", own + other)

    done = shop.run("check --supervisor supervisord.conf")

    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[program:web]\ncommand=gunicorn shop:app\n",
        "[program:worker]\ncommand=python /srv/relevo/worker.py\n",
        program("relevo dispatch a.b"),
    ],
)
def test_a_file_without_a_worker_is_a_warning(text: str, shop: Shop) -> None:
    shop.write("supervisord.conf", text)

    done, strict = (shop.run(f"check --supervisor supervisord.conf{more}") for more in ("", " --strict"))

    why = "supervisord.conf: no program runs relevo worker; relevo unit supervisor prints a section that does"
    assert done.returncode == 0
    assert any(line.split(maxsplit=2) == ["supervisor", "warning", why] for line in done.stdout.splitlines())
    assert any(line.split(maxsplit=2) == ["supervisor", "warning", why] for line in strict.stdout.splitlines())
    assert not [line for line in lines(strict) if line.startswith("relevo: supervisor")]


def test_an_included_file_may_have_the_worker(shop: Shop) -> None:
    shop.write("supervisord.conf", "[include]\nfiles=workers.ini\n")
    shop.write("workers.ini", GOOD)

    assert "warning" not in shop.run("check --supervisor supervisord.conf").stdout
