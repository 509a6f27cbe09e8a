"""The effect of hostile uploads on `/livez`, on ordinary callers and on memory, file by file.

`python -m benchmarks.service.hostile_load FOLDER... [--seconds 60] [--callers 8] [--part 1/6]`
starts the real server. `python -m tests.service.costly_files FOLDER` and
`python -m tests.service.hostile_files FOLDER 'bomb-*'` make files. Hostile callers send each file
of the folders repeatedly. Meanwhile two honest callers send an X-ray, and another process requests
`/livez` every 20 ms (`livez_answers`). All hostile callers have one address, which differs from
that of the honest ones. With `--hostile-address 127.0.0.1` they share it, as behind a proxy without
keys. `--part` selects a share of the files, so that one run takes a few minutes. `--probe FILE`
also writes what delayed the front's event loop.

Printed are: answers by code; the slowest `/livez`, and the longest delay of an idle process
(`idle_lateness`), which is due to the machine; the 95th percentile of honest callers with and
without hostile ones, and its stages; the processor time of the serving process, and how long it
waited for a processor; the memory of all processes. Then each goal is printed, and whether it is
met. The exit code is 1 if a goal is missed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.processor import processor_name
from benchmarks.service.hostile_callers import answers_of, start
from benchmarks.service.lateness import NOT_LATE, Lateness, Watcher
from benchmarks.service.load_callers import OtherWork
from benchmarks.service.process_memory import tree_pss_bytes
from benchmarks.service.segment_latency import DEFAULT_IMAGE, png_of_size
from benchmarks.service.server_process import Answer, RunningServer, running_server
from model_store.stages import STAGES
from service.cpu_allowance import image_workers
from service.memory_allowance import most_service_bytes
from service.settings import settings_from

WEIGHING_PERIOD_S = 0.5
HONEST_CALLERS = 2
ALONE_S = 20.0
SETTLE_S = 5.0
_MB = 1e6

MOST_LIVEZ_S = 0.1
MOST_RATIO = 3.0
MOST_GROWTH = 1.15
"""Allowed ratio of memory afterwards to memory before: heaps keep some pages."""
UNDOCUMENTED = ("0 ", "500 ")


@dataclass
class Seen:
    """Measurements of one phase.

    Attributes:
        answers: hostile answers by status and code.
        livez: slowest answer of `/livez`.
        honest_s: seconds of each honest answer 200.
        stages_ms: milliseconds of each stage of these answers; `rest` is HTTP and messages.
        idle: longest delay of an idle process.
        front_cores: processors that the serving process used, on average.
        front_waits: share of the time in which its threads waited for a processor.
        honest_other: answers to honest callers with another status than 200, by status.
        most_bytes: peak memory of all processes together.
        other_cores: processors that other programs used meanwhile.
    """

    answers: Counter[str] = field(default_factory=Counter)
    livez: Lateness = NOT_LATE
    honest_s: list[float] = field(default_factory=list)
    stages_ms: dict[str, list[float]] = field(default_factory=dict)
    idle: Lateness = NOT_LATE
    front_cores: float = 0.0
    front_waits: float = 0.0
    honest_other: Counter[int] = field(default_factory=Counter)
    most_bytes: int = 0
    other_cores: float = 0.0

    def note_stages(self, answer: Answer) -> None:
        """Add the milliseconds of each stage of an honest answer."""
        told = json.loads(answer.body)["latency_ms"]
        stages = {name: told[name] for name in STAGES if name in told}
        stages["rest"] = 1000 * answer.seconds - sum(stages.values())
        for name, ms in stages.items():
            self.stages_ms.setdefault(name, []).append(ms)

    def row(self, name: str, alone: Seen) -> dict[str, object]:
        """Return the table row of a file."""
        ratio = p95(self.honest_s) / p95(alone.honest_s) if self.honest_s else float("inf")
        livez_s, at = self.livez.seconds, self.livez.ended_at
        return {
            "file": name,
            "answers": dict(self.answers),
            "livez_worst_ms": round(1000 * livez_s),
            "idle_worst_ms": round(1000 * self.idle.seconds),
            "idle_at_the_same_time": abs(self.idle.ended_at - at) < max(0.1, livez_s),
            "honest_ms": {one: round(p95(ms)) for one, ms in self.stages_ms.items()},
            "front_cores": round(self.front_cores, 2),
            "front_waits": round(self.front_waits, 2),
            "honest_p95_ms": round(1000 * p95(self.honest_s)),
            "honest_ratio": round(ratio, 2),
            "honest_masks": len(self.honest_s),
            "honest_other": dict(self.honest_other),
            "most_mb": round(self.most_bytes / _MB),
            "other_cores": round(self.other_cores, 2),
        }


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print.

    Args:
        arguments: command-line arguments; those of the process when None.

    Returns:
        0, or 1 when a goal is missed or the server died.
    """
    options = _parser().parse_args(arguments)
    files = _part_of(_files_in(options.folders), options.part)
    print(f"on {processor_name()}, {options.callers} callers for {options.seconds:g} s each\n")
    honest = png_of_size(DEFAULT_IMAGE, 1024)
    rows = []
    probe = ["benchmarks.service.probed_front", str(options.probe)] if options.probe else None
    with running_server(None, options.flags.split(), program=probe or ["service"]) as server:
        for _ in range(3):
            server.segment(honest, {})
        idle_bytes = tree_pss_bytes(server.process.pid)
        alone = watch(server, honest, None, min(options.seconds, ALONE_S))
        _print(alone.row("(nobody)", alone))
        for path in files:
            sending = (path, options.callers, options.hostile_address)
            seen = watch(server, honest, sending, options.seconds)
            rows.append(seen.row(path.name, alone))
            _print(rows[-1])
            if server.process.poll() is not None:
                print("the server has ended", file=sys.stderr)
                return 1
        time.sleep(SETTLE_S)
        after_bytes = tree_pss_bytes(server.process.pid)
    goals = goals_of(rows, idle_bytes, after_bytes)
    print()
    for name, value, goal, is_met in goals:
        print(f"{name:44s} {value:>10s}   goal {goal:18s} {'met' if is_met else 'MISSED'}")
    print(json.dumps({"idle_mb": round(idle_bytes / _MB), "files": rows}))
    return 0 if all(is_met for *_, is_met in goals) else 1


def goals_of(
    rows: Sequence[dict[str, object]], idle_bytes: int, after_bytes: int
) -> list[tuple[str, str, str, bool]]:
    """Return name, figure, goal of each figure, and whether it is met."""
    livez_ms = max(float(str(row["livez_worst_ms"])) for row in rows)
    ratio = max(float(str(row["honest_ratio"])) for row in rows)
    most_mb = max(float(str(row["most_mb"])) for row in rows)
    settings = settings_from([], {})
    bound_mb = (
        most_service_bytes(image_workers(), settings.queue_limit_bytes, settings.max_upload_bytes)
        / _MB
    )
    growth = after_bytes / idle_bytes
    answers = [str(name) for row in rows for name in dict(row["answers"])]  # type: ignore[call-overload]
    bad = [name for name in answers if name.startswith(UNDOCUMENTED) or "undocumented" in name]
    return [
        ("worst /livez", f"{livez_ms:.0f} ms", "below 100 ms", livez_ms < 1000 * MOST_LIVEZ_S),
        ("honest p95 over that without", f"{ratio:.2f}", "at most 3", ratio <= MOST_RATIO),
        ("most memory (PSS)", f"{most_mb:.0f} MB", f"{bound_mb:.0f} MB", most_mb <= bound_mb),
        ("memory afterwards", f"{growth:.2f}", "at most 1.15", growth <= MOST_GROWTH),
        ("answers that are not documented", str(len(bad)), "0", not bad),
    ]


def watch(
    server: RunningServer, honest: bytes, hostile: tuple[Path, int, str] | None, seconds: float
) -> Seen:
    """Run hostile and honest callers, and measure.

    Args:
        server: ready server.
        honest: X-ray that the honest callers send.
        hostile: file, number and address of the hostile callers.
        seconds: length of the phase.
    """
    seen = Seen()
    senders = start(server.port, hostile[0], seconds, *hostile[1:]) if hostile else None
    idle = Watcher("benchmarks.service.idle_lateness")
    livez = Watcher("benchmarks.service.livez_answers", str(server.port))
    others = OtherWork(server, [senders.pid] if senders else [])
    used_s, waited_s = _scheduled(server.process.pid)
    until_s = time.monotonic() + seconds

    def send_honest() -> None:
        answer = server.segment(honest, {})
        if answer.status == 200:
            seen.honest_s.append(answer.seconds)
            seen.note_stages(answer)
        else:
            seen.honest_other[answer.status] += 1
            time.sleep(0.1)

    def weigh() -> None:
        seen.most_bytes = max(seen.most_bytes, tree_pss_bytes(server.process.pid))
        time.sleep(WEIGHING_PERIOD_S)

    work = [send_honest] * HONEST_CALLERS + [weigh]
    threads = [threading.Thread(target=_repeat, args=(each, until_s)) for each in work]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seen.other_cores = others.cores()
    seen.idle, seen.livez = idle.worst(), livez.worst()
    used_then_s, waited_then_s = _scheduled(server.process.pid)
    seen.front_cores = (used_then_s - used_s) / seconds
    seen.front_waits = (waited_then_s - waited_s) / seconds
    if senders is not None:
        seen.answers = answers_of(senders)
    return seen


def p95(seconds: Sequence[float]) -> float:
    """Return the 95th percentile, 0 for no values."""
    if len(seconds) < 2:
        return max(seconds, default=0.0)
    return statistics.quantiles(seconds, n=20)[-1]


def _scheduled(process: int) -> tuple[float, float]:
    """Return for how many seconds a process's threads ran and waited for a processor so far."""
    try:
        threads = list(Path(f"/proc/{process}/task").iterdir())
        found = [(one / "schedstat").read_text(encoding="ascii").split() for one in threads]
    except OSError:  # it has ended
        return 0.0, 0.0
    return sum(int(one[0]) for one in found) / 1e9, sum(int(one[1]) for one in found) / 1e9


def _repeat(work: Callable[[], None], until_s: float) -> None:
    while time.monotonic() < until_s:
        try:
            work()
        except OSError:
            time.sleep(0.1)


def _files_in(folders: Sequence[Path]) -> list[Path]:
    found = [path for folder in folders for path in sorted(folder.iterdir())]
    return [path for path in found if path.suffix != ".boxes"]


def _part_of(files: list[Path], part: str) -> list[Path]:
    number, _, parts = part.partition("/")
    return files[int(number) - 1 :: int(parts)]


def _print(row: dict[str, object]) -> None:
    answers = ", ".join(f"{n} x {what}" for what, n in dict(row["answers"]).items())  # type: ignore[call-overload]
    print(
        f"{row['file']:28} livez {row['livez_worst_ms']:>5} ms (idle {row['idle_worst_ms']} ms), "
        f"honest {row['honest_p95_ms']:>5} ms"
        f" ({row['honest_ratio']} x, {row['honest_masks']} masks, others {row['honest_other']}), "
        f"{row['most_mb']} MB, {row['other_cores']} other cores: {answers}",
        flush=True,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="hostile_load")
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--callers", type=int, default=8)
    parser.add_argument("--hostile-address", default="127.0.0.2", help="of the loopback network")
    parser.add_argument("--part", default="1/1", help="which share of the files, as 2/6")
    parser.add_argument("--flags", default="", help="flags of the service, in one string")
    parser.add_argument("--probe", type=Path, help="file for what holds up the front's event loop")
    return parser


if __name__ == "__main__":
    sys.exit(main())
