"""Importing torch-fidelity beside every kind of torchvision. Each case in a process of its own: imports stay."""

import importlib.util
import subprocess
import sys

import pytest

from defar_analysis import _compat
from defar_analysis._compat import import_torch_fidelity

needs_fidelity = pytest.mark.skipif(
    importlib.util.find_spec("torch_fidelity") is None, reason="pip install --no-deps torch-fidelity==0.4.0"
)
needs_no_torchvision = pytest.mark.skipif(
    importlib.util.find_spec("torchvision") is not None, reason="there is a torchvision: nothing needs a stand-in"
)
# What the three data sets and modules that torch-fidelity names need, as files of a package.
NAMES = "class CIFAR10: pass\nclass CIFAR100: pass\nclass STL10: pass\n"


def torchvision(folder, start):
    """A package torchvision whose import begins with the lines `start`."""
    package = folder / "torchvision"
    (package / "transforms").mkdir(parents=True)
    (package / "__init__.py").write_text(start + "\nfrom . import datasets, models, transforms\n")
    (package / "datasets.py").write_text(NAMES)
    (package / "models.py").write_text("")
    (package / "transforms" / "__init__.py").write_text("from . import functional\n")
    (package / "transforms" / "functional.py").write_text("")


def python(code, path=None):
    # The folder goes first on sys.path, as an installed package would be found first.
    lines = [f"import sys; sys.path.insert(0, {str(path)!r})" if path else "import sys", code]
    done = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


IMPORT = "from defar_analysis._compat import import_torch_fidelity as get\nfidelity = get()\n"


@needs_fidelity
@needs_no_torchvision
def test_without_torchvision_the_stand_in_is_gone_afterwards():
    said = python(
        IMPORT
        + "from torch_fidelity.metric_fid import fid_statistics_to_metric\n"
        + "from importlib.util import find_spec\n"
        + "left = [n for n in sys.modules if n.split('.')[0] == 'torchvision']\n"
        + "print(left, find_spec('torchvision'), get() is fidelity)"
    )
    assert said == ["[]", "None", "True"]


@needs_fidelity
def test_a_working_torchvision_is_left_alone(tmp_path):
    torchvision(tmp_path, "WORKS = True")
    said = python(
        IMPORT + "import torch, torchvision\nprint(torchvision.WORKS, hasattr(torch.ops.torchvision, 'nms'))", tmp_path
    )
    assert said == ["True", "False"]


@needs_fidelity
def test_missing_operators_are_defined_so_that_torchvision_imports(tmp_path):
    # As torchvision 0.28 does beside a torch without CUDA: registers a fake kernel for an operator nobody defined.
    start = "import torch\nfrom . import datasets\ntorch.library.register_fake('torchvision::nms')(lambda d, s, t: d)"
    torchvision(tmp_path, start)
    said = python(
        "try: import torchvision\n"
        + "except RuntimeError as error: assert 'torchvision::nms does not exist' in str(error)\n"
        + "else: raise AssertionError('nothing to mend')\n"
        + IMPORT
        + "import torch, torchvision.datasets\nprint(torch.ops.torchvision.nms, torchvision.__file__)",
        tmp_path,
    )
    assert said == ["torchvision.nms", str(tmp_path / "torchvision" / "__init__.py")]


@needs_fidelity
def test_a_torchvision_broken_otherwise_is_stood_in_for(tmp_path):
    torchvision(
        tmp_path, "from . import datasets\nraise ImportError('libcudart.so.13: cannot open shared object file')"
    )
    said = python(IMPORT + "print([n for n in sys.modules if n.split('.')[0] == 'torchvision'])", tmp_path)
    assert said == ["[]"]


def test_absent_torch_fidelity_is_named_with_what_installs_it(monkeypatch, refuses):
    monkeypatch.delitem(sys.modules, "torch_fidelity", raising=False)
    monkeypatch.setattr(_compat, "find_spec", lambda name: None)
    refuses(import_torch_fidelity, "pip install --no-deps torch-fidelity==0.4.0")
