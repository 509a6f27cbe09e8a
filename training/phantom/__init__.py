"""Chest phantoms: synthetic frontal X-rays with their true lung masks, without patient data."""

from training.phantom.drawing import Phantom, draw_phantom

__all__ = ["Phantom", "draw_phantom"]
