"""Whatever is imported first, the names of this package are registered once mmseg is there; layers alone load torch.

Each case in a process of its own, as imports cannot be undone: a fork of one that has imported torch and nothing else.
"""

import json
import subprocess
import sys

import pytest
from helpers.checkout import ROOT
from helpers.runtime_case import tool_environment

DEMO = ROOT / 'configs' / 'demo' / 'invnl_plainconv_1xb8-1k_context-shapes-48x96.py'

# Some of each registry of MMSegmentation, and one by the root's registry that Runner asks.
REGISTERED = """
from mmengine.registry import init_default_scope
from mmseg.registry import DATASETS, HOOKS, METRICS, MODELS, TRANSFORMS
import mmseg_invattn.layers, mmseg_invattn.models
init_default_scope('mmseg')
names = {MODELS: ['InvNLHead', 'InvResNet', 'CertifiedAttention2d', 'InvResNetFlow'],
         DATASETS: ['CamVidDataset'], HOOKS: ['CertificateHook', 'ConstantWeightsHook'], METRICS: ['SegMetric'],
         TRANSFORMS: ['SeedTransforms']}
for registry, wanted in names.items():
    for name in wanted:
        assert registry.get(name) is not None, name
assert MODELS.get('InvNLHead') is mmseg_invattn.models.InvNLHead
assert MODELS.get('CertifiedAttention2d') is mmseg_invattn.layers.CertifiedAttention2d
import mmengine
assert mmengine.registry.MODELS.get('mmseg.InvNLHead') is mmseg_invattn.models.InvNLHead
assert not any(type(finder).__name__ == '_After' for finder in sys.meta_path)
"""
LAYERS = """
from mmseg_invattn.layers import CertifiedAttention2d
assert not [name for name in sys.modules if name.split('.')[0] in ('mmengine', 'mmcv', 'mmseg')]
"""
ORDERS = {
    'layers, then mmseg': LAYERS + 'import mmseg\n',
    'layers, then a part of mmseg': LAYERS + 'from mmseg.models.decode_heads import FCNHead\n',
    'layers, then its inference': LAYERS + 'from mmseg.apis import MMSegInferencer\n',
    'layers, then mmengine': LAYERS + 'import mmengine\nfrom mmengine.runner import Runner\n',
    'layers, then models': LAYERS + 'from mmseg_invattn.models import InvNLHead\n',
    'layers, then hooks': LAYERS + 'from mmseg_invattn.engine.hooks import CertificateHook\n',
    'mmengine, then the package': 'import mmengine, mmseg_invattn\n',
    'a config, then the package': 'from mmengine.config import Config\nimport mmseg_invattn\n',
    'mmseg, then the package': 'import mmseg, mmseg_invattn\n',
    'mmseg, then layers': 'import mmseg\nfrom mmseg_invattn.layers import CertifiedAttention2d\n',
    'the package, then mmseg': 'import mmseg_invattn, mmseg\n',
    'models': 'from mmseg_invattn.models import InvNLHead\n',
    'a head': 'from mmseg_invattn.models.heads.inv_nl_head import InvNLHead\n',
    'data sets': 'from mmseg_invattn.datasets import CamVidDataset\n',
    'metrics': 'from mmseg_invattn.evaluation import SegMetric\n',
    'hooks': 'from mmseg_invattn.engine.hooks.constant_weights_hook import ConstantWeightsHook\n',
    'views': 'from mmseg_invattn.experiments.explore.attention_adapters import attention_views\n',
    'inference': 'from mmseg_invattn.engine.inference import init_model\n',
    'pictures': 'import mmseg_invattn.visualization.media\n',
    'a program and its threads': 'import threading, mmseg_invattn\n'
    't = threading.Thread(target=__import__, args=("mmseg",)); t.start(); t.join()\n',
}


# Runs the scripts that it is sent, each in a fork, and answers with their exit status; what they print is on stderr.
FRESH = """
import json, os, sys, traceback
import numpy, torch
for line in sys.stdin:
    child = os.fork()
    if not child:
        os.dup2(2, 1)
        try:
            exec(json.loads(line), dict(__name__='__main__', sys=sys))
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@pytest.fixture(scope='module')
def python(tmp_path_factory):
    """Runs a script in a process where torch alone is imported."""
    printed = tmp_path_factory.mktemp('fresh') / 'printed'
    with (
        open(printed, 'w') as errors,
        subprocess.Popen(
            [sys.executable, '-W', 'ignore', '-c', FRESH],
            env=tool_environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        ) as process,
    ):

        def run(script: str) -> None:
            process.stdin.write(json.dumps(script) + '\n')
            process.stdin.flush()
            assert process.stdout.readline() == '0\n', printed.read_text()[-3000:]

        yield run
        process.stdin.close()


@pytest.mark.cases(1)
@pytest.mark.parametrize('order', ORDERS)
def test_everything_is_registered(order, python):
    python(ORDERS[order] + REGISTERED)


FIRST = dict(nothing='', layers=LAYERS, package='import mmseg_invattn\n', mmseg='import mmseg\n')


@pytest.mark.cases(1)
@pytest.mark.parametrize('first', FIRST)
def test_a_config_registers_by_its_custom_imports(first, python):
    """As a Runner builds it, from a registry above that of MMSegmentation."""
    python(
        FIRST[first]
        + f"""
from mmengine.config import Config
cfg = Config.fromfile({str(DEMO)!r})
from mmengine.registry import HOOKS, MODELS, init_default_scope
init_default_scope(cfg.default_scope)
assert type(MODELS.build(cfg.model).decode_head).__name__ == 'InvNLHead'
for hook in cfg.default_hooks.values():
    assert HOOKS.get(f'mmseg.{{hook.type}}') is not None, hook
"""
        + REGISTERED
    )


PARTS = ['layers', 'ops', 'ops.attention', 'layers.attention.modes']


@pytest.mark.parametrize('part', PARTS)
def test_layers_load_nothing_but_torch(part, python):
    python(f"""
before = set(sys.modules)
import mmseg_invattn.{part}
more = set(sys.modules) - before
assert 'torch._dynamo' not in more  # which takes as long as torch
roots = {{name.split('.')[0] for name in more}} - {{'mmseg_invattn', 'torch', *sys.stdlib_module_names}}
assert not roots, roots
above = ('models', 'datasets', 'engine', 'evaluation', 'visualization', 'experiments', 'cli')
assert not [name for name in more if name.startswith('mmseg_invattn.') and name.split('.')[1] in above], more
""")


def test_layers_run_without_mmseg(python):
    """Where MMSegmentation is not installed."""
    python("""
import importlib.util
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *more: None if name in ('mmengine', 'mmcv', 'mmseg') else find(name, *more)
import torch
from mmseg_invattn.layers import CertifiedAttention2d
block, x = CertifiedAttention2d(8), torch.randn(1, 8, 4, 4)
assert block.inverse(block(x))[1].converged.all()
assert not [name for name in sys.modules if name.split('.')[0] in ('mmengine', 'mmcv', 'mmseg')]
""")


def test_mmseg_that_cannot_be_imported_says_so_itself(tmp_path, python):
    """An error in mmseg itself is passed on, and a second import registers the package."""
    (tmp_path / 'once.py').write_text("""
import sys
class Once:
    def find_spec(self, name, path=None, target=None):
        if name == 'mmseg.version':
            sys.meta_path.remove(self)
            raise ImportError('a broken installation')
""")
    python(
        f"""
sys.path.insert(0, {str(tmp_path)!r})
import mmseg_invattn, once
sys.meta_path.insert(0, once.Once())
try:
    import mmseg
except ImportError as error:
    assert 'a broken installation' in str(error)
else:
    raise AssertionError
import mmseg
"""
        + REGISTERED
    )


# MMEngine's own loader, which unpickles, after an import of this package; TRACE is a folder that the pickle makes
REFUSED = """
import os, torch
from mmengine.runner import load_checkpoint
class Payload:
    def __reduce__(self):
        return os.mkdir, (TRACE,)
torch.save(dict(state_dict=dict(weight=torch.ones(1, 1), bias=torch.ones(1)), meta={}, extra=Payload()), FILE)
def attempt(load):
    try:
        load()
    except ValueError as error:
        assert 'refused' in str(error) and 'use_safe_checkpoint_loading(trust=True)' in str(error), error
    else:
        raise AssertionError('loaded')
    assert not os.path.exists(TRACE)
model = torch.nn.Linear(1, 1)
attempt(lambda: load_checkpoint(model, FILE))
"""
INFERENCE = """
from mmseg.apis import MMSegInferencer, init_model
attempt(lambda: init_model(CONFIG, FILE, device='cpu'))
attempt(lambda: MMSegInferencer(CONFIG, FILE, device='cpu'))
from mmseg_invattn.engine.checkpoints import use_safe_checkpoint_loading
use_safe_checkpoint_loading(trust=True)
load_checkpoint(model, FILE)
assert os.path.exists(TRACE) and model.weight.item() == 1
"""
IMPORTS = {
    'the package': 'import mmseg_invattn\n',
    'layers': 'import mmseg_invattn.layers\n',
    'mmengine, then the package': 'import mmengine.runner, mmseg_invattn\n',
    'a config, then the package': 'from mmengine.config import Config\nimport mmseg_invattn\n',
    'mmseg, then layers': 'import mmseg.apis, mmseg_invattn.layers\n',
}


@pytest.mark.cases(1)
@pytest.mark.parametrize('imports', IMPORTS)
def test_the_loaders_of_mmengine_run_nothing(imports, tmp_path, python):
    names = f'TRACE, FILE, CONFIG = {str(tmp_path / "trace")!r}, {str(tmp_path / "bad.pth")!r}, {str(DEMO)!r}\n'
    python(IMPORTS[imports] + names + REFUSED + INFERENCE)
