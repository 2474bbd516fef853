"""The application: transports, routes, listeners and subjects, from arguments or from configuration."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from os import PathLike
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar, Unpack

import attrs

from relevo._app.setup import raise_together, set_up, tried
from relevo._app.workers import WorkerFactory
from relevo._clock import Clock, Duration, Moment, SystemClock, seconds
from relevo._config import argument
from relevo._config.check import (
    NoticingSubjects,
    check_listening,
    checked_lease,
    fan_out,
    fan_out_problems,
    outbox_problems,
    retry_problems,
    target_problems,
    transport_problems,
)
from relevo._dispatch.batch import TransportBatch, by_transport, carried, check_without_packing, enlist, send_batches
from relevo._dispatch.dispatcher import (
    Dispatched,
    Dispatcher,
    PackedEvent,
    Packer,
    check_claims,
    send_envelopes,
)
from relevo._dispatch.follow_up import FollowUps
from relevo._dispatch.in_process import LocalDispatcher, refuse_delay
from relevo._event.codec import checked_source
from relevo._event.context import within
from relevo._event.event import Event, name_of
from relevo._event.subject import SubjectType, SubjectTypes
from relevo._fork import ForkLock
from relevo._hook import observed
from relevo._identity import IdFactory, uuid7
from relevo._listener.call import DispatchOptions
from relevo._listener.listener import Listener, ListenerTable
from relevo._problem import Problems
from relevo._retry import Retry
from relevo._transport.delivery import Delivery
from relevo._transport.envelope import DEFAULT_QUEUE, Envelope, Urgency
from relevo._transport.route import NOW, Target
from relevo._transport.transport import BoundSender, DeadLetterEntry, Transport
from relevo._worker.decision import PATIENCE
from relevo._worker.execution import Execution
from relevo._worker.executor import Executor, Handle
from relevo._worker.progress import revived
from relevo._worker.relay import outbox_queue
from relevo._worker.run import RunOptions
from relevo._worker.signing import Signing
from relevo._worker.worker import LEASE, Worker
from relevo.errors import (
    ConfigurationError,
    DuplicateEventError,
    SessionError,
    did_you_mean,
)

if TYPE_CHECKING:
    from pathlib import Path

    from relevo._config.opening import Config
    from relevo._execution.pipe import Hello
    from relevo.testing import AppTesting


T = TypeVar("T")

_FORKING = 5.0
"""Seconds that a fork waits at most for a thread that imports listeners."""


@attrs.frozen(kw_only=True)
class _Ready:
    """An event that can be sent: all about it is checked, and nothing is written yet."""

    event: object
    packed: PackedEvent | None
    groups: Mapping[str, Sequence[Target]]
    at_once: Sequence[Listener]
    told: Dispatched

    @property
    def is_now(self) -> bool:
        """Whether it is routed to the listeners that hear it now, if there are any."""
        return any(target.transport == NOW for target in self.told.targets)


class App(Dispatcher):
    """
    Dispatches events to where its routes say, and makes the workers that handle them.

    Args:
        transports: By the names that routes use.

        routes: From event name or pattern to ``transport``, ``transport/queue`` or ``now``, or several.

        listeners: Marked functions, subscribers, modules, or the names of modules, which are imported
            at first use.

        source: The application's name.

        outboxes: From the name of a transport to the transport that keeps its events when they are
            dispatched inside a session.

        subjects: What events happen to.

        plugins: Objects with hooks.

        signing: Its keys, or the keys alone; without them events are not signed, and no signature is looked at.

        retries: The policy of listeners that have none, by the queue in which they run, ``transport/queue``.

        setup: ``auto`` creates missing tables and queues at first use, ``explicit`` only looks, and leaves
            that to ``relevo setup``.

        patience: For how long events are given back that no listener here can handle.

        lease: For how long a delivery is hidden from other workers unless it is renewed, which happens
            every third of it; after a crash its events come back when it has passed.

        execution: Where listeners run, how many at once, and for how long at most; or the first alone, as text.

        clock: Where the time comes from.

        lock: The folder where those who drain keep the lock that lets one at a time do so; by default that of the
            database file, else one of the user's own in ``/tmp``.

        deploy: The file that keeps events from being taken while it is there; by default it is beside the lock.

        ids: Makes the ids of events.

        chance: Returns random numbers from 0 to 1, for the jitter of waits.

    Raises:
        ConfigurationError: An argument is invalid, or the arguments conflict; it reports all problems at once.
    """

    def __init__(
        self,
        *,
        transports: Mapping[str, Transport],
        routes: Mapping[str, str | Sequence[str]],
        listeners: Iterable[object] = (),
        source: str = "app",
        outboxes: Mapping[str, Transport] | None = None,
        subjects: Iterable[SubjectType] = (),
        plugins: Iterable[object] = (),
        signing: Signing | str | Sequence[str] | None = None,
        retries: Mapping[str, Retry | int] | None = None,
        setup: str = "auto",
        patience: Duration = PATIENCE,
        lease: Duration = LEASE,
        execution: Execution | str | None = None,
        lock: str | PathLike[str] | None = None,
        deploy: str | PathLike[str] | None = None,
        clock: Clock | None = None,
        ids: IdFactory = uuid7,
        chance: Callable[[], float] | None = None,
    ):
        super().__init__(ListenerTable())
        problems = Problems()
        tried = problems.tried
        self.transports: dict[str, Transport] = tried(
            "transports", argument.mapping, transports, "transports", instead={}
        )
        self.outboxes: dict[str, Transport] = tried(
            "outboxes", argument.mapping, outboxes or {}, "outboxes", instead={}
        )
        self.routes = argument.routes(routes, problems)
        self.retries: Mapping[Target, Retry] = argument.retries(retries, problems)
        self.source = tried("source", checked_source, source)
        self.hooks = tried("plugins", argument.plugins, plugins)
        self.subjects: SubjectTypes = tried("subjects", lambda: NoticingSubjects(argument.subject_types(subjects)))
        self.signing = tried("signing", argument.signing, signing)
        self.execution = tried("execution", argument.execution, execution)
        self.clock = tried("clock", argument.clock, clock)
        self.config: Config | None = None
        self.lock = tried("lock", argument.path, lock, "lock")
        self.deploy = tried("deploy", argument.path, deploy, "deploy")
        self.found_by: Sequence[str] = ()
        """Options of the command line that lead here, if it was that way."""
        self.found_in: Path | None = None
        """The folder that has to be the working directory then, since code of its own may start paths from there."""
        self._unloaded = tried("listeners", argument.several, listeners, "listeners")
        self._patience = tried("patience", lambda: seconds(patience, what="patience"))
        self._lease = tried("lease", checked_lease, lease)
        self._auto = tried("setup", argument.setup_is_auto, setup)
        self._chance: Callable[[], float] = tried("chance", argument.function, chance or _random, "chance")
        made_id: IdFactory = tried("ids", argument.function, ids, "ids")
        self._check_parts(problems)
        self._local = LocalDispatcher(self._table, subjects=self.subjects)
        self._packer = Packer(source, self.clock, made_id, self.subjects, self.hooks)
        self._notice: Callable[[object, Dispatched], None] | None = None
        self._ready: set[str] = set()
        self._loading = ForkLock(patience=_FORKING)
        self._setting_up = ForkLock()
        for name, transport in self.transports.items():
            transport.name = name

    def _check_parts(self, problems: Problems) -> None:
        """Refuse parts that do not fit together, with the *problems* of each by itself; all are told at once."""
        known = not problems.concern("transports")
        problems.extend(transport_problems(self.transports))
        if known:
            problems.extend(outbox_problems(self.outboxes, self.transports))
            routes = None if problems.concern("routes") else self.routes  # all that there are, or nobody knows
            problems.extend(target_problems(self.routes, self.transports))
            policies = {str(queue): (queue, policy) for queue, policy in self.retries.items()}
            problems.extend(retry_problems(policies, routes, self.transports))
        if not problems.concern("transports"):
            joining = {name: self._joins_sessions(name) for name in self.transports}
            problems.extend(fan_out_problems(self.routes, joining))
        problems.raise_any()

    def _joins_sessions(self, name: str) -> bool:
        return name in self.outboxes or self.transports[name].capabilities.transactional

    @classmethod
    def from_config(
        cls, path: str | Path | None = None, *, environ: Mapping[str, str] | None = None, clock: Clock | None = None
    ) -> Self:
        """
        Return the application that configuration describes; nothing is connected to and no listener imported.

        Args:
            path: The file; by default ``RELEVO_CONFIG``, else the nearest ``relevo.toml`` or
                ``[tool.relevo]`` upwards from the working directory.

            environ: Instead of the process's environment.

            clock: Where the time comes from.

        Raises:
            ConfigurationError: Something in it is not understood.
        """
        import os  # noqa: PLC0415 - whoever puts an application together does without
        from pathlib import Path  # noqa: PLC0415 - the same

        from relevo._config.opening import drafted  # noqa: PLC0415 - the same

        file = None if path is None else Path(path)
        return cls.of(drafted(file, os.environ if environ is None else environ, start=Path.cwd()), clock=clock)

    @classmethod
    def of(cls, config: Config, *, clock: Clock | None = None) -> Self:
        """
        Return the application that *config* describes.

        Raises:
            ConfigurationError: Something in it is not understood; all problems are told together.
        """
        from relevo._config.opening import parts_of  # noqa: PLC0415 - whoever puts an application together does without

        clock = clock or SystemClock()
        parts = parts_of(config, clock=clock)
        signing = config.signing
        app = cls(
            transports=parts.transports,
            routes=config.routes or {"*": next(iter(parts.transports))},
            listeners=config.listeners,
            source=config.source,
            outboxes=parts.outboxes,
            plugins=parts.plugins,
            signing=Signing(signing.keys, required=signing.required) if signing else None,
            retries=config.retries,
            setup=config.setup,
            patience=config.patience,
            lease=config.lease,
            execution=Execution(
                config.execution, config.concurrency, config.time_limit, config.memory_limit, config.recycle_after
            ),
            lock=None if config.lock is None else config.directory / config.lock,
            deploy=None if config.deploy is None else config.directory / config.deploy,
            clock=clock,
        )
        app.config = config
        return app

    # --- listening ---------------------------------------------------------------------------------

    def listen(self, thing: T, *others: object) -> T:
        """
        Register marked functions, subscribers, modules, or names of modules; these are imported at first use.

        Returns:
            *thing*, so that it can stand above the mark: ``@app.listen``.

        Raises:
            ConfigurationError: One of them cannot hold a listener. That two listeners have one id, or that a module has
                none, is told at first use.
        """
        for each in (thing, *others):
            check_listening(each)
        with self._loading:
            self._unloaded.extend((thing, *others))
        return thing

    def unlisten(self, *things: object) -> None:
        """
        Take out what :meth:`listen` registered: functions, subscribers, modules, or names of modules.

        What is not there is passed over.

        Raises:
            ConfigurationError: There is no such module, or one of *things* holds no listener.
        """
        from relevo._listener.importing import marked_in  # noqa: PLC0415 - whoever only dispatches does without

        self.listeners.withdraw([found for thing in things for found in marked_in(thing)])

    def add_subject(self, subject_type: SubjectType) -> None:
        """
        Register what events can happen to, so that it is named at the dispatch and loaded by listeners.

        Raises:
            SubjectError: It is no such type, or its name or its class is registered already.
        """
        self.subjects.add(argument.subject_type(subject_type))

    @property
    def listeners(self) -> ListenerTable:
        """The registered listeners; modules that were only named are imported now."""
        if self._unloaded:
            from relevo._listener.importing import marked_in  # noqa: PLC0415 - whoever only dispatches does without

            with self._loading:
                while self._unloaded:
                    self._table.extend(marked_in(self._unloaded[0]))
                    del self._unloaded[0]
        return self._table

    # --- dispatching ---------------------------------------------------------------------------------

    def dispatch(
        self,
        event: object,
        *,
        session: Any = None,
        delay: Duration = 0.0,
        at: Moment | None = None,
        urgency: Urgency = "normal",
        ordering_key: str | None = None,
        expires: Moment | None = None,
    ) -> Dispatched:
        """
        Send *event* where its route says; without a session it is safe when this returns.

        Where the route says ``now``, listeners are called before this returns, inside whatever transaction the
        caller is in: that is in order, more urgent than anything, and before every expiry. The event is checked
        before they are called, and sent after them, together with what they dispatch by their call. So if one of
        them raises, that is raised here, and nothing was sent.

        Args:
            event: An :class:`Event`, or an instance of a declared class.

            session: Write it inside this session's transaction: both commit, or neither.

            delay: Not handled before; seconds, a timedelta, or text such as ``"5m"``.

            at: Not handled before that moment: a datetime with a zone, or seconds since the epoch.

            urgency: ``high`` overtakes, where the transport claims it.

            ordering_key: Handled in order with others of this key, where the transport claims it.

            expires: The moment after which it is dead-lettered instead of handled: a datetime with a zone,
                seconds since the epoch, or a timedelta or text such as ``"1h"``, from now on.

        Raises:
            RouteNotFoundError: No route matches its name.

            EncodeError: It has no faithful form; nothing was written.

            SendError: The transport cannot say that it is safe.

            TransportUnavailableError: The server could not be reached; nothing was sent.

            ConfigurationError: The transports do not claim what is asked for.
        """
        return self.dispatch_many(
            (event,),
            session=session,
            delay=delay,
            at=at,
            urgency=urgency,
            ordering_key=ordering_key,
            expires=expires,
        )[0]

    def dispatch_many(self, events: Iterable[object], **options: Unpack[DispatchOptions]) -> list[Dispatched]:
        session = options.get("session")
        ready = [self._checked(event, options) for event in events]
        self._send(ready, session)
        return [each.told for each in ready]

    def _checked(
        self, event: object, options: DispatchOptions, *, made_id: Callable[[bytes], str] | None = None
    ) -> _Ready:
        """Validate *event* and its options, and return it ready to be sent."""
        name = name_of(event)
        targets = self.routes.targets(name)
        kind = self._table.event_types.get(name)
        if kind is not None and kind.cls is not type(event) and not isinstance(event, Event):
            raise DuplicateEventError(name, kind.cls, type(event))
        groups = by_transport(targets)
        at_once: Sequence[Listener] = ()
        if any(target.transport == NOW for target in targets):
            refuse_delay(name, options)
            first = NOW if targets[0].transport == NOW else ""
            at_once = self.listeners.in_queue(name, NOW, first)  # imports modules: before anything is sent
        if len(groups) > 1 and options.get("session") is None:
            raise fan_out(name, groups)
        packed = None
        if groups or self._notice is not None:
            packed = self._packer.pack(event, options, made_id=made_id)
            if self.signing is not None:
                packed = attrs.evolve(packed, make=self.signing.making(packed.make))
            for transport in groups:
                check_claims(self.transports[transport], packed)
        else:
            check_without_packing(name, options, now=self.clock.now())
        told = Dispatched(id=packed.id if packed and groups else "", targets=targets)
        return _Ready(event=event, packed=packed, groups=groups, at_once=at_once, told=told)

    def _send(self, ready: Sequence[_Ready], session: Any) -> None:
        """Call the listeners that hear it now; then send all that is ready, and what they dispatch, or enlist it."""
        if session is not None and any(each.at_once for each in ready):
            for name in dict.fromkeys(name for each in ready for name in each.groups):
                self._bound(name, session)  # where it cannot be joined nobody is called
        gathered: list[tuple[int, _Ready]] = []
        for position, each in enumerate(ready):
            self._gather(each, position, gathered, session)
        entries = [(position, each.packed, each.groups) for position, each in gathered if each.packed]
        if session is not None:
            enlist(entries, len(ready), lambda transport: self._bound(transport, session))
        elif entries:
            send_batches(entries, len(ready), self._send_batch)
        for _, each in gathered:
            if self._notice is not None and not each.is_now:
                self._notice(each.event, each.told)

    def _gather(self, one: _Ready, position: int, gathered: list[tuple[int, _Ready]], session: Any) -> None:
        """Add *one* to what is sent, call its listeners in process, and add what these dispatch."""
        gathered.append((position, one))
        if self._notice is not None and one.is_now:
            self._notice(one.event, one.told)
        if not one.at_once:
            return
        if one.packed and session is None:
            one.packed.make(())  # a subject without an id is found out before anybody is called

        def keep(ready: Sequence[_Ready], session: Any) -> None:
            for each in ready:
                self._gather(each, position, gathered, session)

        with within(carried(one.event, self.hooks, one.told.id)):
            self._local.call(one.event, one.at_once, outgoing=FollowUps(self._checked, keep, session))

    def _send_batch(self, batch: TransportBatch) -> None:
        send_envelopes(self._prepare_transport(batch.transport), batch.envelopes, delay=batch.wait, hooks=self.hooks)

    def _bound(self, name: str, session: Any) -> BoundSender:
        if not self._joins_sessions(name):
            raise SessionError(
                f'the transport "{name}" cannot join a session; '
                f'give it an outbox: {name} = {{ url = "…", outbox = "sqlite:///…" }}'
            )
        key, transport, queues, relay_to = name, self.transports[name], self.queues(name), None
        if name in self.outboxes:
            key, transport, queues, relay_to = outbox_queue(name), self.outboxes[name], (outbox_queue(name),), name
        if self._auto and key not in self._ready:
            sender = transport.bound_with_setup(session, queues, relay_to=relay_to)
            if sender is not None:
                return sender
        return self._set_up(key, transport, queues).bound_to(session, relay_to=relay_to)

    # --- running -------------------------------------------------------------------------------------

    def transport(self, name: str | None = None) -> Transport:
        """
        Return the transport called *name*, or the only one.

        Raises:
            ConfigurationError: There is none of that name, or several and none was named.
        """
        if name is None:
            if len(self.transports) == 1:
                return next(iter(self.transports.values()))
            raise ConfigurationError(f"there are several transports ({', '.join(self.transports)}); choose one with -t")
        if name not in self.transports:
            raise ConfigurationError(
                f'no transport is called "{name}"{did_you_mean(name, self.transports)}; '
                f"there are: {', '.join(self.transports)}"
            )
        return self.transports[name]

    def queues(self, transport: str) -> tuple[str, ...]:
        """Return the queues of *transport* that routes lead to."""
        return self.routes.queues(transport) or (DEFAULT_QUEUE,)

    def worker(
        self,
        options: RunOptions | None = None,
        *,
        executor: Executor | None = None,
        patient: bool = False,
        listeners: ListenerTable | None = None,
    ) -> Worker:
        """
        Return a worker for one transport and its queues.

        Args:
            options: Which transport and queues, and its limits.

            executor: Where listeners run; by default where the options or the application say.

            patient: Wait for a server that is down.

            listeners: The listeners to call; those of the application by default.

        Raises:
            ConfigurationError: A listener is bound to a queue that its event is not routed to, nothing is
                routed to a queue of the options, the transport does not claim delays, or an event has more
                listeners in a queue than a state can keep.
        """
        options = options or RunOptions()
        return self._workers.worker(
            self.transport(options.transport),
            options,
            listeners=self.listeners if listeners is None else listeners,
            executor=executor,
            patient=patient,
        )

    def handle(
        self,
        transport: str,
        listeners: ListenerTable,
        *,
        checkpoint: Callable[[Delivery, bytes], None] | None,
        runs: Callable[[Delivery, str], None] | None = None,
    ) -> Handle:
        """
        Return what handles deliveries from *transport* by calling *listeners*.

        Args:
            transport: Its name.

            listeners: The listeners to call.

            checkpoint: Keeps progress in the middle of a delivery, if anything does.

            runs: Notes which listener of a delivery with lost leases runs, if anything keeps evidence.
        """
        return self._workers.handle(transport, listeners, checkpoint=checkpoint, runs=runs)

    def relay(self, name: str, options: RunOptions | None = None, *, patient: bool = False) -> Worker | None:
        """Return a worker that moves events from the outbox of the transport *name* to it; ``None`` if it has none."""
        outbox = self.outboxes.get(name)
        if outbox is None:
            return None
        return self._workers.relay(outbox, self.transports[name], options or RunOptions(), patient=patient)

    @property
    def _workers(self) -> WorkerFactory:
        return WorkerFactory(
            routes=self.routes,
            queues=self.queues,
            subjects=self.subjects,
            retries=self.retries,
            hooks=self.hooks,
            signing=self.signing,
            clock=self.clock,
            chance=self._chance,
            lease=self._lease,
            patience=self._patience,
            execution=self.execution,
            outgoing=FollowUps(self._checked, self._send, repeats=True),
            stores=[*self.transports.values(), *self.outboxes.values()],
            recipe=self._recipe,
        )

    def _recipe(self, transport: str, time_limit: float) -> Hello:
        """Return what a child process has to be told to make this application."""
        from relevo._execution.recipe import recipe  # noqa: PLC0415 - few have child processes

        path = self.config.path if self.config else None
        is_configured = self.config is not None
        return recipe(self, config=path, is_configured=is_configured, transport=transport, time_limit=time_limit)

    def revived(self, entry: DeadLetterEntry) -> bytes:
        """
        Return the state with which *entry* is made ready again: only the listeners that failed are run.

        Raises:
            NewerStateError: A newer release wrote it, and knows what is done.

            DecodeError: It is not signed by a worker of this application.
        """
        envelope = entry.envelope
        if self.signing is None or not isinstance(envelope, Envelope):
            return revived(entry.state)
        return self.signing.sealed(revived(self.signing.opened(entry.state, envelope)), envelope)

    def setup(self, *, dry_run: bool = False) -> list[str]:
        """
        Create the tables and queues that are missing; never alter what is there.

        Args:
            dry_run: Only tell.

        Returns:
            What was, or would be, created.

        Raises:
            TransportUnavailableError: A server could not be reached. All else is done; if several failed, the error
                has a line for each.

            ConfigurationError: What is there is not what is expected, or cannot be used.
        """
        created, errors = set_up(self.transports, self.outboxes, self.queues, dry_run=dry_run)
        raise_together(errors)
        return created

    def prepare(self, name: str) -> None:
        """
        Create what is missing for the transport *name* and its outbox, once, if ``setup`` is ``auto``.

        If one of them fails, the other is made ready all the same; the errors are those of :meth:`setup`.
        """
        steps = [self._prepare_transport, self._prepare_outbox] if name in self.outboxes else [self._prepare_transport]
        raise_together(tried(*(partial(step, name) for step in steps)))

    def testing(self, *, now: Moment | None = None) -> AppTesting:
        """Return what a test holds this application by: ``with app.testing() as t:``; the clock stands at *now*."""
        from relevo.testing import AppTesting  # noqa: PLC0415 - production does without

        return AppTesting(self, now=now)

    @contextmanager
    def swapped(
        self,
        *,
        transports: Mapping[str, Transport],
        outboxes: Mapping[str, Transport],
        clock: Clock,
        chance: Callable[[], float] | None = None,
        notice: Callable[[object, Dispatched], None] | None = None,
    ) -> Iterator[None]:
        """
        Work with other transports and another clock while the block runs, then with the former again.

        The listeners are those of before again, too, whatever was registered or taken out meanwhile.

        Args:
            transports: For every one of this application, by the same names.

            outboxes: For every outbox, by the name of its transport.

            clock: Where the time comes from meanwhile.

            chance: Returns the random numbers meanwhile; the former by default.

            notice: Told of every event that was dispatched, when it was sent or enlisted, or before the listeners are
                called that hear it now. Where somebody is, also what is only called at once must have a faithful form.
        """
        table, loaded = self._table, self.listeners.copy()  # of all modules that were named
        before = self.transports, self.outboxes, self.clock, self._packer, self._ready, self._chance, self._notice
        self.transports, self.outboxes, self.clock = dict(transports), dict(outboxes), clock
        self._packer, self._ready = attrs.evolve(self._packer, clock=clock), set()
        self._chance, self._notice = chance or self._chance, notice
        self._table = loaded
        try:
            yield
        finally:
            self.transports, self.outboxes, self.clock, self._packer, self._ready, self._chance, self._notice = before
            self._table, self._unloaded = table, []

    def close(self) -> None:
        """Close the transports, and have the plugins end what they began; may be called again."""
        with ExitStack() as stack:  # one that fails, or a plugin, does not keep the others open
            for transport in dict.fromkeys([*self.transports.values(), *self.outboxes.values()]):
                stack.callback(transport.close)
            with observed(self.hooks.observers("relevo_around_close")):
                stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.close()

    def _prepare_transport(self, name: str) -> Transport:
        return self._set_up(name, self.transports[name], self.queues(name))

    def _prepare_outbox(self, name: str) -> Transport:
        return self._set_up(outbox_queue(name), self.outboxes[name], [outbox_queue(name)])

    def _set_up(self, key: str, transport: Transport, queues: Sequence[str]) -> Transport:
        """Create what is missing, or only look if ``setup`` is ``explicit``; once."""
        if key not in self._ready:
            with self._setting_up:
                missing = transport.setup(queues, dry_run=not self._auto)
                if missing and not self._auto:
                    raise ConfigurationError(
                        f'the transport "{transport.name}" is not set up, it lacks {"; ".join(missing)}; '
                        f'run relevo setup, or say setup = "auto"'
                    )
                self._ready.add(key)
        return transport


def _random() -> float:
    import random  # noqa: PLC0415 - it takes as long as a module of relevo's own, and only waits need it

    return random.random()  # noqa: S311 - it is no secret
