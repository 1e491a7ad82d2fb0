"""Griffe extension: Sphinx roles become links, ``Example:`` becomes examples."""

import re

import griffe

from hook.apis import _MODULES as LAZY

_ROLE = re.compile(r":(?:class|func|meth|data|mod|attr):`~?([^`]+)`")
_LITERAL = re.compile(r"``([^`]+)``")
_BLOCK = re.compile(r"::$", re.MULTILINE)
_EXAMPLE = re.compile(r"^Example:$(?=\n\s+>>>)", re.MULTILINE)


class DocstringRoles(griffe.Extension):
    """Rewrite the docstrings of a package for Markdown."""

    def on_object(self, *, obj: griffe.Object, **kwargs: object) -> None:
        """Rewrite one docstring."""
        if obj.docstring is None:
            return
        text = _ROLE.sub(lambda role: _link(role[1], obj), obj.docstring.value)
        text = _LITERAL.sub(r"`\1`", text)
        text = _BLOCK.sub(":", text)
        obj.docstring.value = _EXAMPLE.sub("Examples:", text)


def _link(name: str, obj: griffe.Object) -> str:
    """Link a name that the site documents, else format it as code."""
    shown = name.removeprefix("hook.")
    return f'<autoref optional identifier="{_full_name(name, obj)}"><code>{shown}</code></autoref>'


def _full_name(name: str, obj: griffe.Object) -> str:
    """Return the path under which a name is documented."""
    package, _, last = name.rpartition(".")
    if package == "hook.apis" and last in LAZY:
        return f"{LAZY[last]}.{last}"
    if name.startswith("hook."):
        return name
    scope = obj
    while scope is not None:
        if (member := scope.members.get(name)) is not None:
            return member.target_path if member.is_alias else f"{scope.path}.{name}"
        scope = scope.parent
    return name
