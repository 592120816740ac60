"""What the wheel offers if only torch is installed, without MMSegmentation: `python layers_alone.py torch|onnx`.

Run by `make check-wheel` in an environment of its own.
"""

import sys
import tempfile
from importlib.metadata import distributions, files, version
from pathlib import Path

import torch

import mmseg_invattn
from mmseg_invattn.layers import FORMS, InvertibleModule
from mmseg_invattn.layers.export import export_onnx, export_torch

STACK = ('mmcv', 'mmengine', 'mmseg')


def check_installation() -> None:
    names = {distribution.name for distribution in distributions()}
    others = sorted(name for name in names if name.removeprefix('onedl-').startswith(('mmcv', 'mmengine', 'mmseg')))
    assert others == ['mmseg_invattn'], others
    assert Path(sys.prefix) in Path(mmseg_invattn.__file__).parents, mmseg_invattn.__file__
    assert mmseg_invattn.__version__ == version('mmseg_invattn')
    shipped = {str(file) for file in files('mmseg_invattn')}
    for name in ('py.typed', '.mim/configs/_base_/default_runtime.py', '.mim/tools/train.py'):
        assert f'mmseg_invattn/{name}' in shipped, name
    assert any(name.endswith('dist-info/licenses/LICENSE') for name in shipped)


def check_form(form: str, kind: str, folder: Path) -> str:
    torch.manual_seed(0)
    block, x = FORMS[form](8), torch.randn(2, 8, 5, 6)
    block(x)  # in training mode: the first batch sets the normalisation
    block.eval()
    with torch.no_grad():
        y = block(x)
    said = []
    if isinstance(block, InvertibleModule):
        x_hat, info = block.inverse(y, strict=form != 'paper')
        error = float((x_hat - x).abs().max())
        assert form == 'paper' or info.converged.all() and error <= float(info.error_bound.max())
        said += [f'bound {block.lipschitz_bound()}', f'inverse off by {error:.1e}']
    export, suffix = (export_torch, '.pt2') if kind == 'torch' else (export_onnx, '.onnx')
    path = folder / (form + suffix)
    torch.testing.assert_close(export(block, x, path)(x), y, rtol=1e-4, atol=1e-4)
    return ', '.join([form, *said, f'{path.name} {path.stat().st_size} bytes'])


def main(kind: str) -> None:
    check_installation()
    with tempfile.TemporaryDirectory() as folder:
        for form in FORMS:
            print(check_form(form, kind, Path(folder)))
    loaded = {name.split('.')[0] for name in sys.modules} & set(STACK)
    assert not loaded, loaded


if __name__ == '__main__':
    main(sys.argv[1])
