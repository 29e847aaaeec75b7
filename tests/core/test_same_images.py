"""Images equal bit for bit for any requested batch and any number of processes, by fixed chunks."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from defar_analysis.core.networks import SiT
from defar_analysis.core.samplers import Euler, EulerMaruyama, Heun, sample
from defar_analysis.core.seeding import balanced_labels, image_noise, process_indices, sde_generators

COUNT, CHUNK, SEED, SHAPE = 64, 16, 5, (3, 8, 8)
SOLVERS = {"euler": Euler(3), "heun": Heun(2), "em": EulerMaruyama(3, "SBDM")}


def network() -> SiT:
    torch.manual_seed(0)
    model = SiT(8, 2, 3, 32, 2, 2).eval()
    for parameter in model.parameters():
        if not parameter.any():  # a fresh SiT has gates of zero and returns 0
            torch.nn.init.normal_(parameter, std=0.1)
    return model


def images(solver, indices, chunk=CHUNK) -> torch.Tensor:
    """What a run of seed SEED draws at `indices`, asked for together."""
    labels = balanced_labels(indices, 10, seed=SEED)
    noise, streams = image_noise(SEED, indices, SHAPE), sde_generators(SEED, indices)
    return sample(network(), noise, SOLVERS[solver], labels=labels, generators=streams, chunk=chunk).x


@pytest.mark.parametrize("solver", SOLVERS)
def test_for_any_requested_batch(solver):
    whole = images(solver, range(COUNT))
    assert len(whole.flatten(1).unique(dim=0)) == COUNT
    assert not torch.equal(whole, image_noise(SEED, range(COUNT), SHAPE))
    for batch in (1, 7):
        starts = range(0, COUNT, batch)
        parts = [images(solver, range(start, min(start + batch, COUNT))) for start in starts]
        assert torch.equal(torch.cat(parts), whole), batch
    torch.testing.assert_close(images(solver, range(COUNT), chunk=64), whole, rtol=0, atol=1e-4)


def test_for_two_processes(tmp_path):
    code = "import sys, torch, test_same_images as t\n"
    code += "torch.set_num_threads(int(sys.argv[2]))\n"
    code += "i = t.process_indices(t.COUNT, int(sys.argv[1]), 2, t.CHUNK)\n"
    code += "torch.save({'indices': i, **{solver: t.images(solver, i) for solver in t.SOLVERS}}, sys.argv[3])"
    here = Path(__file__).parent
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (here, here.parents[1])))}
    files, running = [tmp_path / "0.pt", tmp_path / "1.pt"], []
    for process, file in enumerate(files):
        arguments = [sys.executable, "-c", code, str(process), str(torch.get_num_threads()), str(file)]
        running.append(subprocess.Popen(arguments, env=environment))
    assert [process.wait() for process in running] == [0, 0]
    shares = [torch.load(file) for file in files]
    assert [share["indices"] for share in shares] == [process_indices(COUNT, process, 2, CHUNK) for process in range(2)]
    for solver in SOLVERS:
        joined = torch.full((COUNT, *SHAPE), torch.nan)
        for share in shares:
            joined[share["indices"]] = share[solver]
        assert torch.equal(joined, images(solver, range(COUNT))), solver
