"""What the README shows is true: its code runs, its files and commands exist."""

import re
from pathlib import Path

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
