"""
relevo: events that are dispatched now and handled later.

A dispatcher takes an :class:`Event` and calls its listeners at once, or sends it in an :class:`Envelope` to a
:class:`Transport`. From there a :class:`Worker` receives it as a :class:`Delivery`, calls the listeners and settles
it; a :class:`Runner` hosts the worker.
"""

TYPE_CHECKING = False
"""As in ``typing``, which is not imported: ``python -m relevo`` would search the working directory for it first."""

if TYPE_CHECKING:
    from relevo._public import *  # noqa: F403 - the public names, for type checkers
    from relevo._public import __all__ as __all__
else:

    def __getattr__(name: str) -> object:
        """Return a public name; all are imported at the first use, since the command line's help needs none."""
        if name.startswith("_") and name != "__all__":
            raise AttributeError(f"module 'relevo' has no attribute {name!r}")
        from relevo import _public  # noqa: PLC0415 - the purpose of this function

        globals().update({each: getattr(_public, each) for each in _public.__all__}, __all__=_public.__all__)
        if name not in globals():
            import sys  # noqa: PLC0415 - only an error needs it

            from relevo._synonym import attribute_answer  # noqa: PLC0415 - as above

            answer = attribute_answer("relevo", name)
            caller = sys._getframe(1).f_code.co_name  # noqa: SLF001 - no other way to know
            if answer and caller == "_handle_fromlist":  # of "from relevo import task", which drops other errors
                raise ImportError(answer, name="relevo")
            raise AttributeError(answer or f"module 'relevo' has no attribute {name!r}")
        return globals()[name]

    def __dir__() -> list[str]:
        """Return all names, including the public ones that are not imported yet."""
        return sorted({*globals(), *__getattr__("__all__")} - {"TYPE_CHECKING"})
