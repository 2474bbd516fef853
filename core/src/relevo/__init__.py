"""
relevo: events that are dispatched now and handled later.

An :class:`Event` is given to a dispatcher, which calls listeners at once or puts the event into an
:class:`Envelope` and that on a :class:`Transport`. Out of there it comes as a :class:`Delivery` to a
:class:`Worker`, which calls the listeners and settles it; a :class:`Runner` hosts the worker.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from relevo._public import *  # noqa: F403 - its names, for whoever checks types
    from relevo._public import __all__ as __all__
else:

    def __getattr__(name: str) -> object:
        """Give what is public, and import all of it at the first use: the command line's help does without."""
        if name.startswith("_") and name != "__all__":
            raise AttributeError(f"module 'relevo' has no attribute {name!r}")
        from relevo import _public  # noqa: PLC0415 - that is what this is for

        globals().update({each: getattr(_public, each) for each in _public.__all__}, __all__=_public.__all__)
        if name not in globals():
            raise AttributeError(f"module 'relevo' has no attribute {name!r}")
        return globals()[name]

    def __dir__() -> list[str]:
        """Return what is public too, for whoever looks around."""
        return sorted({*globals(), *__getattr__("__all__")})
