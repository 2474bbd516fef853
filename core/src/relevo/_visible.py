"""Text of unknown origin, escaped for a terminal, a log or a mail."""

from __future__ import annotations


def visible(text: str) -> str:
    """
    Return *text* as one line without control characters.

    Characters that are not printable are escaped as in a Python literal: line breaks and tabs, ESC and other control
    characters, marks that change the direction of text, and lone surrogates.
    """
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)


def visible_lines(text: str, *, margin: str = "  ") -> str:
    """
    Return *text* with its line breaks, each line escaped as by :func:`visible`.

    Args:
        text: The text, such as a traceback; tabs become spaces.

        margin: The beginning of each line, which shows that the line belongs to the text.
    """
    lines = text.expandtabs(4).split("\n")
    return "\n".join(f"{margin}{visible(line.removesuffix(chr(13)))}".rstrip(" ") for line in lines)
