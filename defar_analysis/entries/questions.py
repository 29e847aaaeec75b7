"""What the paper should have shown: entries that each answer a question of ours."""

from __future__ import annotations

from ..artefacts import Artefact, Figure
from .building import built_by


def _plot_drift(a: Artefact):
    from ..plots import drift

    return drift.plot(a.table, a.tables["curves"], note=a.provenance["note"])


def _plot_drift_methods(a: Artefact):
    from ..plots import drift_methods

    return drift_methods.plot(a.table, a.tables["curves"], a.tables["paired"], note=a.provenance["note"])


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


def _plot_latents(a: Artefact):
    from ..plots import latents

    names, note = a.provenance["classes"], a.provenance["note"]
    return latents.plot(a.table, a.tables["curves"], a.tables["spectra"], a.arrays, names=names, note=note)


QUESTIONS = (
    Figure(
        "split", "beyond the paper: what is inherent",
        "How much of loss, bias, PFR, FEL and Slow Flow no training could mend",
        "The same small network trained by each objective on draws of the Gaussian that has CIFAR-10's mean and "
        "spectrum, whose optimal field is known: measured = inherent + the model's part. Above, what each network "
        "reads, and the exact field (dashed); below, the model's part. Shaded: 95 % bootstrap over images, paired with "
        "the exact field. Slowed times (f, g): where sampled states lie on the path from their noise to another image, "
        "and from the noise that the model makes of an image to that image; thin: 5 and 95 % of images. FM, ADR, FC, "
        "DEFAR (gradient stopped at x_hat) and MixFlow are post-trained from one flow matching at equal compute, one "
        "training seed. Exact for this law; photographs are no Gaussian.",
        built_by("studies.split"), _plot_split,
    ),
    Figure(
        "drift", "beyond the paper: along real sampling", "Where a model drifts: over time, frequency and steps",
        "Three kinds of drift along Euler's steps. The bias of one step from a true state, as a share of the velocity "
        "(a, d); the energy of sampled states over that of true ones at the same t (b, e; 1, or 0 on the logarithmic "
        "scale, is none); and the distance from a fine solution from the same noise, which more steps would mend (c, "
        "f). Maps over t and spatial frequency, the lowest row the zero frequency. The exact fields have no defect: "
        "the Gaussian keeps the data's mean and spectrum, the empirical one memorizes the training images of a class. "
        "Shaded: 95 % bootstrap over images. No quality metric is measured here.",
        built_by("studies.drift"), _plot_drift, ("curves",),
    ),
    Figure(
        "driftmethods", "beyond the paper: along real sampling", "Where every method drifts, by few steps and many",
        "The three kinds of drift of every objective, post-trained from the shipped SiT with the same number of "
        "network passes: the bias of one step (a, d), sampled states against true ones (b, e), and the distance from a "
        "fine solution from the same noise (c, f). Above, magnitude and direction over t, and the change of the "
        "magnitude against SiT trained on as long, paired by image, over the number of Euler's steps. Maps over t and "
        "spatial frequency for every method and number of steps, the lowest row the zero frequency. ADR and DEFAR stop "
        "the gradient at x_hat. The exact fields have no defect: the Gaussian keeps the data's mean and spectrum, the "
        "empirical one memorizes the training images of a class. Shaded and bars: 95 % bootstrap over images; one "
        "training seed. No quality metric is measured here.",
        built_by("studies.drift_methods"), _plot_drift_methods, ("curves", "paired"),
    ),
    Figure(
        "terms", "beyond the paper: how the terms act", "How do the terms act?",
        "What flow matching (FM), ADR and FC each pull at, in bins of t0. Cosines of the terms' gradients with FM's at "
        "the weights of SiT (a), DEFAR (b) and MixFlow (c): lines on the same minibatch, hollow on other images, where "
        "no noise is shared; grey, FM's gradient with FM's own on other images, the noise that a minibatch has. ADR "
        "with and without the gradient through x_hat, FC in two readings of Eq. 15. Where in frequency FC's weight "
        "varies (d), loss and bias against SiT's (e), and where on the image the weight is large (f). MixFlow was "
        "trained on states earlier than the time it is told, 420 steps longer than SiT. The exact fields in (d) have "
        "no defect. A cosine below 0 means that a step along one term raises the other; it does not say which makes "
        "better images.",
        built_by("studies.terms"), _plot_terms, ("changes", "curves", "weights"),
    ),
    Figure(
        "sensitivity", "beyond the paper: under which readings", "Which statements are robust?",
        "The paper's statements on PFR and FEL under every reading of their definitions: cutoff, DC bin, channels and "
        "estimator of the PFR; cutoff, shares of salient pixels, channel norm of the masks and normalizer of the bias "
        "for the FEL. A statement holds where its 95 % bootstrap interval over images does (a). How the numbers behind "
        "three of them move (b-d). The Gaussian reference and the empirical fields, which memorize the training "
        "images, are exact and without defect: a statement that holds for them too proves no defect of a network.",
        built_by("studies.sensitivity"), _plot_sensitivity, ("verdicts",),
    ),
    Figure(
        "latents", "beyond the paper: in latent space", "What is the exposure bias in latents, and what once decoded?",
        "A small network of flow matching on latents of CIFAR-10 (4 x 8 x 8, of our own KL autoencoder), on test "
        "images. Above: the image, its way through the autoencoder, and for three steps t0 to t1 the bias's map over "
        "the latent's places, the decoded simulated state and the decoded end point that the network sees from it. "
        "Below: which share of the energy a coefficient has in pixels, latents and biases (a), PFR and FEL in latents "
        "(b-d). The Gaussian reference is the exact field of latents with the same mean and spectrum; it has no "
        "defect. Frequencies are in cycles per place of the own grid: values do not compare with those on pixels. "
        "Shaded: 95 % bootstrap over images. The network was trained for minutes.",
        built_by("studies.latents"), _plot_latents, ("curves", "spectra"),
    ),
)  # fmt: skip
