"""Chest X-ray Images with Pneumothorax Masks: ``png_images`` and ``png_masks``, same names.

Masks show the pneumothorax, not lungs; those of X-rays without one are black. The files do not
identify the patient.
"""

from training.prepare.layouts.sibling_folders import SiblingFolders

SOURCE = "pneumothorax"

find = SiblingFolders(
    SOURCE, "png_images", "png_masks", structure="pneumothorax", convention=None
).find
