"""The gallery is one page that opens from disk, and nothing in an entry can become markup."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import numpy as np
import pandas as pd
import pytest

from defar_analysis.errors import DefarError
from defar_analysis.plots import gallery

VOID = {"meta", "img", "link", "br", "hr", "input"}
HOSTILE = '<script>alert("x")</script> & \'"><img src=x onerror=y>'


class Page(HTMLParser):
    """Collects links, ids, tags and text, and fails on tags that do not nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links, self.ids, self.tags, self.text, self.open = [], [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        values = dict(attrs)
        self.links += [values[key] for key in ("href", "src") if key in values]
        self.ids += [values["id"]] if "id" in values else []
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture
def folder(tmp_path):
    for name in ("fig3.png", "fig3.pdf", "data/fig3.csv", "odd name #1?.png"):
        path = tmp_path / "figures" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    return tmp_path / "figures"


def entry(folder: Path, **changed) -> dict:
    numbers = pd.DataFrame({"model": ["SiT", "DEFAR"], "t_cross": [0.5678912, np.nan], "n": [1000, 1000]})
    return {
        "id": "fig3", "title": "Figure 3", "paper": "Fig. 3", "caption": "What the bias holds", "note": "profile quick",
        "png": folder / "fig3.png", "pdf": "fig3.pdf", "csv": Path("data/fig3.csv"), "numbers": numbers,
        "provenance": {"seed": 0, "models": {"SiT": "abc123"}},
    } | changed  # fmt: skip


def test_page_parses_and_its_links_are_relative_and_exist(folder):
    entries = [entry(folder), entry(folder, id="odd", png="odd name #1?.png", pdf=None, csv=None, numbers=None)]
    path = gallery.write(folder, entries)
    assert path == folder / "index.html"
    page = Page(path.read_text(encoding="utf-8"))
    assert len(page.links) == 2 + 5 + 3  # contents; the first: png three times, pdf, csv; the second: png three times
    for link in page.links:
        parts = urlsplit(link)
        assert not parts.scheme and not parts.netloc and not parts.path.startswith("/")
        if parts.path:
            assert (folder / unquote(parts.path)).is_file()
        else:
            assert parts.fragment in page.ids
    assert "script" not in page.tags
    assert "link" not in page.tags  # one file: the style is inside


def test_page_says_what_the_entries_say_and_rounds(folder):
    text = Page(gallery.write(folder, [entry(folder)]).read_text(encoding="utf-8")).text
    assert {"Figure 3", "Fig. 3 of the paper", "What the bias holds", "profile quick"} <= set(text)
    assert {"0.568", "–", "1000", "abc123"} <= set(text)


def test_nothing_is_loaded_from_elsewhere(folder):
    text = gallery.write(folder, [entry(folder, provenance={"source": "https://example.org/data"})]).read_text()
    page = Page(text)
    assert "https://example.org/data" in page.text  # said, not fetched
    assert not [link for link in page.links if urlsplit(link).scheme or link.startswith("//")]
    assert not {"script", "link", "iframe", "object", "base"} & set(page.tags)
    style = text[text.index("<style>") : text.index("</style>")]
    assert "url(" not in style and "@import" not in style


def test_contents_are_grouped_where_the_entries_say_so(folder):
    groups = {"fig3": "Figures", "fig5": "Figures", "tab1": "Tables"}
    page = gallery.write(folder, [entry(folder, id=id, title=id, group=groups[id]) for id in groups]).read_text()
    contents = page[page.index("<nav") : page.index("</nav>")]
    places = [contents.index(part) for part in ("Figures</p>", "#fig3", "#fig5", "Tables</p>", "#tab1")]
    assert places == sorted(places) and contents.count("<ul>") == 2
    assert Page(page).ids == list(groups)


def test_other_forms_of_a_table_and_the_executed_notebook_are_linked_and_no_picture_is_needed(folder):
    for name in ("data/tab1.md", "data/tab1.tex"):
        (folder / name).write_text("x")
    (folder.parent / "docs").mkdir()
    (folder.parent / "docs" / "tab1_executed.ipynb").write_text("{}")
    files = {"md": "data/tab1.md", "tex": "data/tab1.tex", "notebook": "../docs/tab1_executed.ipynb"}
    page = Page(gallery.write(folder, [entry(folder, id="tab1", png=None, pdf=None, **files)]).read_text())
    assert page.links == ["#tab1", "data/fig3.csv", *files.values()]
    assert {"Markdown", "LaTeX", "Executed notebook"} <= set(page.text)
    assert "img" not in page.tags


def test_the_page_is_made_for_a_phone(folder):
    page = gallery.write(folder, [entry(folder)]).read_text()
    assert '<meta name="viewport" content="width=device-width, initial-scale=1">' in page
    assert '<div class="table"><table>' in page and ".table { overflow-x: auto }" in page


def test_hostile_text_stays_text(folder):
    numbers = pd.DataFrame({HOSTILE: [HOSTILE]})
    changed = {key: HOSTILE for key in ("id", "title", "paper", "group", "caption", "note")}
    provenance = {HOSTILE: {HOSTILE: HOSTILE}}
    text = gallery.write(folder, [entry(folder, numbers=numbers, provenance=provenance, **changed)]).read_text()
    page = Page(text)
    assert "script" not in page.tags
    assert page.tags.count("img") == 1
    assert page.text.count(HOSTILE) == 4 + 1 + 2 + 3 + 1 - 1  # contents, title, caption, note; group; table; provenance


def test_missing_file_or_key_is_one_line_and_keeps_the_old_page(folder):
    path = gallery.write(folder, [entry(folder)])
    before = path.read_bytes()
    with pytest.raises(DefarError, match=r"gone\.pdf") as raised:
        gallery.write(folder, [entry(folder, pdf="gone.pdf")])
    assert "\n" not in str(raised.value)
    with pytest.raises(DefarError, match="'title'"):
        gallery.write(folder, [{"id": "fig3"}])
    assert path.read_bytes() == before
    assert not list(folder.glob(".*"))


def test_same_entries_give_the_same_page(folder):
    first = gallery.write(folder, [entry(folder)]).read_bytes()
    assert gallery.write(folder, [entry(folder)]).read_bytes() == first


def test_numbers_are_readable():
    values = {0.123456: "0.123", 12345.678: "12346", 3.0: "3", 1e9: "1e+09", -0.00001234: "-1.23e-05",
              float("inf"): "inf", 7: "7", True: "True"}  # fmt: skip
    for value, text in values.items():
        assert gallery._text(value) == text
    assert gallery._text(None) == gallery._text(pd.NA) == gallery._text(np.float64("nan")) == "–"


def test_sentences_are_set_in_several_lines_and_names_in_one(folder):
    numbers = pd.DataFrame({"name": ["short"], "words": ["a sentence that is longer than any name can be"], "n": [1]})
    page = gallery.write(folder, [entry(folder, numbers=numbers)]).read_text()
    assert "<td>short</td>" in page and '<td class="words">a sentence' in page and '<td class="number">1</td>' in page
    assert "white-space: normal" in gallery.CSS
