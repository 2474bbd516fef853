"""Find dead letters by their refs, or by a part that is enough of one."""

from __future__ import annotations

from collections.abc import Iterable

import attrs

from relevo._transport.transport import DeadLetterEntry, Transport
from relevo.errors import shown

Found = tuple[Transport, DeadLetterEntry]


@attrs.define
class _Match:
    """The dead letters that match a ref: the first and their number, since all of them may not fit into memory."""

    first: Found | None = None
    count: int = 0

    def add(self, found: Found) -> None:
        """Count *found*."""
        self.first = self.first or found
        self.count += 1


@attrs.define
class _Matches:
    """
    The dead letters that a *ref* may mean, the nearest kind first: the same ref, its number, a longer ref.

    A beginning of a number is another number: of ``4@feed`` and ``42@feed`` the second one is not meant by ``4``, also
    when the first one is gone.
    """

    ref: str
    whole: _Match = attrs.field(factory=_Match)
    numbered: _Match = attrs.field(factory=_Match)
    begun: _Match = attrs.field(factory=_Match)

    def add(self, found: Found) -> None:
        """Count *found* if it matches."""
        ref = found[1].ref
        is_number = self.ref.isascii() and self.ref.isdecimal()
        if ref == self.ref:
            self.whole.add(found)
        elif is_number and ref.startswith(f"{self.ref}@"):
            self.numbered.add(found)
        elif ref.startswith(self.ref) and not (is_number and ref.partition("@")[0].isdecimal()):
            self.begun.add(found)

    def meant(self, *, by_beginning: bool) -> Found | str:
        """Return the dead letter that is meant, or why none is."""
        ref, advice = shown(self.ref), "see relevo dead list"
        for match, several in (
            (self.whole, f"dead letters have the ref {ref}; pass the transport (-t) too"),
            (self.numbered, f"dead letters have the number {ref}; pass the whole ref; {advice}"),
            (self.begun, f"dead letters begin with {ref}; {advice}"),
        ):
            if match is self.begun and match.count and not by_beginning:
                return f"there is no dead letter {ref}, only the beginning of others; pass the whole ref; {advice}"
            if match.first is not None:
                return match.first if match.count == 1 else f"{match.count} {several}"
        return f"there is no dead letter {ref}; {advice}"


def named(letters: Iterable[Found], refs: Iterable[str], *, by_beginning: bool) -> tuple[list[Found], dict[str, str]]:
    """
    Return those of *letters* that *refs* name, each once.

    Args:
        letters: All dead letters.

        refs: Whole refs, or the numbers before their ``@``.

        by_beginning: Whether the beginning of another ref is enough too, if it is unique.

    Returns:
        The dead letters, and a message for each ref that names none or several.
    """
    all_matches = [_Matches(ref) for ref in dict.fromkeys(refs)]
    for found in letters:
        for matches in all_matches:
            matches.add(found)
    chosen: dict[str, Found] = {}
    unknown: dict[str, str] = {}
    for matches in all_matches:
        meant = matches.meant(by_beginning=by_beginning)
        if isinstance(meant, str):
            unknown[matches.ref] = meant
        else:
            chosen[meant[1].ref] = meant
    return list(chosen.values()), unknown
