"""Headless Chromium for tests, as from Debian's package; driven by Playwright, which brings no browser of its own."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

pytest.importorskip("playwright", reason="Playwright is not installed: uv sync")

from playwright.async_api import Page, async_playwright, expect

__all__ = ["Page", "expect", "needs_chromium", "open_page"]

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

needs_chromium = [
    pytest.mark.chromium,
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed: apt-get install chromium"),
]


@asynccontextmanager
async def open_page() -> AsyncIterator[Page]:
    """An empty page in a browser."""
    async with async_playwright() as playwright:
        # Without a sandbox of its own: a container, and root, may not make one. It only sees a server of a test.
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        try:
            yield await browser.new_page(viewport={"width": 1400, "height": 1000})
        finally:
            await browser.close()
