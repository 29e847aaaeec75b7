"""The catalog's entry on latents: PFR, FEL and bias maps of a small network of latents, decoded images beside them."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from ..artefacts import Artefact, figures_folder
from ..core.checkpoints import Checkpoint, load_checkpoint
from ..core.latents import seen_batch
from ..core.oracles import GaussianFlow
from ..errors import DefarError
from ..exact_fields import GAUSSIAN
from ..experiment import CLASSES, SEED
from ..measures.base import Context
from ..measures.emphasis import FEL
from ..measures.frequency import PFR
from ..measures.latents import decoded_bias, spectra
from ..measures.maps import BiasMaps

if TYPE_CHECKING:
    from ..experiment import Experiment

ID, MODEL = "latents", "Latent SiT"
CHECKPOINT = "reproduce/checkpoints/cifar10-latent-sit"
SHOWN = 4
FITTED_ON = {"tiny": 256}  # training images whose latents give the Gaussian its spectrum
FITTED_BY_DEFAULT = 4096


class LatentGaussian:
    """The exact field of the Gaussian with the latents' mean and spectrum; fitted when it is first called."""

    def __init__(self, experiment: Experiment, checkpoint: Checkpoint, count: int) -> None:
        self.experiment, self.checkpoint, self.count = experiment, checkpoint, count

    @cached_property
    def flow(self) -> GaussianFlow:
        train, codec = self.experiment.train_images, self.checkpoint.codec
        starts = range(0, self.count, 256)
        batches = (seen_batch(codec, train, range(s, min(s + 256, self.count))).data for s in starts)
        flow = GaussianFlow.fit(batches)
        where = self.experiment.device
        return GaussianFlow(flow.mean.to(where), flow.spectrum.to(where))

    def __call__(self, x, t, labels=None):
        return self.flow(x, t, labels)


def build(experiment: Experiment) -> Artefact:
    """The latent network and the exact Gaussian on the same latents of test images, noise and times."""
    path = experiment.root / CHECKPOINT
    if not path.is_dir():
        raise DefarError(f"{path}: not there; train it: defar train reproduce/cifar10_latent_sit.toml")
    checkpoint, scale = load_checkpoint(path, device=experiment.device), experiment.scale
    batch = seen_batch(checkpoint.codec, experiment.test_images, range(scale.images), device=experiment.device)
    count = FITTED_ON.get(experiment.profile, FITTED_BY_DEFAULT)
    exact = LatentGaussian(experiment, checkpoint, count)
    card = checkpoint.card
    own = {"checkpoint": card.name, "sha256": card.sha256, "weights": card.weights, "steps": card.training.get("steps")}
    fitted = {"reference": "gaussian with channel covariance, of latents", "images": count,
              "fitted_on_sha256": experiment.train_images.hash, "codec": checkpoint.codec.identity}  # fmt: skip

    def context(name: str, model, identity: dict[str, Any]) -> Context:
        return Context(
            model, batch, scale.grid, name, checkpoint.interpolant, seed=SEED, chunk=scale.chunk,
            device=str(experiment.device), identity=identity, codec=checkpoint.codec,
        )  # fmt: skip

    contexts = {MODEL: context(MODEL, checkpoint.model, own), GAUSSIAN: context(GAUSSIAN, exact, fitted)}
    swept = {}
    for name, ctx in contexts.items():
        maps = [BiasMaps(images=SHOWN)] if name == MODEL else []
        swept[name], new = experiment.store.measure([PFR(), FEL(), *maps], ctx)
        experiment.measured += [f"{measurement} of {name}" for measurement in new]
    arrays = swept[MODEL]["maps"].attrs["arrays"]
    pairs = [tuple(map(float, pair)) for pair in arrays["pairs"]]
    key = {"pairs": pairs, "shown": SHOWN, "context": contexts[MODEL].key_parts()}
    decoded, new = experiment.store.keep("decoded_bias", key, lambda: decoded_bias(contexts[MODEL], pairs, SHOWN))
    experiment.measured += [f"decoded bias of {MODEL}"] if new else []
    images = torch.from_numpy(np.array(experiment.test_images.images[: scale.images]))
    spectrum = spectra(images, checkpoint.codec, batch.data.cpu(), decoded.attrs["arrays"]["energies"], pairs)
    tables = {"curves": pd.concat([t[m] for t in swept.values() for m in ("pfr", "fel")]), "spectra": spectrum}
    shown = {key: decoded.attrs["arrays"][key] for key in ("x_hat", "end")}
    shown |= {key: arrays[key] for key in ("bias", "pairs", "image_index", "labels")}
    shown |= {"images": images[:SHOWN].permute(0, 2, 3, 1).numpy(), "decoded": arrays["images"]}
    note = (f"{scale.images} test images of CIFAR-10 as latents of {' x '.join(map(str, checkpoint.shape))}, "
            f"{len(scale.grid.t0)} t0 and {scale.grid.pairs} pairs (t0, t1)")  # fmt: skip
    provenance = {
        "profile": experiment.profile,
        "note": f"{note}; profile {experiment.profile}",
        "models": {MODEL: own, GAUSSIAN: fitted},
        "codec": checkpoint.codec.identity,
        "test_data_sha256": experiment.test_images.hash,
        "classes": CLASSES,
        "seed": SEED,
        "torch": torch.__version__,
        "device": experiment.device.type,
    }
    table = pd.concat([swept[MODEL]["maps"], decoded], ignore_index=True)
    return Artefact(ID, table, tables, shown, provenance, figures_folder(experiment.root, ID, experiment.profile))
