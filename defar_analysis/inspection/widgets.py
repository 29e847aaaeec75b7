"""Sliders in a notebook around an Inspector: every move answers with a new figure and says how long it took."""

from __future__ import annotations

import io
import time
from dataclasses import dataclass, field, replace

import ipywidgets as widgets
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ..measures.spectral import CUTOFF
from ..plots import inspection
from .inspector import Inspector, View

EVERY_CLASS = "all classes"
STEP = 0.05  # of the sliders of time


def figure(inspector: Inspector, method: str, image: int, t0: float = 0.2, t1: float = 0.6,
           cutoff: float = CUTOFF, overlay: float = 1.0) -> Figure:  # fmt: skip
    """One view, drawn. The colour scale ends at the greatest value of all methods at this image and step."""
    return _drawn(_of_all_methods(inspector, image, t0, t1), method, cutoff, overlay)


def _of_all_methods(inspector: Inspector, image: int, t0: float, t1: float) -> dict[str, View]:
    return {name: inspector.view(name, image, t0, t1, CUTOFF) for name in inspector.methods}


def _drawn(views: dict[str, View], method: str, cutoff: float, overlay: float) -> Figure:
    view = replace(views[method], cutoff=cutoff)  # a cutoff costs no forward
    greatest = max(float(other.map.max()) for other in views.values())
    return inspection.plot(
        view.spectra, view.pfr, view.picture, view.map, method=method, t0=view.t0, t1=view.t1, cutoff=cutoff,
        rms=view.rms, overlay=overlay, greatest=greatest, title=f"image {view.image}, {view.class_name}",
    )  # fmt: skip


@dataclass(eq=False)
class Explorer:
    """The sliders of an Inspector; `box` is what a notebook displays."""

    inspector: Inspector
    shown: tuple = field(default=(), init=False)
    _views: dict[tuple, dict[str, View]] = field(default_factory=dict, init=False)  # of the image and step shown

    def __post_init__(self) -> None:
        classes = self.inspector.classes()
        self._images = {EVERY_CLASS: sorted(self.inspector.images)} | classes
        wide = {"style": {"description_width": "4.5rem"}, "layout": {"width": "22rem"}}
        # a picture for each place passed while dragging would queue up; a slider answers where it is let go
        wide_slider = wide | {"continuous_update": False}
        self.method = widgets.Dropdown(options=self.inspector.methods, description="method", **wide)
        self.class_ = widgets.Dropdown(options=list(self._images), description="class", **wide)
        self.image = widgets.IntSlider(min=0, max=0, description="image", **wide_slider)
        self.t0 = widgets.FloatSlider(0.2, min=0, max=1 - STEP, step=STEP, description="t0", **wide_slider)
        self.t1 = widgets.FloatSlider(0.6, min=0.2 + STEP, max=1, step=STEP, description="t1", **wide_slider)
        self.cutoff = widgets.FloatSlider(CUTOFF, min=0.02, max=0.7, step=0.01, description="cutoff", **wide_slider)
        self.overlay = widgets.FloatSlider(1, min=0, max=1, step=0.05, description="overlay", **wide_slider)
        self.picture = widgets.Image(format="png")
        self.took = widgets.Label()
        self._fit_images()
        for control in self.controls:
            control.observe(self._changed, "value")
        self._changed()

    @property
    def controls(self) -> list[widgets.Widget]:
        return [self.method, self.class_, self.image, self.t0, self.t1, self.cutoff, self.overlay]

    @property
    def box(self) -> widgets.Widget:
        flow = widgets.Layout(display="flex", flex_flow="row wrap")
        return widgets.VBox([widgets.Box(self.controls, layout=flow), self.picture, self.took])

    def _fit_images(self) -> None:
        """The slider runs over the images of the chosen class."""
        self.image.max = len(self._images[self.class_.value]) - 1
        self.image.value = min(self.image.value, self.image.max)

    def _changed(self, change: dict | None = None) -> None:
        if change is not None and change["owner"] is self.class_:
            self._fit_images()
        self.t1.min = round(self.t0.value + STEP, 2)  # moves t1 along where it would not stay above t0
        state = tuple(control.value for control in self.controls)
        if state != self.shown:  # one move may change several values
            self.shown = state
            self._draw()

    def _draw(self) -> None:
        method, class_, place, t0, t1, cutoff, overlay = self.shown
        wanted, began = (self._images[class_][place], t0, t1), time.perf_counter()
        new = wanted not in self._views
        if new:
            self._views = {wanted: _of_all_methods(self.inspector, *wanted)}
        views, measured = self._views[wanted], time.perf_counter()
        buffer = io.BytesIO()
        FigureCanvasAgg(_drawn(views, method, cutoff, overlay)).print_png(buffer)
        ended = time.perf_counter()
        self.picture.value = buffer.getvalue()
        forwards = sum(view.forwards for view in views.values()) if new else 0
        self.took.value = (
            f"answered in {1000 * (ended - began):.0f} ms: {forwards} forwards in {1000 * (measured - began):.0f} ms, "
            f"the figure in {1000 * (ended - measured):.0f} ms"
        )
