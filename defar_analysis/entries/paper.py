"""The paper's own figures and tables, and its claims."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from ..artefacts import Artefact, Figure
from ..paper_tables import TABLES
from .building import built_by

if TYPE_CHECKING:
    from ..experiment import Experiment


def _plot_fig1(a: Artefact):
    from ..plots import mismatch

    return mismatch.plot(a.table, a.arrays, note=a.provenance["note"])


def _plot_fig2(a: Artefact):
    from ..plots import method

    return method.plot(a.table, a.arrays, note=a.provenance["note"])


def _build_fig3(e: Experiment) -> Artefact:
    from ..exact_fields import EXACT
    from ..measures.frequency import crossings

    names = ("SiT", *EXACT)
    sweeps = {name: e.sweep(name) for name in names}
    table = pd.concat([sweeps[n][m] for n in names for m in ("pfr", "fel")], ignore_index=True)
    beside = {
        "crossings": pd.concat([crossings(sweeps[n]["pfr"]) for n in names], ignore_index=True),
        "paper": e.paper_values("fig3"),
    }
    maps = sweeps["SiT"]["maps"].attrs["arrays"]
    return e.artefact("fig3", names, table, beside, e.first_images(maps, 2))


def _plot_fig3(a: Artefact):
    from ..plots import figure3

    return figure3.plot(a.table, a.arrays, paper=a.tables["paper"], crossings=a.crossings, note=a.provenance["note"])


def _plot_columns(a: Artefact):
    from ..plots import columns

    return columns.plot(a.table, a.arrays, note=a.provenance["note"])


def _build_fig5(e: Experiment) -> Artefact:
    from ..exact_fields import EXACT
    from ..measures.frequency import restoration

    names = ("SiT", "DEFAR", *EXACT)
    tables = {name: e.sweep(name)["pfr"] for name in names}
    change = restoration(tables["SiT"], tables["DEFAR"])
    table = pd.concat([*tables.values(), change], ignore_index=True)
    return e.artefact("fig5", names, table[table["quantity"] != "pfr_bias"])


def _plot_fig5(a: Artefact):
    from ..plots import frequency

    return frequency.plot_restoration(a.table, note=a.provenance["note"])


def _plot_not_run(a: Artefact):
    from ..plots import columns

    return columns.plot_not_run(a.table, note=a.provenance["note"])


def _build_fig9(e: Experiment) -> Artefact:
    from ..exact_fields import EXACT

    names = ("SiT", "DEFAR", *EXACT)
    tables = {name: e.sweep(name)["maps"] for name in names}
    arrays = tables["SiT"].attrs["arrays"]
    return e.artefact("fig9", names, pd.concat(tables.values(), ignore_index=True), arrays=e.first_images(arrays, 8))


def _plot_fig9(a: Artefact):
    from ..plots import maps

    return maps.plot(a.table, a.arrays, model="SiT", names=a.provenance["classes"], note=a.provenance["note"])


def _build_samples(e: Experiment) -> Artefact:
    table, arrays = e.samples(("SiT", "DEFAR"))
    return e.artefact("samples", ("SiT", "DEFAR"), table, arrays=arrays)


def _plot_samples(a: Artefact):
    from ..plots import samples

    return samples.plot(a.table, a.arrays, note=a.provenance["note"])


def _plot_table(a: Artefact):
    from ..plots import tables

    if a.id == "tab11":
        return tables.plot_configurations(a.table, note=a.provenance["note"])
    return tables.plot(a.tables["changes"], note=a.provenance["note"])


def _plot_claims(a: Artefact):
    from ..plots import claims

    return claims.plot(a.table, note=a.provenance["note"])


FIGURES = (
    Figure(
        "fig1", "Fig. 1", "Training against inference",
        "A flow-matching network on a ring of eight Gaussians in the plane. (a) In training it sees states on the "
        "straight path of a true pair. (b) In inference it sees its own steps; of 40 walks from the same noise as the "
        "exact field's, the one that ends farthest from it is marked. (c) Distance of sampled states from true x_t "
        "over t (sliced Wasserstein-2): mean over seeds, band from the lowest to the highest. Dashed: the exact field "
        "by as many steps. Dotted: true data against true data. The paper's figure is a sketch, this one a "
        "measurement.",
        built_by("paper_figures", "fig1"), _plot_fig1,
    ),
    Figure(
        "fig2", "Fig. 2", "The method in one measured step",
        "(a) One simulated step of a flow-matching model in the plane: the pair's states x_t0 and x_t1, the simulated "
        "state x_hat (Eq. 6), velocities there, bias (Eq. 7) and ADR's way home, to scale. (b) The same vectors on "
        "their way to the loss: FC's weight and loss (Eqs. 15, 16), ADR's unit lengths (Eqs. 9, 20), and their sum "
        "(Eq. 8), with this step's numbers. Eqs. 15 and 16 are this project's reading of the paper. One pair, chosen "
        "by a rule and not an average.",
        built_by("paper_figures", "fig2"), _plot_fig2,
    ),
    Figure(
        "fig3", "Fig. 3 (a-d)", "Frequencies of prediction and exposure bias, and what reweighting by the bias does",
        "PFR of the prediction (a) and of the exposure bias (b) over t against the target velocity's, where the bias "
        "sits on two images (c), and the relative gain in FEL when the loss is reweighted by it (d). Shaded: 95 % "
        "bootstrap over images. Black and grey: exact fields without any defect, which bracket what comes with flow "
        "matching itself: of a Gaussian with the data's mean and spectrum, and of the 50,000 training images, of the "
        "label or all, which memorizes them. Hollow marks: values read off the paper's figure (ImageNet-256 latents).",
        _build_fig3, _plot_fig3, ("crossings", "paper"),
    ),
    Figure(
        "fig4", "Fig. 4", "Samples of the paper's methods from the same noise",
        "One column for each method, one row for each noise and class; images 0 to 5 in order, not picked. CIFAR-10, "
        "small networks post-trained at equal compute, without guidance; the paper shows ImageNet-256. A handful of "
        "images of one training run ranks nothing.",
        built_by("paper_figures", "fig4"), _plot_columns, shared="methods_samples.ipynb",
    ),
    Figure(
        "fig5", "Fig. 5", "Low-frequency restoration",
        "PFR of the prediction on forward-perturbed inputs for SiT, DEFAR and the exact fields of Fig. 3, and the "
        "paired change from SiT to DEFAR on the same images and noise.",
        _build_fig5, _plot_fig5,
    ),
    Figure(
        "fig6", "Fig. 6", "More samples from the same noise",
        "As Fig. 4, images 6 to 11. The paper's are ImageNet-256.",
        built_by("paper_figures", "fig6"), _plot_columns, shared="methods_samples.ipynb",
    ),
    Figure(
        "fig7", "Fig. 7", "Samples on CelebA-64: not run",
        "Not run: no network was trained on CelebA-64, whose pictures no package has. Below, what the paper ran, and "
        "the commands that train and sample each method where they are.",
        built_by("paper_figures", "fig7"), _plot_not_run, shared="methods_samples.ipynb",
    ),
    Figure(
        "fig8", "Fig. 8", "Samples of DEFAR",
        "All 20 images of DEFAR's small CIFAR-10 network, in order, without guidance. The paper's Fig. 8 shows "
        "DEFAR-XL/2+ on ImageNet-256 with 50 NFE and guidance of scale 4.",
        built_by("paper_figures", "fig8"), _plot_columns, shared="methods_samples.ipynb",
    ),
    Figure(
        "fig9", "Fig. 9", "Where the exposure bias sits",
        "Images of the test set, their high- and low-pass parts, and the exposure bias of SiT (L2 norm over channels) "
        "for simulated steps t0 to t1. The table gives the correlation over pixels between the bias and the local "
        "strength of each band, over all measured images, for DEFAR and the exact fields of Fig. 3, too.",
        _build_fig9, _plot_fig9,
    ),
    Figure(
        "samples", "as Figs. 4, 6, 7", "Samples from the same noise",
        "One column for each class, one row for each method; the noise of a column is the same in every row.",
        _build_samples, _plot_samples,
    ),
)  # fmt: skip

# They read what the studies have committed, so these come before them.
TABLES_AND_CLAIMS = (
    *(
        Figure(
            t.id, t.paper, t.title,
            "By how many percent each row differs from its baseline in the table's first metric: the paper's (left) "
            "and ours, paired by image, with 95 % intervals (right). Below it, or in the linked files, the numbers: "
            "the paper's, ours and the difference where both measure the same. " + t.caption,
            built_by("paper_tables", t.id), _plot_table, ("changes",), "tables.ipynb",
        )
        for t in TABLES.values()
    ),
    Figure(
        "claims", "Secs. 5.2 and 6; MixFlow", "The papers' claims, one by one",
        "What each sentence says, in how many comparisons its paper's own tables bear it out, and what follows here. "
        "Generated from the committed tables. Undecided: the intervals or the training seeds do not agree.",
        built_by("claims"), _plot_claims, ("contradictions",),
    ),
)  # fmt: skip
