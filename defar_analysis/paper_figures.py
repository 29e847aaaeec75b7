"""The catalog's entries for the paper's own pictures: Figs. 1 and 2 from the study in the plane, Figs. 4 and 6 to 8
from the methods' samples. Nothing is measured here: what another entry measured is cut to what a picture shows."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch

from .artefacts import Artefact, committed, figures_folder
from .core.objectives import Defar
from .core.objectives.defar import anti_drift_loss
from .core.objectives.weights import compensated_loss, compensation_weight
from .errors import DefarError
from .measures.plane import EXACT, FRESH

if TYPE_CHECKING:
    from .experiment import Experiment

BASELINE = "FM"
SHOWN = ("SiT", "IP", "SDSS", "MDSS", "DEFAR")  # the columns of the paper's Figs. 4, 6 and 7
FIG4, FIG6 = tuple(range(6)), tuple(range(6, 12))
_STEP = ("noise", "data", "x0", "x1", "x_hat", "target", "v0", "v_ideal", "v_hat", "bias")
NOT_RUN = "not run"
CELEBA_PROTOCOL = (
    "The paper shows faces sampled by each method from the same noise, one column for each method. It trains SiT-B/4 "
    "on CelebA-64, in pixels and without classes, for 250,000 steps of 256 images and samples with 50 NFE. The "
    "commands below do that, given CelebA's pictures in the folder celeba64 of the data root; with one seed, image i "
    "has the same noise for every method."
)
_RECIPES = {"SiT": "sit", "IP": "ip", "SDSS": "sdss", "MDSS": "mdss", "DEFAR": "defar-250k"}


def build(id: str, experiment: Experiment) -> Artefact:
    """The entry of that name."""
    return BUILDERS[id](experiment)


# ---- from the study in the plane


def build_fig1(experiment: Experiment) -> Artefact:
    """Drift over t of FM, the exact field and fresh data; walks (2, T+1, N, 2) of FM and the exact field."""
    plane = _plane(experiment)
    models = [name for name in dict.fromkeys(plane.table["model"]) if name != FRESH]
    table = plane.table[plane.table["model"].isin([BASELINE, EXACT, FRESH]) & (plane.table["quantity"] == "drift")]
    walks = np.stack([plane.arrays["walks"][models.index(name)] for name in (BASELINE, EXACT)])
    kept = {key: plane.arrays[key] for key in ("step_noise", "step_data", "side", "density")}
    shown = (BASELINE, EXACT)
    return _derived(experiment, "fig1", plane, shown, table.reset_index(drop=True), {**kept, "walks": walks})


def build_fig2(experiment: Experiment) -> Artefact:
    """The vectors of one measured step of one pair, and the losses that they give, by the package's own functions."""
    plane = _plane(experiment)
    arrays = {f"step_{key}": plane.arrays[f"step_{key}"][:1] for key in _STEP}
    kept = {**arrays, "step_times": plane.arrays["step_times"]}
    return _derived(experiment, "fig2", plane, (BASELINE,), step_losses(arrays), kept)


def step_losses(arrays: dict[str, np.ndarray], objective: Defar | None = None) -> pd.DataFrame:
    """Columns quantity, component, value: the vectors of the first pair of `step_*` (P, 2) and its loss (Eqs. 7-9, 15,
    16) under the objective, by default DEFAR's own. A point of the plane is an image of 1 x 2 pixels."""
    objective = Defar() if objective is None else objective
    step = {key: torch.as_tensor(np.asarray(arrays[f"step_{key}"][:1], float))[:, None, None] for key in _STEP}
    home = step["data"] - step["x_hat"]
    weight = compensation_weight(step["bias"], objective.alpha, objective.bias_norm, objective.bias_map)
    fc = compensated_loss(step["v0"] - step["target"], weight, objective.inside_square).mean()
    adr = anti_drift_loss(step["v_hat"], home).mean()
    vectors = {"v_gt": step["target"], "v_t0": step["v0"], "v_ideal": step["v_ideal"], "v_hat": step["v_hat"],
               "v_adr": home, "bias": step["bias"], "weight": weight}  # fmt: skip
    numbers = {"alpha": objective.alpha, "beta1": objective.beta1, "beta2": objective.beta2, "loss_fc": float(fc),
               "loss_adr": float(adr), "loss": float(objective.beta1 * adr + objective.beta2 * fc)}  # fmt: skip
    rows = [(name, k + 1, float(x)) for name, vector in vectors.items() for k, x in enumerate(vector.flatten())]
    rows += [(name, np.nan, value) for name, value in numbers.items()]
    return pd.DataFrame(rows, columns=["quantity", "component", "value"])


# ---- from the methods' samples


def build_fig4(experiment: Experiment) -> Artefact:
    """Images 0-5 of the paper's five methods, (5, 6, H, W, 3)."""
    return _sampled(experiment, "fig4", SHOWN, FIG4)


def build_fig6(experiment: Experiment) -> Artefact:
    """Images 6-11 of the paper's five methods, (5, 6, H, W, 3)."""
    return _sampled(experiment, "fig6", SHOWN, FIG6)


def build_fig8(experiment: Experiment) -> Artefact:
    """All of DEFAR's images, (1, N, H, W, 3)."""
    return _sampled(experiment, "fig8", ("DEFAR",))


def _sampled(experiment: Experiment, id: str, methods: Sequence[str], images: Sequence[int] | None = None) -> Artefact:
    from .our_rows import METHODS_TAKE
    from .studies.methods import STUDIES, sampled

    if experiment.profile not in STUDIES:  # the images behind it are too many to be shipped
        return committed(id, (), experiment.root, METHODS_TAKE)
    return sample_columns(experiment, id, sampled(experiment), methods, images)


def sample_columns(
    experiment: Experiment, id: str, source: Artefact, methods: Sequence[str], images: Sequence[int] | None = None
) -> Artefact:
    """The source's `samples` (M, N, H, W, 3) of those methods and images (default: all of them).

    Image i has label i modulo the classes. Raises DefarError where a method or an image is missing;
    but what the profile "tiny" did not sample is left out: it only tries the pipeline.
    """
    if "samples" not in source.arrays:
        raise DefarError(f"{id}: the artefact {source.id!r} holds no samples; run: {remake(source)}")
    names, classes = source.provenance["sampled"], source.provenance["classes"]
    samples = np.asarray(source.arrays["samples"])
    if source.provenance["profile"] == "tiny":
        methods = [name for name in methods if name in names]
    for name in methods:
        if name not in names:
            held = ", ".join(names)
            raise DefarError(f"{id}: no samples of {name!r} in {source.id!r}: {held}; run: {remake(source)}")
    images = range(samples.shape[1]) if images is None else images
    if max(images) >= samples.shape[1]:
        raise DefarError(f"{id}: needs image {max(images)}; the artefact {source.id!r} has {samples.shape[1]} a method")
    chosen = samples[[names.index(name) for name in methods]][:, list(images)]
    rows = [(m, i, i % len(classes), classes[i % len(classes)]) for m in methods for i in images]
    table = pd.DataFrame(rows, columns=["method", "image", "label", "label_name"])
    found = _derived(experiment, id, source, methods, table, {"samples": chosen})
    found.provenance["sampled"] = list(methods)
    return found


def remake(source: Artefact) -> str:
    return f"defar reproduce --profile full --only {source.id}"


# ---- what was not run


def build_fig7(experiment: Experiment) -> Artefact:
    """What would make the paper's faces, in words: nothing was trained on CelebA-64, whose pictures are not here."""
    rows = [(name, NOT_RUN, CELEBA_PROTOCOL, celeba_command(name)) for name in SHOWN]
    provenance = {
        "profile": experiment.profile,
        "note": f"{NOT_RUN}: no network was trained on CelebA-64; profile {experiment.profile}",
        "models": {},
    }
    folder = figures_folder(experiment.root, "fig7", experiment.profile)
    return Artefact("fig7", pd.DataFrame(rows, columns=["row", "status", "protocol", "command"]), {}, {}, provenance,
                    folder)  # fmt: skip


def celeba_command(method: str) -> str:
    """The commands, joined by &&, that train and sample a row of the paper's Fig. 7 where CelebA's pictures are."""
    name = f"celeba64-{_RECIPES[method]}"
    return (
        f"defar train reproduce/experiments/tab2/{name}.toml && "
        f"defar sample runs/tab2-{name}/checkpoint --out runs/tab2-{name}/samples.png --count 8 --steps 50 --seed 0"
    )


# ---- parts


def _plane(experiment: Experiment) -> Artefact:
    from .studies.plane import build  # it needs the catalog, which needs this module

    return build(experiment)


def _derived(
    experiment: Experiment, id: str, source: Artefact, shown: Sequence[str], table: pd.DataFrame,
    arrays: dict[str, np.ndarray],
) -> Artefact:  # fmt: skip
    """A part of another artefact with its provenance, less the models that are not shown; by the profile of the source,
    which may be what was committed by a better one, in the folder that this has a right to."""
    provenance = {**copy.deepcopy(source.provenance), "taken_from": source.id}
    # A network stands there by its method alone or as "method, checkpoint".
    models = provenance["models"].items()
    provenance["models"] = {key: model for key, model in models if (key.rpartition(", ")[0] or key) in shown}
    return Artefact(id, table, {}, arrays, provenance, figures_folder(experiment.root, id, provenance["profile"]))


BUILDERS = {"fig1": build_fig1, "fig2": build_fig2, "fig4": build_fig4, "fig6": build_fig6, "fig7": build_fig7,
            "fig8": build_fig8}  # fmt: skip
