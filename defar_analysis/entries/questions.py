"""What the paper should have shown: entries that each answer a question of ours."""

from __future__ import annotations

from ..artefacts import Artefact, Figure
from .building import built_by


def _plot_drift(a: Artefact):
    from ..plots import drift

    return drift.plot(a.table, a.tables["curves"], note=a.provenance["note"])


def _plot_split(a: Artefact):
    from ..plots import split

    return split.plot(a.table, note=a.provenance["note"])


def _plot_terms(a: Artefact):
    from ..plots import terms

    p, change = a.provenance, a.tables["changes"]
    own = change[change["model"].isin(p["methods"])]  # the exact field's loss is far above both
    return terms.plot(a.table, a.tables["weights"], own, a.arrays, p["methods"], p["map_edges"], note=p["note"])


def _plot_sensitivity(a: Artefact):
    from ..plots import sensitivity

    return sensitivity.plot(a.table, a.tables["verdicts"], note=a.provenance["note"])


QUESTIONS = (
    Figure(
        "split", "beyond the paper: what is inherent", "How much of loss, bias, PFR and FEL no training could mend",
        "The same small network trained by each objective on draws of the Gaussian that has CIFAR-10's mean and "
        "spectrum, whose optimal field is known: measured = inherent + the model's part. Above, what each network "
        "reads, and the exact field (dashed); below, the model's part. Shaded: 95 % bootstrap over images, paired with "
        "the exact field. FM, ADR, FC, DEFAR (gradient stopped at x_hat) and MixFlow are post-trained from one flow "
        "matching at equal compute, one training seed. Exact for this law; photographs are no Gaussian.",
        built_by("split_study"), _plot_split,
    ),
    Figure(
        "drift", "beyond the paper: along real sampling", "Where a model drifts: over time, frequency and steps",
        "Three kinds of drift along Euler's steps. The bias of one step from a true state, as a share of the velocity "
        "(a, d); the energy of sampled states over that of true ones at the same t (b, e; 1, or 0 on the logarithmic "
        "scale, is none); and the distance from a fine solution from the same noise, which more steps would mend (c, "
        "f). Maps over t and spatial frequency, the lowest row the zero frequency. The exact fields have no defect: "
        "the Gaussian keeps the data's mean and spectrum, the empirical one memorizes the training images of a class. "
        "Shaded: 95 % bootstrap over images. No quality metric is measured here.",
        built_by("drift_study"), _plot_drift, ("curves",),
    ),
    Figure(
        "terms", "beyond the paper: how the terms act", "How do the terms act?",
        "What flow matching (FM), ADR and FC each pull at, in bins of t0. Cosines of the terms' gradients with FM's at "
        "the weights of SiT (a) and DEFAR (b): lines on the same minibatch, hollow on other images, where no noise is "
        "shared; grey, FM's gradient with FM's own on other images, the noise that a minibatch has. ADR with and "
        "without the gradient through x_hat, FC in two readings of Eq. 15. Where in frequency FC's weight varies (c), "
        "loss and bias of DEFAR against SiT (d), and where on the image the weight is large (e). A cosine below 0 "
        "means that a step along one term raises the other; it does not say which makes better images.",
        built_by("terms_study"), _plot_terms, ("changes", "curves", "weights"),
    ),
    Figure(
        "sensitivity", "beyond the paper: under which readings", "Which statements are robust?",
        "The paper's statements on PFR and FEL under every reading of their definitions: cutoff, DC bin, channels and "
        "estimator of the PFR; cutoff, shares of salient pixels, channel norm of the masks and normalizer of the bias "
        "for the FEL. A statement holds where its 95 % bootstrap interval over images does (a). How the numbers behind "
        "three of them move (b-d). The Gaussian reference is an exact field without defect: a statement that holds for "
        "it too proves no defect of a network.",
        built_by("sensitivity_study"), _plot_sensitivity, ("verdicts",),
    ),
)  # fmt: skip
