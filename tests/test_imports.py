"""Each part of the package imports only from parts below it, also inside functions."""

import ast
import sys
from pathlib import Path

import pytest
from helpers.checkout import ROOT

PACKAGE = ROOT / 'mmseg_invattn'
ORDER = [
    'version',
    'paths',
    'wording',
    'stop_request',
    'choices',
    'compat',
    'ops',
    'layers',
    'models',
    'datasets',
    'engine',
    'evaluation',
    'visualization',
    'experiments',
    'doctor',
    'cli',
    'registration',
]
FILES = sorted(path for path in PACKAGE.rglob('*.py') if path != PACKAGE / '__init__.py')


def imported(source: str, file: tuple[str, ...]) -> set[tuple[str, ...]]:
    """What a file imports, as paths of names: statements and ``import_module`` of a text, functions included.

    Args:
        source: of the file.
        file: its path of names, ``('mmseg_invattn', 'layers', 'checks')``; of a folder's ``__init__`` that one too.
    """
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {tuple(alias.name.split('.')) for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = file[: len(file) - node.level] if node.level else ()
            base += tuple(node.module.split('.')) if node.module else ()
            # each name may be a module
            found |= {(*base, alias.name) for alias in node.names}
        elif isinstance(node, ast.Call) and ast.unparse(node.func).split('.')[-1] in ('import_module', '__import__'):
            name = node.args[0].value if isinstance(node.args[0], ast.Constant) else ''
            dots = len(name) - len(name.lstrip('.'))
            found |= {(*(file[: len(file) - dots] if dots else ()), *name.lstrip('.').split('.'))} if name else set()
    return found


def names_of(path: Path) -> tuple[str, ...]:
    return path.relative_to(ROOT).with_suffix('').parts


def parts(source: str, file: tuple[str, ...]) -> set[str]:
    """The parts of the package that a file imports."""
    own = {names[1] for names in imported(source, file) if names[0] == 'mmseg_invattn' and len(names) > 1}
    return own & set(ORDER)


def later(source: str, file: tuple[str, ...]) -> list[str]:
    """Those that come after the file's own."""
    return sorted(part for part in parts(source, file) if ORDER.index(part) > ORDER.index(file[1]))


@pytest.mark.parametrize(
    'line',
    [
        'from ..engine import hooks',
        'from .. import engine',
        'from ..engine.hooks import CertificateHook',
        'from mmseg_invattn import engine',
        'from mmseg_invattn.engine import hooks',
        'import mmseg_invattn.engine.hooks as hooks',
        'def f():\n    from ..engine import hooks',
        'if TYPE_CHECKING:\n    from ..engine import hooks',
        "import_module('mmseg_invattn.engine')",
        "importlib.import_module('..engine', __package__)",
    ],
)
def test_the_rule_sees(line):
    assert later(line, ('mmseg_invattn', 'layers', 'checks')) == ['engine']
    assert later(line, ('mmseg_invattn', 'cli', 'train')) == []


def test_the_rule_sees_what_a_folder_imports():
    assert later('from ..engine import hooks', ('mmseg_invattn', 'layers', '__init__')) == ['engine']
    assert parts('from . import hooks', ('mmseg_invattn', 'layers', '__init__')) == {'layers'}


def test_imports_go_one_way():
    assert {names_of(path)[1] for path in FILES} == set(ORDER)
    found = {str(path.relative_to(ROOT)): later(path.read_text(encoding='utf-8'), names_of(path)) for path in FILES}
    assert {path: wrong for path, wrong in found.items() if wrong} == {}


@pytest.mark.parametrize('part', ['ops', 'layers'])
def test_layers_and_ops_import_torch_alone(part):
    """Triton is there wherever torch is built for CUDA, and asked for where there is such a device."""
    allowed = {'mmseg_invattn', 'torch', 'numpy', *sys.stdlib_module_names}
    files = sorted((PACKAGE / part).rglob('*.py'))
    found = {
        path.name: {names[0] for names in imported(path.read_text(encoding='utf-8'), names_of(path))} - allowed
        for path in files
    }
    others = {name: roots for name, roots in found.items() if roots}
    # what an export needs is imported where somebody asks for one
    wanted = (
        {'triton_blocked_positive.py': {'triton'}} if part == 'ops' else {'export.py': {'onnxruntime', 'onnxscript'}}
    )
    assert others == wanted and len(files) > 10
