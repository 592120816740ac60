"""A page in headless Chromium; tests skip where there is none."""

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
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
    playwright = pytest.importorskip('playwright.sync_api')
    executable = shutil.which('chromium')
    if executable is None:
        pytest.skip('no chromium')
    faults = []
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=executable, args=ARGUMENTS)
        tab = browser.new_context(**context).new_page()
        tab.on('console', lambda message: faults.append(message.text))
        tab.on('pageerror', lambda error: faults.append(str(error)))
        own = ('data:', page.as_uri())
        tab.on('request', lambda request: request.url.startswith(own) or faults.append(request.url))
        tab.goto(page.as_uri())
        yield tab, faults
        browser.close()


def wait_until(tab, condition: str, seconds: float = 20.0) -> None:
    """Wait for an expression to be true; unlike Playwright's own, where the page forbids ``eval``."""
    end = time.monotonic() + seconds
    while not tab.evaluate(f'Boolean({condition})'):
        assert time.monotonic() < end, f'not true within {seconds} s: {condition}'
        tab.wait_for_timeout(20)
