"""Two processes at once on the same folder, and the work of two that were killed gone on with by one: what they leave
must be what one alone leaves, without a file more or less. Forked as in kills.py, which says why.

    python tests/two_runs.py FOLDER        # prints a JSON of the exit statuses and the differences by case
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import sys
from datetime import timedelta
from functools import partial
from pathlib import Path

import kills
import numpy as np
import pandas as pd
import torch
import torch.distributed as dist
from kills import JOBS, differences, ended, forked, prepare, run, started

from defar_analysis.core import cifar10
from defar_analysis.measures.store import Store

ROUNDS = 30
PATIENCE = timedelta(minutes=3)  # with a process that never comes, less than the test's
BY_NAME = {job.name: job for job in JOBS}


def ranked(rank: int, meeting: Path, work) -> int:
    """As one of the two processes that torchrun starts. They meet at a file: a free port may be taken by then."""
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank)}
    where = {"init_method": meeting.as_uri(), "rank": rank, "world_size": 2, "timeout": PATIENCE}
    dist.init_process_group = partial(dist.init_process_group, **where)
    return work()


def two_then_one(name: str, folder: Path, place: Path, at: int) -> list[int]:
    """Two processes share a job, the first one is killed right after a change of a folder; then one goes on."""
    works = [
        partial(run, BY_NAME[name], folder, place / f"{rank}", (at, "after") if rank == 0 else None) for rank in (0, 1)
    ]
    children = [started(partial(ranked, rank, place / f"{name}-meeting", work)) for rank, work in enumerate(works)]
    first = ended(children[0])
    os.kill(children[1], signal.SIGKILL)
    ended(children[1])
    return [first, forked(partial(run, BY_NAME[name], folder, place / "one"))]


def store_twice(folder: Path, number: int) -> int:
    """Both write what they measured themselves under the same keys, and read what is there, again and again."""
    for key in range(ROUNDS):
        store, name = Store(folder), {"key": key}
        for _ in range(3):
            store.keep("t", name, lambda: pd.DataFrame({"by": [number] * 50}))
            store._save("t", name, pd.DataFrame({"by": [number] * 50}))
            assert store._load("t", name)["by"].nunique() == 1  # whoever's it is: it can be trusted
    return 0


def unpack(folder: Path, source: Path, batches: dict[str, bytes]) -> int:
    """CIFAR-10, in miniature, from nothing."""
    cifar10.ROWS = len(batches["test_batch"]) // 3073
    cifar10.BATCH_MD5 = {name: hashlib.md5(content).hexdigest() for name, content in batches.items()}
    cifar10.prepare_cifar10(folder, source, progress=lambda line: None)
    images, labels = cifar10.open_cifar10("train", folder)
    return int(not (images.shape[1:] == (3, 32, 32) and len(images) == len(labels)))


def main(place: Path) -> int:
    with torch.device("meta"):  # as in kills.py
        kills.SiT(8, 4, 3, 32, 1, 2)
    (place / "prepared").mkdir(parents=True)
    forked(lambda: prepare(place / "prepared"))
    found = {}

    def case(name: str, whole: Path, folder: Path, statuses: list[int]) -> None:
        forked(lambda: differences(whole, folder, place / "differences"))
        found[name] = {"statuses": statuses, "differs": (place / "differences").read_text()}

    for job in JOBS:
        whole, both = place / job.name, place / f"{job.name}-both"
        for folder in (whole, both):
            shutil.copytree(place / "prepared", folder)
        forked(partial(run, job, whole, place / "whole"))
        children = [started(partial(run, job, both, place / f"{number}")) for number in range(2)]
        case(job.name, whole, both, [ended(child) for child in children])
        if job.name in ("sampling", "robustness"):
            shared = shutil.copytree(place / "prepared", place / f"{job.name}-shared")
            case(f"{job.name}, two then one", whole, shared, two_then_one(job.name, shared, place, at=20))

    store = place / "store"
    children = [started(partial(store_twice, store, number)) for number in range(2)]
    found["store"] = {"statuses": [ended(child) for child in children], "files": len(list(store.rglob("*")))}
    found["store"]["trusted"] = [Store(store)._load("t", {"key": key}) is not None for key in range(ROUNDS)]

    rows = np.random.default_rng(0).integers(0, 10, (6, 500, 3073), np.uint8)
    batches = {name: batch.tobytes() for name, batch in zip(cifar10.BATCH_MD5, rows, strict=True)}
    (place / "cifar-10-batches-bin").mkdir()
    for name, content in batches.items():
        (place / "cifar-10-batches-bin" / f"{name}.bin").write_bytes(content)
    for folder in ("data-alone", "data-both"):
        works = [partial(unpack, place / folder, place / "cifar-10-batches-bin", batches)] * (
            1 + (folder == "data-both")
        )
        (place / folder / "cifar10" / ".part-of-a-killed-one").mkdir(parents=True)
        statuses = [ended(child) for child in [started(work) for work in works]]
    case("data", place / "data-alone", place / "data-both", statuses)
    found["data"]["folders"] = [str(path) for path in (place / "data-both").rglob(".part*")]
    print(json.dumps(found, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).resolve()))
