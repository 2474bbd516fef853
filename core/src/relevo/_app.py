"""The application: its transports, routes, listeners and subjects together, and how they are got from configuration."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, Unpack

import attrs

from relevo._call import Terms
from relevo._caller import Caller
from relevo._clock import Clock, Duration, Moment, SystemClock, seconds
from relevo._consequence import Consequences
from relevo._context import within
from relevo._decision import PATIENCE
from relevo._delivery import Delivery, Release
from relevo._dispatcher import (
    Dispatched,
    Dispatcher,
    LocalDispatcher,
    Packer,
    Parcel,
    check_claims,
    refuse_delay,
    sent,
)
from relevo._envelope import DEFAULT_QUEUE, Envelope, Urgency
from relevo._event import name_of
from relevo._executor import Executor, InlineExecutor
from relevo._hook import Hooks
from relevo._identity import IdFactory, uuid7
from relevo._listener import Listener, ListenerTable
from relevo._progress import revived
from relevo._relay import RelayExecutor, outbox_queue
from relevo._retry import Retry
from relevo._route import NOW, Routes, Target, parsed_target
from relevo._runner import RunOptions
from relevo._sending import Batch, by_transport, carried, check_without_packing, enlist, send_batches
from relevo._signing import Signing
from relevo._start import check_listeners, check_queues, check_routes, check_transports, fan_out, several
from relevo._subject import SubjectType, SubjectTypes
from relevo._transport import BoundSender, DeadLetterEntry, Transport
from relevo._worker import LEASE, Worker
from relevo.errors import ConfigurationError, RouteNotFoundError, SessionError, did_you_mean, shown

if TYPE_CHECKING:
    from pathlib import Path

    from relevo._config import Config
    from relevo.testing import AppTesting


_SHORTEST_LEASE = 1.0
"""Seconds; leases are renewed every third of theirs, by a thread that wakes every quarter of a second."""


@attrs.frozen(kw_only=True)
class _Ready:
    """An event that can be sent: all about it is checked, and nothing is written yet."""

    event: object
    parcel: Parcel | None
    groups: Mapping[str, Sequence[Target]]
    at_once: Sequence[Listener]
    told: Dispatched


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
        signing: Signing | str | Sequence[str] | None = None,
        retries: Mapping[str, Retry | int] | None = None,
        setup: str = "auto",
        patience: Duration = PATIENCE,
        lease: Duration = LEASE,
        clock: Clock | None = None,
        ids: IdFactory = uuid7,
        chance: Callable[[], float] | None = None,
    ):
        super().__init__(ListenerTable())
        self.transports = dict(transports)
        self.outboxes = dict(outboxes or {})
        self.routes = Routes(routes)
        self.source = source
        self.hooks = Hooks(several(plugins, "plugins"))
        self.subjects = SubjectTypes(subjects)
        self.clock: Clock = clock or SystemClock()
        self.config: Config | None = None
        self._patience = seconds(patience, what="patience")
        self._lease = seconds(lease, what="lease")
        if self._lease < _SHORTEST_LEASE:
            raise ConfigurationError(f"lease is {self._lease} s, {_SHORTEST_LEASE} s is the least that can be renewed")
        self._auto = setup == "auto"
        self._chance = chance or _random
        self._unloaded = list(several(listeners, "listeners"))
        self._local = LocalDispatcher(self._table, subjects=self.subjects)
        self._packer = Packer(source, self.clock, ids, self.subjects, self.hooks)
        self.signing = signing if signing is None or isinstance(signing, Signing) else Signing(signing)
        self._notice: Callable[[object, Dispatched], None] | None = None
        self.retries = {
            parsed_target(queue, where="retries"): Retry(retry) if isinstance(retry, int) else retry
            for queue, retry in (retries or {}).items()
        }
        self._ready: set[str] = set()
        self._loading = threading.RLock()
        if setup not in ("auto", "explicit"):
            raise ConfigurationError(f'setup: expected "auto" or "explicit", got {shown(setup)}')
        check_transports(self.transports, self.outboxes)
        check_routes(self.routes, self.transports, self.retries, self._joins_sessions)

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
        signing = config.signing
        app = cls(
            transports=transports,
            routes=config.routes or {"*": next(iter(transports))},
            listeners=config.listeners,
            source=config.source,
            outboxes=outboxes,
            plugins=[imported(name, where="plugins") for name in config.plugins],
            signing=Signing(signing.keys, required=signing.required) if signing else None,
            retries=config.retries,
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
        at: Moment | None = None,
        urgency: Urgency = "normal",
        ordering_key: str | None = None,
        expires: Moment | None = None,
    ) -> Dispatched:
        """
        Send *event* where its route says; without a session it is safe when this returns.

        Where the route says ``now``, listeners are called before this returns, inside whatever transaction the
        caller is in: that is in order, more urgent than anything, and before every expiry.

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

    def dispatch_many(self, events: Iterable[object], **terms: Unpack[Terms]) -> list[Dispatched]:
        session = terms.get("session")
        ready = [self._checked(event, terms) for event in events]
        self._send(ready, session)
        return [each.told for each in ready]

    def _checked(self, event: object, terms: Terms, *, made_id: Callable[[bytes], str] | None = None) -> _Ready:
        """Return *event* ready to be sent, after whatever there is to be said against that."""
        name = name_of(event)
        targets = self.routes.targets(name)
        groups = by_transport(targets)
        at_once: Sequence[Listener] = ()
        if any(target.transport == NOW for target in targets):
            refuse_delay(name, terms)
            first = NOW if targets[0].transport == NOW else ""
            at_once = self.listeners.in_queue(name, NOW, first)  # imports modules: before anything is sent
        if len(groups) > 1 and terms.get("session") is None:
            raise fan_out(name, groups)
        parcel = None
        if groups or self._notice is not None:
            parcel = self._packer.pack(event, terms, made_id=made_id)
            if self.signing is not None:
                parcel = attrs.evolve(parcel, make=self.signing.making(parcel.make))
            for transport in groups:
                check_claims(self.transports[transport], parcel)
        else:
            check_without_packing(name, terms, now=self.clock.now())
        told = Dispatched(id=parcel.id if parcel and groups else "", targets=targets)
        return _Ready(event=event, parcel=parcel, groups=groups, at_once=at_once, told=told)

    def _send(self, ready: Sequence[_Ready], session: Any) -> None:
        """Send, or enlist with *session*, what is ready, and call the listeners that hear it now."""
        entries = [(each.parcel, each.groups) for each in ready if each.parcel]
        if session is not None:
            enlist(entries, lambda transport: self._bound(transport, session))
        elif entries:
            send_batches(entries, self._send_batch)
        for each in ready:
            if self._notice is not None:
                self._notice(each.event, each.told)
            if each.at_once:
                around = carried(each.event, self.hooks, each.told.id)
                with within(around):
                    outgoing = Consequences(self._checked, self._send, session)
                    self._local.call(each.event, each.at_once, outgoing=outgoing)

    def _send_batch(self, batch: Batch) -> None:
        sent(self._prepared(batch.transport), batch.envelopes, delay=batch.wait, hooks=self.hooks)

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

            executor: Where listeners run; in the worker's own thread if unsaid.

            patient: Wait for a server that is down.

            listeners: Whom to call; those of the application if unsaid.

        Raises:
            ConfigurationError: A listener is bound to a queue that its event is not routed to, nothing is
                routed to a queue of the options, the transport does not claim delays, or an event has more
                listeners in a queue than a state can keep.
        """
        options = options or RunOptions()
        transport = self.transport(options.transport)
        queues = options.queues or self.queues(transport.name)
        listeners = self.listeners if listeners is None else listeners
        first_queue = self._first_queue_on(transport.name)
        check_listeners(listeners, self.routes)
        check_queues(listeners, self.routes, transport, queues, first_queue)
        checkpoint: Callable[[Delivery, bytes], None] | None = None
        if transport.capabilities.checkpoint:
            checkpoint = transport.checkpoint
        if checkpoint is not None and self.signing is not None:
            checkpoint = self.signing.keeping(checkpoint)
        caller = Caller(
            listeners=listeners,
            first_queue=first_queue,
            subjects=self.subjects,
            clock=self.clock,
            chance=self._chance,
            checkpoint=checkpoint,
            hooks=self.hooks,
            queue_retry=lambda queue: self.retries.get(Target(transport.name, queue)),
            patience=self._patience,
            outgoing=Consequences(self._checked, self._send, repeats=True),
        )
        return Worker(
            transport=transport,
            handle=caller.outcome if self.signing is None else self.signing.verifying(caller.outcome),
            queues=queues,
            clock=self.clock,
            chance=self._chance,
            options=options,
            executor=executor or InlineExecutor(),
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
            transport=outbox,
            handle=lambda _: Release(),
            queues=[outbox_queue(name)],
            clock=self.clock,
            chance=self._chance,
            options=options or RunOptions(),
            executor=RelayExecutor(self.transports[name], clock=self.clock, patience=self._patience),
            lease=self._lease,
            patient=patient,
        )

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

        Listeners that are registered meanwhile are taken out again, and those that were taken out are put back.

        Args:
            transports: For every one of this application, by the same names.

            outboxes: For every outbox, by the name of its transport.

            clock: Where the time comes from meanwhile.

            chance: Returns the random numbers meanwhile; the former if unsaid.

            notice: Told of every event that was dispatched, when it was sent or enlisted, before the listeners that
                hear it now are called. Where somebody is, also what is only called at once must have a faithful form.
        """
        before = self.transports, self.outboxes, self.clock, self._packer, self._ready, self._chance, self._notice
        listeners = tuple(self.listeners)
        self.transports, self.outboxes, self.clock = dict(transports), dict(outboxes), clock
        self._packer, self._ready = attrs.evolve(self._packer, clock=clock), set()
        self._chance, self._notice = chance or self._chance, notice
        try:
            yield
        finally:
            self.transports, self.outboxes, self.clock, self._packer, self._ready, self._chance, self._notice = before
            for each in set(self._table).difference(listeners):
                self._table.remove(each)
            for each in listeners:
                if each not in self._table.of(each.event_name):
                    self._table.add(each.function, each.mark)

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


def _random() -> float:
    import random  # noqa: PLC0415 - it takes as long as a module of relevo's own, and only waits need it

    return random.random()  # noqa: S311 - it is no secret
