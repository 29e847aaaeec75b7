"""The committed gallery, opened from disk in a real browser, on a phone and on a desk, without a network."""

import sys
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))
from browser import CHROMIUM, Browser

from defar_analysis import catalog

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
# Everything opened that can be; then what sticks out, what did not load, and what a reader can go to.
LOOK = """
document.querySelectorAll('details').forEach(d => d.open = true);
const pictures = [...document.images];
pictures.forEach(i => i.loading = 'eager');
await Promise.all(pictures.map(i => i.complete ? 0 : new Promise(r => i.onload = i.onerror = r)));
const width = document.documentElement.clientWidth;
return {
  sideways: document.documentElement.scrollWidth - width,
  outside: [...document.querySelectorAll('section > *, nav li')]
    .filter(e => e.getBoundingClientRect().right > width + 1).map(e => e.outerHTML.slice(0, 90)),
  pictures: pictures.length, broken: pictures.filter(i => !i.naturalWidth).map(i => i.src),
  dead: [...document.querySelectorAll('nav a')].map(a => a.hash.slice(1)).filter(id => !document.getElementById(id)),
  files: [...document.querySelectorAll('a')].filter(a => !a.hash).map(a => a.href),
  small: [...document.querySelectorAll('p, td, li, dd')]
    .filter(e => parseFloat(getComputedStyle(e).fontSize) < 11).length,
};
"""


@pytest.mark.parametrize("width", [390, 1280])
def test_the_gallery_is_whole_and_fits(width, tmp_path):
    with Browser(tmp_path) as browser:
        seen = browser.evaluate(ROOT / "figures" / "index.html", LOOK, width)
    assert seen["sideways"] <= 0 and seen["outside"] == []
    assert seen["pictures"] == len(catalog.FIGURES) and seen["broken"] == [] and seen["dead"] == []
    assert seen["small"] == 0
    assert len(seen["files"]) > 3 * len(catalog.FIGURES)
    assert all(Path(unquote(urlsplit(link).path)).is_file() for link in seen["files"])
