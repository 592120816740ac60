"""``--cfg-options``: existing entries of a config can be changed; new ones must be marked as new."""

from argparse import Namespace

import pytest
from helpers.commands import CFG_OPTIONS, LINES, parser_of, run_command, write_command_case
from mmengine.config import Config

from mmseg_invattn.cli.arguments import OptionsAction, read_config
from mmseg_invattn.cli.main import COMMANDS
from mmseg_invattn.engine.config_file import apply_options

TAKE_CONFIG = [command for command, line in LINES.items() if '{config}' in line]
CONTENT = dict(
    model=dict(pretrained=None, backbone=dict(type='ResNet', depth=18, strides=(1, 2)), auxiliary_head=[dict(c=1)]),
    train_pipeline=[dict(type='Load'), dict(type='Crop', size=(4, 4))],
    palette=[[0, 0, 0], [1, 1, 1]],
    train_cfg=dict(max_iters=5, val_interval=1),
    optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
    randomness=dict(seed=0),
    load_from=None,
)


def changed(*options):
    cfg = Config(CONTENT)
    apply_options(cfg, dict(options), 'x.py')
    return cfg


@pytest.mark.parametrize(
    'key, words',
    [
        ('trian_cfg.max_iters', 'x.py has no trian_cfg. Did you mean train_cfg.max_iters'),
        ('max_iters', 'no max_iters. Did you mean train_cfg.max_iters?'),
        ('train_cfg.max_iter', 'no max_iter in train_cfg. Did you mean train_cfg.max_iters'),
        ('model.backbone.dpeth', 'no dpeth in model.backbone. Did you mean model.backbone.depth?'),
        ('model.auxiliary_head.0.channels', 'no channels in model.auxiliary_head.0. There are: c.'),
        ('model.auxiliary_head.1.c', 'model.auxiliary_head is a list of 1, .* but 1 is not one of them'),
        ('train_pipeline.first.type', 'train_pipeline is a list of 2, .* but first is not one of them'),
        ('optim_wrapper.optimizer.weight_decay', r'put a plus before it: \+optim_wrapper.optimizer.weight_decay=...'),
        ('load_from.path', 'load_from is None, which has no entries'),
        ('train_cfg.max_iters.x', 'train_cfg.max_iters is 5, which has no entries'),
        ('randomness.sed', 'no sed in randomness. Did you mean randomness.seed?'),
        ('env_cfg.dist_cfg.timout', 'no timout in env_cfg.dist_cfg. Did you mean env_cfg.dist_cfg.timeout?'),
        ('experiment_nam', 'Did you mean experiment_name?'),
        ('_delete_', 'x.py has no _delete_'),
        ('+load_from.path', 'cannot be merged into x.py'),
        ('', 'x.py has no '),
    ],
)
def test_refused(key, words):
    with pytest.raises(ValueError, match=words):
        changed((key, 1))


@pytest.mark.parametrize(
    'key, get',
    [
        ('train_cfg.max_iters', lambda cfg: cfg.train_cfg.max_iters),
        ('+train_cfg.new', lambda cfg: cfg.train_cfg.new),
        ('+train_cfg.max_iters', lambda cfg: cfg.train_cfg.max_iters),
        ('+a.b.c', lambda cfg: cfg.a.b.c),
        ('model.pretrained', lambda cfg: cfg.model.pretrained),
        ('load_from', lambda cfg: cfg.load_from),
        ('train_pipeline.1.size', lambda cfg: cfg.train_pipeline[1].size),
        ('model.auxiliary_head.0.c', lambda cfg: cfg.model.auxiliary_head[0].c),
        ('model.backbone.strides.1', lambda cfg: cfg.model.backbone.strides[1]),
        ('palette.1.2', lambda cfg: cfg.palette[1][2]),
        ('experiment_name', lambda cfg: cfg.experiment_name),
        ('resume', lambda cfg: cfg.resume),
        ('work_dir', lambda cfg: cfg.work_dir),
        ('compile', lambda cfg: cfg.compile),
        ('randomness.deterministic', lambda cfg: cfg.randomness.deterministic),
        ('env_cfg.dist_cfg.timeout', lambda cfg: cfg.env_cfg.dist_cfg.timeout),
        ('auto_scale_lr.base_batch_size', lambda cfg: cfg.auto_scale_lr.base_batch_size),
    ],
)
def test_accepted(key, get):
    cfg = changed((key, 7))
    assert get(cfg) == 7
    rest, other = cfg.to_dict(), Config(CONTENT).to_dict()
    assert sum(rest.get(name) != other.get(name) for name in {*rest, *other}) == 1


def test_several_places_of_a_list():
    cfg = changed(('palette.0.0', 8), ('palette.1.2', 9), ('model.backbone.strides.0', 3))
    assert cfg.palette == [[8, 0, 0], [1, 1, 9]] and cfg.model.backbone.strides == (3, 2)


def test_a_dict_replaced_whole_needs_no_plus():
    cfg = changed(('model.backbone._delete_', True), ('model.backbone.type', 'X'), ('model.backbone.width', 3))
    assert cfg.model.backbone == dict(type='X', width=3)
    with pytest.raises(ValueError, match='no width in model.auxiliary_head'):
        changed(('model.backbone._delete_', True), ('model.auxiliary_head.0.width', 3))


def test_they_find_the_attention_that_the_command_line_chooses():
    options = {'model.backbone.attention.mode': 'l2', '+model.backbone.attention.sharpness': 2.0}
    args = Namespace(config='flow/cifar10_8x8.py', form='certified', mode=None, cfg_options=options)
    assert read_config(args).model.backbone.attention == dict(form='certified', mode='l2', sharpness=2.0)
    args.form = None
    with pytest.raises(ValueError, match='flow/cifar10_8x8.py has no attention in model.backbone'):
        read_config(args)


@pytest.fixture(scope='module')
def case(tmp_path_factory):
    return write_command_case(tmp_path_factory.mktemp('case'))


def test_every_command_with_a_config_takes_them():
    for command in COMMANDS:
        names = {action.dest: action for action in parser_of(command)._actions}
        takes = bool({'config', 'configs'} & set(names))
        assert takes == ('cfg_options' in names) == (command in TAKE_CONFIG), command
        assert not takes or isinstance(names['cfg_options'], OptionsAction)


@pytest.mark.parametrize('command', TAKE_CONFIG)
def test_every_command_refuses_a_misspelt_key(command, case, tmp_path, capsys):
    line = LINES[command].format(out=tmp_path / 'out', **case).split()
    assert run_command(command, *line, CFG_OPTIONS, 'trian_cfg.max_iters=1') == 2
    said = capsys.readouterr().err
    assert f'{case["config"]} has no trian_cfg. Did you mean train_cfg.max_iters' in said and 'Traceback' not in said


@pytest.mark.parametrize('option', ['train_cfg', '=3', 'a=[1,(2]'])
def test_what_is_no_option(option, case, capsys):
    with pytest.raises(SystemExit) as left:
        run_command('print-config', case['config'], CFG_OPTIONS, option)
    said = capsys.readouterr().err
    assert left.value.code == 2 and 'argument --cfg-options' in said and option.split('=')[0] in said


def test_a_dict_within_a_list_is_explained(capsys):
    with pytest.raises(SystemExit):
        parser_of('train').parse_args(['x.py', '--cfg-options', 'custom_hooks=[dict(type="A", priority="LOW")]'])
    assert 'Set the entries of a dict one by one' in capsys.readouterr().err
