"""The inspector: names that would be code on its page, and views that nobody can see."""

import math
import re

import numpy as np
import pytest
import torch

from defar_analysis.core.checkpoints import Card, as_checkpoint
from defar_analysis.core.datasets import ImageDataset
from defar_analysis.core.networks import SiT
from defar_analysis.inspection import Inspector, write_page

WORDS = (
    "</script><script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    '"><svg onload=alert(1)>',
    "<!--",
    "]]>",
    "@DATA@",
    "@SCRIPT@",
    "\\g<0>",
    "\\1",
    "\u2028",
    "\0",
    "\x1b[2J",
    "&lt;",
    "${x}",
    "`",
    "'",
    "javascript:alert(1)",
    "é" * 300,
    "\u202e",
)


@pytest.fixture(scope="module")
def inspector():
    def make(name="small", data="three"):
        torch.manual_seed(0)
        checkpoint = as_checkpoint(SiT(8, 4, 3, 32, 1, 2, num_classes=3), name)
        pixels = np.random.default_rng(0).integers(0, 256, (3, 3, 8, 8), np.uint8)
        return Inspector({name: checkpoint}, ImageDataset(pixels, np.arange(3), data), (0,), (name, data, "c"))

    assert isinstance(make().checkpoints["small"].card, Card)
    return make


def test_names_on_a_page_are_words_and_never_code(watch, inspector):
    quiet = write_page(inspector(), watch.out / "quiet.html", 3).read_text(encoding="utf-8")

    def tags(text):
        return [re.match(r"</?[a-zA-Z!-]+", text[at.start() :])[0] for at in re.finditer(r"<[/!a-zA-Z]", text)]

    for word in WORDS:
        made = lambda word=word: write_page(inspector(word, word), watch.out / "page.html", 3, word)  # noqa: E731
        watch(repr(word), made, lambda page: tags(page.read_text(encoding="utf-8")) == tags(quiet))
    watch.done("words on a page")


def test_views_that_are_none(watch, inspector):
    made = inspector()
    odd = (math.nan, math.inf, -math.inf, -1, 2, 1e-320, 10**400)
    for times in ((t0, t1) for t0 in (*odd, 0.5) for t1 in (*odd, 0.5)):
        watch(
            str(times)[:60],
            lambda times=times: made.view("small", 0, *times, 0.2),
            lambda view, times=times: 0 <= times[0] < times[1] <= 1,
        )
    for cutoff in (*odd, 0):
        watch(
            f"cutoff {cutoff}"[:60],
            lambda cutoff=cutoff: made.view("small", 0, 0.2, 0.6, cutoff),
            lambda view, cutoff=cutoff: cutoff > 0,
        )
    for image in (-1, 3, 10**30):
        watch(f"image {image}", lambda image=image: made.view("small", image, 0.2, 0.6, 0.2))
    for times in (-1, 0, 2, 10**6):
        watch(f"{times} times", lambda times=times: write_page(made, watch.out / "page.html", times))
    for name in ("page", "folder", "none/page.html", "page.html/page.html"):
        watch(name, lambda name=name: write_page(made, watch.top / name, 3))
    watch.done("views")
