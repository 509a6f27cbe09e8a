"""COVID-19 Radiography Database: a folder per class, each with ``images`` and ``masks``.

Images have 299 x 299 pixels, masks 256 x 256 of the same view.
"""

from training.prepare.layouts.sibling_folders import SiblingFolders

SOURCE = "covid19_radiography"

find = SiblingFolders(SOURCE, "images", "masks").find
