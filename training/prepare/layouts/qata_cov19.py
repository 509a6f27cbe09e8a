"""QaTa-COV19: ``Images`` and ``Ground-truths``, whose masks show infected regions, not lungs.

The mask of ``NAME.png`` is ``mask_NAME.png``. Version 2 has a ``Train Set`` and a ``Test Set``;
both are used and divided again. Control groups have no masks; their folders have other names.
"""

from training.prepare.layouts.sibling_folders import SiblingFolders

SOURCE = "qata_cov19"

find = SiblingFolders(
    SOURCE, "Images", "Ground-truths", mask_prefix="mask_", structure="infection", convention=None,
    has_controls=True,
).find  # fmt: skip
