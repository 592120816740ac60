"""Checkpoint files are refused unless they are whole, finite, really checkpoints, and free of code."""

import io
import pickle
import zipfile
from pathlib import Path
from unittest import mock

import cv2
import numpy as np
import pytest
import torch
from helpers.runtime_case import load_tool, run_tool
from helpers.tool_case import call_tool, write_tool_case
from mmengine.config import Config
from mmengine.logging import HistoryBuffer, MessageHub
from mmengine.runner import CheckpointLoader

from mmseg_invattn.engine.checkpoints import (
    DamagedCheckpointError,
    NonFiniteWeightsError,
    UnsafeCheckpointError,
    read_checkpoint,
)
from mmseg_invattn.engine.embedded_config import UnsafeConfigError, embedded_text, read_embedded
from mmseg_invattn.engine.inference import config_of_checkpoint, init_model
from mmseg_invattn.engine.matching import CheckpointMismatchError, load_weights


@pytest.fixture(scope='module')
def case(tmp_path_factory):
    """Config, weights for it, and an image."""
    folder = tmp_path_factory.mktemp('case')
    return *write_tool_case(folder), folder / 'data' / 'images' / '0.png'


@pytest.fixture
def changed(case, tmp_path):
    """Write the checkpoint anew with something changed in it."""

    def write(**parts: object) -> Path:
        torch.save(dict(torch.load(case[1], weights_only=True), **parts), tmp_path / 'changed.pth')
        return tmp_path / 'changed.pth'

    return write


def flipped(path: Path, record: str, at: int, count: int = 64) -> None:
    """Flip the bits of some bytes of a record."""
    with zipfile.ZipFile(path) as archive:
        info = next(one for one in archive.infolist() if one.filename.endswith(record))
    content = bytearray(path.read_bytes())
    header = info.header_offset
    lengths = [int.from_bytes(content[header + place : header + place + 2], 'little') for place in (26, 28)]
    start = header + 30 + sum(lengths) + at
    content[start : start + count] = bytes(byte ^ 0x5A for byte in content[start : start + count])
    path.write_bytes(content)


# ------------------------------------------------------------------------------------------------------- bit rot


@pytest.mark.parametrize('mmap', [False, True])
def test_flipped_bits_are_found_by_their_record(tmp_path, mmap):
    path = tmp_path / 'rot.pth'
    torch.save(dict(state_dict=dict(a=torch.ones(4), b=torch.arange(1000.0))), path)
    flipped(path, 'data/1', 200)
    assert torch.load(path, weights_only=True)['state_dict']['b'].shape == (1000,)  # torch itself sees nothing
    with pytest.raises(DamagedCheckpointError, match=r'rot\.pth: .* record \S*data/1 differs from its checksum'):
        read_checkpoint(path, mmap=mmap)


def test_tools_refuse_them(case, tmp_path):
    path = tmp_path / 'rot.pth'
    path.write_bytes(case[1].read_bytes())
    flipped(path, 'data/0', 0, 8)
    for line in (['predict', case[0], path, case[2]], ['analysis/publish_model', path]):
        with pytest.raises(DamagedCheckpointError, match='checksum'):
            with mock.patch('sys.argv', ['x', *map(str, line[1:]), '--out', str(tmp_path / 'out')]):
                load_tool(line[0]).main()
    assert not (tmp_path / 'out').exists()


def test_every_byte_counts(tmp_path):
    """A damaged byte anywhere in a file gives one of our errors, or does not change the content."""
    path = tmp_path / 'byte.pth'
    torch.save(dict(state_dict=dict(a=torch.arange(16.0))), path)
    whole = path.read_bytes()
    caught = 0
    for place in range(0, len(whole), 7):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        try:
            assert torch.equal(read_checkpoint(path)['state_dict']['a'], torch.arange(16.0)), place
        except (DamagedCheckpointError, UnsafeCheckpointError):
            caught += 1
    assert caught > 20


def test_files_written_without_checksums_are_read(tmp_path):
    before = torch.serialization.get_crc32_options() if hasattr(torch.serialization, 'get_crc32_options') else None
    if before is None:
        pytest.skip('this torch always writes checksums')
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(dict(a=torch.ones(50)), tmp_path / 'none.pth')
    finally:
        torch.serialization.set_crc32_options(before)
    assert read_checkpoint(tmp_path / 'none.pth')['a'].sum() == 50


# ------------------------------------------------------------------------------------------------------- finite


def test_weights_that_are_not_finite_are_an_error_everywhere(case, changed, tmp_path):
    weights = torch.load(case[1], weights_only=True)['state_dict']
    weights['decode_head.conv_seg.weight'][1, 2] = float('nan')
    path = changed(state_dict=weights)
    message = r'changed\.pth: decode_head\.conv_seg\.weight has 1 value not finite'
    with pytest.raises(NonFiniteWeightsError, match=message):
        run_tool('test', case[0], path, '--work-dir', tmp_path / 'work')
    with pytest.raises(NonFiniteWeightsError, match=message):
        call_tool('predict', case[0], path, case[2], '--out', tmp_path / 'out')
    with pytest.raises(NonFiniteWeightsError, match=message):
        run_tool('train', case[0], '--work-dir', tmp_path / 'work', options=(f'load_from={path}',))
    assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize(
    'parts, named',
    [
        (dict(state_dict=dict(mask=torch.tensor([0.0, float('nan')]))), 'mask has 1 value'),
        (dict(ema_state_dict={'module.a': torch.full((2,), float('nan'))}), r'module\.a has 2 values'),
        (
            dict(optimizer=dict(state={0: dict(exp_avg=torch.tensor(float('nan')))})),
            r'optimizer: state\.0\.exp_avg has 1',
        ),
        (dict(state_dict=dict(a=torch.tensor([1 + 2j, complex('nan')]))), 'a has 1 value'),
        (dict(state_dict={'x.weight': torch.tensor([float('inf')], dtype=torch.bfloat16)}), r'x\.weight has 1 value'),
    ],
)
def test_all_that_is_trained_is_looked_at(changed, parts, named):
    with pytest.raises(NonFiniteWeightsError, match=named):
        read_checkpoint(changed(**parts))


def test_a_parameter_of_any_name_is_finite():
    model = torch.nn.Module()
    model.register_parameter('scale', torch.nn.Parameter(torch.ones(2)))
    model.register_buffer('mask', torch.zeros(2))
    infinite = torch.full((2,), float('-inf'))
    load_weights(model, dict(scale=torch.ones(2), mask=infinite), 'x.pth')
    with pytest.raises(NonFiniteWeightsError, match=r'x\.pth: scale has 2 values'):
        load_weights(model, dict(scale=infinite, mask=infinite), 'x.pth')


def test_a_mask_may_be_infinite(changed):
    assert read_checkpoint(changed(state_dict=dict(mask=torch.tensor([0.0, float('-inf')]))))['state_dict']


# ---------------------------------------------------------------------------------------------- no checkpoint at all


def zipped(name: str, text: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, 'w') as archive:
        if name:
            archive.writestr(name, text)
    return file.getvalue()


@pytest.mark.parametrize(
    'contents, words',
    [
        (zipped('readme.txt', 'hello'), 'a zip file, but not a checkpoint'),
        (zipped('', ''), 'a zip file, but not a checkpoint'),
        (zipped('archive/data.pkl', 'hello'), 'refused|damaged'),
        (b'hello', 'another kind of file'),
        (b'', 'it is empty'),
        (pickle.dumps([1, 2]), 'refused|no checkpoint'),
    ],
    ids=['zip', 'empty zip', 'zip like one', 'text', 'nothing', 'pickle'],
)
def test_files_that_are_none(tmp_path, contents, words):
    (tmp_path / 'file.pth').write_bytes(contents)
    with pytest.raises((DamagedCheckpointError, UnsafeCheckpointError), match=rf'file\.pth: .*({words})'):
        read_checkpoint(tmp_path / 'file.pth')


@pytest.mark.parametrize(
    'content, words',
    [
        ({}, 'an empty dict'),
        (torch.ones(2, 3), r'a tensor of shape \(2, 3\)'),
        ([torch.ones(2)], 'a list'),
        (dict(state_dict={}), 'no weights under "state_dict"'),
        (dict(epoch=1), 'a dict with epoch'),
    ],
    ids=['empty', 'tensor', 'list', 'no weights', 'other'],
)
def test_contents_that_are_none(case, tmp_path, content, words):
    path = tmp_path / 'file.pth'
    torch.save(content, path)
    with pytest.raises(CheckpointMismatchError, match=rf'file\.pth: there are no weights in this file, .*{words}'):
        init_model(case[0], str(path), 'cpu')
    with pytest.raises(CheckpointMismatchError, match='there are no weights'):  # as by model.pretrained and init_cfg
        CheckpointLoader.load_checkpoint(str(path), 'cpu')


def test_weights_under_other_names_load(tmp_path):
    torch.save(dict(model=dict(a=torch.ones(2)), epoch=1), tmp_path / 'other.pth')
    assert CheckpointLoader.load_checkpoint(str(tmp_path / 'other.pth'), 'cpu')['model']['a'].sum() == 2


def test_folders(case, tmp_path):
    folder = tmp_path / 'run'
    folder.mkdir()
    (folder / 'iter_7.pth').write_bytes(b'')
    message = r'run: this is a folder, but a checkpoint is a file, such as .*iter_7\.pth'
    with pytest.raises(FileNotFoundError, match=message):
        call_tool('predict', case[0], folder, case[2], '--out', tmp_path / 'out')
    for resume in ([], ['--resume']):
        with pytest.raises(FileNotFoundError, match=message):
            run_tool('train', case[0], '--work-dir', tmp_path / 'work', *resume, options=(f'load_from={folder}',))


# ------------------------------------------------------------------------------------------ MMEngine's own checkpoints


@pytest.mark.skipif(torch.__version__ < '2.6', reason='torch takes no stand-ins before')
def test_log_buffers_and_numbers_of_numpy_load(tmp_path):
    hub = MessageHub('stock')
    for step in range(3):
        hub.update_scalar('loss', 0.1 * step)
    info = dict(
        best=np.float64(2.5),
        step=np.int64(3),
        flag=np.bool_(True),
        table=np.arange(6).reshape(2, 3).T,
        big=np.array([1, 256], '>i4'),
        half=np.float16(0.5),
    )
    for key, value in info.items():
        hub.update_info(key, value)
    torch.save(dict(message_hub=hub.state_dict(), nested=[(np.float32(1), 'x')]), tmp_path / 'stock.pth')
    loaded = read_checkpoint(tmp_path / 'stock.pth')
    buffer = loaded['message_hub']['log_scalars']['loss']
    assert type(buffer) is HistoryBuffer and buffer.data[0].tolist() == [0, 0.1, 0.2]
    buffer.update(1.0)
    assert buffer.statistics('max') == 1.0 and loaded['nested'] == [(1.0, 'x')]
    for key, value in info.items():
        found = loaded['message_hub']['runtime_info'][key]
        assert np.array_equal(found, value) and np.asarray(found).dtype == np.asarray(value).dtype, key
    assert not any('stock_globals' in str(one) for one in torch.serialization.get_safe_globals())


class Reduced:
    """Pickles as the call of a function."""

    def __init__(self, *call):
        self.call = call

    def __reduce__(self):
        return self.call[0], self.call[1:]


@pytest.mark.parametrize(
    'thing',
    [
        Reduced(getattr, np.ndarray, 'tofile'),
        Reduced(getattr, Path, 'touch'),
        Reduced(np.dtype, 'O8', False, True),
        np.array([object()]),
        np.array([(1, 2.0)], dtype=[('a', 'i4'), ('b', 'f8')]),
        np.array(['text']),
        np.random.default_rng(0),
    ],
    ids=['getattr', 'getattr of a class', 'dtype', 'objects', 'records', 'strings', 'generator'],
)
def test_no_more_than_these(tmp_path, thing):
    with open(tmp_path / 'more.pth', 'wb') as file:
        torch.save(dict(a=thing), file)
    with pytest.raises(UnsafeCheckpointError, match='refused'):
        read_checkpoint(tmp_path / 'more.pth')


# ------------------------------------------------------------------------------------------------- configs in them


def test_a_config_is_read_as_it_was_written(case):
    config = Config.fromfile(case[0])
    expected = {key: value for key, value in config.to_dict().items() if key != 'custom_imports'}
    assert read_embedded(config.pretty_text, 'x.pth') == expected
    assert read_embedded("a = -1\nb = dict(c=(1, 2.5, None, -inf), d={'k': [True, {1}]})", 'x.pth') == dict(
        a=-1, b=dict(c=(1, 2.5, None, float('-inf')), d={'k': [True, {1}]})
    )
    classes = ('FCNHead', 'mmseg.FCNHead', 'mmseg.models.decode_heads.fcn_head.FCNHead', 'torch.nn.Hardswish')
    for kind in (*classes, 'mmengine.dataset.utils.pseudo_collate', 'mmseg_invattn.models.InvNLHead'):
        assert read_embedded(f'model = dict(type={kind!r})', 'x.pth')


@pytest.mark.parametrize(
    'text, words',
    [
        ('import os\nos.mkdir("TRACE")', 'line 1 is not a plain value: import os'),
        ('a = 1\nb = __import__("os").mkdir("TRACE")', 'line 2 is not a plain value'),
        ('a = [open(x) for x in "ab"]', 'not a plain value'),
        ('a = dict(**{})', 'not a plain value'),
        ('a = (lambda: 1)()', 'not a plain value'),
        ('a = 9 ** 9', 'not a plain value'),
        ('a = f"{1}"', 'not a plain value'),
        ('a = b = 1', 'not a plain value'),
        ('class A: pass', 'not a plain value'),
        ('a = {[]: 1}', 'TypeError'),
        ('a = ' + '(' * 5000, 'SyntaxError|MemoryError|RecursionError'),
        ('a = "{{$HOME:x}}"', 'template'),
        ('_base_ = "other.py"', 'it sets _base_'),
        ('env_variables = dict(A="b")', 'it sets env_variables'),
        ('custom_imports = dict(imports=["this"])', "imports 'this'"),
        ('model = dict(type="os.mkdir", path="TRACE")', r"'os\.mkdir' is not a class"),
        ('model = dict(type="subprocess.Popen", args="x")', 'is not a class'),
        ('model = dict(head=[dict(type="mmseg.apis.inference.Path.touch")])', 'is not a class'),
        ('model = dict(type="mmengine.runner.runner.os.system")', 'is not a class'),
        ('test_dataloader = dict(collate_fn="os.system")', 'is not a class'),
        ('optim_wrapper = dict(constructor="torch.load")', 'is not a class'),
    ],
)
def test_a_config_that_is_more_than_values_is_not_read(text, words):
    with pytest.raises(UnsafeConfigError, match=rf'x\.pth: the config in this checkpoint is not used.*({words})'):
        read_embedded(text, 'x.pth')


def test_mmengine_does_not_get_it(changed, caplog):
    good, bad = 'model = dict(type="FCNHead")', 'import os'
    for meta, info, left in ((bad, bad, None), (good, bad, good), (bad, good, good), (good, None, good)):
        hub = dict(runtime_info=dict(cfg=info), log_scalars={}, resumed_keys={}) if info else {}
        checkpoint = read_checkpoint(changed(meta=dict(config=meta, cfg=meta, iter=1), message_hub=hub))
        assert embedded_text(checkpoint) == left and checkpoint['meta']['iter'] == 1
    path = changed(meta=dict(config=bad))
    assert read_checkpoint(path, trust=True)['meta']['config'] == bad


@pytest.mark.parametrize('tool', ['predict', 'invert', 'explore_attention'])
def test_tools_take_a_checkpoint_without_config(tool):
    parse = load_tool(tool).parse_args
    for line, config in (('a.pth --out o b.png', None), ('a.py --out o a.pth b.png', 'a.py'), ('a.pth b.png', None)):
        args = parse([*line.split(), *['--out', 'o'] * ('--out' not in line)])
        assert (args.config, args.checkpoint) == (config, 'a.pth')


def test_a_checkpoint_alone_is_enough(case, changed, tmp_path, capsys):
    config = Config.fromfile(case[0])
    path = changed(meta=dict(cfg=config.pretty_text))
    assert config_of_checkpoint(path).model == config.model
    for name, line in (('alone', [path, case[2]]), ('config', [case[0], path, case[2]])):
        assert call_tool('predict', '--out', tmp_path / name, *line) == 0
    assert call_tool('predict', path, '--out', tmp_path / 'mixed', case[2]) == 0
    # the files themselves also hold a mark of the config that they were made with
    labels = {cv2.imread(tmp_path / name / '0_labels.png', -1).tobytes() for name in ('alone', 'config', 'mixed')}
    assert len(labels) == 1
    with pytest.raises(ValueError, match='this checkpoint contains no config'):
        call_tool('predict', case[1], case[2], '--out', tmp_path / 'none')
    trace = tmp_path / 'trace'
    with pytest.raises(UnsafeConfigError, match='line 1 is not a plain value: import os'):
        text = f'import os\nos.mkdir({str(trace)!r})\n{config.pretty_text}'
        call_tool('predict', changed(meta=dict(cfg=text)), case[2], '--out', tmp_path / 'none')
    assert not trace.exists() and not (tmp_path / 'none').exists()
    with pytest.raises(SystemExit):
        call_tool('predict', case[0], path, '--out', tmp_path / 'none')
    assert 'is a config, and no checkpoint comes after it' in capsys.readouterr().err
