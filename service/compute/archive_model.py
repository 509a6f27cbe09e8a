"""The model of an archive's actor: ready for batches of every size before its first X-ray.

A service answers its first caller at once and prepares larger batches while nobody waits. An
archive always has X-rays waiting, so that moment might never come, and a GPU would get single
X-rays for the whole run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from service.compute.compute_child import ComputeChild
from service.compute.hosted_model import record_once
from service.compute.model_loading import start_compute_child
from service.settings import Settings

if TYPE_CHECKING:
    from service.compute.stored_model import StoredModel

ARCHIVE_MODEL = "service.compute.archive_model:make_archive_model"


def start_archive_child(settings: Settings) -> ComputeChild:
    """Start a compute process for an archive's actor; raises as `start_compute_child`."""
    return start_compute_child(settings, source=ARCHIVE_MODEL)


def make_archive_model(settings: Settings) -> StoredModel:
    """Load the configured model and prepare it for batches of every size."""
    from service.compute.stored_model import make_stored_model  # imports PyTorch

    model = make_stored_model(settings)
    while record_once(model):
        pass
    return model
