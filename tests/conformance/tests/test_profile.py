"""The profile says how long the suite looks."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, Phase

from relevo_conformance import Harness, suite
from relevo_conformance.profile import PROFILES, VARIABLE, chosen

from .memory import MemoryHarness


def test_the_argument_comes_before_the_environment_and_quick_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    assert chosen().name == "quick"

    monkeypatch.setenv(VARIABLE, "nightly")
    assert chosen().name == "nightly"
    assert chosen("standard").name == "standard"


def test_an_unknown_profile_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(ValueError, match="quick, standard, nightly"):
        suite(MemoryHarness, profile="slow")


@pytest.mark.parametrize("name", PROFILES)
@pytest.mark.parametrize("fake", [True, False])
def test_no_profile_has_a_deadline_or_hides_a_warning_but_slowness(name: str, fake: bool) -> None:  # noqa: FBT001
    for settings in (PROFILES[name].of_histories(fake=fake), PROFILES[name].of_payloads(fake=fake)):
        assert settings.deadline is None
        assert tuple(settings.suppress_health_check) == (HealthCheck.too_slow,)


def test_the_quick_profile_tries_the_same_at_every_run_and_the_others_do_not() -> None:
    assert PROFILES["quick"].of_histories(fake=True).derandomize
    assert PROFILES["quick"].seed is not None
    for name in ("standard", "nightly"):
        assert not PROFILES[name].of_histories(fake=True).derandomize
        assert PROFILES[name].seed is None


def test_phases_can_be_chosen() -> None:
    assert PROFILES["quick"].of_histories(fake=True, phases=[Phase.generate]).phases == (Phase.generate,)


def test_a_suite_is_named_for_its_harness() -> None:
    assert suite(MemoryHarness).__name__ == "TestMemory"
    assert issubclass(suite(MemoryHarness).harness_type, Harness)
