"""X-rays a second of the archive's units, and the processor time of one X-ray.

A unit is what Ray places on a host: a model process with the image workers that feed it. Here units
run on the same X-rays as separate processes without Ray (`--units 1 2 4`), or through Ray
(`--ray`). `cpu_s_an_xray` is the processor time of opening, network, rendering and everything
between. Processors that never wait would reach `processors / cpu_s_an_xray` X-rays a second, the
bound. `cpu_ms_of_network`, `cpu_ms_of_images` and `cpu_ms_between` are its parts: the compute
processes, the image workers, and the processes that they serve.

    python -m benchmarks.service.archive_rate --data DATA/samples --units 1 2 --xrays 200
    python -m benchmarks.service.archive_rate --data DATA/samples --ray --actors 2
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

from benchmarks.processor import processor_name

START_TIMEOUT_S = 300.0
LEAST_PARTS = 8
ROLES = ("of_network", "of_images", "between")


def main() -> None:
    """Print one line of JSON for each number of units."""
    flags = _flags()
    files = sorted(str(path.absolute()) for path in flags.data.iterdir() if path.is_file())
    asked = (files * (flags.xrays // len(files) + 1))[: flags.xrays]
    print(f"{processor_name()}, {os.cpu_count()} processors; {len(files)} files, "
          f"{flags.device}, {flags.workers} image workers a unit")  # fmt: skip
    if flags.ray:
        print(json.dumps(_through_ray(flags, asked)), flush=True)
        return
    alone = 0.0
    for count in flags.units:
        row = _row(flags, asked, count)
        alone = alone or row["xrays_per_s"] / count
        row["efficiency"] = row["xrays_per_s"] / (count * alone)
        print(json.dumps(row), flush=True)


def _row(flags: argparse.Namespace, asked: Sequence[str], count: int) -> dict[str, float]:
    context = multiprocessing.get_context("spawn")
    ready, told = context.Barrier(count + 1), context.Queue()
    shares = [list(asked[number::count]) for number in range(count)]
    units = [
        context.Process(target=_unit, args=(flags, number, share, ready, told))
        for number, share in enumerate(shares)
    ]
    for unit in units:
        unit.start()
    ready.wait(START_TIMEOUT_S)
    began = time.perf_counter()
    rows = [told.get(timeout=600) for _ in units]
    seconds = time.perf_counter() - began
    cpu_s = {role: sum(row["cpu_s"][role] for row in rows) for role in ROLES}
    for unit in units:
        unit.join()
    done = sum(row["done"] for row in rows)
    if done != len(asked):
        raise SystemExit(f"{len(asked) - done} X-rays failed")
    return {
        "units": count,
        "xrays": len(asked),
        "xrays_per_s": len(asked) / seconds,
        "cpu_s_an_xray": sum(cpu_s.values()) / len(asked),
        **{f"cpu_ms_{role}": 1000 * spent / len(asked) for role, spent in cpu_s.items()},
        "processors_busy": sum(cpu_s.values()) / seconds,
    }


def _unit(
    flags: argparse.Namespace,
    number: int,
    share: list[str],
    ready: Barrier,
    told: Queue[Any],
) -> None:
    if flags.gpus:  # as Ray does for its actors
        os.environ["CUDA_VISIBLE_DEVICES"] = str(number % flags.gpus)
    from service.archive.inputs import ArchiveInput
    from service.archive.locations import location_of
    from service.archive.segmenter import ResultOptions, Segmenter
    from service.settings import Settings

    chosen: dict[str, Any] = {
        "device": flags.device, "threads": flags.threads, "image_workers": flags.workers,
        "max_batch": flags.max_batch, "queue_limit": 10_000, "request_timeout_s": 300.0,
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        segmenter = Segmenter(Settings(**chosen), ResultOptions(), location_of(folder))
        inputs = [ArchiveInput(path, "", "lung_field") for path in share]
        segmenter.rows(inputs[: 2 * flags.workers])
        before = _cpu_s_by_role()
        ready.wait(START_TIMEOUT_S)
        rows = segmenter.rows(inputs)
        done = sum(row["status"] == "done" for row in rows)
        spent = {role: after - before[role] for role, after in _cpu_s_by_role().items()}
        told.put({"done": done, "cpu_s": spent})
        segmenter.close()


def _cpu_s_by_role() -> dict[str, float]:
    """Return the processor time of this process and its descendants, including ended ones."""
    parents, ticks, roles = {}, {}, {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                parents[int(entry.name)] = int(fields[1])
                ticks[int(entry.name)] = sum(int(spent) for spent in fields[11:15])
                roles[int(entry.name)] = _role_of((entry / "cmdline").read_bytes())
    below, found = {os.getpid()}, 0
    while len(below) > found:
        found = len(below)
        below |= {pid for pid, parent in parents.items() if parent in below}
    spent_s = dict.fromkeys(ROLES, 0.0)
    for pid in below & set(roles):
        spent_s[roles[pid]] += ticks[pid] / os.sysconf("SC_CLK_TCK")
    return spent_s


def _role_of(command: bytes) -> str:
    """Return what a process of a unit does; image workers keep the command of their template."""
    if b"service.compute." in command:
        return "of_network"
    return "of_images" if b"service.workers." in command else "between"


def _through_ray(flags: argparse.Namespace, asked: Sequence[str]) -> dict[str, float]:
    """Run the command on named copies; compute the rate from the times of its parts."""
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "list.csv"
        links = Path(folder) / "in"
        links.mkdir()
        lines = ["input"]
        for number, path in enumerate(asked):
            link = links / f"{number:06}{Path(path).suffix}"
            link.symlink_to(path)
            lines.append(str(link))
        table.write_text("\n".join(lines) + "\n")
        command = [sys.executable, "-m", "service.archive", "--input", str(table)]
        command += ["--output", f"{folder}/out", "--device", flags.device, "--contact-sheet", "0"]
        command += ["--actors", str(flags.actors), "--image-workers", str(flags.workers)]
        command += ["--rows-per-part", str(flags.rows_per_part)]
        command += ["--max-batch", str(flags.max_batch)]
        if flags.device == "cuda":
            share = len(os.sched_getaffinity(0)) / flags.actors
            command += ["--cpus-per-actor", f"{share:g}"]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        told = json.loads(done.stdout.strip().splitlines()[-1])
        return {"actors": flags.actors, **_steady_rate(Path(folder) / "out", told["xrays"])}


def _steady_rate(output: Path, total: int) -> dict[str, float]:
    """Return the rate while all actors work: without start and end, which a long run hides."""
    times = [path.stat().st_mtime for path in (output / "results").glob("*.parquet")]
    rate = total / len(times) * steady_parts_per_s(times)
    return {"xrays": total, "parts": len(times), "xrays_per_s": rate}


def steady_parts_per_s(times: Sequence[float]) -> float:
    """Return how many parts a second were written, leaving out the first and last quarter.

    Args:
        times: seconds at which the parts were written, in any order.

    Raises:
        ValueError: fewer than eight parts tell no rate.
    """
    if len(times) < LEAST_PARTS:
        raise ValueError(f"{len(times)} parts tell no rate; ask for more X-rays or fewer in a part")
    quarter = len(times) // 4
    steady = sorted(times)[quarter : len(times) - quarter]
    return (len(steady) - 1) / (steady[-1] - steady[0])


def _flags() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, required=True, help="folder of X-rays")
    parser.add_argument("--xrays", type=int, default=200)
    parser.add_argument("--units", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--gpus", type=int, default=0, help="units are spread over so many")
    parser.add_argument("--threads", type=int, default=1, help="of each unit's model")
    parser.add_argument("--workers", type=int, default=2, help="image workers of each unit")
    parser.add_argument("--max-batch", type=int, default=4)
    parser.add_argument("--ray", action="store_true", help="through the command, on Ray")
    parser.add_argument("--actors", type=int, default=2, help="with --ray")
    parser.add_argument("--rows-per-part", type=int, default=16, help="with --ray")
    return parser.parse_args()


if __name__ == "__main__":
    main()
