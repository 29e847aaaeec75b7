"""Ten kills in CI; the hundred are in reproduce/records/2026-11-22-kills."""

import csv
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_ten_kills_end_bit_equal_to_runs_without(tmp_path):
    """In a process of its own: a child of one that has computed already cannot train."""
    command = [sys.executable, "tests/kills.py", "--n", "10", "--seed", "0", "--out", str(tmp_path / "kills")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = list(csv.DictReader((tmp_path / "kills" / "kills.csv").open()))
    assert len(rows) == 10 and {row["job"] for row in rows} == {"training", "sampling", "evaluation", "robustness"}
    assert all(row["bit_equal"] == "True" and not row["differs"] for row in rows)
    assert all(row["killed"] for row in rows)
