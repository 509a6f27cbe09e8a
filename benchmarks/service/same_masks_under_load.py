"""Whether a mask depends on the load: each image alone, then many concurrently, byte for byte.

`python -m benchmarks.service.same_masks_under_load [--data FOLDER] [--count 200] [--callers 16]
[--kill-every SECONDS]` starts the real server, sends every image alone and keeps its mask PNG. Then
several concurrent callers send all of them again, so that batches form. A patient's mask must not
depend on the others in its batch: the exit code is 1 if one byte differs. With `--kill-every`, a
random image worker is killed (`kill -9`) at this interval during the second pass. Only the caller
of its task may be affected: it gets 503 `worker_lost` and sends the X-ray again.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import random
import signal
import sys
import threading
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.service.server_process import (
    Answer,
    RunningServer,
    ServerFailedError,
    running_server,
)

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".dcm")
PATIENCE_S = 600
DEFAULT_IMAGE = Path(__file__).parents[2] / "examples" / "phantom.png"


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare and print.

    Args:
        arguments: command-line arguments; those of the process when None.

    Returns:
        0 if every mask is the same and only tasks of killed workers were sent again.
    """
    options = _parser().parse_args(arguments)
    images = images_of(options.data, options.count)
    try:
        with running_server(options.model, _patient_flags(options.callers)) as server:
            killer = WorkerKiller(server, options.kill_every) if options.kill_every else None
            different, failed = compare(server, images, options.callers, killer)
    except ServerFailedError as error:
        print(f"same_masks_under_load: {error}", file=sys.stderr)
        return 1
    report = {
        "images": len(images),
        "callers": options.callers,
        "different": different,
        "failed": failed,
        "workers_killed": killer.killed if killer else 0,
        "sent_again": killer.sent_again if killer else 0,
    }
    print(
        f"{len(images)} images, alone and {options.callers} at a time: "
        f"{len(images) - different - failed} masks are the same byte for byte, "
        f"{different} differ, {failed} failed"
        + (f"; {killer.killed} workers killed, {killer.sent_again} sent again" if killer else "")
    )
    is_met = not different and not failed and report["sent_again"] <= report["workers_killed"]
    goal = "all the same, sent again at most once for each killed worker"
    print(f"goal: {goal}: {'met' if is_met else 'MISSED'}")
    print(json.dumps(report))
    return 0 if is_met else 1


def _patient_flags(callers: int) -> list[str]:
    """Return flags with which a server on a busy machine refuses no request."""
    return ["--queue-limit", str(4 * callers), "--request-timeout-s", str(PATIENCE_S)]


class WorkerKiller:
    """Kills random image workers from outside.

    Attributes:
        killed: number of killed workers.
        sent_again: number of answers 503 `worker_lost`, each followed by a retry.
    """

    def __init__(self, server: RunningServer, every_s: float) -> None:
        """Prepare; no worker is killed before `killing`."""
        self.killed = self.sent_again = 0
        self._process = server.process.pid
        self._every_s = every_s
        self._random = random.Random(0)
        self._stop = threading.Event()

    @contextmanager
    def killing(self) -> Generator[None, None, None]:
        """Kill a worker at this interval during the block."""
        thread = threading.Thread(target=self._run)
        thread.start()
        try:
            yield
        finally:
            self._stop.set()
            thread.join()

    def _run(self) -> None:
        while not self._stop.wait(self._every_s):
            workers = image_workers(self._process)
            if workers:
                with suppress(ProcessLookupError):  # it has been replaced meanwhile
                    os.kill(self._random.choice(workers), signal.SIGKILL)
                    self.killed += 1

    def mask(self, server: RunningServer, image: bytes) -> Answer:
        """Send an image until the answer is not `worker_lost`."""
        while True:
            answer = _mask(server, image)
            if answer.status != 503 or json.loads(answer.body)["code"] != "worker_lost":
                return answer
            self.sent_again += 1


def image_workers(front: int) -> list[int]:
    """Return the process ids of the image workers of a service."""
    templates = [
        child
        for child in children_of(front)
        if b"service.workers.template" in Path(f"/proc/{child}/cmdline").read_bytes()
    ]
    return [worker for template in templates for worker in children_of(template)]


def children_of(process: int) -> list[int]:
    """Return the ids of a process's children; none if it has ended."""
    try:
        lists = [
            (thread / "children").read_text() for thread in Path(f"/proc/{process}/task").iterdir()
        ]
    except OSError:
        return []
    return [int(child) for child in " ".join(lists).split()]


def compare(
    server: RunningServer,
    images: Sequence[bytes],
    callers: int,
    killer: WorkerKiller | None = None,
) -> tuple[int, int]:
    """Send every image alone, then all of them from several callers at once.

    Args:
        server: a ready server.
        images: bytes of the files.
        callers: number of concurrent requests.
        killer: kills image workers in the second pass.

    Returns:
        Number of masks that differ, and of requests that failed in either pass.
    """
    alone = [_mask(server, image) for image in images]
    order = list(range(len(images)))
    random.Random(0).shuffle(order)  # other neighbours than by name
    ask = _mask if killer is None else killer.mask
    with ThreadPoolExecutor(callers) as pool, killer.killing() if killer else nullcontext():
        found = pool.map(lambda index: ask(server, images[index]), order)
        together = dict(zip(order, found, strict=True))
    failed = different = 0
    for index, first in enumerate(alone):
        second = together[index]
        if first.status != 200 or second.status != 200:
            failed += 1
            print(f"image {index}: {first.status} alone, {second.status} under load")
        elif first.body != second.body:
            different += 1
    return different, failed


def images_of(folder: Path | None, count: int) -> list[bytes]:
    """Return `count` different images.

    Args:
        folder: folder with image files, evenly sampled; synthetic images if None.
        count: number of images, or all of the folder if it has fewer.
    """
    if folder is None:
        return [_phantom_png(seed) for seed in range(count)]
    paths = sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in IMAGE_SUFFIXES and "masks" not in path.parts
    )
    step = max(1, len(paths) // count)
    distinct = {hashlib.sha256(data).digest(): data for data in map(_read, paths[::step])}
    return list(distinct.values())[:count]


def _phantom_png(seed: int) -> bytes:
    """Render the phantom brighter or darker, with noise, in a different size for each seed."""
    generator = np.random.default_rng(seed)
    width, height = (int(side) for side in generator.integers(256, 900, 2))
    with Image.open(DEFAULT_IMAGE) as opened:
        phantom = opened.convert("L").resize((width, height), Image.Resampling.BILINEAR)
    gamma = generator.uniform(0.6, 1.7)
    values = (np.asarray(phantom) / 255.0) ** gamma * 255
    noisy = values + generator.normal(0, generator.uniform(2, 25), (height, width))
    buffer = io.BytesIO()
    Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8)).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _mask(server: RunningServer, image: bytes) -> Answer:
    return server.segment(image, {}, accept="image/png")


_read: Callable[[Path], bytes] = Path.read_bytes


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.service.same_masks_under_load")
    parser.add_argument("--data", type=Path, help="folder of X-rays (default: drawn images)")
    parser.add_argument("--count", type=int, default=200, help="images")
    parser.add_argument("--callers", type=int, default=16, help="requests at a time")
    parser.add_argument(
        "--kill-every", type=float, default=0.0, metavar="SECONDS", help="kill image workers"
    )
    parser.add_argument("--model", type=Path, help="model folder (default: the stored model)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
