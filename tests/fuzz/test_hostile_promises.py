"""What the tests beside this one promise together, and what no line of the package may do."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from counted import AT_LEAST

PACKAGE = Path(__file__).parents[2] / "defar_analysis"

# Calls that run code, or read what may hold some, with the files that may make them and why it is safe there.
ALLOWED = {
    "pickle.Unpickler": {"core/cifar10_pickles.py": "find_class refuses all but four harmless names"},
    "subprocess.run": {
        "core/cifar10.py": "npm and pip, for a download: a list of words, no shell, nothing out of a file",
        "provenance.py": "git, a list of words, no shell",
    },
    "importlib.import_module": {
        "_compat.py": "names of packages that stand there",
        "core/factories.py": "code of the user's own, which must be trusted by name first",
        "core/foreign/reading.py": "classes that the user allows by name",
        "__init__.py": "the package's own names",
        "entries/building.py": "the package's own names",
    },
    "importlib.util.spec_from_file_location": {"core/factories.py": "as above"},
    "np.load": {"core/arrays.py": "a mapped .npy, once its header is checked"},
}
NEVER = {
    "eval",
    "exec",
    "compile",
    "__import__",
    "os.system",
    "os.popen",
    "pickle.load",
    "pickle.loads",
    "yaml.load",
    "marshal.loads",
    "shelve.open",
    "joblib.load",
    "dill.load",
    "pd.read_pickle",
    "pandas.read_pickle",
    "subprocess.Popen",
    "subprocess.call",
    "subprocess.check_output",
    "numpy.load",
    "np.fromfile",
    "torch.jit.load",
    "torch.hub.load",
    "zipfile.extractall",
    "tarfile.extractall",
}


def calls() -> Iterator[tuple[str, str, ast.Call]]:
    """(file, what is called, the call) of all of the package."""
    for file in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                yield str(file.relative_to(PACKAGE)), ast.unparse(node.func), node


def test_nothing_runs_what_a_file_says():
    for file, called, call in calls():
        name = called.removeprefix("importlib.") if called == "importlib.import_module" else called
        assert called not in NEVER, f"{file}:{call.lineno}: {called}"
        assert not called.endswith((".extractall", ".extract")), f"{file}:{call.lineno}: {called}"
        for known, allowed in ALLOWED.items():
            if called == known or name == "import_module" == known.rpartition(".")[2]:
                assert file in allowed, f"{file}:{call.lineno}: {called} is allowed in {', '.join(allowed)} alone"


def options(call: ast.Call) -> dict[str, str]:
    return {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}


def test_weights_and_arrays_are_read_as_such():
    seen = set()
    for file, called, call in calls():
        needed = {
            "torch.load": {"weights_only": "True"},
            "np.load": {"allow_pickle": "False"},
            "np.save": {"allow_pickle": "False"},
            "np.lib.format.read_array": {"allow_pickle": "False"},
            "subprocess.run": {},
        }.get(called)
        if needed is not None:
            seen.add(called)
            assert needed.items() <= options(call).items(), f"{file}:{call.lineno}: {called} without {needed}"
            assert "shell" not in options(call), f"{file}:{call.lineno}: a shell"
        if called == "Image.open":
            assert "formats" in options(call), f"{file}:{call.lineno}: any format of Pillow's, Ghostscript's among them"
    assert {"torch.load", "np.load", "np.save"} <= seen


@pytest.mark.parametrize("known", ALLOWED)
def test_what_is_allowed_is_still_there(known):
    last = known.rpartition(".")[2]
    found = {file for file, called, _ in calls() if called.rpartition(".")[2] == last}
    classes = (
        {"core/cifar10_pickles.py"} if known == "pickle.Unpickler" else set()
    )  # a class of it is derived, not called
    assert set(ALLOWED[known]) <= found | classes, set(ALLOWED[known]) - found


def test_there_are_more_than_a_thousand():
    assert sum(AT_LEAST.values()) >= 1000  # beside the 450 of weights and cards in core/test_foreign_hostile.py
    assert AT_LEAST["command lines"] + AT_LEAST["processes"] >= 30
