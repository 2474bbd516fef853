"""The application: its transports, routes, listeners and subjects together, and how they are got from configuration."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from logging import getLogger
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from relevo._caller import Caller
from relevo._clock import Clock, Duration, SystemClock, seconds
from relevo._decision import PATIENCE
from relevo._delivery import MAX_STATE, Release
from relevo._dispatcher import (
    Dispatched,
    Dispatcher,
    LocalDispatcher,
    Packer,
    Parcel,
    check_claims,
    check_terms,
    sent,
)
from relevo._envelope import DEFAULT_QUEUE, Envelope, Urgency
from relevo._event import name_of
from relevo._executor import Executor
from relevo._hook import Hooks
from relevo._identity import IdFactory, uuid7
from relevo._listener import ListenerTable
from relevo._relay import RelayExecutor, outbox_queue
from relevo._route import NOW, Routes, Target
from relevo._runner import RunOptions
from relevo._subject import SubjectType, SubjectTypes
from relevo._transport import BoundSender, Transport
from relevo._worker import LEASE, Worker
from relevo.errors import ConfigurationError, RouteNotFoundError, SessionError, did_you_mean, shown

if TYPE_CHECKING:
    from pathlib import Path

    from relevo._config import Config


_log = getLogger("relevo.app")

_ENTRY = 80
"""Bytes that a state takes for a listener beside its id, at most, once its error is left out."""

_SHORTEST_LEASE = 1.0
"""Seconds; leases are renewed every third of theirs, by a thread that wakes every quarter of a second."""


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

        setup: ``auto`` creates missing tables and queues at first use, ``explicit`` only looks, and leaves
            that to ``relevo setup``.

        patience: For how long events are given back that no listener here can handle.

        lease: For how long a delivery is hidden from other workers unless it is renewed, which happens
            every third of it; after a crash its events come back when it has passed.

        clock: Where the time comes from.

        ids: Makes the ids of events.

        chance: Returns random numbers from 0 to 1, for the jitter of waits.

    Raises:
        ConfigurationError: The parts do not fit together.
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
        setup: str = "auto",
        patience: Duration = PATIENCE,
        lease: Duration = LEASE,
        clock: Clock | None = None,
        ids: IdFactory = uuid7,
        chance: Callable[[], float] | None = None,
    ):
        self.transports = dict(transports)
        self.outboxes = dict(outboxes or {})
        self.routes = Routes(routes)
        self.source = source
        self.hooks = Hooks(_several(plugins, "plugins"))
        self.subjects = SubjectTypes(subjects)
        self.clock: Clock = clock or SystemClock()
        self.config: Config | None = None
        self._patience = seconds(patience, what="patience")
        self._lease = seconds(lease, what="lease")
        if self._lease < _SHORTEST_LEASE:
            raise ConfigurationError(f"lease is {self._lease} s, {_SHORTEST_LEASE} s is the least that can be renewed")
        self._auto = setup == "auto"
        self._chance = chance or _random
        self._table = ListenerTable()
        self._unloaded = list(_several(listeners, "listeners"))
        self._local = LocalDispatcher(self._table, subjects=self.subjects)
        self._packer = Packer(source, self.clock, ids, self.subjects, self.hooks)
        self._ready: set[str] = set()
        self._loading = threading.RLock()
        if setup not in ("auto", "explicit"):
            raise ConfigurationError(f'setup: expected "auto" or "explicit", got {shown(setup)}')
        self._check_transports()
        self._check_routes()

    def _check_transports(self) -> None:
        """Tell the transports what they are called here, and refuse what cannot be one."""
        given: Mapping[str, Any] = self.transports
        for name, transport in given.items():
            if not isinstance(transport, Transport):
                raise ConfigurationError(
                    f'transports: "{name}" is {type(transport).__name__}, not a relevo.Transport; '
                    f"App.from_config() is what opens addresses"
                )
            if name == NOW or "/" in name:
                raise ConfigurationError(f'transports: none can be called {shown(name)}; "{NOW}" and slashes are taken')
            if sum(transport is each for each in given.values()) > 1:
                raise ConfigurationError(f'transports: "{name}" is there under another name too; open it twice')
            transport.name = name
        for name, outbox in self.outboxes.items():
            if name not in given:
                raise ConfigurationError(f'outboxes: no transport is called "{name}"{did_you_mean(name, given)}')
            if not outbox.capabilities.transactional:
                raise ConfigurationError(
                    f'outboxes: "{outbox.name}" cannot join a session, so it cannot keep what is meant for "{name}"; '
                    f"an outbox is a SQL transport"
                )

    def _check_routes(self) -> None:
        self.routes.check(self.transports)
        for pattern, targets in self.routes.table.items():
            names = list(_by_transport(targets))
            if len(names) > 1 and not all(self._joins_sessions(name) for name in names):
                raise _fan_out(pattern, names)

    def _joins_sessions(self, name: str) -> bool:
        return name in self.outboxes or self.transports[name].capabilities.transactional

    @classmethod
    def from_config(
        cls, path: str | Path | None = None, *, environ: Mapping[str, str] | None = None, clock: Clock | None = None
    ) -> Self:
        """
        Return the application that configuration describes; nothing is connected to and no listener imported.

        Args:
            path: The file; if unsaid ``RELEVO_CONFIG``, else the nearest ``relevo.toml`` or
                ``[tool.relevo]`` upwards from the working directory.

            environ: Instead of the process's environment.

            clock: Where the time comes from.

        Raises:
            ConfigurationError: Something in it is not understood.
        """
        import os  # noqa: PLC0415
        from pathlib import Path  # noqa: PLC0415

        from relevo._config import read  # noqa: PLC0415 - whoever puts an application together does without

        file = None if path is None else Path(path)
        return cls.of(read(file, os.environ if environ is None else environ, start=Path.cwd()), clock=clock)

    @classmethod
    def of(cls, config: Config, *, clock: Clock | None = None) -> Self:
        """
        Return the application that *config* describes.

        Raises:
            ConfigurationError: Something in it is not understood; all problems are told together.
        """
        from relevo._config import opened  # noqa: PLC0415
        from relevo._module import imported  # noqa: PLC0415

        clock = clock or SystemClock()
        transports, outboxes = opened(config, clock=clock)
        app = cls(
            transports=transports,
            routes=config.routes or {"*": next(iter(transports))},
            listeners=config.listeners,
            source=config.source,
            outboxes=outboxes,
            plugins=[imported(name, where="plugins") for name in config.plugins],
            setup=config.setup,
            patience=config.patience,
            lease=config.lease,
            clock=clock,
        )
        app.config = config
        return app

    # --- listening ---------------------------------------------------------------------------------

    def listen(self, *things: object) -> None:
        """
        Register marked functions, subscribers, modules, or names of modules.

        Raises:
            ConfigurationError: One of them holds no listener, or two listeners have one id.
        """
        with self._loading:
            self._unloaded.extend(things)

    def add_subject(self, subject_type: SubjectType) -> None:
        """Register what events can happen to, so that it is named at the dispatch and loaded by listeners."""
        self.subjects.add(subject_type)

    @property
    def listeners(self) -> ListenerTable:
        """The registered listeners; modules that were only named are imported now."""
        if self._unloaded:
            from relevo._module import marked_in  # noqa: PLC0415 - whoever only dispatches does without

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
        urgency: Urgency = "normal",
        ordering_key: str | None = None,
        expires: float | None = None,
    ) -> Dispatched:
        """
        Send *event* where its route says; without a session it is safe when this returns.

        Where the route says ``now``, listeners are called before this returns, inside whatever transaction the
        caller is in: that is in order, more urgent than anything, and before every expiry.

        Args:
            event: An :class:`Event`, or an instance of a declared class.

            session: Write it inside this session's transaction: both commit, or neither.

            delay: Not handled before; seconds, a timedelta, or text such as ``"5m"``.

            urgency: ``high`` overtakes, where the transport claims it.

            ordering_key: Handled in order with others of this key, where the transport claims it.

            expires: Seconds since the epoch after which it is dead-lettered instead of handled.

        Raises:
            RouteNotFoundError: No route matches its name.

            EncodeError: It has no faithful form; nothing was written.

            SendError: The transport cannot say that it is safe.

            TransportUnavailableError: The server could not be reached; nothing was sent.

            ConfigurationError: The transports do not claim what is asked for.
        """
        name = name_of(event)
        targets = self.routes.targets(name)
        wait = seconds(delay, what="the delay of a dispatch")
        event_id = ""
        local = any(target.transport == NOW for target in targets)
        if local and wait:
            raise ConfigurationError(f'"{name}" is routed to "{NOW}", where nothing can be delayed')
        check_terms(name, urgency, ordering_key, expires)
        first = NOW if targets[0].transport == NOW else ""
        at_once = self.listeners.in_queue(name, NOW, first) if local else ()  # imports modules: before anything is sent
        if groups := _by_transport(targets):
            if len(groups) > 1 and session is None:
                raise _fan_out(name, groups)
            for transport in groups:
                check_claims(self.transports[transport], urgency=urgency, ordering_key=ordering_key)
            parcel = self._packer.pack(event, urgency=urgency, ordering_key=ordering_key, expires=expires)
            event_id = parcel.id
            if session is None:
                ((transport, group),) = groups.items()
                sent(self._prepared(transport), parcel.make(group), delay=wait, hooks=self.hooks)
            else:
                self._enlist(parcel, groups, session, wait)
        if local:
            self._local.call(event, at_once)
        return Dispatched(id=event_id, targets=targets)

    def _enlist(self, parcel: Parcel, groups: Mapping[str, Sequence[Target]], session: Any, wait: float) -> None:
        """Have all *groups* written with *session*'s transaction; if one cannot be, none is."""
        senders = [(self._bound(transport, session), group) for transport, group in groups.items()]
        refused = False

        def make(group: Sequence[Target]) -> Sequence[Envelope]:
            return () if refused else parcel.make(group)

        try:
            for sender, group in senders:
                sender.send(partial(make, group), delay=wait)
        except BaseException:
            refused = True
            raise

    def _bound(self, name: str, session: Any) -> BoundSender:
        if not self._joins_sessions(name):
            raise SessionError(
                f'the transport "{name}" cannot join a session; '
                f'give it an outbox: {name} = {{ url = "…", outbox = "sqlite:///…" }}'
            )
        if name in self.outboxes:
            return self._prepared_outbox(name).bound_to(session, relay_to=name)
        return self._prepared(name).bound_to(session)

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
        self, options: RunOptions | None = None, *, executor: Executor | None = None, patient: bool = False
    ) -> Worker:
        """
        Return a worker for one transport and its queues.

        Args:
            options: Which transport and queues, and its limits.

            executor: Where listeners run; in the worker's own thread if unsaid.

            patient: Wait for a server that is down.

        Raises:
            ConfigurationError: A listener is bound to a queue that its event is not routed to, nothing is
                routed to a queue of the options, the transport does not claim delays, or an event has more
                listeners in a queue than a state can keep.
        """
        options = options or RunOptions()
        transport = self.transport(options.transport)
        known = self.queues(transport.name)
        for queue in options.queues:
            if queue not in known:
                raise ConfigurationError(
                    f'nothing is routed to the queue "{queue}" of "{transport.name}"{did_you_mean(queue, known)}; '
                    f"there are: {', '.join(known)}"
                )
        queues = options.queues or known
        listeners = self.listeners
        first_queue = self._first_queue_on(transport.name)
        self._check_listeners(listeners)
        if transport.capabilities.delay is None:
            raise ConfigurationError(
                f'the transport "{transport.name}" does not support delay, and without it nothing can be tried again: '
                f"choose one that claims it"
            )
        _check_queues(listeners, self.routes, transport.name, queues, first_queue)
        caller = Caller(
            listeners,
            first_queue=first_queue,
            subjects=self.subjects,
            clock=self.clock,
            chance=self._chance,
            checkpoint=transport.checkpoint if transport.capabilities.checkpoint else None,
            hooks=self.hooks,
            patience=self._patience,
        )
        return Worker(
            transport,
            caller.outcome,
            queues=queues,
            clock=self.clock,
            chance=self._chance,
            options=options,
            executor=executor,
            hooks=self.hooks,
            lease=self._lease,
            patient=patient,
        )

    def relay(self, name: str, options: RunOptions | None = None, *, patient: bool = False) -> Worker | None:
        """Return a worker that moves events from the outbox of the transport *name* to it; ``None`` if it has none."""
        outbox = self.outboxes.get(name)
        if outbox is None:
            return None
        return Worker(
            outbox,
            lambda _: Release(),
            queues=[outbox_queue(name)],
            clock=self.clock,
            chance=self._chance,
            options=options,
            executor=RelayExecutor(self.transports[name], clock=self.clock, patience=self._patience),
            lease=self._lease,
            patient=patient,
        )

    def setup(self, *, dry_run: bool = False) -> list[str]:
        """
        Create the tables and queues that are missing; never alter what is there.

        Args:
            dry_run: Only tell.

        Returns:
            What was, or would be, created.
        """
        created: list[str] = []
        for name, transport in self.transports.items():
            created += transport.setup(self.queues(name), dry_run=dry_run)
            if name in self.outboxes:
                created += self.outboxes[name].setup([outbox_queue(name)], dry_run=dry_run)
        return created

    def prepare(self, name: str) -> None:
        """Create what is missing for the transport *name* and its outbox, once, if ``setup`` is ``auto``."""
        self._prepared(name)
        if name in self.outboxes:
            self._prepared_outbox(name)

    @contextmanager
    def swapped(
        self, *, transports: Mapping[str, Transport], outboxes: Mapping[str, Transport], clock: Clock
    ) -> Iterator[None]:
        """
        Work with other transports and another clock while the block runs, then with the former again.

        Args:
            transports: For every one of this application, by the same names.

            outboxes: For every outbox, by the name of its transport.

            clock: Where the time comes from meanwhile.
        """
        before = self.transports, self.outboxes, self.clock, self._packer, self._ready
        self.transports, self.outboxes, self.clock = dict(transports), dict(outboxes), clock
        self._packer, self._ready = self._packer.at(clock), set()
        try:
            yield
        finally:
            self.transports, self.outboxes, self.clock, self._packer, self._ready = before

    def close(self) -> None:
        """Close the transports; may be called again."""
        with ExitStack() as stack:  # one that fails does not keep the others open
            for transport in dict.fromkeys([*self.transports.values(), *self.outboxes.values()]):
                stack.callback(transport.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.close()

    def _prepared(self, name: str) -> Transport:
        return self._set_up(name, self.transports[name], self.queues(name))

    def _prepared_outbox(self, name: str) -> Transport:
        return self._set_up(outbox_queue(name), self.outboxes[name], [outbox_queue(name)])

    def _set_up(self, key: str, transport: Transport, queues: Sequence[str]) -> Transport:
        """Create what is missing, or only look if ``setup`` is ``explicit``; once."""
        if key not in self._ready:
            with self._loading:
                missing = transport.setup(queues, dry_run=not self._auto)
                if missing and not self._auto:
                    raise ConfigurationError(
                        f'the transport "{transport.name}" is not set up, it lacks {"; ".join(missing)}; '
                        f'run relevo setup, or say setup = "auto"'
                    )
                self._ready.add(key)
        return transport

    def _first_queue_on(self, transport: str) -> Callable[[str], str]:
        known: dict[str, str] = {}

        def first_queue(event_name: str) -> str:
            found = known.get(event_name)
            if found is None:
                try:
                    target = self.routes.targets(event_name)[0]
                except RouteNotFoundError:
                    target = Target("")
                found = known[event_name] = target.queue if target.transport == transport else ""
            return found

        return first_queue

    def _check_listeners(self, listeners: ListenerTable) -> None:
        problems = []
        for listener in listeners:
            try:
                targets = self.routes.targets(listener.event_name)
            except RouteNotFoundError as error:
                problems.append(f"{listener.id}: {error}")
                continue
            queues = [NOW if target.transport == NOW else target.queue for target in targets]
            if listener.queue is not None and listener.queue not in queues:
                problems.append(
                    f'{listener.id}: it runs in the queue "{listener.queue}", but "{listener.event_name}" is routed '
                    f"to {', '.join(map(str, targets))}{did_you_mean(listener.queue, queues)}"
                )
        if problems:
            raise ConfigurationError("\n".join(problems))


def _check_queues(
    listeners: ListenerTable, routes: Routes, transport: str, queues: Sequence[str], first_queue: Callable[[str], str]
) -> None:
    """
    Check that what listeners do in *queues* can be kept; log which events that are heard here nobody hears there.

    Raises:
        ConfigurationError: The ids of an event's listeners are longer than a state may be.
    """
    for name in dict.fromkeys(listener.event_name for listener in listeners):
        for target in routes.targets(name):
            if target.transport != transport or target.queue not in queues:
                continue
            hearing = listeners.in_queue(name, target.queue, first_queue(name))
            if sum(len(listener.id.encode()) + _ENTRY for listener in hearing) > MAX_STATE:
                raise ConfigurationError(
                    f'"{name}" has {len(hearing)} listeners in {target}, and what they did takes more than the '
                    f"{MAX_STATE:,} bytes that can be kept: give them shorter ids with listener(…, id=…), or "
                    f"queues of their own"
                )
            if not hearing:
                _log.warning(
                    '"%s" is routed to %s, but no listener here runs there; what no worker of that queue has a '
                    'listener for is dead-lettered in the end: give a listener queue="%s", or take the target out',
                    name,
                    target,
                    target.queue,
                )


def _by_transport(targets: Iterable[Target]) -> Mapping[str, Sequence[Target]]:
    """Return *targets* by their transport, in order, without those that are called at once."""
    groups: dict[str, list[Target]] = {}
    for target in targets:
        if target.transport != NOW:
            groups.setdefault(target.transport, []).append(target)
    return groups


def _fan_out(event_name: str, transports: Iterable[str]) -> ConfigurationError:
    """Return the error for an event that would go to several transports, where a crash could part them."""
    names = ", ".join(f'"{name}"' for name in transports)
    return ConfigurationError(
        f'"{event_name}" is routed to several transports ({names}); a crash between them would lose a part: '
        f"dispatch it with session=, where each can join it or has an outbox, or route it to one transport"
    )


def _random() -> float:
    import random  # noqa: PLC0415 - it takes as long as a module of relevo's own, and only waits need it

    return random.random()  # noqa: S311 - it is no secret


def _several(things: Iterable[object], what: str) -> Iterable[object]:
    if isinstance(things, str):
        raise ConfigurationError(f"{what}: expected several, got the text {shown(things)}; put it into a list")
    return things
