"""A real headless Chromium, driven by playwright, for tests of pages. Where there is none, the test is skipped."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@contextmanager
def headless() -> Iterator[Any]:
    """A browser; starting it takes a second or two, so one does for all tests of a module."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is absent: pip install playwright")
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        pytest.skip(f"no browser: none of {', '.join(NAMES)} is on the PATH")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def opened(
    browser: Any, path, *, width: int = 1280, height: int = 900, dark: bool = False, **more: Any
) -> Iterator[Any]:
    """A page read from a file without a network. At the end it is asserted that it asked for nothing and met no error.

    Args:
        more: of playwright's `new_context`.
    """
    scheme = "dark" if dark else "light"
    context = browser.new_context(
        viewport={"width": width, "height": height}, color_scheme=scheme, offline=True, **more
    )
    page, asked, wrong = context.new_page(), [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda message: wrong.append(message.text) if message.type in ("error", "warning") else None)
    try:
        page.goto(path.as_uri())
        yield page
        outside = [url for url in asked if url != path.as_uri() and not url.startswith("data:")]
        assert outside == [], "the page asked for something outside itself"
        assert wrong == []
    finally:
        context.close()


def overflow(page: Any) -> int:
    """Pixels by which the page is wider than its window."""
    return page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
