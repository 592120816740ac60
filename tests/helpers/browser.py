"""A page in headless Chromium; tests skip where there is none."""

import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

ARGUMENTS = [
    '--no-sandbox',
    '--disable-gpu',
    '--disable-quic',
    '--disable-background-networking',
    '--disable-component-update',
    '--disable-sync',
    '--no-first-run',
]


_shared: list[ExitStack] = []  # of the browser that pages are opened in, while there is one for many
_browsers: list = []


@contextmanager
def one_browser() -> Iterator[None]:
    """Pages inside are opened in one browser, which the first of them starts; Chromium takes seconds to start."""
    with ExitStack() as stack:
        _shared.append(stack)
        try:
            yield
        finally:
            _shared.clear()
            _browsers.clear()


@contextmanager
def opened(page: Path, **context: object) -> Iterator[tuple]:
    """Open a file.

    Args:
        page: the file.
        context: of the browser context: ``viewport``, ``color_scheme``, ``has_touch``.

    Yields:
        Playwright's page, and a list that collects what must not happen: errors, messages of the console, requests of
        anything but the file and data URLs.
    """
    faults = []
    with ExitStack() as stack:
        if not _shared:
            browser = _start(stack)
        else:
            if not _browsers:
                _browsers.append(_start(_shared[0]))
            browser = _browsers[0]
        own_context = browser.new_context(**context)
        stack.callback(own_context.close)
        tab = own_context.new_page()
        tab.on('console', lambda message: faults.append(message.text))
        tab.on('pageerror', lambda error: faults.append(str(error)))
        own = ('data:', page.as_uri())
        tab.on('request', lambda request: request.url.startswith(own) or faults.append(request.url))
        tab.goto(page.as_uri())
        yield tab, faults


def _start(stack: ExitStack):
    """Chromium, closed with the stack."""
    playwright = pytest.importorskip('playwright.sync_api')
    executable = shutil.which('chromium')
    if executable is None:
        pytest.skip('no chromium')
    driver = stack.enter_context(playwright.sync_playwright())
    browser = driver.chromium.launch(executable_path=executable, args=ARGUMENTS)
    stack.callback(browser.close)
    return browser


def wait_until(tab, condition: str, seconds: float = 20.0) -> None:
    """Wait for an expression to be true; unlike Playwright's own, where the page forbids ``eval``."""
    end = time.monotonic() + seconds
    while not tab.evaluate(f'Boolean({condition})'):
        assert time.monotonic() < end, f'not true within {seconds} s: {condition}'
        tab.wait_for_timeout(20)
