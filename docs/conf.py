"""How the documentation is built: Sphinx, MyST and furo; no network is needed."""

from __future__ import annotations

import sys
from importlib.metadata import version as installed
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

project = "relevo"
author = "The relevo developers"
project_copyright = f"2026, {author}"  # as in LICENSE; the footer of each page
version = release = installed("relevo")

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "_sphinx.command_line",
    "_sphinx.hooks",
    "_sphinx.life",
    "_sphinx.packages",
    "_sphinx.promises",
    "_sphinx.public_names",
]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"relevo {version}"
html_show_sphinx = False
html_copy_source = False

# --- texts: Markdown ------------------------------------------------------------------------------

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
myst_fence_as_directive = ["mermaid"]

# --- the reference: out of the docstrings ---------------------------------------------------------

autodoc_default_options = {"members": True, "undoc-members": True, "member-order": "bysource"}
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_custom_sections = ["Promises"]

# --- what is not linked, and why; everything else that leads nowhere is an error --------------------

nitpicky = True
_OTHERS = "collections.abc contextlib datetime hypothesis logging msgspec os pathlib sqlalchemy ssl types typing"
nitpick_ignore_regex = [
    # Types of others: resolving them would ask their sites at every build.
    (r"py:.*", rf"({_OTHERS.replace(' ', '|')})\..*"),
    (
        r"py:class",
        r"Path|AbstractContextManager|MigrationContext|MigrationScript",
    ),  # the same, where only the type checker imports them
    (r"py:class", r"ListenerOptions|DeferredOptions"),  # likewise; listener() and deferred() say what they are
    (r"py:class", r"P|R|~P|~R"),  # the parameters and the result of a deferred function
    # An attribute for those who read the code.
    (r"py:attr", r"changed"),
]
