"""
Show public names under their public module.

The public names of ``relevo`` are defined in private modules. Sphinx looks for the docstring of a variable in the
module where it finds the name, and names types after the module that defines them. This extension leads both to
the public name. A name that is not public is shown without a link.
"""

from __future__ import annotations

import ast
import builtins
import importlib
import pkgutil
import re
import sys
from functools import cache
from typing import Any

import attrs
from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.pycode import ModuleAnalyzer
from sphinx.util.logging import getLogger

PACKAGES = ("relevo", "relevo_memory", "relevo_sql", "relevo_amqp", "relevo_conformance")
_log = getLogger(__name__)
_COLON = "\ue000"
_CONSTANT = re.compile(r"= ([A-Z][A-Z_]+)\b")


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the extension."""
    app.connect("builder-inited", _adopt_texts_of_data)
    app.connect("builder-inited", _forget_converters)
    app.connect("doctree-read", _keep_builtins_apart)
    app.connect("missing-reference", _led_to_the_public_name)
    app.connect("autodoc-process-docstring", _hide_colons, priority=400)  # before napoleon
    app.connect("autodoc-process-docstring", _show_colons, priority=600)  # after it
    app.connect("autodoc-process-signature", _show_defaults)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _adopt_texts_of_data(_: Sphinx) -> None:
    """Make the docstrings of a package's variables, which are in its private modules, known in the package."""
    for package in map(importlib.import_module, PACKAGES):
        own = ModuleAnalyzer.for_module(package.__name__)
        own.analyze()
        assigned = re.compile(rf"^({'|'.join(map(re.escape, package.__all__))})\b.*=", re.MULTILINE)
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if module.name.endswith("__main__") or module.ispkg:
                continue
            analyzer = ModuleAnalyzer.for_module(module.name)
            if not assigned.search(analyzer.code):  # to analyse every module takes a sixth of the whole build
                continue
            for (scope, name), text in analyzer.find_attr_docs().items():
                if not scope and name in package.__all__:
                    own.attr_docs[scope, name] = text


def _forget_converters(_: Sphinx) -> None:
    """Show the type alone of a field whose annotation has its converter too, as ``Annotated[bool, as_bool]``."""
    for package in map(importlib.import_module, PACKAGES):
        public = (getattr(package, name) for name in package.__all__)
        for cls in (each for each in public if isinstance(each, type)):
            for holder in (cls, vars(cls).get("__init__")):
                fields = getattr(holder, "__annotations__", {})
                for field, text in fields.items():
                    if isinstance(text, str) and text.startswith("Annotated["):
                        subscript: Any = ast.parse(text, mode="eval").body
                        fields[field] = ast.unparse(subscript.slice.elts[0])


def _keep_builtins_apart(_: Sphinx, document: nodes.document) -> None:
    """Resolve the type ``type`` as the builtin, not as a field with this name."""
    for node in document.findall(pending_xref):
        if node.get("refdomain") == "py" and node["reftarget"] in vars(builtins):
            node.attributes.pop("refspecific", None)


def _led_to_the_public_name(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, content: nodes.Element
) -> nodes.Element | None:
    """Resolve ``relevo._transport.delivery.Delivery`` and a bare ``Delivery`` as ``relevo.Delivery``."""
    if node.get("refdomain") != "py" or node["reftarget"] in vars(builtins):
        return None
    target = node["reftarget"]
    package, _, rest = target.partition(".")
    if package in PACKAGES:
        names = [f"{package}.{rest.rpartition('.')[2]}"] if rest.startswith(("_", "errors.")) else []
    else:
        names = [f"{each}.{target}" for each in PACKAGES]
    domain = env.get_domain("py")
    for name in names:
        for kind in (node["reftype"], "obj"):
            found = domain.resolve_xref(env, node.get("refdoc", env.docname), app.builder, kind, name, node, content)
            if found is not None:
                return found
    return content if _is_private(target) else None


@cache
def _is_private(target: str) -> bool:
    """Return whether *target*, a full name or its last part, is defined in a package but not public."""
    package, _, rest = target.partition(".")
    modules = [module for name, module in sys.modules.items() if name.partition(".")[0] in PACKAGES]
    if package in PACKAGES:
        return any(rest.rpartition(".")[2] in vars(module) for module in modules)
    return any(target in vars(module) and module.__name__ not in PACKAGES for module in modules)


def _hide_colons(_: Sphinx, what: str, __: str, ___: object, ____: object, lines: list[str]) -> None:
    """Stop napoleon from taking the beginning of an attribute's sentence, up to a colon, for its type."""
    if what in ("attribute", "data", "property") and lines:
        lines[0] = lines[0].replace(": ", f"{_COLON} ")


def _show_colons(_: Sphinx, __: str, ___: str, ____: object, _____: object, lines: list[str]) -> None:
    lines[:] = [line.replace(_COLON, ":") for line in lines]


def _show_defaults(
    _: Sphinx, what: str, name: str, thing: Any, __: object, signature: str | None, returns: str | None
) -> tuple[str | None, str | None]:
    """Show the value of a named default, and of an attrs class, instead of the expression."""
    if what in ("class", "exception") and signature and attrs.has(thing):
        for field in attrs.fields(thing):
            signature = signature.replace(f"attr_dict['{field.name}'].default", _shown(field.default))
        signature = signature.replace("NOTHING", "...")
    module = sys.modules.get(getattr(thing, "__module__", None) or "")
    if signature:
        signature = signature.replace("~typing.~P", "P")  # the parameters of another function
        signature = _CONSTANT.sub(lambda match: f"= {getattr(module, match[1], match[1])!r}", signature)
        if not _is_python(f"def shown{signature}: ..."):
            _log.warning("the signature of %s cannot be parsed: %s", name, signature)
    return signature, returns


def _shown(default: object) -> str:
    """Return *default* as an expression, since Sphinx shows only a signature of Python with links."""
    if isinstance(default, type):
        return default.__qualname__
    text = repr(default)
    return text if not isinstance(default, attrs.Factory) and _is_python(text) else "..."  # type: ignore[arg-type]


def _is_python(text: str) -> bool:
    try:
        ast.parse(text)
    except SyntaxError:
        return False
    return True
