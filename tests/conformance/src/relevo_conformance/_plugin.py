"""Run the suite under pytest, and print its report card in the summary."""

from __future__ import annotations

import io
from collections.abc import Generator, Mapping, Sequence
from time import monotonic
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest
from _pytest.junitxml import xml_key
from rich.console import Console

from relevo.errors import ConfigurationError
from relevo_conformance._naming import harness_of
from relevo_conformance.contract import Contract, promises_of
from relevo_conformance.examination import Finding, finding
from relevo_conformance.harness import Observed
from relevo_conformance.profile import VARIABLE, chosen
from relevo_conformance.promise import PROMISES, Promise
from relevo_conformance.report import properties, to_terminal
from relevo_conformance.suite import suite
from relevo_conformance.trial import ServerMissingError, Trial, reach

if TYPE_CHECKING:
    from relevo_conformance.card import Card

_UNAVAILABLE = 69


class CardPlugin:
    """
    Collects one suite, keeps the finding of each test, and prints the card.

    Args:
        trial: What to run.
    """

    def __init__(self, trial: Trial) -> None:
        self._trial = trial
        self._profile = trial.chosen_profile
        self._observed = Observed()
        self._findings: list[Finding] = []
        self._card: Card | None = None
        self._selected: Sequence[Promise] | None = None
        self._began = monotonic()

    @classmethod
    def from_config(cls, config: pytest.Config) -> CardPlugin:
        """
        Return the plugin for the command line of *config*.

        Raises:
            pytest.UsageError: An option is invalid, or the environment names a profile that there is not.
        """
        kind: str = config.getoption("harness")
        if hasattr(config, "workerinput") or config.getoption("numprocesses", None):
            raise pytest.UsageError("--harness: a card is made in one process; leave -n out")
        try:
            harness = harness_of(kind).with_options(_pairs(config.getoption("harness_options")))
        except ConfigurationError as error:
            raise pytest.UsageError(f"--harness: {error}") from error
        try:
            profile = chosen()
        except ValueError as error:
            raise pytest.UsageError(f"{VARIABLE}: {error}") from error
        return cls(Trial(harness=harness, name=kind, profile=profile.name))

    # --- collect --------------------------------------------------------------------------------------

    def pytest_collection(self, session: pytest.Session) -> bool:
        """Collect the suite, and no files."""
        try:
            self._claimed = reach(self._trial.harness)
        except ConfigurationError as error:
            raise pytest.UsageError(str(error)) from error
        except ServerMissingError as error:
            pytest.exit(str(error), _UNAVAILABLE)
        tests = suite(self._trial.harness.watched(self._observed), profile=self._profile)
        module = _SuiteModule.from_parent(session, path=session.path / "relevo-conformance", tests=tests)
        session.items = list(session.genitems(module))
        collected = len(session.items)
        session.config.hook.pytest_collection_modifyitems(session=session, config=session.config, items=session.items)
        session.testscollected = len(session.items)
        if len(session.items) < collected:
            proved = frozenset[str]().union(*map(_ids, session.items))
            self._selected = [promise for promise in PROMISES.values() if promise.id in proved]
        session.config.hook.pytest_collection_finish(session=session)
        return True

    # --- run ------------------------------------------------------------------------------------------

    @pytest.hookimpl(wrapper=True)
    def pytest_runtestloop(self) -> Generator[None, object, object]:
        with self._profile.limit_shrinking():
            return (yield)

    def pytest_runtest_setup(self) -> None:
        self._observed.forget()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Keep the finding of a test; a test that passed although its history breaks a promise fails."""
        report = yield
        error = call.excinfo.value if call.excinfo else None
        if call.when == "call":
            found = finding(item.name, _ids(item), error, self._observed)
            item.user_properties.append(("promises", ", ".join(sorted(_ids(item)))))
            if found.status == "broken" and report.passed:
                report.outcome, report.longrepr = "failed", found.what
        elif error is not None:
            found = finding(f"{call.when}_class", frozenset(), error, self._observed)
        else:
            return report
        self._findings.append(found)
        return report

    # --- report ---------------------------------------------------------------------------------------

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """Make the card; the whole suite fails if it is not *conformant*, a part of the suite only if a test failed."""
        if not self._findings or session.config.option.collectonly:
            return
        self._card = self._trial.card(
            self._findings,
            self._observed,
            claimed=self._claimed,
            profile=self._profile,
            duration=monotonic() - self._began,
            promises=self._selected,
        )
        is_whole = self._selected is None
        if is_whole and exitstatus == pytest.ExitCode.OK and self._card.verdict != "conformant":
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
        if (xml := session.config.stash.get(xml_key, None)) is not None:
            for name, value in properties(self._card).items():
                xml.add_global_property(name, value)

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        if self._card is None:
            return
        terminalreporter.section("report card")
        stream = io.StringIO()
        width = max(terminalreporter._tw.fullwidth, 80)
        to_terminal(self._card, Console(file=stream, width=width, force_terminal=terminalreporter.hasmarkup))
        terminalreporter.write(stream.getvalue())


class _SuiteModule(pytest.Module):
    """A module for the suite, which is not in a file."""

    def __init__(self, *, tests: type[Contract], **options: Any) -> None:
        super().__init__(name=tests.__name__, **options)
        module = ModuleType(tests.__name__)
        setattr(module, tests.__name__, tests)
        self._module = module

    def _getobj(self) -> ModuleType:
        return self._module


def _ids(item: pytest.Item) -> frozenset[str]:
    return frozenset(promise.id for promise in promises_of(getattr(item, "obj", None)))


def _pairs(texts: Sequence[str]) -> Mapping[str, str]:
    pairs = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not (equals and name):
            raise pytest.UsageError(f'--harness-option: "{text}" is not of the form name=value')
        pairs[name] = value
    return pairs
