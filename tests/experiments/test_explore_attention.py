"""The page of tools/explore_attention.py, in a browser: what it shows is what PyTorch computes."""

import json
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from helpers.browser import one_browser, opened, wait_until
from helpers.view_cases import CASES, make_block, run_tool, views_of, write_model
from mmcv.cnn import NonLocal2d

from mmseg_invattn.engine.hooks.attention_centre_hook import AttentionCentreHook
from mmseg_invattn.experiments.explore.attention_packing import coarser, pack
from mmseg_invattn.experiments.explore.attention_view import paint, weights
from mmseg_invattn.experiments.explore.page import MAX_BYTES, make_page
from mmseg_invattn.layers import InvRelativeAttention2d

PICTURE = np.random.default_rng(0).integers(0, 256, (50, 60, 3), dtype=np.uint8)
QUERY = 16


@pytest.fixture(scope='module', autouse=True)
def browser():
    """One for all tests, started by the first that opens a page."""
    with one_browser():
        yield


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
        assert tab.locator('#range').input_value() == 'zero' and tab.locator('#low').inner_text() == '0.00 %'
        tab.locator('#range').select_option('contrast')
        tab.wait_for_timeout(100)
        assert before != pixels() and tab.locator('#low').inner_text() != '0.00 %'

        notes = tab.locator('#notes').inner_text()
        assert 'a note of <b>ours</b>' in notes and 'cold ones negative' in notes
        assert tab.locator('header p').inner_text() == 'a <title> & more'
        assert not faults


def drawn(tab, answer, source='byId("map")'):
    """The answer of an expression about ``d``, the pixels of the large map or of another source in its size."""
    return tab.evaluate(
        f"""() => {{ const copy = document.createElement('canvas'), map = byId('map');
            [copy.width, copy.height] = [map.width, map.height];
            const context = copy.getContext('2d', {{ willReadFrequently: true }});
            context.imageSmoothingEnabled = false;
            context.drawImage({source}, 0, 0, map.width, map.height);
            const d = context.getImageData(0, 0, map.width, map.height).data;
            return {answer}; }}"""
    )


def greenish(tab):
    """How many pixels of the large map have the green of a held query."""
    return drawn(tab, 'd.filter((r, i) => i % 4 === 0 && r === 61 && d[i + 1] === 220 && d[i + 2] === 132).length')


def test_a_held_query_is_seen_and_other_pixels_are_read(tmp_path):
    block, x = make_block(CASES['none-gaussian'], dtype=torch.float32)
    (view,) = views_of(block, x)
    page = written(tmp_path, [view])
    exact = 100 * weights(view, 0)[0]
    with opened(page) as (tab, faults):
        wait_until(tab, 'explorer.weights')
        box = tab.locator('#map').bounding_box()
        place = [(box['x'] + box['width'] * x, box['y'] + box['height'] * 0.1) for x in (0.1, 0.9)]
        tab.mouse.move(*place[0])
        wait_until(tab, 'explorer.query === 0')
        tab.wait_for_timeout(100)
        hold, said, free = tab.locator('#hold'), tab.locator('#pointed'), greenish(tab)
        assert hold.get_attribute('aria-pressed') == 'false'
        assert said.inner_text().startswith('Weight of the query for itself')

        def reads(row, column):
            tab.wait_for_timeout(100)
            text = said.inner_text()
            value = float(text.split(': ')[1].split(' %')[0])
            factor = float(text.split('(')[1].split(' ×')[0])
            expected = float(exact[6 * (row - 1) + column - 1])
            assert f'row {row}, column {column} of 5 x 6' in text and abs(value - expected) < 0.02 * expected
            assert factor == pytest.approx(expected * 30 / 100, rel=0.06)

        tab.mouse.click(*place[0])
        tab.mouse.move(*place[1])
        reads(1, 6)
        assert tab.evaluate('explorer.query') == 0
        assert hold.get_attribute('aria-pressed') == 'true' and 'held' in hold.inner_text()
        assert greenish(tab) > free + 20
        assert 'Held query' in tab.locator('#readout').inner_text()
        tab.mouse.click(*place[1])
        wait_until(tab, 'explorer.query === 5')
        tab.wait_for_timeout(100)
        assert hold.get_attribute('aria-pressed') == 'false' and greenish(tab) == 0

        tab.mouse.move(*place[0])  # the same by the keyboard
        wait_until(tab, 'explorer.query === 0')
        tab.mouse.move(1, 1)
        tab.locator('#map').focus()
        tab.keyboard.press('Enter')
        tab.keyboard.press('ArrowDown')
        tab.keyboard.press('Shift+ArrowRight')
        reads(2, 6)
        assert tab.evaluate('explorer.query') == 0
        tab.keyboard.press('Escape')
        tab.keyboard.press('ArrowRight')
        wait_until(tab, 'explorer.query === 1')
        assert not faults


def test_the_address_says_what_is_held(tmp_path):
    views = views_of(*make_block(CASES['certified-embedded_gaussian'], dtype=torch.float32))
    page = written(tmp_path, views * 2)
    with opened(page) as (tab, faults):
        wait_until(tab, 'explorer.weights')
        tab.goto(f'{page.as_uri()}#block=2&head=2&row=3&column=4')
        tab.reload()
        wait_until(tab, 'explorer.query === 15')
        assert tab.evaluate('[explorer.state.block, explorer.state.head, explorer.state.held]') == [1, 1, True]
        tab.locator('#head').select_option(index=0)
        wait_until(tab, 'location.hash === "#block=2&head=1&row=3&column=4"')
        tab.locator('#hold').click()
        wait_until(tab, 'location.hash === ""')
        tab.goto(f'{page.as_uri()}#block=99&head=x&row=1e9&column=-4')  # numbers out of range become the nearest ones
        tab.reload()
        wait_until(tab, 'explorer.query === 24')
        assert tab.evaluate('[explorer.state.block, explorer.state.head]') == [1, 0]
        assert [fault for fault in faults if not fault.startswith(page.as_uri())] == []


@pytest.mark.parametrize('width', [390, 1280])
def test_the_scale_says_how_far_weights_are_from_equal(tmp_path, width):
    """The ends of the scale and the mark of equal weights are at the right positions."""
    views = views_of(*make_block(CASES['certified-embedded_gaussian'], dtype=torch.float32))
    exact = weights(views[0], 15)[0]
    with opened(written(tmp_path, views), viewport=dict(width=width, height=900)) as (tab, faults):
        wait_until(tab, 'explorer.query === 15')
        factor = float(exact.max()) * 30

        def high():
            return float(tab.locator('#high').inner_text().split('(')[1].split(' ×')[0])

        assert high() == pytest.approx(factor, rel=0.06)
        assert tab.locator('#equal').inner_text() == 'equal weights: 3.33 % (1 ×)'
        bar, tick = tab.locator('.bar').bounding_box(), tab.locator('#tick').bounding_box()
        assert abs(tick['x'] + tick['width'] / 2 - bar['x'] - bar['width'] / factor) < 3
        label = tab.locator('#equal span').bounding_box()
        assert bar['x'] - 1 <= label['x'] <= tick['x'] <= label['x'] + label['width'] <= bar['x'] + bar['width'] + 1
        first = tab.locator('#all button').first.inner_text()
        assert first.startswith('head 1: ') and float(first.split()[2]) == pytest.approx(factor, rel=0.06)
        tab.locator('#range').select_option('contrast')
        tab.wait_for_timeout(100)
        share = (1 / 30 - float(exact.min())) / float(exact.max() - exact.min())
        tick = tab.locator('#tick').bounding_box()
        assert abs(tick['x'] + tick['width'] / 2 - bar['x'] - bar['width'] * share) < 3
        assert not faults


def test_opacity_leads_from_the_picture_to_the_colours(tmp_path):
    views = views_of(*make_block(CASES['none-gaussian'], dtype=torch.float32))
    with opened(written(tmp_path, views)) as (tab, faults):
        wait_until(tab, 'explorer.weights')

        def corner(opacity):
            tab.locator('#opacity').fill(str(opacity))
            tab.wait_for_timeout(100)
            return np.array(drawn(tab, 'Array.from(d.slice(0, 400))'))

        plain = np.array(drawn(tab, 'Array.from(d.slice(0, 400))', 'picture'))
        off = [np.abs(corner(opacity) - plain).mean() for opacity in (0, 30, 100)]
        assert off[0] < 1 and off[1] > off[0] + 3 and off[2] > off[1] + 3
        assert not faults


def test_sharpness_and_saturation_are_said_and_explained(tmp_path):
    """Only forms that have them show them."""
    block, x = make_block(CASES['certified-embedded_gaussian'], dtype=torch.float32)
    other, _ = make_block(CASES['none-gaussian'], dtype=torch.float32)
    (view,), (plain,) = views_of(block, x), views_of(other, x)
    assert view.sharpness_H == (1.0, 1.0) and view.saturation == pytest.approx(float(block.saturation(x)))
    assert plain.sharpness_H is None and plain.saturation is None
    learned = type(block)(16, num_heads=2, sharpness='learned')
    learned(x)
    learned.sharpness.raw.data = torch.tensor([0.0, 3.0])
    assert views_of(learned.eval(), x)[0].sharpness_H == pytest.approx((0.6931, 3.0486), abs=1e-4)
    with opened(written(tmp_path, [coarser(view, 2), plain])) as (tab, faults):
        wait_until(tab, 'explorer.weights')
        facts = tab.locator('#facts')
        share = f'{100 * view.saturation:.1f}'
        assert facts.inner_text() == f'Sharpness of this head: 1.00. Saturated pixels of this block: {share} %.'
        tab.locator('summary').focus()
        tab.keyboard.press('Enter')
        words = tab.locator('dl').inner_text()
        assert 'Sharpness' in words and 'Saturation' in words
        tab.locator('#block').select_option(index=1)
        tab.wait_for_timeout(100)
        assert facts.inner_text() == ''
        assert not faults


def test_phone_and_dark_mode(tmp_path):
    block, x = make_block(CASES['conditional-concatenation'], dtype=torch.float32)
    page = written(tmp_path, views_of(block, x))
    with opened(page, viewport=dict(width=360, height=740), has_touch=True, color_scheme='dark') as (tab, faults):
        wait_until(tab, 'explorer.weights')
        assert tab.evaluate('document.documentElement.scrollWidth') <= 360
        assert tab.evaluate('getComputedStyle(document.body).backgroundColor') == 'rgb(22, 22, 26)'
        box = tab.locator('#map').bounding_box()

        def tap(x, y):
            tab.touchscreen.tap(box['x'] + box['width'] * x, box['y'] + box['height'] * y)

        tap(0.99, 0.7)
        wait_until(tab, 'explorer.query === 23')
        tab.locator('#hold').tap()
        wait_until(tab, 'explorer.state.held')
        box = tab.locator('#map').bounding_box()
        tap(0.01, 0.3)  # reads another pixel
        wait_until(tab, 'byId("pointed").textContent.includes("row 2, column 1")')
        assert tab.evaluate('explorer.query') == 23
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
    page = out.read_text(encoding='utf-8')
    assert f'<p>Image street.png · config model.py · checkpoint {tmp_path.name}/model.pth</p>' in page
    data = data_of(page)
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
    with pytest.raises(ValueError, match='which are modules of the types .*NonLocal2d.*PAM'):
        run_tool('explore_attention', config, checkpoint, image, '--out', out)
    with pytest.raises(ValueError, match='Cannot read the image file .*model.py'):
        run_tool('explore_attention', config, checkpoint, config, '--out', out)
    with pytest.raises(FileNotFoundError, match='no such image'):
        run_tool('explore_attention', config, checkpoint, tmp_path / 'none.png', '--out', out)
    assert not out.exists()
