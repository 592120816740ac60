"""Iterations until a task is learned: trainings that end there, their file and their table."""

import copy
from xml.etree import ElementTree

import torch
from helpers.checkout import ROOT
from mmengine.config import Config

from mmseg_invattn.cli.convert import context_shapes
from mmseg_invattn.experiments.learning import Setting, learning_curve, read_curves, table, write_curves
from mmseg_invattn.experiments.learning_picture import learning_picture
from mmseg_invattn.layers import ConditionalAttention2d


def test_training_ends_where_the_level_is_reached(tmp_path, monkeypatch):
    context_shapes.main(['--num-train', '8', '--num-val', '2', '--out', str(tmp_path / 'data')])
    cfg = Config.fromfile(ROOT / 'configs' / 'demo' / 'invnl_plainconv_1xb8-1k_context-shapes-48x96.py')
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        loader.dataset.data_root = str(tmp_path / 'data')
        loader.update(num_workers=0, persistent_workers=False)
    cfg.train_dataloader.batch_size = 2
    cfg.train_cfg.max_iters = 3
    before = copy.deepcopy(cfg.to_dict())
    to_the_end = learning_curve(cfg, Setting('conditional', 'l2', 1), every=1, level=101.0)
    assert [step for step, _ in to_the_end] == [1, 2, 3] and all(0 <= miou <= 100 for _, miou in to_the_end)
    first = learning_curve(cfg, Setting('conditional', 'l2', 1), every=1, level=0.0)
    assert first == to_the_end[:1]  # the run of a seed, as far as it goes
    assert learning_curve(cfg, Setting('none', 'l2', 1), every=1, level=0.0) != first
    branch, cast = ConditionalAttention2d._mixed, []

    def spy(self, *arguments):
        cast.append((self.training, torch.is_autocast_enabled('cpu')))
        return branch(self, *arguments)

    monkeypatch.setattr(ConditionalAttention2d, '_mixed', spy)
    learning_curve(cfg, Setting('conditional', 'l2', 1, 'autocast'), every=1, level=0.0)
    assert set(cast) == {(True, True), (False, False)}
    assert cfg.to_dict() == before and torch.is_grad_enabled()


def test_table_counts_a_seed_that_did_not_learn_as_later_than_all(tmp_path):
    curves = {Setting('none', 'l2', seed): [[50, 40.0], [100, miou]] for seed, miou in enumerate((95.0, 91.0, 60.0))}
    curves |= {Setting('certified', 'l2', seed): [[50, miou]] for seed, miou in enumerate((95.0, 60.0, 60.0))}
    curves[Setting('none', 'l2', 0, 'autocast')] = [[50, 95.0]]
    write_curves(tmp_path / 'new' / 'curves.json', curves)
    assert read_curves(tmp_path / 'new' / 'curves.json') == curves and read_curves(tmp_path / 'other.json') == {}
    assert table(curves, ['none', 'certified', 'coupling'], ['l2'], 90.0).splitlines()[-1] == (
        '| `l2` | 100 (2 of 3) | - (1 of 3) | - (0 of 0) |'
    )
    assert table(curves, ['none'], ['l2'], 90.0, 'autocast').splitlines()[-1] == '| `l2` | 50 (1 of 1) |'


def test_picture_has_a_panel_for_each_mode_and_a_line_for_each_seed():
    curves = {Setting('none', 'l2', seed): [[50, 40.0], [100, 91.0 + seed]] for seed in range(3)}
    curves[Setting('coupling', 'gaussian', 0)] = [[50, 95.0]]
    curves[Setting('coupling', 'l2', 0, 'autocast')] = [[50, 95.0]]
    drawn = learning_picture(curves, ['none', 'coupling'], ['gaussian', 'l2', 'concatenation'], 90.0)
    assert drawn == learning_picture(curves, ['none', 'coupling'], ['gaussian', 'l2', 'concatenation'], 90.0)
    ElementTree.fromstring(drawn)
    for text in ('>gaussian<', '>l2<', '>concatenation<', '>none<', '>coupling<', '>iteration<'):
        assert text in drawn
    assert drawn.count('stroke: #2f7de1; stroke-opacity: 0.8') == 3  # the seeds of none
    assert drawn.count('stroke: #d9541e; stroke-opacity: 0.8') == 1  # that of coupling in float32
