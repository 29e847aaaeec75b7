"""Every figure that can be regenerated: its place in the paper, what it is measured from, its notebook and its plot.

checkpoints + data -> measurements (results/) -> collect() -> figures/data/<id>.csv -> draw() -> figures/<id>.png, .pdf
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from .artefacts import PROFILES, Artefact, Figure, checked_profile, data_files, figures_folder, read, write
from .errors import DefarError

__all__ = [
    "FIGURES", "PROFILES", "Artefact", "Figure", "checked_profile", "collect", "data_files", "draw", "figure",
    "figures_folder", "load", "save", "write",
]  # fmt: skip

if TYPE_CHECKING:
    from matplotlib.figure import Figure as MatplotlibFigure

    from .experiment import Experiment


def collect(id: str, profile: str = "quick", device: str = "auto", root: str | Path = ".") -> Artefact:
    """Measure what figure `id` shows, or take what is still valid from results/, and write it to <folder>/data/.

    profile: "tiny" (seconds, to try the pipeline), "quick" (minutes), "full" (the paper's grid). Data of a better
    profile is never overwritten: what a worse one makes goes to results/<profile>/figures.
    """
    from .experiment import Experiment

    return write(figure(id).build(Experiment(Path(root), checked_profile(profile), device)))


def load(id: str, folder: Path) -> Artefact:
    """The artefact whose data lies in `folder`/data, without measuring anything."""
    return read(id, folder, figure(id).tables)


def draw(artefact: Artefact) -> MatplotlibFigure:
    """The figure, from its data alone."""
    return figure(artefact.id).plot(artefact)


def save(artefact: Artefact, drawn: MatplotlibFigure) -> list[Path]:
    """Write the figure as <folder>/<id>.png and .pdf; returns both paths."""
    from .plots import style

    return list(style.save(drawn, artefact.folder / artefact.id))


def figure(id: str) -> Figure:
    """The entry of that id. Raises DefarError naming those there are."""
    if id not in FIGURES:
        raise DefarError(f"unknown figure {id!r}; there are {', '.join(FIGURES)}")
    return FIGURES[id]


def _build_fig3(e: Experiment) -> Artefact:
    from .measures.frequency import crossings

    names = ("SiT", "Gaussian reference")
    sweeps = {name: e.sweep(name) for name in names}
    table = pd.concat([sweeps[n][m] for n in names for m in ("pfr", "fel")], ignore_index=True)
    beside = {
        "crossings": pd.concat([crossings(sweeps[n]["pfr"]) for n in names], ignore_index=True),
        "paper": e.paper_values("fig3"),
    }
    maps = sweeps["SiT"]["maps"].attrs["arrays"]
    return e.artefact("fig3", names, table, beside, e.first_images(maps, 2))


def _build_fig5(e: Experiment) -> Artefact:
    from .measures.frequency import restoration

    names = ("SiT", "DEFAR", "Gaussian reference")
    tables = {name: e.sweep(name)["pfr"] for name in names}
    change = restoration(tables["SiT"], tables["DEFAR"])
    table = pd.concat([*tables.values(), change], ignore_index=True)
    return e.artefact("fig5", names, table[table["quantity"] != "pfr_bias"])


def _build_fig9(e: Experiment) -> Artefact:
    names = ("SiT", "DEFAR", "Gaussian reference")
    tables = {name: e.sweep(name)["maps"] for name in names}
    arrays = tables["SiT"].attrs["arrays"]
    return e.artefact("fig9", names, pd.concat(tables.values(), ignore_index=True), arrays=e.first_images(arrays, 8))


def _build_samples(e: Experiment) -> Artefact:
    table, arrays = e.samples(("SiT", "DEFAR"))
    return e.artefact("samples", ("SiT", "DEFAR"), table, arrays=arrays)


def _build_plane(e: Experiment) -> Artefact:
    from .plane_study import build

    return build(e)


def _build_corrections(e: Experiment) -> Artefact:
    from .corrections_study import build

    return build(e)


def _build_robustness(e: Experiment) -> Artefact:
    from .robustness_study import build

    return build(e)


def _build_evaluator(e: Experiment) -> Artefact:
    from .evaluator_study import build

    return build(e)


def _plot_fig3(a: Artefact):
    from .plots import figure3

    return figure3.plot(a.table, a.arrays, paper=a.tables["paper"], crossings=a.crossings, note=a.provenance["note"])


def _plot_fig5(a: Artefact):
    from .plots import frequency

    return frequency.plot_restoration(a.table, note=a.provenance["note"])


def _plot_fig9(a: Artefact):
    from .plots import maps

    return maps.plot(a.table, a.arrays, model="SiT", names=a.provenance["classes"], note=a.provenance["note"])


def _plot_samples(a: Artefact):
    from .plots import samples

    return samples.plot(a.table, a.arrays, note=a.provenance["note"])


def _plot_plane(a: Artefact):
    from .plots import plane

    return plane.plot(a.table, a.arrays, a.tables["verdicts"], note=a.provenance["note"])


def _plot_corrections(a: Artefact):
    from .plots import corrections

    names, note = a.provenance["classes"], a.provenance["note"]
    return corrections.plot(a.table, a.arrays, a.tables["changes"], names=names, note=note)


def _plot_robustness(a: Artefact):
    from .plots import robustness

    first = a.table["protocol"].iloc[0]
    own, change = (table[table["protocol"] == first] for table in (a.table, a.tables["differences"]))
    return robustness.plot(own, change, a.tables["paper"], note=a.provenance["note"])


def _plot_evaluator(a: Artefact):
    from .plots import evaluator

    return evaluator.plot(a.table, a.arrays, note=a.provenance["note"])


_ENTRIES = (
    Figure(
        "fig3", "Fig. 3 (a-d)", "Frequencies of prediction and exposure bias, and what reweighting by the bias does",
        "PFR of the prediction (a) and of the exposure bias (b) over t against the target velocity's, where the bias "
        "sits on two images (c), and the relative gain in FEL when the loss is reweighted by it (d). Shaded: 95 % "
        "bootstrap over images. Dashed: the exact field of a Gaussian with the data's mean and spectrum, which has no "
        "defect at all. Hollow marks: values read off the paper's figure (ImageNet-256 latents).",
        _build_fig3, _plot_fig3, ("crossings", "paper"),
    ),
    Figure(
        "fig5", "Fig. 5", "Low-frequency restoration",
        "PFR of the prediction on forward-perturbed inputs for SiT, DEFAR and the Gaussian reference, and the paired "
        "change from SiT to DEFAR on the same images and noise.",
        _build_fig5, _plot_fig5,
    ),
    Figure(
        "fig9", "Fig. 9", "Where the exposure bias sits",
        "Images of the test set, their high- and low-pass parts, and the exposure bias of SiT (L2 norm over channels) "
        "for simulated steps t0 to t1. The table gives the correlation over pixels between the bias and the local "
        "strength of each band, over all measured images.",
        _build_fig9, _plot_fig9,
    ),
    Figure(
        "samples", "as Figs. 4, 6, 7", "Samples from the same noise",
        "One column for each class, one row for each method; the noise of a column is the same in every row.",
        _build_samples, _plot_samples,
    ),
    Figure(
        "plane", "the method on 2-D data, as Figs. 1 and 2", "What bias, drift, ADR, FC and MixFlow do in the plane",
        "A small network on a ring of eight Gaussians, where the exact velocity is known. One simulated step and what "
        "ADR, FC and MixFlow make of it (a-d); samples of each method from the same noise; loss, bias and speed at "
        "true states, drift and quality of sampling, and the paired change against flow matching, FM (e-j). Dashed: "
        "the exact field, which has no defect and yet a bias. Dotted: true data against true data. Distances are "
        "sliced Wasserstein-2. The table has every method against FM at equal compute, paired by seed.",
        _build_plane, _plot_plane, ("verdicts",),
    ),
    Figure(
        "corrections", "training-free methods that the paper cites",
        "What training-free corrections do to drift and samples",
        "Energy of sampled states over that of true noisy test images, along sampling, in the low (a) and the high "
        "band (b): 1 is no drift. Dashed black: the exact field of a Gaussian with the data's mean and spectrum; it "
        "has no defect and yet reads below 1, by Euler's steps and by these images being a few of many. How much each "
        "method changes the samples' energy against plain SiT, paired by image (c), and samples of all methods, a row "
        "from one noise and label (d). Shaded and bars: 95 % bootstrap over images. More or less energy is not better "
        "or worse images: no quality metric is measured here.",
        _build_corrections, _plot_corrections, ("changes", "changes_defar"),
    ),
    Figure(
        "robustness", "Tab. 4 (right)", "Sample quality over the number of steps",
        "Fréchet distance of EfficientNet features (FD-EffNet-128, not FID) over the number of velocity evaluations, "
        "for SiT and DEFAR from the same noise and labels (a); the paired change in percent (b); the paper's FID, "
        "another metric on ImageNet-256, in a panel of its own (c); precision, recall and an inception score of the "
        "same network (d-f). Dashed: as many test images, which have no error: what is left is the distance's own bias "
        "at this n. Bars: 95 % bootstrap over images.",
        _build_robustness, _plot_robustness, ("differences", "steps", "verdicts", "paper"),
    ),
    Figure(
        "evaluator", "behind Tab. 4", "What the evaluator sees",
        "Real images, damaged by known amounts, before the networks that stand in for Inception: Fréchet distance of "
        "2,000 CIFAR-10 test images from 2,000 training images over that of the undamaged ones (top), precision and "
        "recall, over the strength of noise, of blur and of class removal. Dashed: the undamaged test images, which "
        "have no error: their distance, the floor, comes of the number of images. Bars and bands: 95 % bootstrap over "
        "images. A metric that is to rank samplers must move one way with the damage.",
        _build_evaluator, _plot_evaluator, ("changes", "verdicts"),
    ),
)  # fmt: skip
FIGURES = {entry.id: entry for entry in _ENTRIES}
