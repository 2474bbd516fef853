"""Which dead letter a ref on the command line means, on each kind of transport."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest

from relevo import DeadLetter, Envelope
from relevo.cli._ref import named
from relevo_memory import MemoryTransport

from .shop import Shop, lines, opened


@pytest.fixture(name="shop")
def _shop(tmp_path: Path) -> Shop:
    """Return a shop with the dead letters 1 to 12 of one queue, of which 1 is gone."""
    shop = opened(tmp_path)
    shop.write("bad.jsonl", '{"bad": true, "image_id": 1}\n' * 12)
    shop.run("dispatch image.created --lines bad.jsonl")
    shop.run("drain")
    assert shop.run("dead discard 1 --yes").stdout == "1 discarded\n"
    return shop


def refs(shop: Shop) -> list[str]:
    return [row["ref"] for row in json.loads(shop.run("dead list --json").stdout)]


@pytest.mark.lengthy("runs commands")
@pytest.mark.parametrize("command", ["show", "revive", "discard --yes"])
@pytest.mark.parametrize("ref", ["1", "01", "0"])
def test_a_number_is_never_the_beginning_of_another_number(shop: Shop, command: str, ref: str) -> None:
    before = refs(shop)

    done = shop.run(f"dead {command} {ref}")

    assert (done.returncode, lines(done)) == (1, [f"relevo: there is no dead letter '{ref}'; see relevo dead list"])
    assert refs(shop) == before


@pytest.mark.lengthy("runs commands")
def test_a_number_means_the_dead_letter_that_has_it_though_others_begin_with_it(shop: Shop) -> None:
    shop.run("dispatch image.created '{\"bad\": true}'")
    before = refs(shop)

    done = shop.run("dead discard 2 12 --yes")

    assert (done.returncode, done.stdout) == (0, "2 discarded\n")
    assert [ref for ref in before if ref not in refs(shop)] == ["2@media", "12@media"]


@pytest.mark.lengthy("runs commands")
@pytest.mark.parametrize("command", ["revive", "discard --yes"])
def test_what_changes_a_dead_letter_takes_no_other_beginning_of_its_ref(shop: Shop, command: str) -> None:
    before = refs(shop)

    done = shop.run(f"dead {command} 2@med")

    (line,) = lines(done)
    assert done.returncode == 1
    assert "there is no dead letter '2@med', only the beginning of others; pass the whole ref" in line
    assert refs(shop) == before
    assert json.loads(shop.run("dead show 2@med --json").stdout)["ref"] == "2@media"


@pytest.fixture(name="memory")
def _memory() -> Iterator[MemoryTransport]:
    with MemoryTransport() as transport:
        transport.send([Envelope(id=str(n), source="shop", name="a.b", queue="q", body=b"{}") for n in range(12)])
        held = transport.receive(["q"], limit=12, lease=60, wait=0)
        transport.settle([(each, DeadLetter(reason="expired")) for each in held])
        yield transport


def test_a_number_means_the_same_in_memory(memory: MemoryTransport) -> None:
    first, *others = memory.dead_letters(["q"])
    number = first.ref.partition("@")[0]
    assert any(entry.ref.startswith(number) for entry in others)

    there, _ = named([(memory, first), (memory, others[0])], [number], by_beginning=True)
    gone, unknown = named([(memory, entry) for entry in others], [number], by_beginning=True)

    assert [entry for _, entry in there] == [first]
    assert (gone, list(unknown)) == ([], [number])


def test_a_ref_that_two_transports_have_is_not_unique(memory: MemoryTransport) -> None:
    entry = memory.dead_letters(["q"])[0]

    with MemoryTransport() as other:
        number = entry.ref.partition("@")[0]
        chosen, unknown = named([(memory, entry), (other, entry)], [entry.ref, number], by_beginning=False)

    assert chosen == []
    assert "2 dead letters have the ref" in unknown[entry.ref]
    assert "2 dead letters have the number" in unknown[number]


def test_digits_are_the_beginning_of_a_ref_that_has_no_number(memory: MemoryTransport) -> None:
    entry = attrs.evolve(memory.dead_letters(["q"])[0], ref="2026-ab")

    chosen, unknown = named([(memory, entry)], ["2026"], by_beginning=True)

    assert (chosen, unknown) == ([(memory, entry)], {})
