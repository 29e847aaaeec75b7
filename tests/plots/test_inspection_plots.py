"""The inspector's figure shows the numbers that it is given."""

import numpy as np
import pandas as pd
import pytest

from defar_analysis.plots import inspection
from defar_analysis.plots.inspection import plot, rings


@pytest.fixture
def given():
    frequency = np.array([0, 0.125, 0.125 * 2**0.5, 0.25])
    energies = {"bias": [4.0, 8, 0, 2], "prediction": [8.0, 4, 4, 1], "target": [0.0, 1, 1, 1]}
    spectra = pd.DataFrame({"frequency": frequency, "coefficients": [1, 4, 4, 4], **energies})
    pfr = pd.DataFrame({"quantity": inspection.QUANTITIES, "with_dc": [6.0, 16, np.inf], "without_dc": [4.0, 8, 0]})
    heat = np.linspace(0, 2, 64).reshape(8, 8)
    picture = np.full((8, 8, 3), 100, np.uint8)
    settings = {"method": "SiT", "t0": 0.2, "t1": 0.6, "cutoff": 0.2, "rms": 0.123}
    return {"spectra": spectra, "pfr": pfr, "picture": picture, "heat": heat, **settings}


def test_rings_are_means_over_the_coefficients_in_them(given):
    means = rings(given["spectra"], 8)
    assert means["frequency"].tolist() == [0, 0.125, 0.25]
    assert means["bias"].tolist() == [4, 1, 0.5] and means["target"].tolist() == [0, 0.25, 0.25]


def test_four_panels_with_the_cutoff_the_numbers_and_the_scale(given):
    figure = plot(**given, greatest=3.0)
    image, shown, bar, spectrum, ratios = figure.axes
    assert image.get_title() == "image" and shown.get_title() == "bias map"
    (drawn,) = shown.get_images()
    assert drawn.get_clim() == (0, 3) and [text.get_text() for text in bar.get_xticklabels()] == ["0", "3"]
    cutoff = next(line for line in spectrum.get_lines() if line.get_label() == "cutoff 0.20")
    assert set(cutoff.get_xdata()) == {0.2}
    assert [text.get_text().strip() for text in ratios.texts] == ["4", "6", "8", "16", "0", "inf"]
    assert figure.texts[0].get_text() == "SiT, t 0.2→0.6: rms of the bias 0.123"


def test_an_overlay_lies_over_the_grey_image(given):
    below, above = plot(**given, overlay=0.4).axes[1].get_images()
    assert above.get_alpha() == 0.4 and below.get_array().max() == 100
    assert len(plot(**given).axes[1].get_images()) == 1


def test_a_field_without_bias_is_drawn_too(given):
    given["spectra"] = given["spectra"].assign(bias=0.0)
    given["pfr"] = given["pfr"].assign(with_dc=[np.nan, 16, 1], without_dc=[np.nan, 8, 1])
    plot(**{**given, "heat": np.zeros((8, 8))}).canvas.draw()


def test_what_does_not_fit_is_refused(given, refuses):
    refuses(lambda: plot(**given, overlay=1.5), "overlay must lie between", "1.5")
    refuses(lambda: plot(**{**given, "heat": np.zeros((4, 4))}), "(8, 8)", "(4, 4)")
    refuses(lambda: plot(**{**given, "pfr": given["pfr"][["quantity"]]}), "the PFR table has no column 'with_dc'")
