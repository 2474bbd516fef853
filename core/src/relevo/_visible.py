"""Text of unknown origin, escaped for a terminal, a log or a mail, and without passwords."""

from __future__ import annotations

from relevo._secret import masked


def visible(text: str) -> str:
    """
    Return *text* as one line without control characters and passwords.

    Characters that are not printable are escaped as in a Python literal: line breaks and tabs, ESC and other control
    characters, marks that change the direction of text, and lone surrogates.
    """
    return _escaped(masked(text))


def visible_lines(text: str, *, margin: str = "  ") -> str:
    """
    Return *text* with its line breaks, each line as :func:`visible` returns it.

    Args:
        text: The text, such as a traceback; tabs become spaces.

        margin: The beginning of each line, which shows that the line belongs to the text.
    """
    lines = masked(text).expandtabs(4).split("\n")
    return "\n".join(f"{margin}{_escaped(line.removesuffix(chr(13)))}".rstrip(" ") for line in lines)


def _escaped(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)
