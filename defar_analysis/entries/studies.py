"""What stands behind the paper's tables, and beside them: our own studies."""

from __future__ import annotations

from ..artefacts import Artefact, Figure
from ..our_rows import EQUAL_STEPS, LABELS, METHODS_TABLES
from .building import built_by


def _plot_methods(a: Artefact):
    from ..plots import methods

    change = a.tables["differences"]
    labelled, own, longer = (
        table[table["group"] == group] for table, group in ((a.table, LABELS), (change, LABELS), (change, EQUAL_STEPS))
    )
    return methods.plot(labelled, own, longer, note=a.provenance["note"])


def _plot_objectives(a: Artefact):
    from ..plots import objectives

    return objectives.plot(a.table, note=a.provenance["note"])


def _plot_readings(a: Artefact):
    from ..plots import readings

    return readings.plot(a.table, a.tables["means"], a.provenance["claimed_percent"], note=a.provenance["note"])


def _plot_zoo(a: Artefact):
    from ..plots import zoo

    return zoo.plot(a.table, a.tables["curves"], note=a.provenance["note"])


def _plot_robustness(a: Artefact):
    from ..plots import robustness

    first = a.table["protocol"].iloc[0]
    own, change = (table[table["protocol"] == first] for table in (a.table, a.tables["differences"]))
    return robustness.plot(own, change, a.tables["paper"], note=a.provenance["note"])


def _plot_plane(a: Artefact):
    from ..plots import plane

    return plane.plot(a.table, a.arrays, a.tables["verdicts"], note=a.provenance["note"])


def _plot_slowflow(a: Artefact):
    from ..plots import slow_flow

    return slow_flow.plot(a.table, a.tables["changes"], a.tables["paper"], note=a.provenance["note"])


def _plot_corrections(a: Artefact):
    from ..plots import corrections

    names, note = a.provenance["classes"], a.provenance["note"]
    return corrections.plot(a.table, a.arrays, a.tables["changes"], names=names, note=note)


def _plot_evaluator(a: Artefact):
    from ..plots import evaluator

    return evaluator.plot(a.table, a.arrays, note=a.provenance["note"])


STUDIES = (
    Figure(
        "methods", "behind Tabs. 1, 2 and 4-9", "Sample quality of every objective at equal compute and steps",
        "Every objective post-trained from the shipped SiT with the same number of network passes (hollow) or steps "
        "(filled; up to 7/3 of the passes): paired change of the Fréchet distance of EfficientNet features "
        "(FD-EffNet-128, no FID) against SiT trained on as long, of each training seed (left), and precision over "
        "recall at equal compute (right). Bars: 95 % bootstrap over images. ADR and DEFAR stop "
        "the gradient at x_hat; literal: they do not.",
        built_by("studies.methods"), _plot_methods, METHODS_TABLES,
    ),
    Figure(
        "objectives", "behind Figs. 3 and 5, for every objective",
        "What every objective does to loss, bias and low frequencies",
        "Every objective post-trained from the shipped SiT for as many steps, against the SiT of the same training "
        "seed, on the same test images with the same noise and times: change of the flow-matching loss at true states "
        "(Eq. 2), of the energy of the exposure bias (Eq. 7) after a step of 0.1 and over all later t1, where t1 = 1 "
        "outweighs the rest, of the low-frequency share of the prediction (PFR, Eq. 12; at high noise, shaded, the "
        "target's is higher, so up is nearer) and of the frequency emphasis of the loss (FEL, Eq. 14). Filled: beyond "
        "doubt over images, 95 % bootstrap. ADR and DEFAR stop the gradient at x_hat. Axes are logarithmic beyond 1 %.",
        built_by("studies.objectives"), _plot_objectives, ("means",),
    ),
    Figure(
        "readings", "behind FC's row of Tab. 1", "Which reading of Eq. 15 carries the paper's claim?",
        "FC alone, under every reading of its weight's normalizer and gradient, against SiT trained for as many steps "
        "with the same seed: change of the Fréchet distance of EfficientNet features (FD-EffNet-128, no FID), of the "
        "energy of the exposure bias, of the flow-matching loss at true states, and of the low-frequency share (PFR) "
        "of the prediction at t = 0.2. FC costs more a step than SiT. Grey: each training seed, 95 % bootstrap over "
        "images, paired; blue: the mean over seeds, 95 % t interval. Orange: what the paper has for FC alone, in FID. "
        "Axes are logarithmic beyond 1 %.",
        built_by("studies.readings"), _plot_readings, ("means",),
    ),
    Figure(
        "zoo", "behind Tab. 1, trained from nothing", "What every objective changes when it trains from nothing",
        "Trainings from the same first weights, on the same images, noise and times, against SiT's: the flow-matching "
        "loss in their logs over network passes (of SiT, ADR, FC, DEFAR, whose logs have it), and the paired change "
        "of the Fréchet distance of EfficientNet features (FD-EffNet-128, no FID), of the energy of the exposure bias, "
        "of the flow-matching loss at true states, and of the low-frequency share (PFR) of the prediction at t = 0.2. "
        "Filled: as many steps as SiT, up to 7/3 of the passes; hollow: as many passes. One training of each; bars: "
        "95 % bootstrap over images. ADR and DEFAR stop the gradient at x_hat and begin with a tenth of flow matching. "
        "Axes are logarithmic beyond 1 %.",
        built_by("studies.zoo"), _plot_zoo, ("values", "curves"),
    ),
    Figure(
        "robustness", "Tab. 4 (right)", "Sample quality over the number of steps",
        "Fréchet distance of EfficientNet features (FD-EffNet-128, not FID) over the number of velocity evaluations, "
        "for SiT and DEFAR from the same noise and labels (a); the paired change in percent (b); the paper's FID, "
        "another metric on ImageNet-256, in a panel of its own (c); precision, recall and an inception score of the "
        "same network (d-f). Dashed: as many test images, which have no error: what is left is the distance's own bias "
        "at this n. Bars: 95 % bootstrap over images.",
        built_by("studies.robustness"), _plot_robustness, ("differences", "steps", "verdicts", "paper"),
    ),
    Figure(
        "plane", "the method on 2-D data, as Figs. 1 and 2", "What bias, drift, ADR, FC and MixFlow do in the plane",
        "A small network on a ring of eight Gaussians, where the exact velocity is known. One simulated step and what "
        "ADR, FC and MixFlow make of it (a-d); samples of each method from the same noise; loss, bias and speed at "
        "true states, drift and quality of sampling, and the paired change against flow matching, FM (e-j). Dashed: "
        "the exact field, which has no defect and yet a bias. Dotted: true data against true data. Distances are "
        "sliced Wasserstein-2. The table has every method against FM at equal compute, paired by seed.",
        built_by("studies.plane"), _plot_plane, ("verdicts",),
    ),
    Figure(
        "slowflow", "MixFlow, Fig. 1", "Slow Flow: sampled states seem to be earlier than they are",
        "Where sampled states lie on the path from their noise to a real image of their class: the slowed time m_t of "
        "the nearest point, for each model (top: mean, 5 to 95 % of images, least to most). MixFlow does not say which "
        "image; with this one m_t < t holds for a perfect model too, as its sample is another image: compare with the "
        "exact fields, of a Gaussian and of the training images, which have no defect. Below: means minus t, beside an "
        "image of the class and beside the noise that the model itself makes of the image, where a perfect model with "
        "fine steps ends at 0; and each model against SiT, paired by image. Shaded and bars: 95 % bootstrap over "
        "images. Hollow: MixFlow's bands (SiT-B, ImageNet-256 latents). MixFlow was trained 420 steps longer than SiT. "
        "A larger m_t is not a better image.",
        built_by("studies.slow_flow"), _plot_slowflow, ("changes", "paper"),
    ),
    Figure(
        "corrections", "training-free methods that the paper cites",
        "What training-free corrections do to drift and samples",
        "Energy of sampled states over that of true noisy test images, along sampling, in the low (a) and the high "
        "band (b): 1 is no drift. Dashed black: the exact field of a Gaussian with the data's mean and spectrum; grey: "
        "those of the training images, which memorize them. None has a defect, and yet they do not read 1, by Euler's "
        "steps and by these images being a few of many. How much each method changes the samples' energy against plain "
        "SiT, paired by image (c), and samples of all methods, a row from one noise and label (d). Shaded and bars: "
        "95 % bootstrap over images. More or less energy is not better or worse images: no quality metric is measured "
        "here.",
        built_by("studies.corrections"), _plot_corrections, ("changes", "changes_defar"),
    ),
    Figure(
        "evaluator", "behind Tab. 4", "What the evaluator sees",
        "Real images, damaged by known amounts, before the networks that stand in for Inception: Fréchet distance of "
        "2,000 CIFAR-10 test images from 2,000 training images over that of the undamaged ones (top), precision and "
        "recall, over the strength of noise, of blur and of class removal. Dashed: the undamaged test images, which "
        "have no error: their distance, the floor, comes of the number of images. Bars and bands: 95 % bootstrap over "
        "images. A metric that is to rank samplers must move one way with the damage.",
        built_by("studies.evaluator"), _plot_evaluator, ("changes", "verdicts"),
    ),
)  # fmt: skip
