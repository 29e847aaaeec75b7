"""What a reader of a picture asks of it: every text inside, none over another."""

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Annotation, Text


def check_readable(figure: Figure, least: int = 10, *, same: bool = True) -> list[str]:
    """Fails with the texts' names where one sticks out of the figure or lies over another; returns all texts.

    least: how many there are. same: equal texts may lie over one another (tick labels that panels share).
    """
    FigureCanvasAgg(figure).draw()
    axes = [axis for ax in figure.findobj(lambda artist: hasattr(artist, "xaxis")) for axis in (ax.xaxis, ax.yaxis)]
    ticks = [(axis.get_view_interval(), tick) for axis in axes for tick in axis.get_major_ticks()]
    hidden = [tick for (low, high), tick in ticks if not min(low, high) <= tick.get_loc() <= max(low, high)]
    unseen = {label for tick in hidden for label in (tick.label1, tick.label2)}
    texts = [text for text in figure.findobj(Text) if text.get_visible() and text not in unseen and text.get_text()]
    # an annotation's own extent counts its line; the words alone must be free
    boxes = [(t.get_text(), (Text if isinstance(t, Annotation) else type(t)).get_window_extent(t)) for t in texts]
    assert len(boxes) >= least
    for k, (one, box) in enumerate(boxes):
        assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= figure.bbox.width and box.y1 <= figure.bbox.height, one
        for other, second in boxes[k + 1 :]:
            assert not box.overlaps(second) or (same and one == other), (one, other)
    return [name for name, _ in boxes]
