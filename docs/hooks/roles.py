"""Docstrings name other objects as ``:class:`~path.Name` ``; on the site that is a link where the object is there."""

import re

import griffe

ROLE = re.compile(r':(?:class|func|meth|mod|attr|data):`(~?)([\w.]+)`')


class Roles(griffe.Extension):
    """Of every docstring, before it is rendered."""

    def on_package(self, *, pkg: griffe.Module, **kwargs: object) -> None:
        visit(pkg)


def visit(scope: griffe.Object) -> None:
    for member in [scope, *scope.members.values()]:
        if member.is_alias:
            continue
        if member.docstring:
            member.docstring.value = ROLE.sub(lambda match, at=member: link(match, at), member.docstring.value)
        if member is not scope:
            visit(member)


def link(match: re.Match, at: griffe.Object) -> str:
    path = match[2].lstrip('.')
    name = path.rpartition('.')[2] if match[1] else path
    scope = at if at.is_module else at.module
    target = path if path.startswith('mmseg_invattn.') else f'{scope.path}.{path}'
    try:
        target = scope.modules_collection[target].canonical_path
    except KeyError:
        pass
    return f'<autoref optional identifier="{target}"><code>{name}</code></autoref>'
