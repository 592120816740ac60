"""Imports go one way: each folder imports only from those before it."""

import ast
from pathlib import Path

from helpers.checkout import ROOT

PACKAGE = ROOT / 'mmseg_invattn'
ORDER = [
    'version',
    'paths',
    'wording',
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


def imported(path: Path) -> set[str]:
    """The parts of the package that a file imports, functions included."""
    here, parts = path.relative_to(PACKAGE).parts[:-1], set()
    for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = here[: len(here) - node.level + 1]
            names = [node.module] if node.module else [alias.name for alias in node.names]
            parts |= {(*base, *name.split('.'))[0] for name in names}
        elif isinstance(node, ast.ImportFrom | ast.Import):
            names = [node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            parts |= {name.split('.')[1] for name in names if name and name.startswith('mmseg_invattn.')}
    return parts


def test_imports_go_one_way():
    wrong = []
    for path in PACKAGE.rglob('*.py'):
        part = path.relative_to(PACKAGE).with_suffix('').parts[0]
        if part == '__init__':
            continue
        later = {other for other in imported(path) if other in ORDER and ORDER.index(other) > ORDER.index(part)}
        wrong += [f'{path.relative_to(PACKAGE)} imports {other}' for other in sorted(later)]
    assert not wrong, wrong


def test_every_part_has_its_place():
    parts = {path.stem for path in PACKAGE.iterdir() if path.suffix == '.py' or (path / '__init__.py').is_file()}
    assert parts - {'__init__'} == set(ORDER)


def test_layers_and_ops_import_torch_alone():
    for path in [*(PACKAGE / 'ops').rglob('*.py'), *(PACKAGE / 'layers').rglob('*.py')]:
        for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module]
            else:
                continue
            roots = {name.split('.')[0] for name in names}
            assert not roots & {'mmcv', 'mmengine', 'mmseg', 'cv2', 'scipy', 'PIL', 'matplotlib'}, (path, roots)
