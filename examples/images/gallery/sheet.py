"""The contact sheet: one HTML page in the folder of its images, without scripts and without a server."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

import attrs

from gallery.diary import Run
from gallery.models import Image, Rating
from gallery.store import store

NAME = "contact-sheet.html"
_STYLE = Path(__file__).with_name("sheet.css")


@attrs.frozen(kw_only=True)
class Dead:
    """A photograph whose event became a dead letter."""

    filename: str
    ref: str
    where: str
    reason: str
    error: str


@attrs.frozen(kw_only=True)
class Page:
    """The content of the sheet."""

    title: str
    transport: str
    deferred: float
    """Seconds that a user waited for an upload, the median."""

    inline: float
    """The same with all listeners called before the answer."""

    images: Sequence[Image]
    runs: Sequence[Run]
    dead: Sequence[Dead]


def write(page: Page) -> Path:
    """Write *page* to the gallery's folder; return its path."""
    dead = {each.filename: each for each in page.dead}
    cards = [
        _broken(image, dead[image.filename]) if image.filename in dead else _card(image, page.runs)
        for image in page.images
    ]
    html = f"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(page.title)}</title>
<style>
{_STYLE.read_text("utf-8")}</style>
<header>
<h1>{escape(page.title)}</h1>
<p>{len(page.images)} photographs were uploaded; the thumbnails, the ratings and the feed were made afterwards,
by listeners that the users did not wait for.</p>
{_waiting(page)}
</header>
<main>
{"".join(cards)}</main>
{_timeline(page.runs)}
<footer>
<p>Events through <code>{escape(page.transport)}</code> · photographs in the public domain or CC0:
see <code>photos/LICENSES.md</code></p>
</footer>
</html>
"""
    store.write(NAME, html.encode())
    return store.absolute(NAME)


def _waiting(page: Page) -> str:
    longest = max(page.deferred, page.inline)
    rows = [
        ("deferred", "its event is written, and handled later", page.deferred),
        ("inline", "all its listeners run before the answer", page.inline),
    ]
    bars = "".join(
        f"""<div class="{name}"><dt>{name}<small>{note}</small></dt>
<dd><i style="width:{100 * each / longest:.1f}%"></i><b>{1000 * each:.1f} ms</b></dd></div>
"""
        for name, note, each in rows
    )
    return f'<dl class="waiting" aria-label="What a user waits for an upload, the median">\n{bars}</dl>'


def _card(image: Image, runs: Sequence[Run]) -> str:
    widest = {thumbnail.width: thumbnail.path for thumbnail in image.thumbnails}
    sources = ", ".join(f"{escape(path)} {width}w" for width, path in sorted(widest.items()))
    smallest = escape(widest[min(widest)]) if widest else ""
    links = " ".join(
        f'<a href="{escape(each.path)}" title="{each.width} by {each.height} pixels">{each.size}</a>'
        for each in image.thumbnails
    )
    return f"""<article>
<a class="frame" href="{escape(image.path)}">
<img src="{smallest}" srcset="{sources}" sizes="(max-width: 600px) 90vw, 300px" alt="{escape(image.filename)}"></a>
<h2>{escape(image.filename)}</h2>
{_rating(image.rating) if image.rating else '<p class="note">not rated</p>'}
<p class="facts">thumb {links}{_caption(image, runs)}</p>
</article>
"""


def _rating(rating: Rating) -> str:
    bars = "".join(
        f"<div><dt>{name}</dt><dd><i style='width:{100 * score:.0f}%'></i></dd><b>{100 * score:.0f}</b></div>\n"
        for name, score in (
            ("sharpness", rating.sharpness),
            ("exposure", rating.exposure),
            ("colour", rating.colourfulness),
        )
    )
    stars = f"{rating.stars:g} of 5 stars"
    return f"""<p class="stars" role="img" aria-label="{stars}" title="{stars}" style="--stars:{rating.stars}">★★★★★</p>
<dl class="scores">
{bars}</dl>"""


def _caption(image: Image, runs: Sequence[Run]) -> str:
    notification = image.notification
    if notification is None:
        return ""
    if notification.attempt == 1:
        return " · in the feed · followers notified"
    errors = [run.error for run in runs if run.filename == image.filename and run.error]
    title = escape("; ".join(errors))
    return f' · in the feed <mark title="{title}">followers notified at attempt {notification.attempt}</mark>'


def _broken(image: Image, dead: Dead) -> str:
    return f"""<article class="broken">
<a class="frame" href="{escape(image.path)}"><img src="{escape(image.path)}" alt="{escape(image.filename)}, broken"></a>
<h2>{escape(image.filename)}</h2>
<p class="verdict">{escape(dead.error)}</p>
<p class="facts">dead letter <code>{escape(dead.ref)}</code> in <code>{escape(dead.where)}</code>:
<strong>{escape(dead.reason)}</strong>. All others were handled; it is in the feed, which never opens the file.</p>
</article>
"""


def _timeline(runs: Sequence[Run]) -> str:
    if not runs:
        return ""
    start = min(run.started_at for run in runs)
    span = max(run.started_at + run.seconds for run in runs) - start
    lanes = []
    for name in dict.fromkeys(run.listener for run in runs):
        blocks = "".join(_block(run, start, span) for run in runs if run.listener == name)
        lanes.append(f"<div><dt>{escape(name)}</dt><dd>{blocks}</dd></div>\n")
    return f"""<section>
<h2>What the worker did</h2>
<dl class="lanes">
{"".join(lanes)}</dl>
<p class="facts"><i class="done"></i> done <i class="failed"></i> failed <i class="again"></i> run again, alone:
{len(runs)} runs in {span:.2f} s, and the wait before the retry is the gap</p>
</section>"""


def _block(run: Run, start: float, span: float) -> str:
    kind = "failed" if run.error else "again" if run.attempt > 1 else "done"
    title = f"{run.filename}, attempt {run.attempt}, {1000 * run.seconds:.1f} ms{run.error and ': ' + run.error}"
    left, width = 99 * (run.started_at - start) / span, 99 * run.seconds / span  # 1 % is for the least width
    return f'<i class="{kind}" title="{escape(title)}" style="left:{left:.2f}%;width:{width:.2f}%"></i>'
