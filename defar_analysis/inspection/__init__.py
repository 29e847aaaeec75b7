"""Looking at single exposure-bias maps: in a notebook with sliders, or on one page that needs nothing but a browser."""

from .inspector import Inspector, View
from .opening import open_inspector, shipped_checkpoints
from .page import write_page

__all__ = ["Inspector", "View", "open_inspector", "shipped_checkpoints", "write_page"]
