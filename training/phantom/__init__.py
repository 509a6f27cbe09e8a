"""A chest phantom: synthetic frontal X-rays with their true lung masks, no patient in them."""

from training.phantom.drawing import Phantom, draw_phantom

__all__ = ["Phantom", "draw_phantom"]
