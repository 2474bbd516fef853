"""The application: transports, routes, listeners and subjects, from arguments or from configuration."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from os import PathLike
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar, Unpack

import attrs

from relevo._app.check import NoticingSubjects, check_listening
from relevo._app.parts import LoadedFrom, Parts
from relevo._app.registry import Registry
from relevo._app.stores import Stores, raise_together
from relevo._app.workers import WorkerFactory
from relevo._clock import Clock, Duration, Moment, SystemClock, seconds
from relevo._config import argument
from relevo._config.check import (
    checked_lease,
    fan_out_problems,
    outbox_problems,
    retry_problems,
    target_problems,
    transport_problems,
)
from relevo._dispatch.dispatcher import Dispatched, Dispatcher
from relevo._dispatch.follow_up import FollowUps
from relevo._dispatch.in_process import LocalDispatcher
from relevo._dispatch.packer import Packer
from relevo._dispatch.sender import Sender
from relevo._event.codec import checked_source
from relevo._event.subject import SubjectType, SubjectTypes
from relevo._hook import Hooks, observed
from relevo._identity import IdFactory, uuid7
from relevo._listener.call import DispatchOptions
from relevo._listener.listener import ListenerTable
from relevo._problem import Problems
from relevo._retry import Retry
from relevo._transport.delivery import Delivery
from relevo._transport.envelope import Envelope, Urgency
from relevo._transport.route import Routes, Target
from relevo._transport.transport import DeadLetterEntry, Transport
from relevo._worker.decision import PATIENCE
from relevo._worker.execution import Execution
from relevo._worker.executor import Executor, Handle
from relevo._worker.progress import revived
from relevo._worker.run import RunOptions
from relevo._worker.signing import Signing
from relevo._worker.worker import LEASE, Worker
from relevo.errors import ConfigurationError, did_you_mean

if TYPE_CHECKING:
    from pathlib import Path

    from relevo._config.schema import Config
    from relevo._execution.pipe import Hello
    from relevo.testing import AppTesting


T = TypeVar("T")
P = TypeVar("P")

_NO_OPTIONS: DispatchOptions = {}


class _Part(Generic[P]):
    """A part of an application, as an attribute that can only be read."""

    def __set_name__(self, _: type, name: str) -> None:
        self._name = name

    def __get__(self, app: App, _: type) -> P:
        part: P = getattr(app.parts, self._name)
        return part


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

        loaded_from: Where it was found; what finds applications says this.

    Raises:
        ConfigurationError: An argument is invalid, or the arguments conflict; it reports all problems at once.
    """

    transports = _Part[Mapping[str, Transport]]()
    outboxes = _Part[Mapping[str, Transport]]()
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
    loaded_from = _Part[LoadedFrom]()

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
        loaded_from: LoadedFrom | None = None,
    ):
        problems = Problems()
        tried = problems.tried
        parts = Parts(
            transports=tried("transports", argument.mapping, transports, "transports", instead={}),
            outboxes=tried("outboxes", argument.mapping, outboxes or {}, "outboxes", instead={}),
            routes=argument.routes(routes, problems),
            retries=argument.retries(retries, problems),
            source=tried("source", checked_source, source),
            hooks=tried("plugins", argument.plugins, plugins),
            subjects=tried("subjects", lambda: NoticingSubjects(argument.subject_types(subjects))),
            signing=tried("signing", argument.signing, signing),
            execution=tried("execution", argument.execution, execution),
            registry=Registry(tried("listeners", argument.several, listeners, "listeners", instead=())),
            clock=tried("clock", argument.clock, clock),
            ids=tried("ids", argument.function, ids, "ids"),
            chance=tried("chance", argument.function, chance or _random, "chance"),
            creates=tried("setup", argument.setup_is_auto, setup),
            patience=tried("patience", lambda: seconds(patience, what="patience")),
            lease=tried("lease", checked_lease, lease),
            lock=tried("lock", argument.path, lock, "lock"),
            deploy=tried("deploy", argument.path, deploy, "deploy"),
            loaded_from=loaded_from or LoadedFrom(),
        )
        _check_parts(parts, problems)
        super().__init__(parts.registry.known)
        for name, transport in parts.transports.items():
            transport.name = name
        self._assembly = _Assembly.of(parts)

    @property
    def parts(self) -> Parts:
        """What it is made of."""
        return self._assembly.parts

    @property
    def config(self) -> Config | None:
        """The configuration that it was made of, if it was."""
        return self.parts.loaded_from.config

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
        from relevo._config.opening import opened  # noqa: PLC0415 - whoever puts an application together does without

        clock = clock or SystemClock()
        parts = opened(config, clock=clock)
        return cls(
            transports=parts.transports,
            routes=config.routes or {"*": next(iter(parts.transports))},
            listeners=config.listeners,
            source=config.source,
            outboxes=parts.outboxes,
            plugins=parts.plugins,
            signing=config.signing,
            retries=config.retries,
            setup=config.setup,
            patience=config.patience,
            lease=config.lease,
            execution=config.chosen_execution(),
            lock=config.lock,
            deploy=config.deploy,
            clock=clock,
            loaded_from=LoadedFrom(config=config),
        )

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
        self.parts.registry.add((thing, *others))
        return thing

    def unlisten(self, *things: object) -> None:
        """
        Take out what :meth:`listen` registered: functions, subscribers, modules, or names of modules.

        What is not there is passed over.

        Raises:
            ConfigurationError: There is no such module, or one of *things* holds no listener.
        """
        self.parts.registry.remove(things)

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
        return self.parts.registry.table

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
        options = _NO_OPTIONS
        if delay or at is not None or urgency != "normal" or ordering_key is not None or expires is not None:
            options = DispatchOptions(delay=delay, at=at, urgency=urgency, ordering_key=ordering_key, expires=expires)
        return self._assembly.sender.dispatch((event,), options, session)[0]

    def dispatch_many(self, events: Iterable[object], **options: Unpack[DispatchOptions]) -> list[Dispatched]:
        session = options.pop("session", None)
        return self._assembly.sender.dispatch(events, options, session)

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
        return self.parts.queues(transport)

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
        return WorkerFactory(self.parts, outgoing=FollowUps(self._assembly.sender), recipe=self._recipe)

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
        created, errors = self._assembly.stores.set_up_all(dry_run=dry_run)
        raise_together(errors)
        return created

    def prepare(self, name: str) -> None:
        """
        Create what is missing for the transport *name* and its outbox, once, if ``setup`` is ``auto``.

        If one of them fails, the other is made ready all the same; the errors are those of :meth:`setup`.
        """
        self._assembly.stores.prepare(name)

    def testing(self, *, now: Moment | None = None) -> AppTesting:
        """Return what a test holds this application by: ``with app.testing() as t:``; the clock stands at *now*."""
        from relevo.testing import AppTesting  # noqa: PLC0415 - production does without

        return AppTesting(self, now=now)

    @contextmanager
    def using(self, parts: Parts, *, sender: Callable[..., Sender] = Sender) -> Iterator[None]:
        """
        Work with other *parts* while the block runs, then with the former again.

        Args:
            parts: Usually :attr:`parts`, evolved.

            sender: Makes what sends events of its arguments, as the class does.
        """
        former, self._assembly = self._assembly, _Assembly.of(parts, sender)
        try:
            yield
        finally:
            self._assembly = former

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


@attrs.frozen
class _Assembly:
    """The parts of an application, and what works with them."""

    parts: Parts
    stores: Stores
    sender: Sender

    @classmethod
    def of(cls, parts: Parts, make: Callable[..., Sender] = Sender) -> Self:
        """Assemble *parts*; *make* makes the sender."""
        stores = Stores(parts)
        sign = None if parts.signing is None else parts.signing.signed
        sender = make(
            routes=parts.routes,
            destinations=stores,
            packer=Packer(parts.source, parts.clock, parts.ids, parts.subjects, parts.hooks, sign),
            listeners=parts.registry,
            local=LocalDispatcher(parts.registry.known, subjects=parts.subjects),
            hooks=parts.hooks,
            clock=parts.clock,
        )
        return cls(parts, stores, sender)


def _check_parts(parts: Parts, problems: Problems) -> None:
    """Refuse *parts* that do not fit together, with the *problems* of each by itself; all are reported at once."""
    known = not problems.concern("transports")
    problems.extend(transport_problems(parts.transports))
    if known:
        problems.extend(outbox_problems(parts.outboxes, parts.transports))
        routes = None if problems.concern("routes") else parts.routes  # all that there are, or it is not known
        problems.extend(target_problems(parts.routes, parts.transports))
        problems.extend(retry_problems({str(each): each for each in parts.retries}, routes, parts.transports))
    if not problems.concern("transports"):
        problems.extend(fan_out_problems(parts.routes, {name: parts.joins_sessions(name) for name in parts.transports}))
    problems.raise_any()


def _random() -> float:
    import random  # noqa: PLC0415 - it takes as long as a module of relevo's own, and only waits need it

    return random.random()  # noqa: S311 - it is no secret
