"""The application: transports, routes, listeners and subjects, from arguments or from configuration."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from logging import getLogger
from os import PathLike
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING, Any, Generic, Never, Self, TypeVar, Unpack, overload

import attrs

from relevo._app.check import BypassNotice, NoticingSubjects, check_listening
from relevo._app.parts import LoadedFrom, Parts
from relevo._app.registry import Registry
from relevo._app.stores import Stores, raise_together
from relevo._app.workers import WorkerFactory
from relevo._clock import Clock, Duration, Moment, SystemClock, seconds
from relevo._config import argument
from relevo._config.check import (
    ARGUMENTS,
    checked_lease,
    fan_out_problems,
    helper_problems,
    queue_problems,
    retry_problems,
    retry_targets,
    signing_problems,
    target_problems,
    transport_problems,
)
from relevo._dispatch.batch import in_batches, placed
from relevo._dispatch.deferred_function import DeferredFunction
from relevo._dispatch.dispatched import Dispatched
from relevo._dispatch.dispatcher import Dispatcher
from relevo._dispatch.follow_up import FollowUps
from relevo._dispatch.in_process import LocalDispatcher
from relevo._dispatch.packer import Packer, refuse_unknown
from relevo._dispatch.sender import Sender
from relevo._event.codec import DEFAULT_SOURCE, checked_source
from relevo._event.event import event_from, name_of
from relevo._event.subject import SubjectType, SubjectTypes
from relevo._hook import Hooks, note_places, observe
from relevo._identity import IdFactory, uuid7
from relevo._listener.call import DispatchOptions
from relevo._listener.listener import Listener, ListenerTable
from relevo._problem import Problems
from relevo._retry import Retry
from relevo._schedule.schedule import GRACE, Missed, Schedule, checked_event
from relevo._schedule.table import ScheduleTable
from relevo._secret import masked_url, without_secrets
from relevo._synonym import APP, CALLED_KEYS, SCHEDULE, STORES, missing_attribute
from relevo._transport.acceptance import QueueOptions
from relevo._transport.delivery import Delivery, Failure
from relevo._transport.envelope import Envelope, Urgency
from relevo._transport.keeper import keep_elsewhere
from relevo._transport.query import WaitingEntry
from relevo._transport.route import RESERVED, Routes, RouteTable, Target, beside_helpers
from relevo._transport.transport import DeadLetterEntry, Transport
from relevo._visible import visible
from relevo._worker.decision import PATIENCE
from relevo._worker.execution import Execution
from relevo._worker.executor import Executor, Handle
from relevo._worker.progress import failures_of, revived, setbacks_of
from relevo._worker.run import Report, RunOptions
from relevo._worker.signing import Signing
from relevo._worker.worker import LEASE, Worker
from relevo.errors import ConfigurationError, did_you_mean, no_option, shown

if TYPE_CHECKING:
    from pathlib import Path

    from relevo._config.schema import Config
    from relevo._execution.pipe import Hello
    from relevo._schedule.clockwork import Clockwork, FiringLedger
    from relevo.testing import AppTesting


T = TypeVar("T")
P = TypeVar("P")
A = TypeVar("A", bound="App")
D = TypeVar("D", bound=DeferredFunction[..., Any])

_log = getLogger("relevo.app")

_NONE: Mapping[str, Any] = MappingProxyType({})
_NO_TRANSPORT = (
    'App: no transport; write App(transports={"main": "sqlite:///app.db"}), or App(routes={"*": "now"}) to call the '
    "listeners in process"
)
_NO_OPTIONS: DispatchOptions = {}
_NO_OTHERS = (None, "normal", None, None, None, 0.0, None)


class _Part(Generic[P]):
    """A read-only attribute for a part of an application."""

    def __set_name__(self, _: type, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, app: None, _: type) -> Self: ...

    @overload
    def __get__(self, app: App, _: type) -> P: ...

    def __get__(self, app: App | None, _: type) -> P | Self:
        if app is None:
            return self
        part: P = getattr(parts_of(app), self._name)
        return part

    def __set__(self, app: App, value: object) -> None:
        raise AttributeError(f"App.{self._name} is read-only; pass {self._name}= to App(…)")


class App(Dispatcher):
    """
    Dispatches events along its routes, and makes the workers that handle them.

    Args:
        transports: The transports, by the names that routes use: each an address, such as ``sqlite:///shop.db``,
            or an object.

        routes: From an event's name, a pattern or a class to one or several targets: ``transport``,
            ``transport/queue`` or ``now``. A class covers its subclasses too. By default every event goes to the first
            transport.

        listeners: Marked functions, subscribers, modules, or the names of modules, which are imported
            at first use.

        source: The application's name.

        outboxes: From the name of a transport to the transport that stores its events when they are
            dispatched inside a session: an address, an object, or the name of another transport.

        coordinators: From the name of a transport to the transport that has the locks and the announcements of its
            workers, as for *outboxes*; by default the transport itself, else its outbox, if it can.

        keepers: From the name of a transport to the transport that keeps its dead letters, as for *outboxes*; by
            default the transport itself.

        subjects: The subject types.

        plugins: Objects with hooks.

        signing: The signing options, or only the keys; by default events are not signed and signatures not checked.

        retries: The policy of listeners without their own, by the queue in which they run, ``transport/queue``.

        queues: The options of queues, by a queue's name or ``transport/queue``.

        schedules: The first schedules; :meth:`schedule` adds others.

        setup: ``auto`` creates missing tables and queues at first use; ``explicit`` only checks, and
            ``relevo setup`` creates them.

        patience: How long an event that no listener here can handle is returned for another worker, before it is
            dead-lettered.

        lease: How long a delivery is hidden from other workers; it is renewed every third of this time.
            After a crash its events are delivered again when the lease expires.

        execution: Where listeners run, how many at once, and for how long at most; or only the first, as text.

        clock: The source of time.

        lock: The folder of the lock that lets one process drain at a time; by default the folder of the
            database file, else a folder of the user in ``/tmp``.

        deploy: The file that keeps workers from taking events while it exists; by default beside the lock.

        ids: Makes the ids of events.

        chance: Returns random numbers from 0 to 1, for the jitter of waits.

    Raises:
        ConfigurationError: An argument is invalid, or the arguments conflict; it reports all problems at once.
    """

    transports = _Part[Mapping[str, Transport]]()
    outboxes = _Part[Mapping[str, Transport]]()
    coordinators = _Part[Mapping[str, Transport]]()
    keepers = _Part[Mapping[str, Transport]]()
    routes = _Part[Routes]()
    retries = _Part[Mapping[Target, Retry]]()
    source = _Part[str]()
    hooks = _Part[Hooks]()
    subjects = _Part[SubjectTypes]()
    signing = _Part["Signing | None"]()
    execution = _Part[Execution]()
    clock = _Part[Clock]()
    lock = _Part["Path | None"]()
    deploy = _Part["Path | None"]()

    def __init__(
        self,
        *names: Never,
        transports: Mapping[str, Transport | str] = _NONE,
        routes: RouteTable | None = None,
        listeners: Iterable[object] = (),
        source: str = DEFAULT_SOURCE,
        outboxes: Mapping[str, Transport | str] | None = None,
        coordinators: Mapping[str, Transport | str] | None = None,
        keepers: Mapping[str, Transport | str] | None = None,
        subjects: Iterable[SubjectType] = (),
        plugins: Iterable[object] = (),
        signing: Signing | str | Sequence[str] | None = None,
        retries: Mapping[str, Retry | int] | None = None,
        queues: Mapping[str, QueueOptions] | None = None,
        schedules: Iterable[Schedule] = (),
        setup: str = "auto",
        patience: Duration = PATIENCE,
        lease: Duration = LEASE,
        execution: Execution | str | None = None,
        lock: str | PathLike[str] | None = None,
        deploy: str | PathLike[str] | None = None,
        clock: Clock | None = None,
        ids: IdFactory = uuid7,
        chance: Callable[[], float] | None = None,
        **unknown: Never,
    ):
        _refuse_unknown(names, unknown)
        problems = Problems()
        attempt = problems.attempt
        policies = argument.retry_policies(retries, problems)
        retried = retry_targets(policies, problems)
        own_clock = attempt("clock", argument.clock, clock, instead=SystemClock())
        own_patience = attempt("patience", lambda: seconds(patience, what="patience"), instead=PATIENCE)
        stores = attempt("transports", argument.mapping, transports, "transports", instead={})
        helpers: dict[str, Mapping[Any, Any]] = {
            key: attempt(name, argument.mapping, given or {}, name, instead={})
            for (key, name), given in zip(ARGUMENTS.items(), (outboxes, coordinators, keepers), strict=True)
        }
        given = [*stores.values(), *_every(helpers)]
        if any(isinstance(each, str) for each in given):
            from relevo._config.opening import open_addresses  # noqa: PLC0415 - a program without addresses does not need it

            settings = {"patience": own_patience}
            stores, helpers = open_addresses(stores, helpers, problems, settings=settings, clock=own_clock)
        parts = Parts(
            transports=stores,
            outboxes=helpers["outbox"],
            coordinators=helpers["coordinator"],
            keepers=helpers["dead_letters"],
            routes=argument.routes(_to_first(stores, _every(helpers)) if routes is None else routes, problems),
            retries={retried[name]: policy for name, policy in policies.items() if policy and name in retried},
            queue_table=argument.queue_table(queues, problems),
            source=attempt("source", checked_source, source),
            hooks=attempt("plugins", argument.plugins, plugins),
            subjects=attempt("subjects", lambda: NoticingSubjects(argument.subject_types(subjects))),
            signing=attempt("signing", argument.signing, signing),
            execution=attempt("execution", argument.execution, execution),
            schedules=attempt("schedules", argument.schedule_table, schedules, instead=ScheduleTable()),
            registry=Registry(attempt("listeners", argument.several, listeners, "listeners", instead=())),
            clock=own_clock,
            ids=attempt("ids", argument.function, ids, "ids"),
            chance=attempt("chance", argument.function, chance or _random, "chance"),
            creates=attempt("setup", argument.setup_is_auto, setup),
            patience=own_patience,
            lease=attempt("lease", checked_lease, lease),
            lock=attempt("lock", argument.path, lock, "lock"),
            deploy=attempt("deploy", argument.path, deploy, "deploy"),
            loaded_from=LoadedFrom(),
        )
        if not stores and routes is None and not problems.concern("transports"):
            problems.add(("transports",), _NO_TRANSPORT)
        try:
            _check_parts(parts, retried, problems)
        except ConfigurationError:
            for each in [*stores.values(), *_every(helpers)]:
                if isinstance(each, Transport) and not any(each is one for one in given):
                    each.close()
            raise
        super().__init__(parts.registry.known)
        for name, transport in parts.transports.items():
            transport.name = name
        for transport in parts.stores():
            transport.source = parts.source
        for name, keeper in parts.keepers.items():
            keep_elsewhere(parts.transports[name], keeper)
        self._assembly = _Assembly.of(parts)
        self._is_closed = False

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> object:
            """Raise :class:`AttributeError`, for an attribute of another tool with what there is instead."""
            return missing_attribute(self, "App", name)

    @classmethod
    def from_config(
        cls, path: str | Path | None = None, *, environ: Mapping[str, str] | None = None, clock: Clock | None = None
    ) -> Self:
        """
        Return the application that the configuration describes; no server is connected and no listener imported.

        Args:
            path: The file; by default ``RELEVO_CONFIG``, else the nearest ``relevo.toml`` or
                ``[tool.relevo]`` upwards from the working directory.

            environ: Used in place of the process's environment.

            clock: The source of time.

        Raises:
            ConfigurationError: The configuration is invalid; it reports all problems at once.
        """
        from pathlib import Path  # noqa: PLC0415 - as above

        from relevo._config.opening import draft_config  # noqa: PLC0415 - as above

        file = None if path is None else Path(path)
        config = draft_config(file, os.environ if environ is None else environ, start=Path.cwd())
        return app_of(config, cls, clock=clock)

    # --- listening ---------------------------------------------------------------------------------

    def listen(self, thing: T, *others: object) -> T:
        """
        Register marked functions, lifespans, subscribers, modules, or names of modules, imported at first use.

        Returns:
            *thing*, so that it can be used as a decorator above the mark: ``@app.listen``.

        Raises:
            ConfigurationError: One of them cannot have a listener, or two listeners have the same id. While modules
                wait for their first use, duplicate ids are reported then; so are modules without a listener.
        """
        for each in (thing, *others):
            check_listening(each)
        self._assembly.parts.registry.add((thing, *others))
        return thing

    def unlisten(self, *things: object) -> None:
        """
        Remove what :meth:`listen` registered: functions, subscribers, modules, or names of modules.

        Things that are not registered are ignored. It works even if other listeners cannot be registered: their module
        cannot be imported, or two have the same id.

        Raises:
            ConfigurationError: There is no such module, or one of *things* has no listener.
        """
        self._assembly.parts.registry.remove(things)

    def _remove(self, listener: Listener) -> None:
        self._assembly.parts.registry.remove_listener(listener)

    def _remove_id(self, listener_id: str) -> None:
        self._assembly.parts.registry.remove_id(listener_id)

    def _remove_function(self, function: Callable[..., object]) -> None:
        self._assembly.parts.registry.remove_function(function)

    def add_subject(self, subject_type: SubjectType) -> None:
        """
        Register a subject type, so that its instances are named at the dispatch and loaded by listeners.

        A subject type whose cell of a notebook is run again replaces the former one.

        Raises:
            SubjectError: It is not a subject type, or its name or class is registered already.
        """
        self.subjects.add(argument.subject_type(subject_type))

    @property
    def listeners(self) -> ListenerTable:
        """The registered listeners; modules that were given by name are imported now."""
        return self._assembly.parts.registry.table

    # --- dispatching ---------------------------------------------------------------------------------

    def dispatch(
        self,
        event: object,
        arguments: Mapping[str, Any] | None = None,
        *,
        subject: Any = None,
        session: Any = None,
        delay: Duration = 0.0,
        at: Moment | None = None,
        urgency: Urgency = "normal",
        ordering_key: str | None = None,
        expires: Moment | None = None,
        unique: str | None = None,
        within: Duration = 0.0,
        to: str | Sequence[str] | None = None,
        **unknown: Never,
    ) -> Dispatched:
        """
        Send *event* along its route; without a session it is safe when this returns.

        For the target ``now`` listeners are called before this returns, inside the caller's transaction; so ordering
        key, urgency and expiry have no effect on them. If the route has other targets too, the event is validated
        before the listeners are called, and sent after them, together with the events that they dispatch by their call.
        If a listener raises, its error is raised here and nothing was sent. If ``now`` is the only target, nothing is
        sent, so the arguments and the subject may be any objects, and only the options are validated.

        Args:
            event: An :class:`Event`, an instance of a declared class, or the name of an event.

            arguments: With a name: the event's data, in the types of JSON.

            subject: With a name: the object that the event is about, as for :class:`Event`.

            session: Write it inside this session's transaction: both commit, or neither.

            delay: Time before which it is not handled: seconds, a timedelta, or text such as ``"5m"``.

            at: Moment before which it is not handled: a datetime with a zone, seconds since the epoch, or the
                time from now as a timedelta or text such as ``"1h"``; not together with *delay*. A number before
                the year 2000 is an error.

            urgency: ``high`` overtakes ``normal``, if the transport claims ``urgency``.

            ordering_key: Handle it in order with other events of this key, if the transport claims ``order``.

            expires: Moment after which it is dead-lettered instead of handled: a datetime with a zone,
                seconds since the epoch, or the time from now as a timedelta or text such as ``"1h"``. A time in
                the past is an error.

            unique: A key, up to 255 printable characters: while an event of this application with the same key lives,
                nothing is sent, and the result is a ``duplicate``. An event lives until it is handled or a dead letter.
                The transport has to claim ``unique``.

            within: Time from the dispatch for which the key stays taken, even if the event is handled earlier: seconds,
                a timedelta, or text such as ``"10m"``. Only with *unique*.

            to: The targets in place of those of the route: ``transport``, ``transport/queue`` or ``now``, or several.
                A listener without a queue runs in the first of them. If a listener that is known here names a queue
                that is not among them, it is an error.

            unknown: There are no others; the error names the one that is meant.

        Raises:
            TypeError: There is no such option.

            RouteNotFoundError: No route matches its name.

            EncodeError: A value that would be sent has no exact form in JSON; nothing was written.

            SendError: The event is not known to be safe.

            TransportUnavailableError: The server could not be reached; nothing was sent.

            ConfigurationError: An option is invalid, or not supported by the transports.
        """
        if type(event) is str or arguments is not None or subject is not None:
            event = event_from(event, arguments, subject)
        if unknown:
            refuse_unknown(name_of(event), unknown)
        options = _NO_OPTIONS
        others = (at, urgency, ordering_key, expires, unique, within, to)
        if others != _NO_OTHERS or type(delay) is not float or delay:
            options = DispatchOptions(
                delay=delay,
                at=at,
                urgency=urgency,
                ordering_key=ordering_key,
                expires=expires,
                unique=unique,
                within=within,
                to=to,
            )
        return self._assembly.sender.dispatch((event,), options, session)[0]

    def dispatch_many(self, events: Iterable[object], **options: Unpack[DispatchOptions]) -> list[Dispatched]:
        session = options.pop("session", None)
        if session is not None:
            return placed(events, lambda every: self._assembly.sender.dispatch(every, options, session))
        return in_batches(events, lambda batch: self._assembly.sender.dispatch(batch, options, None))

    def _calls_listeners(self, events: Sequence[object], options: DispatchOptions) -> bool:
        return self._assembly.sender.calls_listeners(events, options)

    # --- schedules -----------------------------------------------------------------------------------

    @overload
    def schedule(
        self,
        cron: str,
        /,
        *,
        name: str | None = None,
        timezone: str = "UTC",
        missed: Missed = "once",
        grace: Duration = GRACE,
        urgency: Urgency = "normal",
        ordering_key: str | None = None,
        expires: Duration | None = None,
    ) -> Callable[[D], D]: ...
    @overload
    def schedule(
        self,
        cron: str,
        event: object,
        arguments: Mapping[str, Any] | None = None,
        *,
        name: str | None = None,
        timezone: str = "UTC",
        missed: Missed = "once",
        grace: Duration = GRACE,
        urgency: Urgency = "normal",
        ordering_key: str | None = None,
        expires: Duration | None = None,
    ) -> Schedule: ...
    def schedule(
        self,
        cron: str,
        event: Any = None,
        arguments: Mapping[str, Any] | None = None,
        *,
        name: str | None = None,
        timezone: str = "UTC",
        missed: Missed = "once",
        grace: Duration = GRACE,
        urgency: Urgency = "normal",
        ordering_key: str | None = None,
        expires: Duration | None = None,
        **unknown: Never,
    ) -> Any:
        """
        Dispatch *event* at each tick of *cron*; without an event, decorate a deferred function: it is called then.

        The workers of the transport that the event is routed to fire it: once for each tick, however many there are. A
        new schedule fires from the first start of a worker on.

        Args:
            cron: Minute, hour, day of the month, month and day of the week, as in ``"*/5 * * * *"``; or ``@hourly``,
                ``@daily``, ``@weekly``, ``@monthly`` or ``@yearly``.

            event: An :class:`Event`, an instance of a declared class, the name of an event, or a deferred function,
                which is called without arguments.

            arguments: With a name: the event's data.

            name: Identifies the schedule; by default the name of the event. The time up to which it has fired is stored
                under this name.

            timezone: The name of the time zone in which *cron* is read, as in ``"Europe/Madrid"``.

            missed: What happens with the ticks that passed while no worker ran: ``once`` fires the last of them,
                ``all`` fires each, ``skip`` fires the last one if it is not older than *grace*, else none.

            grace: Seconds, a timedelta, or text such as ``"5m"``.

            urgency: As for :meth:`dispatch`.

            ordering_key: As for :meth:`dispatch`.

            expires: The time after which the event of a tick is dead-lettered instead of handled, from the moment at
                which it is fired: seconds, a timedelta, or text such as ``"5m"``.

            unknown: None.

        Returns:
            The schedule; or the decorator, which returns its function.

        Raises:
            ConfigurationError: An argument is invalid, or another schedule has the name.

            TypeError: The deferred function needs arguments; pass ``function.event(…)`` as the event. Or there is no
                such option.
        """
        if unknown:
            known = ("name", "timezone", "missed", "grace", "urgency", "ordering_key", "expires")
            raise no_option("a schedule", next(iter(unknown)), known, SCHEDULE)

        def add(given: Any) -> Schedule:
            dispatched = given.event() if isinstance(given, DeferredFunction) else given
            if arguments is not None:
                dispatched = event_from(given, arguments, None)
            made = Schedule(
                name=name_of(checked_event(dispatched)) if name is None else name,
                cron=cron,
                event=dispatched,
                timezone=timezone,
                missed=missed,
                grace=grace,
                urgency=urgency,
                ordering_key=ordering_key,
                expires=expires,
            )
            self._assembly.parts.schedules.add(made)
            return made

        def decorate(function: D) -> D:
            if not isinstance(function, DeferredFunction):
                raise ConfigurationError(
                    f"schedule: expected a deferred function; got {shown(function)}; put @app.deferred between it and "
                    f"@app.schedule(…)"
                )
            add(function)
            return function

        return decorate if event is None else add(event)

    @property
    def schedules(self) -> tuple[Schedule, ...]:
        """The schedules; modules with listeners that were given by name are imported now, since they may add some."""
        _ = self.listeners
        return tuple(self._assembly.parts.schedules)

    # --- running -------------------------------------------------------------------------------------

    def __repr__(self) -> str:
        outboxes = {name: f", outbox {type(each).__name__}" for name, each in self.outboxes.items()}
        stores = [f"{name} ({type(each).__name__}{outboxes.get(name, '')})" for name, each in self.transports.items()]
        closed = ", closed" if self._is_closed else ""
        return f"<{type(self).__name__} {self.source}: {', '.join(stores) or 'in process'}{closed}>"

    def transport(self, name: str | None = None) -> Transport:
        """
        Return the transport called *name*, or the only one.

        Without a name, those count that a route leads to. If no route leads to any, all count that do more than keep
        something for another, as its outbox.

        Raises:
            ConfigurationError: No transport has that name, or there are several and no name was given.
        """
        if name is None:
            served = self._assembly.parts.served()
            if len(served) == 1:
                return self.transports[served[0]]
            if not served:
                raise ConfigurationError("there is no transport: every route leads to now, so no event waits anywhere")
            raise ConfigurationError(
                f"there are several transports ({', '.join(served)}); choose one by its name (-t on the command line)"
            )
        if name not in self.transports:
            raise self._no_transport(name)
        return self.transports[name]

    def _no_transport(self, name: str) -> ConfigurationError:
        """Return the error for a *name* that is not a transport's; it may be an outbox's."""
        shown = without_secrets(name)
        owner = next((owner for owner, outbox in self.outboxes.items() if outbox.name == name), None)
        if owner is not None:
            return ConfigurationError(
                f'"{shown}" is the outbox of "{owner}", which no worker serves; its events are moved by: relevo relay '
                f'-t {owner}; in Python it is app.outboxes["{owner}"]'
            )
        return ConfigurationError(
            f'no transport is called "{shown}"{did_you_mean(name, self.transports)}; there are: '
            f"{', '.join(self.transports)}"
        )

    def queues(self, transport: str) -> tuple[str, ...]:
        """Return the queues of *transport* that events are routed to."""
        return self._assembly.parts.queues(transport)

    def worker(
        self,
        options: RunOptions | None = None,
        *,
        executor: Executor | None = None,
        patient: bool = False,
        listeners: ListenerTable | None = None,
        **unknown: Never,
    ) -> Worker:
        """
        Return a worker for one transport and its queues.

        Args:
            options: Transport, queues and limits.

            executor: Runs the listeners; by default the executor of the options or the application.

            patient: Wait for a server that is down.

            listeners: The listeners to call; by default those of the application, also later ones.

            unknown: There are no others; the error says what to write instead.

        Raises:
            TypeError: There is no such argument.

            ConfigurationError: A listener is bound to a queue that its event is not routed to, nothing is
                routed to a queue of the options, the transport does not claim delays, or an event has more
                listeners in a queue than fit into a state.
        """
        options = argument.run_options(options, "worker", unknown)
        return self._workers.worker(
            self.transport(options.transport),
            options,
            listeners=self.listeners if listeners is None else listeners,
            executor=executor,
            patient=patient,
        )

    def drain(self, options: RunOptions | None = None, **unknown: Never) -> Report:
        """
        Handle what is ready, and what becomes ready meanwhile, on every transport; then return.

        For scripts and notebooks. Events in outboxes are moved first. Failed events stay, and are due later. It runs
        in this thread and handles no signal; for cron, ``relevo drain`` also lets only one process drain at a time.

        Args:
            options: A transport, queues and limits; by default all, and no limit.

            unknown: There are no others; the error says what to write instead.

        Raises:
            TypeError: There is no such argument.

            ConfigurationError: As in :meth:`worker`.

            TransportUnavailableError: A server could not be reached.
        """
        from relevo._runner.drain import drain_everything  # noqa: PLC0415 - dispatching alone does not need it

        return drain_everything(self, argument.run_options(options, "drain", unknown))

    def handle(
        self,
        transport: str,
        listeners: ListenerTable,
        *,
        checkpoint: Callable[[Delivery, bytes], None] | None,
        runs: Callable[[Delivery, str], None] | None = None,
        committing: Callable[[], None] = lambda: None,
        stops: Callable[[str], bool] = lambda _: False,
    ) -> Handle:
        """
        Return a function that handles deliveries from *transport* by calling *listeners*.

        Args:
            transport: The name of the transport.

            listeners: The listeners to call.

            checkpoint: Stores progress during a delivery, if that is supported.

            runs: Notes which listener of a delivery with lost leases runs, if evidence of crashes is stored.

            committing: Called before the transaction of a listener commits with its progress.

            stops: Returns whether a listener is to stop after its step of that name.
        """
        return self._workers.handle(
            transport, listeners, checkpoint=checkpoint, runs=runs, committing=committing, stops=stops
        )

    def relay(self, name: str, options: RunOptions | None = None, *, patient: bool = False) -> Worker | None:
        """Return a worker that moves events from the outbox of the transport *name* to it; ``None`` if it has none."""
        outbox = self.outboxes.get(name)
        if outbox is None:
            return None
        chosen = argument.run_options(options, "relay")
        return self._workers.relay(outbox, self.transports[name], chosen, patient=patient)

    @property
    def _workers(self) -> WorkerFactory:
        return WorkerFactory(
            self._assembly.parts,
            outgoing=FollowUps(self._assembly.sender),
            recipe=self._recipe,
            stores=self._assembly.stores,
        )

    def _recipe(self, transport: str, time_limit: float) -> Hello:
        """Return the message from which a child process makes this application."""
        from relevo._execution.recipe import recipe  # noqa: PLC0415 - few have child processes

        config = self._assembly.parts.config
        return recipe(
            self,
            config=config.path if config is not None else None,
            is_configured=config is not None,
            transport=transport,
            time_limit=time_limit,
            # The module that was named may register more than the module that creates the application.
            name=self._assembly.parts.loaded_from.name,
        )

    def revived(self, entry: DeadLetterEntry, *, transport: str | None = None) -> bytes:
        """
        Return the state with which *entry* is revived: only the listeners that failed run again.

        All listeners run again if its state is invalid, or, where events are signed, not signed by a worker.

        Args:
            entry: The dead letter.

            transport: The name of the transport that keeps it; by default the only one. It makes no difference for a
                dead letter of an outbox.

        Raises:
            NewerStateError: A newer release wrote its state, which this release cannot read.

            DecodeError: It is forged, or another key signed it or its state.

            NotAcceptedError: The queue that it would be delivered from does not accept it.
        """
        envelope = entry.envelope
        if not isinstance(envelope, Envelope):
            # Its signature cannot be verified, and so neither can that of its state.
            return revived(entry.state) if self.signing is None else b""
        is_relayed = entry.queue.startswith(RESERVED)
        if is_relayed:
            target = Target(entry.queue.removeprefix(RESERVED), envelope.queue)
        elif transport in {outbox.name for outbox in self.outboxes.values()} - self.transports.keys():
            target = Target(transport, entry.queue)  # a queue of the outbox's store that no route leads to
        else:
            target = Target(self.transport(transport).name, entry.queue)
        if self.signing is not None:
            self.signing.verify(envelope, queue=target.queue, source=self.source)
        self._assembly.parts.queue_table.check(envelope.name, target)
        if is_relayed:
            return b""  # what a relay noted is not signed, and only says how long the event has waited
        if self.signing is None:
            return revived(entry.state)
        return self.signing.sealed(revived(self.signing.trusted(entry.state, envelope)), envelope)

    def failures(self, entry: WaitingEntry | DeadLetterEntry) -> tuple[Failure, ...]:
        """
        Return why the listeners of *entry* failed, as far as it is stored; a signature is not verified.

        A dead letter has at least one failure, with its reason and error. An event that waits has the last failure of
        each listener; there is none if no listener has failed.

        Args:
            entry: What ``waiting`` or ``dead_letters`` of a transport returned.
        """
        return failures_of(entry) if isinstance(entry, DeadLetterEntry) else setbacks_of(entry.state)

    def setup(self, *, dry_run: bool = False, upgrade: bool = False) -> list[str]:
        """
        Create the tables and queues that are missing; never alter existing ones, unless *upgrade* is true.

        Args:
            dry_run: Only report.

            upgrade: Change the tables of an older release, with the events in them. Stop its workers first.

        Returns:
            A description of each thing that was, or would be, created or changed.

        Raises:
            TransportUnavailableError: A server could not be reached. The others were set up; if several failed, the
                error has a line for each.

            ConfigurationError: Existing tables or queues do not match, or cannot be used.
        """
        created, errors = self._assembly.stores.set_up_all(dry_run=dry_run, upgrade=upgrade)
        raise_together(errors)
        return created

    def prepare(self, name: str) -> None:
        """
        Create what is missing for the transport *name*, and what helps it, once, if ``setup`` is ``auto``.

        If one of them fails, the others are set up nevertheless; the errors are those of :meth:`setup`.
        """
        self._assembly.stores.prepare(name)

    def testing(self, *, now: Moment | None = None, provide: Mapping[Any, object] = _NONE) -> AppTesting:
        """
        Return this application under test: ``with app.testing() as t:``.

        Args:
            now: Where its clock stands; by default at the present time.

            provide: What listeners get in place of what a lifespan yields, by that type: ``{Engine: fake}``.
        """
        from relevo.testing import AppTesting  # noqa: PLC0415 - only tests need it

        return AppTesting(self, now=now, provide=provide)

    def close(self) -> None:
        """
        Close what lifespans have opened and the transports, and let plugins free their resources.

        It may be called again.
        """
        self._is_closed = True
        with ExitStack() as stack:  # so that an error of a transport or a plugin does not keep the others open
            for transport in self._assembly.parts.stores():
                stack.callback(transport.close)
            stack.callback(self._assembly.parts.opened.close)  # the first, since what it closes may dispatch
            with observe(self.hooks.observers("relevo_around_close")):
                stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.close()


@attrs.frozen(eq=False, repr=False)
class _Assembly:
    """The parts of an application, and the objects made from them."""

    parts: Parts
    stores: Stores
    sender: Sender

    @classmethod
    def of(cls, parts: Parts, make: Callable[..., Sender] = Sender) -> Self:
        """Assemble *parts*; *make* returns the sender."""
        stores = Stores(parts)
        sign = None if parts.signing is None else parts.signing.signed
        sender = make(
            routes=parts.routes,
            destinations=stores,
            packer=Packer(parts.source, parts.clock, parts.ids, parts.subjects, parts.hooks, sign),
            listeners=parts.registry,
            local=LocalDispatcher(
                parts.registry.known,
                subjects=parts.subjects,
                clock=parts.clock,
                hooks=parts.hooks,
                opened=parts.opened,
            ),
            hooks=parts.hooks,
            clock=parts.clock,
            queues=parts.queue_table,
            notice=BypassNotice(parts.registry),
        )
        return cls(parts, stores, sender)


def _every(helpers: Mapping[str, Mapping[Any, Any]]) -> list[Any]:
    return [each for of_key in helpers.values() for each in of_key.values()]


def _to_first(transports: Mapping[str, object], helpers: Sequence[object]) -> Mapping[str, str]:
    """Return the routes of every event to the first of *transports* that does more than one of *helpers*."""
    shared = [name for name, each in transports.items() if any(each is helper for helper in helpers)]
    names = beside_helpers(transports, shared)
    return {"*": names[0]} if names else {}


def app_of(config: Config, kind: type[A], *, clock: Clock | None = None) -> A:
    """
    Return the application of the class *kind* that *config* describes.

    Raises:
        ConfigurationError: The configuration is invalid; it reports all problems at once.
    """
    from relevo._config.opening import open_config  # noqa: PLC0415 - App(…) does not need it

    clock = clock or SystemClock()
    opened = open_config(config, clock=clock)
    app = kind(
        transports=opened.transports,
        routes=config.routes or None,
        listeners=config.listeners,
        source=config.source,
        outboxes=opened.helpers["outbox"],
        coordinators=opened.helpers["coordinator"],
        keepers=opened.helpers["dead_letters"],
        plugins=opened.plugins,
        signing=config.signing,
        retries=config.retries,
        queues=config.queues,
        schedules=[each.named(name) for name, each in config.schedules.items()],
        setup=config.setup,
        patience=config.patience,
        lease=config.lease,
        execution=config.chosen_execution(),
        lock=config.lock,
        deploy=config.deploy,
        clock=clock,
    )
    note_places(app.hooks, opened.places)
    parts = attrs.evolve(parts_of(app), loaded_from=LoadedFrom(config=config))
    app._assembly = _Assembly.of(parts)  # noqa: SLF001 - private to this module, not to the class
    _log.debug("the configuration is %s", config.path or config.origins.default)
    for name, transport in opened.transports.items():
        _log.debug('the transport "%s": %s', name, type(transport).__name__)
    return app


def parts_of(app: App) -> Parts:
    """Return the parts of *app*."""
    return app._assembly.parts  # noqa: SLF001 - as above


def clockwork_of(
    app: App, name: str, instead: Callable[[App, str, Sender], FiringLedger] | None = None
) -> Clockwork | None:
    """
    Return what fires the schedules of the transport *name*; ``None`` if it has none.

    Args:
        app: The application.

        name: The name of the transport.

        instead: Returns where they fire if the transport has no coordinator.

    Raises:
        ConfigurationError: One of them cannot be fired.

        EncodeError: The event of one of them has no exact form in JSON.
    """
    schedules = app.schedules
    if not schedules:
        return None
    from relevo._app.schedules import clockwork  # noqa: PLC0415 - few applications have schedules

    ledger = None if instead is None else partial(instead, app, name)
    return clockwork(name, schedules, parts_of(app), app._assembly.sender, ledger)  # noqa: SLF001 - as above


def stores_of(app: App) -> Stores:
    """Return the transports and outboxes of *app*, each of which can be set up alone."""
    return app._assembly.stores  # noqa: SLF001 - as above


@contextmanager
def using(app: App, parts: Parts, *, sender: Callable[..., Sender] = Sender) -> Iterator[None]:
    """
    Use other *parts* for *app* while the block runs.

    Args:
        app: The application.

        parts: Usually its own parts, evolved.

        sender: The class of the sender, or a function with the same arguments.
    """
    former = app._assembly  # noqa: SLF001 - as above
    app._assembly = _Assembly.of(parts, sender)  # noqa: SLF001 - as above
    try:
        yield
    finally:
        app._assembly = former  # noqa: SLF001 - as above


def _refuse_unknown(names: Sequence[object], options: Mapping[str, object]) -> None:
    """Raise the error for arguments that ``App`` does not have."""
    if names:
        fix = _stores(names[0]) if isinstance(names[0], str) and "://" in names[0] else "write source= for its name"
        raise TypeError(f"App takes no positional arguments; got {shown(names[0])}; {fix}")
    if options:
        known = [name for name, kind in App.__init__.__annotations__.items() if kind != "Never"]
        addressed = {key: _stores(options.get(key)) if answer == STORES else answer for key, answer in APP.items()}
        renamed = {key: f"it is called {name}= here" for key, name in CALLED_KEYS.items() if name in known}
        raise no_option("App", next(iter(options)), known, {**addressed, **renamed})


def _stores(address: object) -> str:
    """Return what to write instead of an argument that is the *address* of a server; without its password."""
    if not isinstance(address, str) or "://" not in address:
        return STORES
    if address.startswith("redis"):
        return f"{STORES}; relevo has no transport for Redis"
    return f'write transports={{"main": "{visible(masked_url(address))}"}}'


def _check_parts(parts: Parts, retries: Mapping[str, Target], problems: Problems) -> None:
    """Refuse *parts* and queues of *retries* that conflict or have *problems*; all are reported at once."""
    known = not problems.concern("transports")
    if not problems.concern("source") and not problems.concern("signing"):
        problems.extend(signing_problems(parts.signing, parts.source))
    problems.extend(transport_problems(parts.transports))
    if known:
        helpers = {"outbox": parts.outboxes, "coordinator": parts.coordinators, "dead_letters": parts.keepers}
        problems.extend(helper_problems(helpers, parts.transports, parts.transports))
        routes = None if problems.concern("routes") else parts.routes  # unknown if one is invalid
        problems.extend(target_problems(parts.routes, parts.transports))
        problems.extend(retry_problems(retries, routes, parts.transports))
        problems.extend(queue_problems(parts.queue_table, routes, parts.transports))
    if not problems.concern("transports"):
        problems.extend(fan_out_problems(parts.routes, {name: parts.joins_sessions(name) for name in parts.transports}))
    problems.raise_any()


def _random() -> float:
    import random  # noqa: PLC0415 - slow to import, and only waits need it

    return random.random()  # noqa: S311 - not a secret
