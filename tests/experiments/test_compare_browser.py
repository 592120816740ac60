"""The report of a comparison in a real browser: a phone, dark mode, sorting, the keyboard, no network."""

import shutil

import numpy as np
import pytest
from helpers.browser import ARGUMENTS
from helpers.comparison_case import OPTIONS, made_up_runs, made_up_speed

from mmseg_invattn.experiments.compare.pictures import ERROR_COLOURS, WRONG, _indexed
from mmseg_invattn.experiments.compare.report import write_reports
from mmseg_invattn.experiments.compare.summary import summarise

playwright = pytest.importorskip('playwright.sync_api')
CHROMIUM = shutil.which('chromium')
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason='there is no chromium')
HEADS = 6


def made_up_pictures(labels):
    rng = np.random.default_rng(0)
    colours = np.array([[70, 130, 180], [128, 64, 128], [107, 142, 35], [220, 220, 0]])
    shot = _indexed(rng.integers(0, 4, (6, 8)).repeat(20, 0).repeat(20, 1), colours)
    return [
        dict(
            name='0001.png',
            score=0.5,
            image=shot,
            truth=shot,
            heads=[dict(label=label, right=0.9, prediction=shot, errors=shot) for label in labels],
        )
    ]


@pytest.fixture(scope='module')
def report(tmp_path_factory):
    out = tmp_path_factory.mktemp('comparison')
    runs = made_up_runs(out, HEADS, (0, 1, 2))
    results = summarise(runs, runs[0].name, OPTIONS, made_up_speed(runs), margin=0.5)
    write_reports(out, results, made_up_pictures([head['label'] for head in results['heads']]))
    return out / 'report.html'


@pytest.fixture(scope='module')
def browser():
    with playwright.sync_playwright() as tool:
        browser = tool.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser, report):
    """Opens the report, and checks afterwards that it made no requests and logged no errors."""
    requests, complaints, contexts = [], [], []

    def open_page(**options):
        context = browser.new_context(**options)
        contexts.append(context)
        page = context.new_page()
        page.on('request', lambda request: requests.append(request.url))
        page.on('console', lambda message: complaints.append(message.text))
        page.on('pageerror', lambda error: complaints.append(str(error)))
        page.goto(report.as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []
    assert {url for url in requests if not url.startswith('data:')} == {report.as_uri()}


def column(page, table, index):
    return page.locator(f'table >> nth={table}').locator(f'tbody tr > :nth-child({index})').all_inner_texts()


def test_fits_a_phone(open_page):
    page = open_page(viewport=dict(width=390, height=844))
    assert page.evaluate('document.documentElement.scrollWidth') == 390
    charts = page.locator('svg')
    assert charts.count() == 1 + 2 + HEADS  # differences, learning curves together, and those of every head
    assert all(0 < charts.nth(i).bounding_box()['width'] <= 390 for i in range(charts.count()))
    assert page.evaluate('[...document.images].every(image => image.complete && image.naturalWidth > 0)')


def test_dark_mode(open_page):
    seen = {}
    for scheme in ('light', 'dark'):
        page = open_page(color_scheme=scheme)
        seen[scheme] = page.evaluate("""() => {
            const style = selector => getComputedStyle(document.querySelector(selector));
            return [style('body').backgroundColor, style('body').color, style('svg text').fill]; }""")
    assert all(light != dark for light, dark in zip(seen['light'], seen['dark'], strict=True))

    def brightness(colour):
        return sum(map(int, colour.removeprefix('rgb(').rstrip(')').split(',')))

    (paper, *inks), (night, *lights) = seen['light'], seen['dark']
    assert all(brightness(paper) > brightness(ink) for ink in inks)
    assert all(brightness(night) < brightness(light) for light in lights)


def test_sorting_by_mouse_and_keyboard(open_page):
    page = open_page()
    miou = page.get_by_role('button', name='mIoU')
    miou.click()
    values = [float(text.split()[0]) for text in column(page, 0, 2)]
    assert len(values) == HEADS and values == sorted(values, reverse=True)
    assert page.locator('th[aria-sort=descending]').inner_text() == 'mIoU'
    miou.focus()
    page.keyboard.press('Enter')
    assert [float(text.split()[0]) for text in column(page, 0, 2)] == sorted(values)
    page.get_by_role('button', name='certified bound').click()
    bounds = column(page, 2, 3)
    assert bounds == ['0.9000'] * (HEADS // 2) + ['-'] * (HEADS // 2)  # rows without a value stay at the end
    page.get_by_role('button', name='certified bound').click()
    assert column(page, 2, 3) == bounds


def test_pictures_switch_to_the_errors(open_page):
    page = open_page()
    prediction, errors = page.locator('img.prediction').first, page.locator('img.errors').first
    assert prediction.is_visible() and not errors.is_visible()
    legends = page.locator('#pictures .legend')
    assert [legend.is_visible() for legend in legends.all()] == [False, True]
    assert 'predictions' in legends.nth(1).inner_text() and 'wrong' not in legends.nth(1).inner_text()
    page.locator('#show-predictions').focus()
    page.keyboard.press('ArrowRight')
    assert errors.is_visible() and not prediction.is_visible()
    # the legend follows: red is wrong, and the colours of the classes are those of the ground truth alone
    said = [legend.inner_text().split('\n') for legend in legends.all()]
    assert said[0] == ['errors', 'right', 'wrong', 'without label']
    assert said[1] == ['ground truth', 'sky', 'road', 'tree', 'sign']
    red = legends.nth(0).locator('i').nth(1).evaluate('i => getComputedStyle(i).backgroundColor')
    assert red == f'rgb{ERROR_COLOURS[WRONG][:3]}'
    right = legends.nth(0).locator('i').nth(0).evaluate('i => getComputedStyle(i).backgroundColor')
    assert right == errors.evaluate('image => getComputedStyle(image).backgroundColor')


@pytest.mark.parametrize('scheme', ['light', 'dark'])
def test_every_curve_can_be_seen(open_page, scheme):
    """Axes have labels; the lines of all heads and the frames of pictures are visible on the page."""
    page = open_page(color_scheme=scheme, viewport=dict(width=1280, height=900))
    charts = page.locator('.together svg')
    assert charts.count() == 2
    box, main = page.locator('.together').bounding_box(), page.locator('main').bounding_box()
    assert box['width'] > main['width'] - 40
    for chart, name in zip(charts.all(), ('validation mIoU, %', 'training loss'), strict=True):
        words = chart.locator('text').all_text_contents()
        assert 'iteration' in words and name in words
    for panel in page.locator('.grid svg').all():
        words = panel.locator('text').all_text_contents()
        assert words.count('iteration') == 2 and 'validation mIoU, %' in words
    legend = page.locator('.together + .legend')
    assert len(legend.inner_text().split('\n')) == HEADS
    lines = legend.locator('i').evaluate_all('all => all.map(i => getComputedStyle(i).borderTopColor)')
    assert len(set(lines)) == HEADS
    strokes = charts.nth(0).evaluate(
        "svg => [...svg.querySelectorAll('path')].map(path => getComputedStyle(path).stroke)"
    )
    assert set(lines) <= set(strokes)  # the legend has the colours of the chart
    for panel, line in zip(page.locator('.grid svg').all(), lines, strict=True):  # a head has one colour everywhere
        strokes = panel.evaluate("svg => [...svg.querySelectorAll('path')].map(path => getComputedStyle(path).stroke)")
        assert line in strokes and not set(lines) - {line} & set(strokes)
    card = page.evaluate("getComputedStyle(document.querySelector('.card')).backgroundColor")
    assert all(contrast(line, card) >= 3 for line in lines)
    image = page.locator('#pictures figure img').first
    frame = image.evaluate('i => [getComputedStyle(i).borderTopWidth, getComputedStyle(i).borderTopColor]')
    paper = page.evaluate('getComputedStyle(document.body).backgroundColor')
    assert frame[0] == '1px' and contrast(frame[1], paper) >= 2.4


def contrast(*colours):
    """WCAG's ratio of two colours as the browser writes them."""

    def luminance(colour):
        parts = [int(part) / 255 for part in colour.removeprefix('rgb(').rstrip(')').split(',')]
        r, g, b = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
        return 0.2126 * r + 0.7152 * g + 0.0722 * b

    dark, light = sorted(map(luminance, colours))
    return (light + 0.05) / (dark + 0.05)


def test_a_table_that_scrolls_says_so(open_page):
    page = open_page(viewport=dict(width=390, height=844))
    table, box, hint = (page.locator(name).first for name in ('.table', '.scroll', '.hint'))

    def shade():
        page.wait_for_timeout(300)
        return float(table.evaluate("t => getComputedStyle(t, '::after').opacity"))

    assert 'more columns' in hint.inner_text() and shade() == 1
    box.focus()
    page.keyboard.press('ArrowRight')
    page.wait_for_timeout(300)
    assert box.evaluate('b => b.scrollLeft') > 0  # also by the keyboard
    box.evaluate('b => b.scrollLeft = 1e6')
    assert shade() == 0 and 'last column' in hint.inner_text()
    page.set_viewport_size(dict(width=3000, height=844))
    page.add_style_tag(content='main { max-width: none !important; }')
    assert shade() == 0 and not hint.is_visible()


def test_a_failed_run_stands_above_the_tables(open_page):
    page = open_page()
    failed = page.locator('.failed')
    assert failed.count() == 1 and 'killed by SIGKILL' in failed.inner_text() and 'a <line>' in failed.inner_text()
    assert failed.bounding_box()['y'] < page.locator('table').first.bounding_box()['y']
