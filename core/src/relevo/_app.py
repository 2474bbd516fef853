"""The application: its transports, routes, listeners and subjects together, and how they are got from configuration."""

from __future__ import annotations

import importlib
import os
import random
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any, Self

from relevo import _config as configuration
from relevo._caller import Caller
from relevo._clock import Clock, Duration, SystemClock, seconds
from relevo._decision import PATIENCE
from relevo._delivery import Release
from relevo._dispatcher import Dispatched, Dispatcher, LocalDispatcher, Packer, grouped, refused_fan_out, sent
from relevo._envelope import Urgency
from relevo._event import name_of
from relevo._executor import Executor
from relevo._hook import Hooks
from relevo._identity import IdFactory, uuid7
from relevo._listener import ListenerTable, marks_of
from relevo._relay import RelayExecutor, outbox_queue
from relevo._route import NOW, Routes, Target
from relevo._runner import RunOptions
from relevo._secret import Secret
from relevo._subject import SubjectType, SubjectTypes
from relevo._transport import Transport
from relevo._worker import LEASE, Worker
from relevo.errors import ConfigurationError, RouteNotFoundError, SessionError, did_you_mean


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

        setup: ``auto`` creates missing tables and queues at first use, ``explicit`` leaves that to
            ``relevo setup``.

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
        chance: Callable[[], float] = random.random,
    ):
        self.transports = dict(transports)
        self.outboxes = dict(outboxes or {})
        self.routes = Routes(routes)
        self.routes.check(self.transports)
        self.source = source
        self.hooks = Hooks(plugins)
        self.subjects = SubjectTypes(subjects)
        self.clock: Clock = clock or SystemClock()
        self._patience = seconds(patience, what="patience")
        self._lease = seconds(lease, what="lease")
        self._auto = setup == "auto"
        self._chance = chance
        self._table = ListenerTable()
        self._unloaded = list(listeners)
        self._local = LocalDispatcher(self._table, subjects=self.subjects)
        self._packer = Packer(source, self.clock, ids, self.subjects, self.hooks)
        self._ready: set[str] = set()
        self._loading = threading.RLock()
        self.config: configuration.Config | None = None

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
        config = configuration.read(
            Path(path) if path is not None else None, os.environ if environ is None else environ, start=Path.cwd()
        )
        return cls.of(config, clock=clock)

    @classmethod
    def of(cls, config: configuration.Config, *, clock: Clock | None = None) -> Self:
        """Return the application that *config* describes."""
        clock = clock or SystemClock()
        if not config.transports:
            where = config.path or "the environment"
            message = f'{where}: no transport; add one, for example [transports] main = "sqlite:///{config.source}.db"'
            raise ConfigurationError(message)
        transports = {
            name: configuration.open_transport(each, directory=config.directory, clock=clock)
            for name, each in config.transports.items()
        }
        outboxes = {
            name: _outbox(each, transports, config, clock)
            for name, each in config.transports.items()
            if each.outbox is not None
        }
        app = cls(
            transports=transports,
            routes=config.routes or {"*": next(iter(transports))},
            listeners=config.listeners,
            source=config.source,
            outboxes=outboxes,
            plugins=[importlib.import_module(name) for name in config.plugins],
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
            with self._loading:
                while self._unloaded:
                    self._table.extend(_marked_in(self._unloaded[0]))
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
        targets = self.routes.targets(name_of(event))
        groups = grouped(target for target in targets if target.transport != NOW)
        if len(groups) > 1:
            raise refused_fan_out(name_of(event), groups)
        wait = seconds(delay, what="the delay of a dispatch")
        event_id = ""
        for name, deferred in groups.items():
            parcel = self._packer.pack(event, deferred, urgency=urgency, ordering_key=ordering_key, expires=expires)
            event_id = parcel.id
            if session is None:
                sent(self._prepared(name), parcel.make(), delay=wait, hooks=self.hooks)
            elif name in self.outboxes:
                self._prepared_outbox(name).bound_to(session, relay_to=name).send(parcel.make, delay=wait)
            else:
                self._bound(name, session).send(parcel.make, delay=wait)
        if any(target.transport == NOW for target in targets):
            first = targets[0].transport if targets[0].transport == NOW else ""
            self._local.call(event, self.listeners.in_queue(name_of(event), NOW, first))
        return Dispatched(id=event_id, targets=targets)

    def _bound(self, name: str, session: Any) -> Any:
        transport = self._prepared(name)
        if not transport.capabilities.transactional:
            message = (
                f'the transport "{name}" cannot join a session; '
                f'give it an outbox: {name} = {{ url = "…", outbox = "sqlite:///…" }}'
            )
            raise SessionError(message)
        return transport.bound_to(session)

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
            message = f"there are several transports ({', '.join(self.transports)}); choose one with -t"
            raise ConfigurationError(message)
        if name not in self.transports:
            message = f'no transport is called "{name}"{did_you_mean(name, self.transports)}; there are: {", ".join(self.transports)}'
            raise ConfigurationError(message)
        return self.transports[name]

    def queues(self, transport: str) -> tuple[str, ...]:
        """Return the queues of *transport* that routes lead to."""
        return self.routes.queues(transport) or ("default",)

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
            ConfigurationError: A listener is bound to a queue that its event is not routed to.
        """
        options = options or RunOptions()
        transport = self.transport(options.transport)
        queues = options.queues or self.queues(transport.name)
        listeners = self.listeners
        self._check_listeners(listeners)
        caller = Caller(
            listeners,
            first_queue=self._first_queue_on(transport.name),
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

    def close(self) -> None:
        """Close the transports; may be called again."""
        for transport in {*self.transports.values(), *self.outboxes.values()}:
            transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.close()

    def _prepared(self, name: str) -> Transport:
        transport = self.transports[name]
        if self._auto and name not in self._ready:
            with self._loading:
                transport.setup(self.queues(name))
                self._ready.add(name)
        return transport

    def _prepared_outbox(self, name: str) -> Transport:
        outbox = self.outboxes[name]
        key = outbox_queue(name)
        if self._auto and key not in self._ready:
            with self._loading:
                outbox.setup([key])
                self._ready.add(key)
        return outbox

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


def _outbox(
    config: configuration.TransportConfig,
    transports: Mapping[str, Transport],
    whole: configuration.Config,
    clock: Clock,
) -> Transport:
    where = f"transports.{config.name}.outbox"
    text = str(config.outbox)
    if "://" not in text:
        if text not in transports:
            message = f'{where}: no transport is called "{text}"{did_you_mean(text, transports)}'
            raise ConfigurationError(message)
        found = transports[text]
    else:
        named = configuration.TransportConfig(name=f"{config.name}.outbox", url=Secret(text))
        found = configuration.open_transport(named, directory=whole.directory, clock=clock)
    if not found.capabilities.transactional:
        message = f"{where}: {found.name} cannot join a session; an outbox is a SQL transport"
        raise ConfigurationError(message)
    return found


def _marked_in(thing: object) -> list[object]:
    """Return what is marked in *thing*: a module, the name of one, ``module:name``, or itself."""
    if isinstance(thing, str):
        module_name, _, name = thing.partition(":")
        try:
            module = importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            if error.name is None or not (module_name + ".").startswith(error.name + "."):
                raise
            message = f'listeners: there is no module "{module_name}"; it is imported as Python would from the configuration\'s folder'
            raise ConfigurationError(message) from error
        if not name:
            return _marked_in(module)
        if not hasattr(module, name):
            message = f'listeners: "{module_name}" has no "{name}"'
            raise ConfigurationError(message)
        return _marked_in(getattr(module, name))
    if isinstance(thing, ModuleType):
        inside = (thing.__name__, f"{thing.__name__}.")
        found = [
            each
            for each in vars(thing).values()
            if callable(each) and marks_of(each) and f"{getattr(each, '__module__', '')}.".startswith(inside[1])
        ]
        unique = list({id(each): each for each in found}.values())
        if not unique:
            message = (
                f'listeners: the module "{thing.__name__}" has no listener; put @relevo.listener(…) above a function'
            )
            raise ConfigurationError(message)
        return unique
    return [thing]
