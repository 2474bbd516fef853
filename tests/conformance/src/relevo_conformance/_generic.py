"""A harness for a transport that ships without one."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, get_args, get_type_hints

import attrs
import msgspec

from relevo import Secret, SystemClock, Transport
from relevo.errors import ConfigurationError, shown
from relevo_conformance.fault.proxy import Proxy
from relevo_conformance.harness import Harness

_MOST_KILLED = 50
"""The limit of killed transports that are not closed. A close returns held events, so the scenario must have ended."""


class GenericHarness(Harness):
    """
    Opens a transport from its options, and uses nothing else of it.

    A killed worker is abandoned: its leases run out. If a lease lasts as long as a connection, each worker has its
    own proxy, which cuts the connection. This harness cannot write foreign bytes or break the store; promises that
    need that stay unknown.
    """

    new_clock = SystemClock
    kind: ClassVar[str]
    """The name of the transport."""

    def __init__(self) -> None:
        super().__init__()
        self._proxies: dict[Transport, Proxy] = {}
        self._killed: deque[Transport] = deque()

    def open(self) -> Transport:
        cls = type(self)
        proxy = None
        given: dict[str, str] = dict(cls.options)
        if self._is_connected():
            if "url" not in given:
                raise ConfigurationError(
                    f"{cls.kind} holds leases by its connection; pass its address with --option url=…"
                )
            try:
                proxy = Proxy(given["url"])
            except ValueError as error:
                raise ConfigurationError(f"url: {error}") from None
            given["url"] = proxy.url
        transport = cls.transport.open(converted(cls.transport.Options, given), name=cls.kind, clock=self.clock)
        if proxy is not None:
            self._proxies[transport] = proxy
        return transport

    def kill(self, transport: Transport) -> None:
        proxy = self._proxies.get(transport)
        if proxy is None:
            self._killed.append(transport)
            self._close_killed(_MOST_KILLED)
        else:
            proxy.refuse = True
            proxy.cut()

    def close(self) -> None:
        self._close_killed(0)
        for proxy in self._proxies.values():
            proxy.close()

    def _close_killed(self, most: int) -> None:
        """Close killed transports until *most* are left; an open connection warns when it is garbage-collected."""
        while len(self._killed) > most:
            with suppress(Exception):  # scenarios of close report how it fails
                self._killed.popleft().close()

    def _is_connected(self) -> bool:
        claimed = getattr(type(self).transport, "capabilities", None)
        return getattr(claimed, "lease", "timed") == "connection"


def generic_harness(transport: type[Transport], kind: str) -> type[GenericHarness]:
    """
    Return a harness for *transport* with the name *kind*.

    Raises:
        ConfigurationError: Its options are not those of a transport.
    """
    options: Any = getattr(transport, "Options", None)
    try:
        fields = {field.name: field for field in attrs.fields(options) if field.name != "directory"}
        hints = get_type_hints(options)
    except (TypeError, ValueError, NameError, AttributeError, SyntaxError) as error:
        raise ConfigurationError(
            f"{kind}.Options must be an attrs class whose types can be resolved; got {shown(options)}: {error}"
        ) from error
    takes = {name: _described(field, hints[name]) for name, field in fields.items()}
    members = {
        "transport": transport,
        "kind": kind,
        "takes": MappingProxyType(takes),
        "__doc__": GenericHarness.__doc__,
        "__module__": GenericHarness.__module__,
    }
    return type("GenericHarness", (GenericHarness,), members)


def converted(cls: type, given: Mapping[str, str]) -> Any:
    """
    Return *cls*, an attrs class of options, built from texts.

    Raises:
        ConfigurationError: One of them is invalid.
    """
    hints = get_type_hints(cls)
    required = [field.name for field in attrs.fields(cls) if field.default is attrs.NOTHING and field.init]
    if missing := [name for name in required if name not in given]:
        names = " and ".join(f'"{name}"' for name in missing)
        words = " ".join(f"--option {name}=…" for name in missing)
        raise ConfigurationError(f"{cls.__name__}: expected the option{'s'[: len(missing) - 1]} {names}; pass {words}")
    values: dict[str, Any] = {}
    for name, text in given.items():
        kinds = get_args(hints[name]) or (hints[name],)
        if Secret in kinds:
            values[name] = Secret(text)
        elif Path in kinds:
            values[name] = Path(text)
        else:
            try:
                values[name] = msgspec.convert(text, hints[name], strict=False)
            except msgspec.ValidationError as error:
                raise ConfigurationError(f"{name}: {str(error).replace('E', 'e', 1)}") from None
    try:
        return cls(**values)
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"{cls.__name__}: {error}") from None


def _described(field: attrs.Attribute[Any], kind: Any) -> str:
    wanted = getattr(kind, "__name__", str(kind))
    return wanted if field.default is attrs.NOTHING else f"{wanted}; optional"
