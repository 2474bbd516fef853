"""The page "Harden a deployment" and ``relevo check --strict`` have the same points."""

from __future__ import annotations

import re

from relevo.cli._hardening import PAGE, POINTS
from relevo.cli._unseen import unseen

from .workspace import ROOT


def test_the_page_has_the_points_of_the_command_in_the_same_order() -> None:
    headings = re.findall(r"^\((.+)\)=\n## (\d+)\. \S", ROOT.joinpath(PAGE).read_text(encoding="utf-8"), re.MULTILINE)

    assert headings == [(point.anchor, str(number)) for number, point in enumerate(POINTS, start=1)]


def test_every_numbered_heading_is_a_point() -> None:
    text = ROOT.joinpath(PAGE).read_text(encoding="utf-8")

    assert len(re.findall(r"^## ", text, re.MULTILINE)) == len(POINTS)


def test_the_page_quotes_the_warning_about_what_is_made_in_code() -> None:
    assert unseen(["NAME"])[0] in ROOT.joinpath(PAGE).read_text(encoding="utf-8")
