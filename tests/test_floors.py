"""core -> measures -> plots: imports go one way, and the core needs little."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "defar_analysis"
THIRD_PARTY = {"torch", "numpy", "scipy", "safetensors"}
FLOORS = {"core": (), "measures": ("core",), "plots": ()}
SHARED = {"_compat", "config", "errors", "files", "inputs", "provenance"}


def imports(file: Path, top_level_only: bool):
    """Absolute dotted names of what a file imports."""
    tree = ast.parse(file.read_text())
    nodes = tree.body if top_level_only else ast.walk(tree)
    package = ["defar_analysis", *file.relative_to(PACKAGE).parent.parts]
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield from ([module] if node.module else [f"{module}.{alias.name}" for alias in node.names])


@pytest.mark.parametrize("floor", FLOORS)
def test_a_floor_imports_only_the_floors_below(floor):
    allowed = {floor, *FLOORS[floor], *SHARED}
    for file in (PACKAGE / floor).rglob("*.py"):
        for name in imports(file, top_level_only=False):
            parts = name.split(".")
            if parts[0] == "defar_analysis" and len(parts) > 1:
                assert parts[1] in allowed, f"{file.relative_to(PACKAGE)} imports {name}"


def test_the_core_imports_four_libraries_at_most():
    for file in (PACKAGE / "core").rglob("*.py"):
        for name in imports(file, top_level_only=True):
            root = name.split(".")[0]
            known = root in sys.stdlib_module_names or root in THIRD_PARTY or root == "defar_analysis"
            assert known, f"{file.relative_to(PACKAGE)} imports {name}"


def run_python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_plots_draw_without_torch_and_measures_measure_without_matplotlib():
    plots = [f"defar_analysis.plots.{f.stem}" for f in (PACKAGE / "plots").glob("*.py") if f.stem != "__init__"]
    measures = [
        f"defar_analysis.measures.{f.stem}" for f in (PACKAGE / "measures").glob("*.py") if f.stem != "__init__"
    ]
    code = "import importlib, sys\nfor m in {}: importlib.import_module(m)\nprint({!r} in sys.modules)"
    assert run_python(code.format(plots, "torch")).strip() == "False"
    assert run_python(code.format(measures, "matplotlib")).strip() == "False"


def test_importing_the_package_is_light():
    assert run_python("import sys, defar_analysis\nprint('torch' in sys.modules)").strip() == "False"


def test_public_names_are_importable_from_the_package():
    code = "import defar_analysis as d\nfor n in d.__all__: getattr(d, n)\nprint(len(d.__all__))"
    assert int(run_python(code)) > 20
