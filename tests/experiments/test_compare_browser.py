"""The report of a comparison in a real browser: a phone, dark mode, sorting, the keyboard, no network."""

import shutil

import numpy as np
import pytest
from helpers.browser import ARGUMENTS
from helpers.comparison_case import OPTIONS, made_up_runs, made_up_speed

from mmseg_invattn.experiments.compare.pictures import _indexed
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
    """Opens the report; afterwards nothing may have been asked for, or complained about."""
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
    assert charts.count() == 1 + HEADS  # differences, and learning curves of every head
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
    assert bounds == ['0.9000'] * (HEADS // 2) + ['-'] * (HEADS // 2)  # what has none stays below
    page.get_by_role('button', name='certified bound').click()
    assert column(page, 2, 3) == bounds


def test_pictures_switch_to_the_errors(open_page):
    page = open_page()
    prediction, errors = page.locator('img.prediction').first, page.locator('img.errors').first
    assert prediction.is_visible() and not errors.is_visible()
    page.locator('#show-predictions').focus()
    page.keyboard.press('ArrowRight')
    assert errors.is_visible() and not prediction.is_visible()


def test_a_failed_run_stands_above_the_tables(open_page):
    page = open_page()
    failed = page.locator('.failed')
    assert failed.count() == 1 and 'killed by SIGKILL' in failed.inner_text() and 'a <line>' in failed.inner_text()
    assert failed.bounding_box()['y'] < page.locator('table').first.bounding_box()['y']
