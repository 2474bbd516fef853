"""Input from outside ends in a result or in a documented error, whatever it is."""

from __future__ import annotations

from random import Random

import attrs
import pytest
from hypothesis import HealthCheck, example, given, settings, strategies as st

import surface as surface_module
from fuzz import examine, inputs
from mutation import mutated, shapes, shortest
from surface import HangError, Known, SlowError, Surface, innermost
from surfaces import SURFACES

pytestmark = pytest.mark.lengthy("hundreds of inputs, which hardly depend on the Python")

BY_NAME = {surface.name: surface for surface in SURFACES}
CASES = 200
"""The cases of each surface; the runner makes as many as it is told."""


def checked(surface: Surface, data: bytes) -> None:
    error = surface.run(data)
    if error is not None and not surface.is_known(error):
        raise error


@pytest.mark.parametrize(("name", "seed"), [(surface.name, seed) for surface in SURFACES for seed in surface.seeds])
def test_a_seed_raises_nothing_undocumented(name: str, seed: str) -> None:
    checked(BY_NAME[name], BY_NAME[name].seeds[seed])


@pytest.mark.parametrize(("name", "seed"), [(surface.name, seed) for surface in SURFACES for seed in surface.oversized])
def test_an_oversized_input_takes_little_time_and_raises_nothing_undocumented(name: str, seed: str) -> None:
    error = BY_NAME[name].run_oversized(seed)

    if error is not None and not BY_NAME[name].is_known(error):
        raise error


@pytest.mark.parametrize("name", BY_NAME)
def test_a_changed_seed_raises_nothing_undocumented(name: str) -> None:
    surface = BY_NAME[name]
    seeds = st.sampled_from(sorted(surface.seeds))

    @settings(
        max_examples=max(10, round(CASES * min(1.0, 2 * surface.weight))), suppress_health_check=list(HealthCheck)
    )
    @given(seeds, st.randoms(use_true_random=False))
    def cases(seed: str, random: Random) -> None:
        checked(surface, mutated(surface.seeds[seed], surface.shape, random))

    cases()


@pytest.mark.parametrize("name", BY_NAME)
@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=200))
@example(data=b"")
def test_bytes_without_a_structure_raise_nothing_undocumented(name: str, data: bytes) -> None:
    checked(BY_NAME[name], data)


# --- the tools ---------------------------------------------------------------------------------------------------


def fragile(data: bytes) -> None:
    if b"!" in data:
        raise KeyError(data)
    if b"?" in data:
        raise ValueError(data)
    if b"#" in data:
        raise HangError


FRAGILE = Surface(
    name="fragile",
    target=fragile,
    shape="text",
    seeds={"a text": b"a = 1", "with a mark": b"a!"},
    errors=(ValueError,),
    known=(Known(error=KeyError, function="fragile", why="of this test"),),
)


def test_only_an_undocumented_error_is_returned() -> None:
    assert FRAGILE.run(b"a") is None
    assert FRAGILE.run(b"?") is None
    assert isinstance(FRAGILE.run(b"#"), HangError)

    found = FRAGILE.run(b"!")

    assert isinstance(found, KeyError)
    assert innermost(found) == "fragile"
    assert FRAGILE.is_known(found)


def test_an_oversized_input_that_takes_too_long_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    slow = attrs.evolve(FRAGILE, oversized={"large": lambda: b"a" * 1000, "wrong": lambda: b"!"})
    monkeypatch.setattr(surface_module, "LONGEST", -1.0)

    found = slow.run_oversized("large")

    assert isinstance(found, SlowError)
    assert "large (1000 bytes) took" in str(found)
    assert isinstance(slow.run_oversized("wrong"), KeyError)


def test_the_shortest_input_that_fails_is_found() -> None:
    assert shortest(b"some ! text", lambda data: isinstance(FRAGILE.run(data), KeyError)) == b"!"


@pytest.mark.parametrize("shape", shapes())
def test_most_changed_inputs_differ_and_equal_choices_make_equal_ones(shape: str) -> None:
    seed = (
        BY_NAME["delivery"].seeds["a delivery"]
        if shape == "msgpack"
        else b'{"a": [1, "b", {"c": null}], "d": 2.5}\n{"e": [1.5, "f"]}'
    )

    made = [mutated(seed, shape, Random(number)) for number in range(200)]  # type: ignore[arg-type]

    assert len(set(made)) > 100
    assert made == [mutated(seed, shape, Random(number)) for number in range(200)]  # type: ignore[arg-type]


@pytest.mark.parametrize(("name", "share"), [("wire", 0.1), ("body", 0.25), ("state", 0.15), ("delivery", 0.9)])
def test_many_changed_inputs_get_past_the_first_check(name: str, share: float) -> None:
    surface = BY_NAME[name]
    source = inputs(surface, Random(1))
    passed = 0

    for _ in range(500):
        try:
            surface.target(next(source))
            passed += 1
        except surface.errors:
            pass

    assert passed / 500 > share


def test_the_runner_counts_cases_and_finds_nothing_on_a_sound_surface() -> None:
    result = examine("notes", 300, 7, apart=False)

    assert (result.cases, result.failures, result.known) == (300, [], 0)
    assert result.slowest > 0.0
