from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from relevo import App, Retry, Signing
from relevo._app.app import app_of
from relevo._config.opening import read
from relevo._config.schema import Config
from relevo.errors import ConfigurationError

KEY = "hunter2-Vq3TnB7xZk9RwLf2HsJd8Mpy"
OTHER = "hunter2-pM8yDsJ2HfLw9RkZx7BnT3qVa"
TRANSPORTS = (
    '[transports]\nmain = "memory://"\nother = "memory://"\n[routes]\n"*" = ["main/feed", "main"]\n"a.*" = "other"\n'
)

Read = Callable[..., Config]


@pytest.fixture(name="read_")
def _read(tmp_path: Path) -> Read:
    def read_(text: str, **environ: str) -> Config:
        path = tmp_path / "relevo.toml"
        path.write_text(text)
        return read(path, environ, start=tmp_path)

    return read_


def told(read_: Read, text: str, **environ: str) -> str:
    with pytest.raises(ConfigurationError) as caught:
        read_(text, **environ)
    assert "hunter2" not in repr(caught.value)
    return "relevo.toml" + str(caught.value).partition("/relevo.toml")[2]


# --- signing ----------------------------------------------------------------------------------------------


def keys_of(config: Signing | None) -> tuple[list[str], bool]:
    assert config is not None
    return [key.reveal() for key in config.keys], config.required


@pytest.mark.parametrize(
    "text, environ, expected",
    [
        (f'signing = "{KEY}"', {}, ([KEY], True)),
        (f'signing = ["{KEY}", "{OTHER}"]', {}, ([KEY, OTHER], True)),
        (f'signing = {{ keys = "{KEY}" }}', {}, ([KEY], True)),
        (f'[signing]\nkeys = ["{KEY}"]\nrequired = false', {}, ([KEY], False)),
        ('signing = ["${A}", "${B}"]', {"A": KEY, "B": OTHER}, ([KEY, OTHER], True)),
        ("", {"RELEVO_SIGNING": KEY}, ([KEY], True)),
        ("", {"RELEVO_SIGNING": f'["{KEY}", "{OTHER}"]'}, ([KEY, OTHER], True)),
        ("", {"RELEVO_SIGNING__KEYS": KEY, "RELEVO_SIGNING__REQUIRED": "false"}, ([KEY], False)),
        (f'signing = "{KEY}"', {"RELEVO_SIGNING__REQUIRED": "False"}, ([KEY], False)),
    ],
    ids=range(9),
)
def test_keys_for_signatures_are_a_text_a_list_or_a_table(
    read_: Read, text: str, environ: dict[str, str], expected: tuple[list[str], bool]
) -> None:
    config = read_(text, **environ)

    assert keys_of(config.signing) == expected
    assert "hunter2" not in repr(config)


def test_without_keys_nothing_is_signed(read_: Read) -> None:
    assert read_("").signing is None


@pytest.mark.parametrize(
    "text, why",
    [
        ("signing = 3", "signing: expected text or a list; got a whole number"),
        ("signing = []", "signing: expected keys of at least 32 characters; got no key"),
        (f'signing = ["{KEY}", 3]', "signing.1: expected text; got a whole number"),
        ("signing = {}", 'signing: the option "keys" is missing'),
        (
            "signing = 'hunter2'",
            "signing: expected keys of at least 32 characters; got one with 7 characters; generate one with",
        ),
        (f'signing = ["{KEY}", ""]', "signing: expected keys of at least 32 characters; got one with 0 characters"),
        (f'signing = ["{KEY}", "{KEY}"]', "signing: one of the keys is given twice"),
        (f'signing = {{ keys = "{KEY}", required = "hunter2" }}', "signing.required: expected true or false; got text"),
        (
            f'signing = {{ keys = "{KEY}", require = false }}',
            'signing: unknown option "require"; did you mean "required"?',
        ),
    ],
    ids=range(9),
)
def test_keys_that_cannot_sign_are_told_and_never_shown(read_: Read, text: str, why: str) -> None:
    assert told(read_, text).startswith(f"relevo.toml:1: {why}")


@pytest.mark.parametrize("text", ['signing = "${SHOP_KEY}"', 'signing = { keys = ["${SHOP_KEY}"] }'])
def test_an_empty_variable_for_a_key_is_named(read_: Read, text: str) -> None:
    assert "SHOP_KEY is empty; set this variable" in told(read_, text, SHOP_KEY="")


def test_a_key_that_cannot_sign_is_told_of_the_variable_that_has_it(read_: Read) -> None:
    with pytest.raises(
        ConfigurationError,
        match=r"^RELEVO_SIGNING__KEYS: signing: expected keys of .*; got one with 1 characters",
    ):
        read_('source = "shop"', RELEVO_SIGNING__KEYS='["a"]')


# --- retries ----------------------------------------------------------------------------------------------


def test_queues_have_retry_policies_of_their_own(read_: Read) -> None:
    config = read_(
        f'{TRANSPORTS}[retries]\n"main/feed" = {{ runs = 8, first = "1s", factor = 2, cap = "5m", jitter = 0 }}\n'
        "main = 3\nother.cap = 7200"
    )

    assert config.retries == {
        "main/feed": Retry(8, first=1.0, factor=2.0, cap=300.0, jitter=0.0),
        "main/default": Retry(3),
        "other/default": Retry(cap=7200.0),
    }


@pytest.mark.parametrize(
    "environ, expected",
    [
        ({"RELEVO_RETRIES__MAIN": "3"}, {"main/default": Retry(3)}),
        (
            {"RELEVO_RETRIES__MAIN__RUNS": "3", "RELEVO_RETRIES__MAIN__FACTOR": "1.5"},
            {"main/default": Retry(3, factor=1.5)},
        ),
        ({"RELEVO_RETRIES": '{"main/feed" = 2}'}, {"main/feed": Retry(2)}),
    ],
    ids=range(3),
)
def test_the_environment_says_policies_too(read_: Read, environ: dict[str, str], expected: object) -> None:
    assert read_(TRANSPORTS, **environ).retries == expected


def test_a_variable_adds_to_a_number_of_runs_in_the_file(read_: Read) -> None:
    config = read_(f"{TRANSPORTS}[retries]\nmain = 3", RELEVO_RETRIES__MAIN__CAP="10m")

    assert config.retries == {"main/default": Retry(3, cap=600.0)}


@pytest.mark.parametrize(
    "line, why",
    [
        ("main = 0", "retries.main.runs: expected a whole number from 1; got 0"),
        ("main = 1.5", "retries.main: expected a whole number; got a number"),
        ("main = true", "retries.main: expected a whole number; got a boolean"),
        ("main = 'often'", "retries.main: expected a whole number; got text"),
        ("main = { runs = 'x' }", "retries.main.runs: expected a whole number; got text"),
        ("main = { first = 'soon' }", "retries.main.first: expected seconds as a number, or text such as"),
        ("main = { factor = '2x' }", "retries.main.factor: expected a number; got text"),
        ("main = { factor = true }", "retries.main.factor: expected a number; got a boolean"),
        ("main = { factor = 0.5 }", "retries.main.factor: expected a number from 1; got 0.5"),
        ("main = { factor = nan }", "retries.main.factor: expected a number from 1; got nan"),
        ("main = { jitter = 2 }", "retries.main.jitter: expected a number from 0 to 1; got 2.0"),
        ("main = { cap = 1 }", "retries.main.cap: expected first, 2 s, or more; got 1 s"),
        ("main = { first = '-1s', cap = '1s' }", "retries.main.first: expected 0 s or more; got '-1s'"),
        ("main = { run = 3 }", 'retries.main: unknown option "run"; did you mean "runs"?'),
        (
            "main = { give_up_on = [] }",
            "retries.main: give_up_on cannot be set here, since it names classes; set it in code",
        ),
        ("mian = 3", "retries.mian: no transport is called 'mian'; did you mean \"main\"?"),
        ("'main/fed' = 3", 'retries."main/fed": nothing is routed to that queue; did you mean "feed"?'),
        ("now = 3", "retries.now: no transport is called 'now'; there are: main, other"),
        ("'main/a b' = 3", "retries: 'a b' cannot name a queue"),
        ("main = 3\n'main/default' = 3", 'retries."main/default": main/default is set twice'),
    ],
)
def test_a_policy_that_cannot_be_is_told(read_: Read, line: str, why: str) -> None:
    text = f"{TRANSPORTS}[retries]\n{line}"

    assert told(read_, text).startswith(f"relevo.toml:{len(text.splitlines())}: {why}")


def test_a_first_wait_that_is_none_is_not_compared_with_the_longest(read_: Read) -> None:
    line = told(read_, f"{TRANSPORTS}[retries]\nmain = {{ runs = 0, first = '-1s', cap = '1s' }}")

    assert ".first: expected 0 s or more; got '-1s'" in line
    assert "runs: expected a whole number from 1; got 0" in line
    assert "cap" not in line


def test_waits_that_conflict_are_told_with_the_line_of_the_longest(read_: Read) -> None:
    text = f"{TRANSPORTS}[retries.main]\nfirst = '5m'\nruns = 3\ncap = '1m'\n"

    line = len(text.splitlines())
    assert told(read_, text) == f"relevo.toml:{line}: retries.main.cap: expected first, 300 s, or more; got 60 s"


def test_without_routes_all_goes_to_the_default_queue_of_the_first_transport(read_: Read) -> None:
    transports = '[transports]\nmain = "memory://"\nother = "memory://"\n[retries]\n'

    assert list(read_(f"{transports}main = 3").retries) == ["main/default"]
    assert told(read_, f"{transports}other = 3").endswith(
        "retries.other: nothing is routed to that queue; add a route to it under [routes]"
    )


def test_retries_that_are_no_table_are_told(read_: Read) -> None:
    assert told(read_, "retries = 3").startswith(
        'relevo.toml:1: retries: expected a table such as "main/feed" = 8; got a whole number'
    )


def test_all_that_is_wrong_with_a_policy_is_told_with_the_line_of_each_key(read_: Read) -> None:
    text = f"{TRANSPORTS}[retries.main]\nruns = 0\nfactor = 'x'\njitter = 2\ncap = 'soon'\n"

    with pytest.raises(ConfigurationError) as caught:
        read_(text)

    first = TRANSPORTS.count("\n") + 2
    lines = [line.partition("/relevo.toml:")[2] for line in str(caught.value).splitlines()]
    assert [line.partition(" ")[0] for line in lines] == [f"{first + number}:" for number in range(4)]
    assert [line.split()[1].strip(":") for line in lines] == [
        f"retries.main.{key}" for key in ("runs", "factor", "jitter", "cap")
    ]


def test_an_invalid_policy_does_not_hide_that_nothing_leads_to_its_queue(read_: Read) -> None:
    text = f"{TRANSPORTS}[retries]\nmian = {{ runs = 0 }}\n'main/fed' = 'often'\n'main/a b' = 0\nmain.cap = -1\n"

    with pytest.raises(ConfigurationError) as caught:
        read_(text)

    first = TRANSPORTS.count("\n") + 2
    assert [line.partition("/relevo.toml:")[2].partition("; ")[0] for line in str(caught.value).splitlines()] == [
        f"{first}: retries.mian.runs: expected a whole number from 1",
        f"{first}: retries.mian: no transport is called 'mian'",
        f'{first + 1}: retries."main/fed": expected a whole number',
        f'{first + 1}: retries."main/fed": nothing is routed to that queue',
        f'{first + 2}: retries."main/a b".runs: expected a whole number from 1',
        f"{first + 2}: retries: 'a b' cannot name a queue: spaces and control characters are not allowed",
        f"{first + 3}: retries.main.cap: expected 0 s or more",
    ]


# --- a file has numbers and booleans, a variable has only text --------------------------------------------


@pytest.mark.parametrize(
    "text, why",
    [
        ("lease = '30'", "lease: expected seconds as a number, or text such as"),
        ("patience = '60.5'", "patience: expected seconds as a number, or text such as"),
        ("concurrency = '4'", "concurrency: expected a whole number from 1 to 10000; got '4'"),
        ("recycle_after = '4'", "recycle_after: expected a whole number of at least 1; got '4'"),
        (f"signing = {{ keys = '{KEY}', required = '1' }}", "signing.required: expected true or false; got text"),
        (f"signing = {{ keys = '{KEY}', required = 'true' }}", "signing.required: expected true or false; got text"),
        (f"signing = {{ keys = '{KEY}', required = 1 }}", "signing.required: expected true or false; got a whole"),
        ("retries = { main = '3' }", "retries.main: expected a whole number; got text"),
        ("retries = { main = 3.0 }", "retries.main: expected a whole number; got a number"),
        ("retries = { main = { factor = '2' } }", "retries.main.factor: expected a number; got text"),
        ("retries = { main = { cap = '7200' } }", "retries.main.cap: expected seconds as a number, or text such as"),
    ],
    ids=range(11),
)
def test_in_a_file_text_is_neither_a_number_nor_a_boolean(read_: Read, text: str, why: str) -> None:
    assert told(read_, f"{text}\n{TRANSPORTS}").startswith(f"relevo.toml:1: {why}")


def test_a_variable_in_a_text_may_stand_for_a_number_or_a_boolean(read_: Read) -> None:
    config = read_(
        f'lease = "${{N}}"\nconcurrency = "${{N}}"\nsigning = {{ keys = "{KEY}", required = "${{NO}}" }}\n'
        f'retries = {{ main = {{ runs = "${{N}}", cap = "${{N}}", factor = "1${{N}}" }} }}\n{TRANSPORTS}',
        N="4",
        NO="false",
    )

    assert (config.lease, config.concurrency) == (4.0, 4)
    assert keys_of(config.signing) == ([KEY], False)
    assert config.retries == {"main/default": Retry(4, cap=4.0, factor=14.0)}


def test_a_variable_that_is_toml_has_numbers_and_booleans_like_a_file(read_: Read) -> None:
    with pytest.raises(ConfigurationError, match=r"^RELEVO_RETRIES: retries.main.runs: expected a whole number; got t"):
        read_(TRANSPORTS, RELEVO_RETRIES='{ main = { runs = "3" } }')


# --- what names something else ----------------------------------------------------------------------------


def test_a_route_to_no_transport_is_told_with_its_line(read_: Read) -> None:
    text = '[transports]\nmain = "memory://"\n[routes]\n"*" = "main"\n"a.*" = ["now", "mian/x"]\n'

    assert told(read_, text) == 'relevo.toml:5: routes."a.*": no transport is called \'mian\'; did you mean "main"?'


def test_all_invalid_targets_of_a_route_are_reported_with_its_line(read_: Read) -> None:
    text = '[transports]\nmain = "memory://"\n[routes]\n"*" = ["/q", "main", "main/amq.x"]\n"a.*" = "now/q"\n'

    assert [line.partition("relevo.toml:")[2] for line in told(read_, text).splitlines()] == [
        '4: routes."*": expected a target, "transport", "transport/queue" or "now"; got \'/q\'',
        '4: routes."*": \'amq.x\' cannot name a queue: names that begin with "outbox/" or "amq." are reserved',
        '5: routes."a.*": expected a target, "transport", "transport/queue" or "now"; got \'now/q\'',
    ]


def test_a_transport_with_a_fault_is_there_all_the_same(read_: Read) -> None:
    text = '[transports]\nmain = 4\nother = { url = "memory://", outbox = "main" }\n[routes]\n"*" = "main"\n'

    assert "\n" not in told(read_, f"{text}[retries]\nmain = 3\n")


def test_what_is_said_of_transports_of_an_application_is_left_alone(read_: Read) -> None:
    config = read_('[routes]\n"*" = "theirs"\n[retries]\ntheirs = 3\n')

    assert (config.routes, config.retries) == ({"*": ("theirs",)}, {"theirs/default": Retry(3)})
    with pytest.raises(ConfigurationError, match="no transport; add one"):
        app_of(config, App)
