"""The page of tools/explore_attention.py, in a browser: what it shows is what PyTorch computes."""

import json
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from helpers.browser import opened, wait_until
from helpers.view_cases import CASES, make_block, run_tool, views_of, write_model
from mmcv.cnn import NonLocal2d

from mmseg_invattn.engine.hooks.attention_centre_hook import AttentionCentreHook
from mmseg_invattn.experiments.explore.attention_packing import coarser, pack
from mmseg_invattn.experiments.explore.attention_view import paint, weights
from mmseg_invattn.experiments.explore.page import MAX_BYTES, make_page
from mmseg_invattn.layers import InvRelativeAttention2d

PICTURE = np.random.default_rng(0).integers(0, 256, (50, 60, 3), dtype=np.uint8)
QUERY = 16


def written(folder, views, notes=()):
    page = folder / 'page.html'
    views = [(f'block {i}', view) for i, view in enumerate(views)]
    page.write_text(make_page(PICTURE, views, 'a <title> & more', list(notes)), encoding='utf-8')
    return page


def shown(tab, block, head, query):
    """Weights in the page, as a list."""
    return tab.evaluate('([b, h, q]) => Array.from(explorer.blocks[b].weights(h, q))', [block, head, query])


def test_weights_in_the_page_are_those_of_pytorch(tmp_path):
    """The numbers of the page give the same weights in JavaScript as in Python to float32's rounding, for every mode,
    form and part; by how much packing moves scores is tested beside it."""
    views = [view for case in CASES.values() for view in views_of(*make_block(case, 0.5, torch.float32))]
    views += [coarser(view, 2) for view in views[::7]]
    with opened(written(tmp_path, views)) as (tab, faults):
        wait_until(tab, 'explorer.weights')
        for index, view in enumerate(views):
            view = pack(view).view
            query = QUERY % view.query_HND.shape[1]
            expected_HM = weights(view, query)
            painted = paint(view, expected_HM)
            for head in range(view.heads):
                got = tab.evaluate(
                    """([b, h, q]) => { const block = explorer.blocks[b], w = block.weights(h, q);
                                   return [Array.from(w), Array.from(block.paint(w))]; }""",
                    [index, head, query],
                )
                scale = float(expected_HM[head].abs().max())  # above 1 where a sum of ELUs is small
                for numbers, truth in zip(got, (expected_HM[head], painted[head].flatten()), strict=True):
                    numbers = torch.tensor(numbers, dtype=torch.float32)
                    torch.testing.assert_close(numbers, truth, rtol=1e-4, atol=1e-5 * scale)
        assert not faults


def test_pointer_keys_and_choices(tmp_path):
    """Two blocks, of two heads and of one: what is shown follows the pointer, the keys and the choices."""
    block, x = make_block(CASES['certified-embedded_gaussian-learned'], dtype=torch.float32)
    torch.manual_seed(1)
    other = NonLocal2d(16, mode='dot_product', zeros_init=False, std=0.5).eval()
    model = torch.nn.Sequential(block, other)
    views = views_of(model, x)
    page = written(tmp_path, views, ['a note of <b>ours</b>'])
    with opened(page, viewport=dict(width=900, height=900)) as (tab, faults):
        wait_until(tab, 'explorer.weights')
        box = tab.locator('#map').bounding_box()

        def check(index, head, query):
            wait_until(tab, f'[explorer.query, explorer.state.block, explorer.state.head] == "{query},{index},{head}"')
            tab.wait_for_timeout(100)  # a frame, in which the map is drawn
            got = torch.tensor(tab.evaluate('Array.from(explorer.weights)'))
            exact = weights(views[index], query)[head]
            error = pack(views[index]).error
            if index == 0:  # scores that are off by e move a softmax by a factor of at most exp(2 e)
                assert (got / exact).log().abs().max() <= 2 * error + 1e-4
            else:  # and a mean by e / M
                assert (got - exact).abs().max() <= error / len(exact) + 1e-6
            return got

        def pixels(selector='#map'):
            return tab.evaluate('s => document.querySelector(s).toDataURL()', selector)

        tab.mouse.move(box['x'] + box['width'] * 2.5 / 6, box['y'] + box['height'] * 1.5 / 5)
        first, picture, small = check(0, 0, 8), pixels(), pixels('#all button:last-child canvas')
        tab.mouse.move(box['x'] + box['width'] * 5.5 / 6, box['y'] + box['height'] * 4.5 / 5)
        assert not torch.equal(first, check(0, 0, 29))
        assert picture != pixels() and small != pixels('#all button:last-child canvas')

        tab.mouse.move(1, 1)  # off the picture: where the page scrolls under the pointer, that moves the query too
        tab.locator('#map').focus()
        tab.keyboard.press('ArrowLeft')
        check(0, 0, 28)
        tab.keyboard.press('ArrowUp')
        check(0, 0, 22)
        tab.keyboard.press('Shift+ArrowLeft')  # stops at the border
        check(0, 0, 18)
        assert 'row 4, column 1 of 5 x 6' in tab.locator('#readout').inner_text()

        tab.locator('#head').select_option(index=1)
        check(0, 1, 18)
        tab.locator('#block').select_option(index=1)
        check(1, 0, 18)
        tab.locator('#all button').first.focus()
        tab.keyboard.press('Enter')
        check(0, 0, 18)
        assert tab.locator('#block').input_value() == '0'
        assert tab.locator('#all button').first.get_attribute('aria-pressed') == 'true'
        before = pixels()
        tab.locator('#range').select_option('zero')
        tab.wait_for_timeout(100)
        assert before != pixels() and tab.locator('#low').inner_text() == '0.00 %'

        notes = tab.locator('#notes').inner_text()
        assert 'a note of <b>ours</b>' in notes and 'cold ones negative' in notes
        assert tab.locator('header p').inner_text() == 'a <title> & more'
        assert not faults


def test_a_click_holds_the_query(tmp_path):
    block, x = make_block(CASES['none-gaussian'], dtype=torch.float32)
    page = written(tmp_path, views_of(block, x))
    with opened(page) as (tab, faults):
        wait_until(tab, 'explorer.weights')
        box = tab.locator('#map').bounding_box()
        place = [(box['x'] + box['width'] * x, box['y'] + box['height'] * 0.1) for x in (0.1, 0.9)]
        tab.mouse.click(*place[0])
        tab.mouse.move(*place[1])
        tab.wait_for_timeout(100)
        assert tab.evaluate('explorer.query') == 0
        tab.mouse.click(*place[1])
        wait_until(tab, 'explorer.query === 5')
        assert not faults


def test_phone_and_dark_mode(tmp_path):
    block, x = make_block(CASES['conditional-concatenation'], dtype=torch.float32)
    page = written(tmp_path, views_of(block, x))
    with opened(page, viewport=dict(width=360, height=740), has_touch=True, color_scheme='dark') as (tab, faults):
        wait_until(tab, 'explorer.weights')
        assert tab.evaluate('document.documentElement.scrollWidth') <= 360
        assert tab.evaluate('getComputedStyle(document.body).backgroundColor') == 'rgb(22, 22, 26)'
        box = tab.locator('#map').bounding_box()
        tab.touchscreen.tap(box['x'] + box['width'] * 0.99, box['y'] + box['height'] * 0.99)
        wait_until(tab, 'explorer.query === 29')
        assert not faults


def data_of(page):
    return json.loads(page.split('id="data">')[1].split('</script>')[0])


def test_page_of_a_large_image_is_small():
    """512 x 1024 at stride 8, queries of 64 channels that all count: pixels are kept as they are."""
    torch.manual_seed(0)
    block, x = NonLocal2d(128, std=0.3).eval(), torch.randn(1, 128, 64, 128)
    picture = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (512, 1024, 3), dtype=np.uint8), (0, 0), 2)
    page = make_page(picture, [('block', *views_of(block, x))], 'large', [])
    (shown,) = data_of(page)['blocks']
    assert len(page.encode()) < MAX_BYTES == 5_000_000
    assert shown['channels'] == 64 and len(shown['queryCells']['rows']) == 64


def test_a_page_that_would_be_large_is_made_coarser():
    block, x = make_block(CASES['none-gaussian'], dtype=torch.float32)
    views = [('block', *views_of(block, x))]
    size = len(make_page(PICTURE, views, 'small', []).encode())
    page = make_page(PICTURE, views, 'small', [], size - 500)
    data = data_of(page)
    assert len(page.encode()) <= size - 500
    factor = data['blocks'][0]['queryCells']['rows'][0][1]
    assert factor > 1 and f'means over blocks of {factor} x {factor} pixels' in ' '.join(data['notes'])
    with pytest.raises(ValueError, match='does not fit into 1,000 bytes'):
        make_page(PICTURE, views, 'small', [], 1000)


BACKBONE = dict(
    strides=(2, 2),
    out_indices=(1,),
    stage_blocks=(1, 1),
    hidden_channels=(6, 6),
    attention=dict(),
    attention_stages=(0,),
)


@pytest.mark.parametrize(
    'head, blocks',
    [
        (dict(type='InvNLHead', concat_input=False, num_blocks=2, attention=dict(form='coupling')), 4),
        (dict(type='NLHead', concat_input=False), 1),
        (dict(type='DAHead', pam_channels=4), 1),
        (dict(type='InvDAHead'), 1),
        (dict(type='FCNHead', num_convs=1, in_channels=48, backbone=dict(type='InvResNet', **BACKBONE)), 1),
        (dict(type='FCNHead', num_convs=1, in_channels=48, backbone=dict(type='RevNet2d', **BACKBONE)), 2),
    ],
)
def test_tool(tmp_path, capsys, head, blocks):
    config, checkpoint, image = write_model(tmp_path, dict(head))
    out = tmp_path / 'folder' / 'page.html'
    run_tool('explore_attention', config, checkpoint, image, '--out', out, '--device', 'cpu')
    data = data_of(out.read_text(encoding='utf-8'))
    assert len(data['blocks']) == blocks and data['blocks'][0]['size'] == [12, 16]
    assert any('over channels' in note for note in data['notes']) == head['type'].endswith('DAHead')
    assert str(out) in capsys.readouterr().out
    with pytest.raises(FileExistsError, match='--overwrite'):
        run_tool('explore_attention', config, checkpoint, image, '--out', out)
    run_tool('explore_attention', config, checkpoint, image, '--out', out, '--overwrite')


def test_centres_over_training(tmp_path):
    """What AttentionCentreHook wrote beside the checkpoint is on the page, and can be seen there."""
    head = dict(type='InvNLHead', concat_input=False, attention=dict(type='InvRelativeAttention2d', num_heads=2))
    config, checkpoint, image = write_model(tmp_path, head)
    pages = tmp_path / 'without.html', tmp_path / 'with.html'
    run_tool('explore_attention', config, checkpoint, image, '--out', pages[0])
    block = InvRelativeAttention2d(8, 2)
    for iteration in (0, 10):
        AttentionCentreHook._write(SimpleNamespace(model=block, work_dir=tmp_path), iteration)
    run_tool('explore_attention', config, checkpoint, image, '--out', pages[1])
    assert 'id="centres"' not in pages[0].read_text(encoding='utf-8')
    with opened(pages[1]) as (tab, faults):
        wait_until(tab, 'explorer.weights')
        assert tab.evaluate('document.getElementById("centres").naturalWidth') > 100
        assert tab.evaluate('document.documentElement.scrollWidth <= innerWidth')
        assert not faults


def test_tool_refuses(tmp_path):
    config, checkpoint, image = write_model(tmp_path, dict(type='FCNHead', num_convs=1, concat_input=False))
    out = tmp_path / 'page.html'
    with pytest.raises(ValueError, match='looked for modules of the types .*NonLocal2d.*PAM'):
        run_tool('explore_attention', config, checkpoint, image, '--out', out)
    with pytest.raises(ValueError, match='Cannot read the image file .*model.py'):
        run_tool('explore_attention', config, checkpoint, config, '--out', out)
    with pytest.raises(FileNotFoundError, match='no such image'):
        run_tool('explore_attention', config, checkpoint, tmp_path / 'none.png', '--out', out)
    assert not out.exists()
