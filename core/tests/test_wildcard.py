"""Patterns of paths: they match what :mod:`glob` finds, and stand for a limited number of names."""

from __future__ import annotations

import glob
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from relevo.cli._wildcard import Search, TooFarError

NAMES = ["a", "b", "ab", ".a", "[a]"]
PARTS = st.sampled_from([*NAMES, "..", "*", "**", "?", "[ab]", "[!a]", "[a", "*b", ".*", "[.]a", "[[]a]", "a*b", "x"])


@pytest.fixture(name="tree", scope="module")
def _tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tree = tmp_path_factory.mktemp("alone").joinpath(*"1234")  # as deep as a pattern climbs
    for outer in NAMES[:4]:
        for inner in NAMES:
            (tree / outer / inner).mkdir(parents=True)
            (tree / outer / inner / "b").touch()
    (tree / "[a]").touch()
    return tree


@given(st.lists(PARTS, min_size=1, max_size=4))
def test_what_matches_is_what_glob_finds(tree: Path, parts: list[str]) -> None:
    pattern = tree.joinpath(*parts)

    found = Search(10_000).paths(pattern)

    assert found == sorted(map(Path, glob.glob(str(pattern))))  # noqa: PTH207 - the model


def test_a_path_without_wildcards_is_found_if_it_exists(tree: Path) -> None:
    assert Search(100).paths(tree / "a" / "b") == [tree / "a" / "b"]
    assert Search(100).paths(tree / "a" / "x") == []
    assert Search(100).paths(tree / "a\0" / "*") == []


def test_a_search_ends_after_a_number_of_names_whatever_matches(tree: Path) -> None:
    search = Search(60)

    search.paths(tree / "a" / "*")
    with pytest.raises(TooFarError, match="more than 60 files and folders would be looked at"):
        search.paths(tree / "*" / "*" / "*" / "nothing")


def test_as_many_parts_as_a_line_can_have_are_followed(tree: Path) -> None:
    with pytest.raises(TooFarError):
        Search(100).paths(tree.joinpath(*["*", ".."] * 2000))


def test_a_name_with_wildcards_has_a_limited_length(tree: Path) -> None:
    with pytest.raises(TooFarError, match="expected names of at most 255 characters"):
        Search(100).paths(tree / ("[" * 9000))
