"""Debian's Chromium, driven by playwright: headless, in a folder of its own, and with nothing to reach but loopback."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, ConsoleMessage, Dialog, Page, sync_playwright

CHROMIUM = "/usr/bin/chromium"
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
NOTE_REFUSALS = """window.refused = [];
document.addEventListener('securitypolicyviolation', event => window.refused.push(event.violatedDirective))"""
WIDE = {"width": 1200, "height": 900}
PHONE = {"width": 360, "height": 740}


@contextmanager
def chromium() -> Iterator[Browser]:
    """A browser until the end of the block; each page of it gets a profile of its own."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, headless=True, args=list(FLAGS))
        try:
            yield browser
        finally:
            browser.close()


@dataclass
class Watched:
    """What a page did: the addresses it asked for, and what it complained of (its policy's refusals among it)."""

    page: Page
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    dialogs: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("console", self._logged)
        self.page.on("dialog", self._asked)

    def _logged(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(message.text)

    def _asked(self, dialog: Dialog) -> None:
        self.dialogs.append(dialog.message)
        dialog.dismiss()

    @property
    def refused(self) -> list[str]:
        """What the page's own policy has forbidden so far."""
        return [str(directive) for directive in self.page.evaluate("window.refused")]

    @property
    def too_wide_by_px(self) -> int:
        """How far the page can be scrolled sideways."""
        return int(self.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth"))

    def barriers(self) -> list[str]:
        """What axe-core finds that keeps somebody from reading the page: contrast, names, headings, order, ..."""
        found = Axe().run(self.page).response["violations"]
        return [
            f"{v['id']}: {node['html'][:200]} {node.get('failureSummary', '')}" for v in found for node in v["nodes"]
        ]


@contextmanager
def opened(
    browser: Browser, url: str, *, dark: bool = False, phone: bool = False, script: bool = True
) -> Iterator[Watched]:
    """A page in a fresh context."""
    context = browser.new_context(
        viewport=PHONE if phone else WIDE,  # type: ignore[arg-type]
        color_scheme="dark" if dark else "light",
        device_scale_factor=1,
        java_script_enabled=script,
        ignore_https_errors=False,
    )
    try:
        page = context.new_page()
        page.set_default_timeout(20_000)
        page.add_init_script(NOTE_REFUSALS)
        watched = Watched(page)
        page.goto(url)
        yield watched
    finally:
        context.close()


def main(folder: Path, names: list[str]) -> None:
    """Screenshots of the pages in a folder: wide light, wide dark, phone."""
    with chromium() as browser:
        for path in sorted(folder.glob("*.html")):
            if names and path.stem not in names:
                continue
            for look, options in {"light": {}, "dark": {"dark": True}, "phone": {"phone": True}}.items():
                begun_s = time.monotonic()
                with opened(browser, path.as_uri(), **options) as shown:
                    shown.page.screenshot(path=folder / f"{path.stem}-{look}.png", full_page=True)
                print(f"{path.stem}-{look}.png {time.monotonic() - begun_s:.2f} s")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
