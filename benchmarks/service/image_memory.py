"""Peak memory of an image worker with the largest X-rays, against the service's allowance.

`python -m benchmarks.service.image_memory [--side 6320]` opens X-rays of every format and renders
answers, each in a process forked as workers are. It prints how much the resident memory of the
process grew. Each format is opened at that side, and at the largest side at which it still counts
as ordinary (`service/workers/costs.py`). Those files have uniform pixels, since a small file may
then have the most pixels. The last lines compare with `service/memory_allowance.py`; the exit code
is 1 if a peak is above the allowance.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from benchmarks.processor import processor_name
from benchmarks.service.honest_files import FORMATS, NOISES, Encoder, xray_12_bit
from model_store.boxes import Box
from model_store.conventions import DEFAULT_CONVENTION
from model_store.pictures.pixel_coding import PixelCoding
from model_store.postprocessing import MaskLogits
from service.imaging.answer_data import AnswerContext
from service.imaging.answer_schema import ModelIdentity
from service.imaging.answering import answer_of
from service.imaging.opening import open_xray
from service.imaging.segment_request import AnswerKind, LungChoice, SegmentRequest
from service.imaging.worker_tasks import warm_up
from service.memory_allowance import BYTES_OF_COSTLY_WORKER, BYTES_OF_WORKER
from service.settings import settings_from
from service.workers.costs import (
    ORDINARY_RENDERING_S,
    first_grant_s,
    opening_budget_s,
    rendering_budget_s,
)
from service.workers.template_handle import ENVIRONMENT

INPUT_SIDE = 256
LARGEST_SIDE = 6320  # 39.9 million pixels
_MIB = 1 << 20


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print.

    Args:
        arguments: command-line arguments; those of the process when None.

    Returns:
        0, or 1 when a peak is above what the service reckons with.
    """
    parser = argparse.ArgumentParser(prog="image_memory")
    parser.add_argument("--side", type=int, default=LARGEST_SIDE)
    options = parser.parse_args(arguments)
    if any(name not in os.environ for name in ENVIRONMENT):  # read when libraries are imported
        os.environ.update(ENVIRONMENT)
        os.execv(sys.executable, [sys.executable, "-m", __spec__.name, *sys.argv[1:]])
    print(f"on {processor_name()}, {options.side} x {options.side} pixels\n")
    warm_up()
    ordinary, costly = 0, 0
    with tempfile.TemporaryDirectory() as folder:
        # Files are made in another process: a child would reuse memory freed here, and its growth
        # would be hidden.
        in_child(lambda: write_files(options.side, Path(folder)))
        work = [*opening(Path(folder)), *rendering(options.side, Path(folder))]
        peaks = [(name, is_costly, peak_bytes(each)) for name, is_costly, each in work]
    for name, is_costly, peak in peaks:
        print(f"{name:36s} {'costly' if is_costly else '':8s} {peak / _MIB:6.0f} MiB", flush=True)
        ordinary, costly = (
            (ordinary, max(costly, peak)) if is_costly else (max(ordinary, peak), costly)
        )
    met = ordinary <= BYTES_OF_WORKER and costly <= BYTES_OF_COSTLY_WORKER
    for kind, peak, limit in (
        ("ordinary", ordinary, BYTES_OF_WORKER),
        ("costly", costly, BYTES_OF_COSTLY_WORKER),
    ):
        verdict = "met" if peak <= limit else "MISSED"
        print(f"{kind}: {peak / _MIB:.0f} MiB, goal at most {limit / _MIB:.0f}: {verdict}")
    print(json.dumps({"ordinary_mib": ordinary // _MIB, "costly_mib": costly // _MIB}))
    return 0 if met else 1


def write_files(side: int, folder: Path) -> None:
    """Write X-rays of every format; the file name states whether it is costly."""
    quiet = xray_12_bit(side, NOISES[0])
    most_bytes = settings_from([], {}).max_upload_bytes
    for name, (coding, encode) in FORMATS.items():
        data, shown, its_side = encode(quiet), name, side
        if len(data) > most_bytes:  # as large as an upload may be
            its_side = int(side * (most_bytes / len(data)) ** 0.5) - 1
            data, shown = encode(xray_12_bit(its_side, NOISES[0])), f"{name}, {its_side}"
        kind = "costly" if is_costly(coding, its_side, len(data)) else "ordinary"
        (folder / f"{kind}-{shown}").write_bytes(data)
        if kind == "costly":
            flat_side, data = largest_ordinary(coding, encode, side)
            (folder / f"ordinary-{name}, flat, {flat_side}").write_bytes(data)


def is_costly(coding: PixelCoding, side: int, size_bytes: int) -> bool:
    """Return whether an upload waits for one of the workers for costly uploads."""
    return opening_budget_s(coding, side**2, size_bytes) > first_grant_s(size_bytes)


def largest_ordinary(coding: PixelCoding, encode: Encoder, most: int) -> tuple[int, bytes]:
    """Return the largest side at which a uniform X-ray counts as ordinary, and its file."""
    side = next(side for side in range(most, 0, -20) if not is_costly(coding, side, 0))
    while is_costly(coding, side, len(data := encode(np.zeros((side, side), np.uint16)))):
        side -= 20
    return side, data


def opening(folder: Path) -> Iterator[tuple[str, bool, Callable[[], object]]]:
    """Yield each file's name, whether it is costly, and a function that opens it."""
    request = SegmentRequest((), DEFAULT_CONVENTION, 0.5, True, AnswerKind.JSON)
    for path in sorted(folder.iterdir()):
        kind, _, name = path.name.partition("-")

        def work(path: Path = path) -> object:
            return open_xray(path.read_bytes(), request, INPUT_SIDE, 1 << 30, 0.0)

        yield f"open {name}", kind == "costly", work


def rendering(side: int, folder: Path) -> Iterator[tuple[str, bool, Callable[[], object]]]:
    """Yield each answer's name, whether it is costly, and a function that renders it."""
    upload = next(folder.glob("*-PNG 8 bits"))
    for name, boxes, lungs in (
        ("one mask", 0, LungChoice.BOTH),
        ("four masks", 4, LungChoice.BOTH),
        ("each lung of four", 4, LungChoice.EACH),
    ):
        yield f"render overlay, {name}", True, rendered(upload, side, boxes, lungs)
    ordinary = next(
        one for one in range(side, 0, -20)
        if rendering_budget_s(one**2, 1, wants_overlay=True) <= ORDINARY_RENDERING_S
    )  # fmt: skip
    upload = folder / "PNG for an ordinary answer"
    in_child(lambda: upload.write_bytes(FORMATS["PNG 8 bits"][1](xray_12_bit(ordinary, NOISES[1]))))
    work = rendered(upload, ordinary, 0, LungChoice.BOTH)
    yield f"render overlay, one mask, {ordinary}", False, work


def rendered(upload: Path, side: int, boxes: int, lungs: LungChoice) -> Callable[[], object]:
    """Return a function that renders the answer to an upload with this many boxes."""
    whole: Box = (0.0, 0.0, float(side), float(side))
    request = SegmentRequest(
        (whole,) * boxes, DEFAULT_CONVENTION, 0.5, True, AnswerKind.JSON, lungs=lungs
    )
    found = [MaskLogits(whole, two_lungs(), 0.9) for _ in range(max(1, boxes))]

    def work() -> object:
        model = ModelIdentity(
            name="m", version="1", sha256="0" * 64, precision="int8", weight_bits=8, device=""
        )
        context = AnswerContext("id", model, {}, time.perf_counter(), time.perf_counter())
        opened = open_xray(upload.read_bytes(), request, INPUT_SIDE, 1 << 30, 0.0).xray
        return answer_of(opened, found, context)

    return work


def two_lungs() -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """Return the mask logits of two ellipses, (64, 64)."""
    rows, columns = np.mgrid[0:64, 0:64]
    right, left = (
        1 - ((rows - 32) / 22) ** 2 - ((columns - middle) / 9) ** 2 for middle in (19, 45)
    )
    return np.asarray(6 * np.maximum(right, left), np.float32)


def peak_bytes(work: Callable[[], object]) -> int:
    """Return the growth of the resident memory of a forked process during its work.

    Raises:
        ChildProcessError: the work failed.
    """
    reader, writer = os.pipe()

    def measured() -> None:
        before = _status_bytes("VmRSS")
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # sets VmHWM back
        kept = work()
        os.write(writer, str(_status_bytes("VmHWM") - before).encode())
        del kept

    in_child(measured)
    os.close(writer)
    with os.fdopen(reader, "rb") as stream:
        return int(stream.read())


def in_child(work: Callable[[], object]) -> None:
    """Run a function in a forked process.

    Raises:
        ChildProcessError: the work failed.
    """
    process = os.fork()
    if process == 0:
        status = 1
        try:
            work()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    if os.waitpid(process, 0)[1] != 0:
        raise ChildProcessError("the measured process failed")


def _status_bytes(name: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name + ":"))


if __name__ == "__main__":
    sys.exit(main())
