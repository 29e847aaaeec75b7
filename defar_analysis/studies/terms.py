"""The catalog's entry on how DEFAR's terms act: the shipped checkpoints on test images, kept in results/."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from ..catalog import Artefact, figures_folder
from ..core.datasets import Batch
from ..core.interpolants import Interpolant, Linear
from ..core.rollout import Draw, VelocityModel
from ..core.seeding import generator_for, image_noise
from ..exact_fields import EXACT
from ..experiment import SEED, SHIPPED
from ..measures.base import Arrays
from ..measures.gradients import gram, terms
from ..measures.terms import (
    READINGS,
    VERSION,
    bins,
    changes,
    curves,
    forward_statistics,
    gradient_rows,
    low_share,
    times_in,
    weight_rows,
)

if TYPE_CHECKING:
    from ..experiment import Experiment

ID, BASELINE = "terms", "SiT"
TERMS = tuple(terms(Linear()))
MAPS = 5  # mean weight maps that are kept, over as many bins of t0


@dataclass(frozen=True)
class Study:
    """bins, images: of loss, bias and weights; gradient_bins, batches of batch images: of the gradients."""

    bins: int = 10
    images: int = 64
    gradient_bins: int = 5
    batches: int = 8
    batch: int = 16


STUDIES = {
    "tiny": Study(bins=2, images=8, gradient_bins=1, batches=3, batch=4),
    "quick": Study(),
    "full": Study(bins=20, images=512, gradient_bins=10, batches=8, batch=32),
}


def build(experiment: Experiment) -> Artefact:
    """Gradients, weights, losses and biases in bins of t0, with the same images, labels, noise and times for all."""
    study = STUDIES[experiment.profile]
    names = (*SHIPPED, *EXACT)
    identities = {name: experiment._identity(name) for name in names}
    measured = {}
    for name in names:
        key = {
            "version": VERSION, "study": asdict(study), "seed": SEED, "terms": TERMS, "readings": list(READINGS),
            "test_data_sha256": experiment.test_images.hash, "device": experiment.device.type, **identities[name],
        }  # fmt: skip
        table, new = experiment.store.keep(ID, key, partial(_measure, experiment, name, study))
        measured[name] = table.attrs["arrays"]
        experiment.measured += [f"terms of {name}"] if new else []

    edges, coarse = bins(study.bins), bins(study.gradient_bins)
    rows = [gradient_rows(name, measured[name]["gram"], TERMS, coarse) for name in SHIPPED]
    tables = {
        "changes": changes(measured, edges, BASELINE),
        "curves": curves(measured, edges),
        "weights": pd.concat([weight_rows(name, measured[name], edges) for name in names], ignore_index=True),
    }
    arrays = {"images": np.stack([measured[name]["maps"] for name in SHIPPED]).astype(np.float16)[..., None]}
    provenance: dict[str, Any] = {
        "profile": experiment.profile,
        "note": f"gradients: {study.batches} batches of {study.batch} test images of CIFAR-10 in each of "
        f"{study.gradient_bins} bins of t0; the rest: {study.images} images in each of {study.bins}; seed {SEED}; "
        f"profile {experiment.profile}",
        "models": identities,
        "methods": list(SHIPPED),
        "batch": study.batch,
        "terms": {
            "fm": "L_FM(t0)", "fc": "L_FC, default reading of Eq. 15", "fc_strong": "L_FC with bias_norm mean",
            "adr": "L_ADR, gradients through x_hat", "adr_stopped": "L_ADR with detach_step",
            "defar": "10 L_ADR + L_FC",
        },
        "weights": "EMA, without label dropout: every image with its own label",
        "map_edges": _map_edges(edges).tolist(),
        "test_data_sha256": experiment.test_images.hash,
        "seed": SEED,
        "torch": torch.__version__,
        "device": experiment.device.type,
    }  # fmt: skip
    folder = figures_folder(experiment.root, ID, experiment.profile)
    return Artefact(ID, pd.concat(rows, ignore_index=True), tables, arrays, provenance, folder)


def draw_for(batch: Batch, first: int, low: float, high: float, interpolant: Interpolant) -> Draw:
    """The draw of the test images first, first + 1, ... with t0 in [low, high): noise and times depend on the image."""
    indices = range(first, first + len(batch.data))
    uniform = torch.stack([torch.rand(2, generator=generator_for(SEED, "terms", i)) for i in indices], dim=1)
    noise = image_noise(SEED, indices, batch.data.shape[1:]).to(batch.data)
    return Draw(batch.data, noise, batch.labels, times_in(low, high, uniform, interpolant).to(batch.data))


def _measure(experiment: Experiment, name: str, study: Study) -> pd.DataFrame:
    """One row; in attrs, the arrays that `measures.terms` reads, and for a network the Gram matrices."""
    checkpoint = experiment.checkpoint(BASELINE if name in EXACT else name)
    model, path = experiment.field(name), checkpoint.interpolant
    found = from_forwards(experiment, model, path, study)
    if name not in EXACT:
        draws = []
        edges = bins(study.gradient_bins)
        for low, high in pairwise(edges):
            starts = range(0, study.batches * study.batch, study.batch)
            draws.append([draw_for(_batch(experiment, i, study.batch), i, low, high, path) for i in starts])
        found["gram"] = np.stack([gram(model, terms(path), own) for own in draws])
    table = pd.DataFrame([{"model": name, "images": study.images}])
    table.attrs["arrays"] = Arrays(found)
    return table


def from_forwards(
    experiment: Experiment, model: VelocityModel, path: Interpolant, study: Study, chunk: int = 64
) -> dict[str, np.ndarray]:
    """Loss, bias and weights in every bin; maps: the mean of (w - 1) over its own mean, in MAPS bins."""
    edges, found = bins(study.bins), []
    for low, high in pairwise(edges):
        parts = []
        for start in range(0, study.images, chunk):
            batch = _batch(experiment, start, min(chunk, study.images - start))
            parts.append(forward_statistics(model, path, draw_for(batch, start, low, high, path)))
        own = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
        weights = [own[f"weight_{reading}"] for reading in READINGS]
        found.append({
            "fm_loss": own["fm_loss"], "bias_rms": own["bias_rms"],
            "w_mean": [w.mean() for w in weights], "w_p5": [np.percentile(w, 5) for w in weights],
            "w_p95": [np.percentile(w, 95) for w in weights], "low_share": [low_share(w) for w in weights],
            "maps": (weights[0] - 1).mean(axis=(0, 1)),
        })  # fmt: skip
    arrays = {key: np.array([own[key] for own in found]) for key in found[0]}
    groups = np.array_split(arrays["maps"], min(MAPS, study.bins))
    arrays["maps"] = np.stack([group.mean(axis=0) / group.mean() for group in groups])
    return arrays


def _map_edges(edges: np.ndarray) -> np.ndarray:
    """The bins (groups, 2) that each weight map is a mean over."""
    pairs = np.stack([edges[:-1], edges[1:]], axis=1)
    groups = np.array_split(pairs, min(MAPS, len(pairs)))
    return np.array([(group[0, 0], group[-1, 1]) for group in groups])


def _batch(experiment: Experiment, first: int, count: int) -> Batch:
    return experiment.test_images.batch(range(first, first + count), device=experiment.device)
