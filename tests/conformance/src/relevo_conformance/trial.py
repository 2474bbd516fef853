"""One run of the suite on one transport, from the harness to the card."""

from __future__ import annotations

import os
import platform
import secrets
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from functools import cached_property
from importlib.metadata import entry_points, version
from pathlib import Path
from time import monotonic, sleep
from types import MappingProxyType

import attrs
import pytest
from hypothesis import Phase

from relevo import Capabilities
from relevo.errors import ConfigurationError, TransportUnavailableError
from relevo_conformance._companion import Claim, Companions, NotSentError, Send
from relevo_conformance._naming import HARNESSES, TRANSPORTS
from relevo_conformance.card import Card, Examination, card
from relevo_conformance.contract import LEFT_OUT
from relevo_conformance.examination import Finding, Matching, examine, tests_of
from relevo_conformance.harness import Harness, Observed, allowances_of
from relevo_conformance.profile import Profile, chosen
from relevo_conformance.promise import PROMISES, UNCLAIMED_IS_REFUSED, Promise

_OWN = "relevo-conformance"
_LOOK = 0.05
"""Seconds between two looks at what the other processes have sent."""

_NONE = Capabilities(durability="process", lease="timed")
"""Used for a transport that cannot report its capabilities."""

RANDOM = "test_random_histories_keep_every_promise"

Progress = Callable[[int, int, str], None]
"""Called when a test begins, with its number, the number of tests, and its name."""


class ServerMissingError(Exception):
    """Raised when the server of a transport cannot be reached; the message names the server."""


@attrs.frozen
class _Met:
    """What another process recorded, of :class:`Observed`."""

    met: Mapping[str, int]
    hooks: Mapping[str, int]
    pairs: Mapping[tuple[str, str], bool]


@attrs.frozen(kw_only=True)
class Trial:
    """
    What to run.

    Args:
        harness: The harness of the transport.

        name: The name of the transport on the card.

        profile: ``quick``, ``standard`` or ``nightly``.

        seed: The seed of the random histories; by default that of the profile, or else a random one.

        only: The promises to test; all if empty. A part of the promises has fewer random histories.

        shrink: Whether to look for the shortest program that breaks a promise.

        command: The command line that runs this again.
    """

    harness: type[Harness]
    name: str
    profile: str = "quick"
    seed: int | None = None
    only: Sequence[str] = ()
    shrink: bool = True
    command: str = ""

    @cached_property
    def chosen_profile(self) -> Profile:
        """The profile with its seed; a part of it if only some promises are tested."""
        profile = chosen(self.profile)
        seeds = (self.seed, profile.seed, secrets.randbelow(10**9))
        profile = attrs.evolve(profile, seed=next(one for one in seeds if one is not None))
        return profile.part() if self.only else profile

    def promises(self) -> Sequence[Promise]:
        """Return the promises on the card."""
        return tuple(one for one in PROMISES.values() if not self.only or one.id in self.only)

    def matching(self) -> Matching:
        """Return a function that selects the tests of the promises, and the tests of all promises."""
        wanted = {*self.only}
        if any(PROMISES[name].level == "optional" for name in wanted):
            wanted.add(UNCLAIMED_IS_REFUSED.id)
        # Tests that prove no promise of their own test all.
        return lambda test, promises: not (self.only and promises) or bool(promises & wanted)

    def tests(self) -> Sequence[tuple[str, frozenset[str]]]:
        """Return the names of the tests of this trial, and the promises that each proves."""
        matching = self.matching()
        return [(name, promises) for name, promises in tests_of(self.harness) if matching(name, promises)]

    def companions(self, jobs: int | None = None, *, folder: Path | None = None) -> Companions:
        """
        Return processes that run tests beside this one, for :meth:`run`; fork them before a thread begins.

        Args:
            jobs: How many processes run tests, this one included; by default two if the harness may run beside another
                one and there are two cores.

            folder: Where they keep their files.
        """
        if jobs is None:
            jobs = min(2, _cores()) if self.harness.may_run_beside() else 1
        self.chosen_profile  # noqa: B018 - it may draw a seed, which is the same in each process
        return Companions(jobs - 1, self._run_beside, folder=folder)

    def run(
        self,
        progress: Progress = lambda number, total, test: None,
        found: Callable[[Finding], None] = lambda finding: None,
        companions: Companions | None = None,
    ) -> Card:
        """
        Run it, and return its card.

        Args:
            progress: Called when a test begins in this process.

            found: Called with the finding of each test.

            companions: Processes that run tests too.

        Raises:
            ServerMissingError: The server cannot be reached.

            ConfigurationError: An option of the transport is invalid.

            CompanionEndedError: The transport ended one of the other processes.

            CompanionFailedError: One of the other processes failed by itself.
        """
        claimed = reach(self.harness)
        observed, began = Observed(), monotonic()
        findings: dict[str, Finding] = {}

        def take(received: object) -> None:
            match received:
                case Finding(test=test) if test not in findings or received.status == "broken":
                    findings[test] = received  # each process opens and closes a harness, so there may be two
                    found(received)
                case _Met():
                    observed.take_in(received.met, received.hooks, None)
                    observed.expect_pairs(received.pairs)
                    observed.meet_pairs(pair for pair, is_met in received.pairs.items() if is_met)

        with self.companions(1) if companions is None else nullcontext(companions) as beside:
            beside.start()
            for finding in self._examine(self._announced(progress, beside), observed):
                take(finding)
                for received in beside.received():
                    take(received)
            while (test := beside.running()) is not None:
                progress(beside.claimed(), len(self.tests()), test or "setup_class")
                for received in beside.received():
                    take(received)
                sleep(_LOOK)
            for received in beside.received():
                take(received)
        order = ["setup_class", *(test for test, _ in tests_of(self.harness)), "teardown_class"]
        return self.card(
            sorted(findings.values(), key=lambda one: order.index(one.test)),
            observed,
            claimed=claimed,
            profile=self.chosen_profile,
            duration=monotonic() - began,
        )

    def _examine(self, matching: Matching, observed: Observed, *, backwards: bool = False) -> Iterator[Finding]:
        profile = self.chosen_profile
        with profile.limit_shrinking():
            yield from examine(
                self.harness,
                profile=profile,
                phases=self._phases(),
                matching=matching,
                observed=observed,
                backwards=backwards,
            )

    def _run_beside(self, claim: Claim, send: Send) -> None:
        """Run in another process, from the last test on, what no other process has claimed."""
        matching, observed = self.matching(), Observed()

        def claimed(test: str, promises: frozenset[str]) -> bool:
            return matching(test, promises) and claim(test)

        try:
            for finding in self._examine(claimed, observed, backwards=True):
                try:
                    send(finding)
                except NotSentError:  # because of what a transport answered
                    send(attrs.evolve(finding, history=(), histories={}))
        except pytest.skip.Exception:  # the process that began this one meets the same, and reports it
            return
        send(_Met(observed.met, observed.hooks, observed.pairs))

    def card(
        self,
        findings: Sequence[Finding],
        observed: Observed,
        *,
        claimed: Capabilities,
        profile: Profile,
        duration: float,
        promises: Sequence[Promise] | None = None,
    ) -> Card:
        """
        Return the card of a run.

        Args:
            findings: The findings of all tests that ran.

            observed: What was recorded of the harness.

            claimed: The capabilities of the transport.

            profile: The profile of the run, with its seed.

            duration: The length of the run in seconds.

            promises: The promises on the card, if some tests were left out; by default those of this trial.
        """
        examined = self.promises() if promises is None else promises
        is_part = bool(self.only) or promises is not None or any(one.what in LEFT_OUT for one in findings)
        return card(
            findings,
            examination=Examination(
                transport=self.name,
                harness=self.harness.__name__,
                capabilities=claimed,
                profile=self.profile,
                seed=profile.seed,
                duration=duration,
                versions=versions(self.harness),
                allows=allowances_of(self.harness),
                only=() if promises is None and not self.only else tuple(one.id for one in examined),
                command=self.command,
            ),
            met=observed.met,
            hooks=observed.hooks,
            pairs=observed.pairs,
            defined=() if is_part else self.harness.defines(),
            deviations=self.harness.deviations,
            promises=examined,
        )

    def _phases(self) -> Sequence[Phase]:
        """Return all phases except explanations, which are not shown."""
        return [one for one in Phase if one is not Phase.explain and (self.shrink or one is not Phase.shrink)]

    def _announced(self, progress: Progress, beside: Companions) -> Matching:
        """Return a function that claims the tests, and reports each to *progress* before it begins."""
        matching, total = self.matching(), len(self.tests())

        def claim(test: str, promises: frozenset[str]) -> bool:
            if not (matching(test, promises) and beside.claim(test)):
                return False
            progress(beside.claimed(), total, test)
            return True

        return claim


def _cores() -> int:
    """Return on how many cores this process may run; some systems tell only how many there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def reach(harness: type[Harness]) -> Capabilities:
    """
    Open a transport to check that its server can be reached, and return its capabilities.

    Other errors are left to the suite, which reports them better.

    Raises:
        ServerMissingError: The server cannot be reached, or the harness skips.

        ConfigurationError: An option of the transport is invalid.
    """
    found: list[object] = []
    raised: list[BaseException] = []

    @contextmanager
    def noted() -> Iterator[None]:
        try:
            yield
        except BaseException as error:  # noqa: BLE001 - raised again by the caller
            raised.append(error)

    def look() -> None:
        with noted():
            opened = harness()
            with noted():  # so that an error of close() does not hide the first one
                found.append(opened.capabilities)
                _touch(opened)
            opened.close()

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    thread.join(harness.call_timeout)
    for error in raised:
        if isinstance(error, ConfigurationError):
            raise error
        if isinstance(error, TransportUnavailableError | pytest.skip.Exception):
            raise ServerMissingError(str(error)) from error
    return next((one for one in found if isinstance(one, Capabilities)), _NONE)


def _touch(harness: Harness) -> None:
    queue = f"probe{secrets.token_hex(8)}"
    transport = harness.open()
    try:
        transport.setup([queue])
    finally:
        with suppress(Exception):
            transport.close()
        with suppress(Exception):
            harness.drop(queue)


def versions(harness: type[Harness]) -> Mapping[str, str]:
    """Return the versions of the distributions in a run on *harness*."""
    modules = {cls.__module__.partition(".")[0] for cls in (harness, harness.transport)}
    names = {
        point.dist.name
        for group in (HARNESSES, TRANSPORTS)
        for point in entry_points(group=group)
        if point.dist and point.value.partition(":")[0].partition(".")[0] in modules
    }
    wanted = dict.fromkeys([*sorted(names - {"relevo", _OWN}), "relevo", _OWN, "hypothesis"])
    return MappingProxyType({**{name: version(name) for name in wanted}, "Python": platform.python_version()})
