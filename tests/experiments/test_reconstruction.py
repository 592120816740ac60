"""The reconstruction experiment: its configs, model, metric, pictures, table and tool."""

import copy
import csv
import json
import math
from itertools import product
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from helpers.checkout import ROOT
from helpers.config_cases import load
from helpers.generative_data import write_celeba, write_cifar10
from helpers.runtime_case import run_tool
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from mmseg.registry import DATASETS, HOOKS, METRICS, MODELS

from mmseg_invattn.datasets import Cifar10Dataset
from mmseg_invattn.experiments.attention_choice import INVERTIBLE_FORMS, choose_attention
from mmseg_invattn.experiments.reconstruct.convergence import plain_errors, solver_errors
from mmseg_invattn.experiments.reconstruct.metric import ReconstructionMetric
from mmseg_invattn.experiments.reconstruct.run import run_reconstruction, try_plain_iteration
from mmseg_invattn.experiments.reconstruct.table import read_results, reconstruction_table
from mmseg_invattn.layers import CertifiedAttention2d, NotConvergedError, PaperAttention2d
from mmseg_invattn.layers.attention.modes import MODES
from mmseg_invattn.visualization.image_grid import image_grid, large

DATA = {
    'cifar10': ('Cifar10Dataset', (16, 16)),
    'svhn': ('SVHNDataset', (16, 16)),
    'celeba': ('CelebADataset', (16, 16)),
    'celeba_218x178': ('CelebADataset', (109, 89)),
}
CONFIGS = ROOT / 'configs' / 'reconstruction'


@pytest.fixture(autouse=True)
def scope():
    init_default_scope('mmseg')


def test_there_is_a_config_for_every_data_set():
    assert sorted(path.name for path in CONFIGS.iterdir()) == sorted(f'{name}.py' for name in DATA)
    cfg = Config.fromfile(CONFIGS / 'cifar10.py')
    assert cfg.model.attention == dict(form='certified', mode='embedded_gaussian')
    with pytest.raises(ValueError, match='--form none has no inverse'):
        choose_attention(cfg, 'none')


@pytest.mark.parametrize('data', DATA)
def test_every_config_follows_the_protocol_and_trains(data):
    """With every form and mode; each takes a step, on small images."""
    name, size = DATA[data]
    for form, mode in product(INVERTIBLE_FORMS, MODES):
        cfg = copy.deepcopy(load(CONFIGS / f'{data}.py'))
        choose_attention(cfg, form, mode)
        assert (cfg.model.attention.form, cfg.model.attention.mode) == (form, mode)
        assert cfg.model.attention.get('reduction') == (4 if form == 'paper' else None)
        batch = cfg.train_dataloader.batch_size
        assert cfg.model.target_shape == (batch, 12, *size)
        epochs = cfg.train_cfg.max_iters / cfg.epoch_length
        assert (batch, epochs) == ((1, 1) if data == 'celeba_218x178' else (64, 100))
        assert cfg.epoch_length == 1000 // batch
        for split in ('train', 'test'):
            dataset = cfg[f'{split}_dataloader'].dataset
            assert (dataset.type, dataset.split, dataset.num_images) == (name, split, 1000)
            assert DATASETS.get(dataset.type) and dataset.get('verify', True) is True
        assert METRICS.get(cfg.test_evaluator.type)
        assert all(HOOKS.get(hook.type) for hook in cfg.default_hooks.values())
        # odd sizes behind the squeeze at full scale
        cfg.model.target_shape = (2, 12, 5, 3) if data == 'celeba_218x178' else (2, 12, 4, 4)
        torch.manual_seed(0)
        model = MODELS.build(cfg.model).train()
        optim_wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
        x = torch.rand(2, 3, *(2 * side for side in cfg.model.target_shape[2:])) - 0.5
        optim_wrapper.backward(model(x, mode='loss')['loss'])
        missing = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
        assert not missing, f'{form} {mode}: no finite gradient reaches {missing}'
        optim_wrapper.step()
        results = model.eval().test_step(dict(inputs=x, labels=torch.zeros(2)))
        for result in results:
            assert result['recovered'].shape == x.shape[1:]
            if form != 'paper':
                assert (result['recovered'] - result['original']).abs().max() < 1e-4
                assert result['error'] <= result['error_bound'] and result['converged']


def test_model_refuses_what_it_cannot_train_or_invert():
    with pytest.raises(ValueError, match="form': 'none'.*no inverse"):
        MODELS.build(dict(type='InvReconstruction', attention=dict(form='none')))
    model = MODELS.build(dict(type='InvReconstruction', attention=dict(), target_shape=(2, 12, 4, 4)))
    with pytest.raises(ValueError, match=r'\(2, 12, 4, 8\), but the target \(2, 12, 4, 4\)'):
        model(torch.zeros(2, 3, 8, 16), mode='loss')
    with pytest.raises(ValueError, match="mode='train'"):
        model(torch.zeros(2, 3, 8, 8), mode='train')
    assert model(torch.zeros(1, 3, 8, 8)).shape == (1, 12, 4, 4)
    again = MODELS.build(dict(type='InvReconstruction', attention=dict(), target_shape=(2, 12, 4, 4)))
    assert torch.equal(model.target, again.target) and torch.equal(model.state_dict()['target'], model.target)


def sample(error: float, bound: float = 1.0, converged: bool = True) -> dict:
    original = torch.zeros(3, 4, 4)
    recovered = original.clone()
    recovered[0, 1, 2] = error
    return dict(
        original=original,
        recovered=recovered,
        error=abs(error),
        error_bound=bound,
        iterations=7,
        residual=0.0,
        converged=converged,
    )


def test_metric_counts_what_a_mean_would_hide(tmp_path):
    metric = ReconstructionMetric(output_dir=str(tmp_path), grid_images=2)
    metric.process({}, [sample(0.0), sample(2e-3, bound=1e-3), sample(-0.5, converged=False)])
    found = metric.evaluate(3)
    expected = dict(
        l1=0.502 / 48 / 3,
        l2=0.502 / 3,
        max_error=0.502 / 3,
        worst_max_error=0.5,
        most_iterations=7,
        largest_bound=1.0,
        not_recovered=1,
        not_converged=1,
        bound_broken=1,
        images=3,
        worst_psnr=-10 * math.log10(0.25 / 48),
    )
    for key, value in expected.items():
        assert found[f'reconstruction/{key}'] == pytest.approx(value), key
    with open(tmp_path / 'per_image.csv', encoding='utf-8') as file:
        rows = list(csv.DictReader(file))
    assert [float(row['max_error']) for row in rows] == pytest.approx([0, 2e-3, 0.5]) and rows[0]['psnr'] == '200.0'
    grid = cv2.imread(str(tmp_path / 'grid.png'))
    assert len(grid) == (3 * 4 + 2 * 2) * 80 and grid.shape[1] > (2 * 4 + 2) * 80
    grid = grid[::80, -800::80]  # without the labels, a pixel for each of the images
    assert grid[12 + 1, 6 + 2, 2] == round((0.5 + 100 * 2e-3) * 255)  # red, of the second image's error


def test_metric_without_bounds_and_with_infinite_errors():
    metric = ReconstructionMetric()
    broken = sample(math.nan, bound=math.nan)
    metric.process({}, [sample(0.0, bound=math.nan), broken])
    found = metric.evaluate(2)
    assert math.isnan(found['reconstruction/bound_broken']) and math.isnan(found['reconstruction/largest_bound'])
    assert found['reconstruction/not_recovered'] == 1 and found['reconstruction/worst_max_error'] == math.inf


def test_convergence_curves():
    torch.manual_seed(0)
    block = CertifiedAttention2d(12).double()
    x = torch.randn(3, 12, 4, 4, dtype=torch.float64)
    block(x)
    block.eval()
    solver, plain = solver_errors(block, x, (1, 4, 40)), plain_errors(block, x, (1, 4, 40))
    for errors in (solver, plain):
        assert errors.shape == (3, 3) and (errors[1] < errors[0]).all() and (errors[2] < 1e-9).all()
    assert torch.allclose(plain[0], (x - 2 * block(x) + block(block(x))).abs().flatten(1).amax(1))


def test_grid_of_one_row():
    picture = image_grid(torch.tensor([-0.5, 0.0, 0.7]).view(3, 1, 1, 1).expand(3, 3, 2, 2), columns=2, gap=1)
    assert picture.shape == (5, 5, 3) and picture.dtype == np.uint8
    assert [picture[0, 0, 0], picture[0, 3, 0], picture[3, 0, 0], picture[4, 4, 0]] == [0, 128, 255, 255]
    with pytest.raises(ValueError, match='empty'):
        image_grid(torch.zeros(0, 3, 2, 2), 2)


def test_a_small_grid_is_enlarged_and_its_rows_are_labelled():
    picture = image_grid(torch.rand(6, 3, 32, 32) - 0.5, columns=3)
    enlarged = large(picture)
    assert enlarged.shape[1] >= 800 and np.array_equal(enlarged[::8, ::8], picture)  # no pixel is changed
    labelled = large(picture, ('original', 'recovered'))
    assert np.array_equal(labelled[:, -enlarged.shape[1] :], enlarged)
    dark = (labelled[:, : -enlarged.shape[1]] < 100).all(-1).any(1)
    assert dark[: len(dark) // 2].any() and dark[len(dark) // 2 :].any() and not dark.all()
    wide = np.zeros((2, 900, 3), np.uint8)
    assert large(wide) is wide or np.array_equal(large(wide), wide)


OPTIONS = (
    '+model.max_iter=30',
    'train_dataloader.dataset.num_images=8',
    'test_dataloader.dataset.num_images=8',
    '+train_dataloader.dataset.verify=False',
    '+test_dataloader.dataset.verify=False',
    'train_dataloader.batch_size=4',
    'model.target_shape=4,12,16,16',
    'env_cfg.cudnn_benchmark=False',
)


def reconstruct(root: Path, out: Path, config: str, forms: list, mode: str, options: tuple[str, ...] = ()) -> None:
    run_tool(
        'reconstruct',
        CONFIGS / config,
        '--form',
        *forms,
        '--mode',
        mode,
        '--out',
        out,
        '--epochs',
        '0.2',
        options=(
            f'train_dataloader.dataset.data_root={root}',
            f'test_dataloader.dataset.data_root={root}',
            *OPTIONS,
            *options,
        ),
    )


def test_another_model_is_refused_before_it_is_trained(tmp_path):
    cfg = load(ROOT / 'configs' / 'demo' / 'invnl_plainconv_1xb8-1k_context-shapes-48x96.py')
    with pytest.raises(ValueError, match='model.type is EncoderDecoder, .* use a config from configs/reconstruction'):
        run_reconstruction(cfg, tmp_path, 'demo')
    assert not any(tmp_path.iterdir())


def test_tool_writes_results_pictures_and_the_table(tmp_path, capsys, monkeypatch):
    write_cifar10(tmp_path / 'data')
    reconstruct(tmp_path / 'data', tmp_path / 'out', 'cifar10.py', ['certified', 'paper'], 'gaussian')
    for name in ('certified_gaussian', 'paper_gaussian'):
        folder = tmp_path / 'out' / 'cifar10' / name
        result = json.loads((folder / 'result.json').read_text())
        assert result['epochs'] == 0.2 and result['images'] == 8
        assert result['train_seconds'] > result['iteration_seconds'] > 0
        assert (folder / 'iter_3.pth').is_file()
        attention = Config.fromfile(folder / 'cifar10.py').model.attention  # the config that repeats it
        assert f'{attention.form}_{attention.mode}' == name
        assert all(cv2.imread(str(folder / picture)) is not None for picture in ('grid.png', 'convergence.png'))
        assert ('plain_images' in result) == (name == 'paper_gaussian')
    certified = json.loads((tmp_path / 'out/cifar10/certified_gaussian/result.json').read_text())
    assert certified['worst_max_error'] < 1e-5 and certified['bound_broken'] == certified['not_recovered'] == 0
    doc = tmp_path / 'doc.md'
    doc.write_text('above\n<!-- table -->\nold\n<!-- end -->\nbelow\n')
    capsys.readouterr()
    monkeypatch.setattr('sys.argv', ['reconstruct'])
    run_tool('reconstruct', '--summary', tmp_path / 'out', '--doc', doc)
    table = reconstruction_table(read_results(tmp_path / 'out'))
    assert table in capsys.readouterr().out and len(table.splitlines()) == 4
    assert doc.read_text() == f'above\n<!-- table -->\n{table}\n<!-- end -->\nbelow\n'
    doc.write_text('no markers')
    with pytest.raises(ValueError, match='<!-- table -->'):
        run_tool('reconstruct', '--summary', tmp_path / 'out', '--doc', doc)
    with pytest.raises(FileNotFoundError, match='result.json'):
        run_tool('reconstruct', '--summary', tmp_path / 'data')


def test_full_scale_images_come_back(tmp_path):
    write_celeba(tmp_path / 'data', count=2)
    reconstruct(
        tmp_path / 'data',
        tmp_path / 'out',
        'celeba_218x178.py',
        ['certified'],
        'concatenation',
        options=(
            'train_dataloader.dataset.num_images=2',
            'test_dataloader.dataset.num_images=1',
            'train_dataloader.batch_size=1',
            'model.target_shape=1,12,109,89',
            'epoch_length=10',
        ),
    )
    result = json.loads((tmp_path / 'out/celeba_218x178/certified_concatenation/result.json').read_text())
    assert result['images'] == 1 and result['worst_max_error'] < 1e-4 and result['bound_broken'] == 0


def test_plain_iteration_is_tried_on_the_images_that_were_lost(tmp_path):
    write_cifar10(tmp_path)
    dataset = Cifar10Dataset(str(tmp_path), 'test', verify=False)
    (tmp_path / 'per_image.csv').write_text('image,max_error\n0,0.0\n3,inf\n5,0.02\n6,0.01\n')
    for form, recovered in (('certified', 2), ('paper', 0)):
        torch.manual_seed(0)
        model = MODELS.build(dict(type='InvReconstruction', attention=dict(form=form, mode='dot_product')))
        model(dataset[0]['inputs'][None])
        assert try_plain_iteration(model.eval(), dataset, tmp_path) == dict(plain_images=2, plain_recovered=recovered)


def test_plain_iteration_may_fail_where_it_is_not_certified():
    """The plain iteration does not converge for a steep branch, and the strict inverse raises."""
    torch.manual_seed(0)
    block = PaperAttention2d(12, reduction=4, mode='dot_product').double()
    x = torch.rand(2, 12, 8, 8, dtype=torch.float64) - 0.5
    block(x)
    block.eval()
    assert plain_errors(block, x, (100,))[0].max() > 1e-2
    with pytest.raises(NotConvergedError):
        block.inverse(block(x))
