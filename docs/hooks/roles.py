"""Docstrings name other objects as ``:class:`~path.Name` ``; on the site that is a link where the object is there."""

import re

import griffe

ROLE = re.compile(r':(?:class|func|meth|mod|attr|data):`(~?)\.?([\w.]+)`')


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
    path = match[2]
    name = path.rpartition('.')[2] if match[1] else path
    target = find(path, at if at.is_module else at.module)
    return f'<autoref optional identifier="{target}"><code>{name}</code></autoref>'


def find(path: str, module: griffe.Module) -> str:
    """The place of an object that a docstring of the module names, whole or as it is seen from there."""
    while module is not None:
        for name in (path, f'{module.path}.{path}'):
            try:
                found = module.modules_collection[name]
                if found.is_module and path.rpartition('.')[2] in found.members:  # a function in a file of its name
                    found = found.members[path.rpartition('.')[2]]
                return found.canonical_path
            except KeyError:
                pass
        module = module.parent
    return path
