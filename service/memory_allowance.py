"""The memory of the service, and the number of image workers that fit a container's limit.

Peaks are those of the largest allowed X-rays, 40 million pixels, measured by
`python -m benchmarks.service.image_memory`.
"""

from __future__ import annotations

MIB = 1 << 20

BYTES_BESIDE_WORKERS = 700 * MIB
"""Front, compute and template with the default model, and the uploads of ordinary X-rays."""

BYTES_OF_GPU_PROCESS = 2_500 * MIB
"""CUDA's libraries and the model in main memory, for each GPU."""

BYTES_OF_FURTHER_MODEL = 400 * MIB
"""Compute process of each further model on a CPU: memory at rest, and for its batches
(`python -m benchmarks.service.several_models`)."""

BYTES_OF_COSTLY_WORKER = 700 * MIB
"""Peak of a worker with a costly X-ray: 683 MiB measured, 40 million pixels in colour in a TIFF
with LZW, and 2 % more."""

BYTES_OF_WORKER = 500 * MIB
"""Peak with any other: 458 MiB measured, a JPEG in colour of 34 million pixels, the largest that is
not costly, and 9 % more. A grey one takes 232 MiB at most."""

UNFINISHED_UPLOADS = 8
"""Most unfinished uploads of the largest size in memory at a time."""


def most_costly_tasks(workers: int) -> int:
    """Return how many workers costly tasks may hold: half of them, at least one."""
    return max(1, workers // 2)


def workers_bytes(workers: int) -> int:
    """Return the memory of this number of workers, all at their peak."""
    costly = most_costly_tasks(workers)
    return costly * BYTES_OF_COSTLY_WORKER + (workers - costly) * BYTES_OF_WORKER


def workers_within_memory(
    wanted: int, limit_bytes: int | None, gpus: int = 0, models: int = 1
) -> int:
    """Return how many of the wanted workers fit the container's memory, at least one.

    Args:
        wanted: most workers.
        limit_bytes: the container's memory; None for no limit.
        gpus: GPUs with a compute process each, for each model.
        models: models that are loaded.
    """
    if limit_bytes is None:
        return wanted
    on_cpu_bytes = 0 if gpus else (models - 1) * BYTES_OF_FURTHER_MODEL
    compute_bytes = on_cpu_bytes + models * gpus * BYTES_OF_GPU_PROCESS
    free_bytes = limit_bytes - BYTES_BESIDE_WORKERS - compute_bytes
    fitting = (each for each in range(wanted, 1, -1) if workers_bytes(each) <= free_bytes)
    return next(fitting, 1)


def most_service_bytes(workers: int, queue_limit_bytes: int, max_upload_bytes: int) -> int:
    """Return the largest memory of all processes together, whatever callers send.

    Args:
        workers: image workers.
        queue_limit_bytes: uploads, X-rays and answers that the front may hold.
        max_upload_bytes: largest upload.
    """
    held_bytes = queue_limit_bytes + UNFINISHED_UPLOADS * max_upload_bytes
    return BYTES_BESIDE_WORKERS + workers_bytes(workers) + held_bytes
