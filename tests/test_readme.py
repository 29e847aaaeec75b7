"""What the README shows is true: its code runs, its files and commands exist."""

import re
from pathlib import Path

import pytest

from defar_analysis.cli import COMMANDS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_its_python_runs_in_order(capsys):
    blocks = [b for b in re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL) if not b.startswith("# my_model")]
    assert len(blocks) == 2
    exec(compile("\n".join(blocks), "README.md", "exec"), {})
    assert "t_cross" in capsys.readouterr().out


def test_its_commands_and_files_exist():
    for command in re.findall(r"^    defar (\w+)", README, flags=re.MULTILINE):
        assert command in COMMANDS
    paths = re.findall(r"\b((?:reproduce|figures|benchmarks|notebooks)/[\w./-]*\w)", README)
    assert len(paths) >= 8
    for path in paths:
        assert (ROOT / path).exists(), path
    assert not re.search(r"@[A-Z]+@", README), "a placeholder was left"


PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("reproduce/**/*.md"), *ROOT.glob("tests/**/*.md")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_links_of_a_page_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if not target.startswith(("http", "#")):
            assert (page.parent / target.partition("#")[0]).exists(), target


def test_the_findings_name_files_that_exist():
    page = (ROOT / "docs" / "findings.md").read_text(encoding="utf-8")
    for path in re.findall(r"`((?:reproduce|figures)/[\w./-]*\w)`", page):
        assert (ROOT / path).exists(), path
