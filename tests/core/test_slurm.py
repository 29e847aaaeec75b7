"""The SLURM example, rehearsed without SLURM: an srun, scontrol and scancel of our own, two "nodes" on one machine."""

import dataclasses
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from test_parallel import assert_same_run

from defar_analysis.config import dump_toml
from defar_analysis.core.recipes import Data, Network, Recipe
from defar_analysis.core.runs import LOG
from defar_analysis.core.states import saved_states
from defar_analysis.core.training import train

STEPS = 400
SCRIPT = Path(__file__).parents[2] / "reproduce" / "slurm" / "train.sbatch"
COMMANDS = {
    "torchrun": f'exec {sys.executable} -m torch.distributed.run "$@"',
    # a step is the command once on each node
    "srun": """
for node in 0 1; do "$@" & nodes+=("$!"); echo "$!" >> steps; done
for node in "${nodes[@]}"; do wait "$node" || failed=1; done
exit "${failed:-0}" """,
    "scancel": '[ "$*" = "--signal=TERM $SLURM_JOB_ID" ] && kill -TERM $(cat steps)',
    "scontrol": 'if [ "$1" = show ]; then echo 127.0.0.1; echo another; else echo "$*" >> requeued; fi',
}


def free_port() -> int:
    """One that the script can come to: 20000 and a job's number below 10000."""
    for port in np.random.default_rng(os.getpid()).integers(20_000, 30_000, 100).tolist():
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)):
                return port
    raise AssertionError("no free port")


@pytest.fixture
def job(tmp_path):
    """job(recipe, life): the batch script, started as SLURM would start that life of the job."""
    started = []
    for name, body in COMMANDS.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{body}\n")
        (tmp_path / name).chmod(0o755)
    number = free_port() - 20_000

    def start(recipe: Path, life: int) -> subprocess.Popen:
        (tmp_path / "steps").unlink(missing_ok=True)
        told = {"SLURM_JOB_ID": number, "SLURM_JOB_NODELIST": "node[1-2]", "SLURM_NNODES": 2, "SLURM_GPUS_ON_NODE": 1,
                "SLURM_RESTART_COUNT": life, "DEVICE": "cpu", "OMP_NUM_THREADS": 1}  # fmt: skip
        environment = os.environ | {name: str(value) for name, value in told.items()}
        environment["PATH"] = f"{tmp_path}:{environment['PATH']}"
        command = ["bash", str(SCRIPT), str(recipe), "out"]
        log = open(tmp_path / f"slurm-{life}.out", "wb")  # noqa: SIM115
        started.append(subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=log, stderr=log,
                                        start_new_session=True))  # fmt: skip
        return started[-1]

    yield start
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


def test_an_interrupted_job_queues_itself_and_ends_where_one_process_ends(job, tmp_path):
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "tiny.npz", arr_0=rng.integers(0, 256, (32, 8, 8, 3), dtype=np.uint8), arr_1=np.arange(32) % 3)
    tiny = Network(size="", options={"patch_size": 4, "hidden_size": 16, "depth": 1, "num_heads": 2})
    # so many steps that the signal, which goes through six processes, comes while it trains
    recipe = Recipe("tiny", STEPS, 8, data=Data(str(tmp_path / "tiny.npz")), network=tiny, log_every=1, save_every=1000)
    file, out = tmp_path / "tiny.toml", tmp_path / "out"
    file.write_text(dump_toml(dataclasses.asdict(recipe)), encoding="utf-8")

    first = job(file, 0)
    patience = time.monotonic() + 120
    while not (out / LOG).exists() and first.poll() is None and time.monotonic() < patience:
        time.sleep(0.02)
    first.send_signal(signal.SIGUSR1)
    said = (tmp_path / "slurm-0.out").read_text
    assert first.wait(120) == 0, said()
    assert (tmp_path / "requeued").exists(), f"the signal came after its {STEPS} steps\n{said()}"
    assert (tmp_path / "requeued").read_text().split()[0] == "requeue", said()
    (state,) = saved_states(out)
    assert 0 < int(state.stem.removeprefix("state-")) < STEPS

    second = job(file, 1)
    assert second.wait(120) == 0, (tmp_path / "slurm-1.out").read_text()
    assert len((tmp_path / "requeued").read_text().splitlines()) == 1  # it came to its end
    train(recipe, tmp_path / "straight")
    assert_same_run(out, tmp_path / "straight")
