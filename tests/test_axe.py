"""The built site without violations of axe, wide and narrow, light and dark: ``make axe``.

It needs the built site (``make docs``), a Chromium, playwright and axe-playwright-python, and is
skipped, by name, without one of them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

SITE = Path(__file__).parents[1] / "docs" / "_build" / "html"
INDICES = ("genindex.html", "py-modindex.html", "search.html")
"""Pages that Sphinx writes without a page of ours."""
PAGES: list[Any] = sorted(path for path in SITE.rglob("*.html") if path.name not in INDICES)
NOT_BUILT = pytest.param(SITE, marks=pytest.mark.skip(reason="the site is not built: make docs"))


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "path", PAGES or [NOT_BUILT], ids=lambda path: str(path.relative_to(SITE)) or "site"
)
def test_no_page_violates_a_rule_of_axe(browser: Any, path: Path) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe: make axe")
    found = {}
    for width in (1280, 390):
        for scheme in ("light", "dark"):
            context = browser.new_context(
                viewport={"width": width, "height": 844}, color_scheme=scheme, offline=True
            )
            page = context.new_page()
            page.goto(path.as_uri())
            for violation in axe.Axe().run(page).response["violations"]:
                places = [node["html"] for node in violation["nodes"]]
                found[f"{violation['id']}, {width} px, {scheme}"] = places
            context.close()
    assert found == {}
