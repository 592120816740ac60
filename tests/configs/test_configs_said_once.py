"""Configs repeat nothing of their bases, and an invertible config differs from its twin only in the attention."""

import ast
import copy
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from helpers.config_cases import CONFIGS, FOLDER, SHORT, load
from mmengine.config import Config, ConfigDict

ALL = sorted(FOLDER.rglob('*.py'))
# Beginning of the name of a config -> that of its twin, and all that the two may differ in.
HEAD = {'model.decode_head.type', 'model.decode_head.attention'}
BACKBONE = {'model.backbone.type', 'model.backbone.attention'}
CAMVID = '(?P<folder>camvid(_frozen)?/)?'
TWINS = [
    (r'demo/invnl', 'demo/nonlocal', HEAD),
    (r'demo/nonlocal', 'demo/fcn', {'model.decode_head.type'}),
    (r'comparison/context_shapes/nonlocal', 'comparison/context_shapes/fcn', {'model.decode_head.type'}),
    (r'comparison/context_shapes/invnl(-[a-z]+)?', 'comparison/context_shapes/nonlocal', HEAD),
    (r'comparison/context_shapes/invda', 'comparison/context_shapes/danet', {'model.decode_head.attention'}),
    (rf'comparison/{CAMVID}fcn', 'comparison/{folder}nonlocal', {'model.decode_head.num_blocks'}),
    (rf'comparison/{CAMVID}danet', 'comparison/{folder}nonlocal', {'model.decode_head.type'}),
    (rf'comparison/{CAMVID}invnl(-[a-z]+)?', 'comparison/{folder}nonlocal', {'model.decode_head.attention'}),
    (rf'comparison/{CAMVID}invda', 'comparison/{folder}danet', {'model.decode_head.attention'}),
    (r'invnl/invnl(-[a-z0-9-]+)?', 'nonlocal/nonlocal', HEAD | {'model.decode_head.num_blocks'}),
    (r'invda/invda', 'danet/danet', HEAD),
    (r'invdeeplabv3/invdeeplabv3', 'deeplabv3/deeplabv3', HEAD),
    (r'invdeeplabv3plus/invdeeplabv3plus', 'deeplabv3plus/deeplabv3plus', HEAD),
    (r'invpspnet/invpspnet', 'pspnet/pspnet', HEAD),
    (r'inv_attention_resnet/fcn_invattnr(?P<depth>[0-9]+)', 'fcn/fcn_r{depth}-d8', BACKBONE),
    (r'inv_attention_resnet/fcn_pluginr(?P<depth>[0-9]+)', 'fcn/fcn_r{depth}-d8', {'model.backbone.plugins'}),
    (r'rev_net/fcn_revnet', 'inv_resnet/fcn_invresnet', BACKBONE),
    (r'inv_unet/fcn_invunet-s5-d16(-[a-z]+)?', 'unet/fcn_unet-s5-d16', {'model.backbone'}),
    (r'inv_unet/camvid/invunet(-[a-z]+)?', 'inv_unet/camvid/unet', {'model.backbone'}),
]
INVERTIBLE = {
    path
    for path in (*CONFIGS, *SHORT)
    if re.match(
        'inv(?!_unet/camvid/unet)|rev_net|demo/invnl|comparison/((camvid(_frozen)?|context_shapes)/)?inv',
        path.relative_to(FOLDER).as_posix(),
    )
}


@cache
def as_dict(path: Path) -> dict:
    return load(path).to_dict()


def differences(one: dict, other: dict, where: str = '') -> Iterator[str]:
    """Dotted names of the entries that differ."""
    for key in one.keys() | other.keys():
        a, b = one.get(key), other.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            yield from differences(a, b, f'{where}{key}.')
        elif a != b or key not in one or key not in other:
            yield f'{where}{key}'


def twin_of(path: Path) -> tuple[Path, set[str]] | None:
    name = path.relative_to(FOLDER).as_posix()
    for pattern, twin, allowed in TWINS:
        if match := re.match(rf'{pattern}(?=_|[0-9]|\.)', name):
            return FOLDER / (twin.format(**match.groupdict('')) + name[match.end() :]), allowed
    return None


def test_an_invertible_config_differs_from_its_twin_in_the_attention_alone():
    pairs = {path: twin_of(path) for path in (*CONFIGS, *SHORT) if twin_of(path)}
    own = {path for path in INVERTIBLE if path.parent.name == 'inv_resnet'}  # a backbone without an ordinary twin
    assert pairs.keys() >= INVERTIBLE - own and len(pairs) > 110
    for path, (twin, allowed) in pairs.items():
        found = {
            next((name for name in allowed if f'{difference}.'.startswith(f'{name}.')), difference)
            for difference in differences(as_dict(twin), as_dict(path))
        }
        assert found and found <= allowed, f'{path}: {sorted(found - allowed)}'


def parts(path: Path) -> tuple[dict, dict]:
    """The entries of the bases of a config, and its own entries."""
    tree = ast.parse(path.read_text())
    named = [
        node for node in tree.body if isinstance(node, ast.Assign) and getattr(node.targets[0], 'id', '') == '_base_'
    ]
    bases = ast.literal_eval(named[0].value) if named else []
    base = {}
    for name in [bases] if isinstance(bases, str) else bases:
        base |= as_dict((path.parent / name).resolve())
    tree.body = [node for node in tree.body if node not in named]
    scope = {'_base_': ConfigDict(copy.deepcopy(base))}
    exec(compile(tree, str(path), 'exec'), scope)
    own = {key: value for key, value in scope.items() if not key.startswith('_')}
    return base, Config(own).to_dict() if own else {}


def entries(statement: dict, where: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for key, value in statement.items():
        if isinstance(value, dict) and value:
            yield from entries(value, (*where, key))
        else:
            yield (*where, key)


def merged(base: dict, own: dict, key: str) -> object:
    """The top-level entry ``key`` of a config."""
    cfg = Config({key: copy.deepcopy(base[key])} if key in base else {})
    if key in own:
        cfg.merge_from_dict({key: copy.deepcopy(own[key])})
    return cfg.to_dict().get(key)


def without(statement: dict, place: tuple[str, ...]) -> dict:
    """A copy without one entry, nor the dicts that hold nothing else."""
    left = dict(statement)
    inner = without(left[place[0]], place[1:]) if len(place) > 1 else None
    if inner:
        left[place[0]] = inner
    else:
        del left[place[0]]
    return left


def repeated(path: Path) -> list[str]:
    """Entries of a config that change nothing, since its bases say them."""
    base, own = parts(path)
    whole = {key: merged(base, own, key) for key in own}
    assert whole == {key: as_dict(path)[key] for key in own}, f'{path} is read in another way than MMEngine does'
    found = [
        '.'.join(place)
        for place in entries(own)
        if place[0] in base and merged(base, without(own, place), place[0]) == whole[place[0]]
    ]
    return found + list(_restored(base, own))


def _restored(base: object, own: object, where: str = '') -> Iterator[str]:
    """Entries of a dict with ``_delete_`` that are the same as before."""
    if isinstance(base, dict) and isinstance(own, dict):
        for key, value in own.items():
            if own.get('_delete_') and key in base and base[key] == value:
                yield f'{where}{key}'
            yield from _restored(base.get(key), value, f'{where}{key}.')


def test_no_config_repeats_what_its_bases_say():
    """Without any one of its entries, a config is another config."""
    assert len(ALL) > 200
    found = {str(path.relative_to(FOLDER)): repeated(path) for path in ALL}
    assert not (found := {name: entries for name, entries in found.items() if entries}), found


@pytest.mark.parametrize(
    'text, entries',
    [
        (
            "_base_ = '{twin}'\nmodel = dict(decode_head=dict(type='InvNLHead', channels=512))",
            ['model.decode_head.channels'],
        ),
        ("_base_ = '{twin}'\nmodel = dict(decode_head=dict(_delete_=True, type='NLHead'))", ['model.decode_head.type']),
        ("_base_ = '{twin}'\ncrop_size = (512, 1024)", ['crop_size']),
        ("_base_ = '{twin}'\ncrop_size = (512, 1025)", []),
    ],
)
def test_a_repetition_is_found(tmp_path, text, entries):
    twin = FOLDER / 'nonlocal' / 'nonlocal_r50-d8_4xb2-40k_cityscapes-512x1024.py'
    config = tmp_path / 'config.py'
    config.write_text(text.format(twin=twin))
    assert repeated(config) == entries
