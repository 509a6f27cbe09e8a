"""What `hostile_load` says beside its figures: the machine's own delays, and where time went."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

from benchmarks.service.hostile_load import Seen
from benchmarks.service.lateness import Lateness, Watcher
from benchmarks.service.server_process import Answer, running_server

PAUSE_S = 0.3


def test_a_pause_of_the_machine_is_told_with_its_time() -> None:
    idle = Watcher("benchmarks.service.idle_lateness")
    process = idle.process_id
    os.kill(process, signal.SIGSTOP)
    time.sleep(PAUSE_S)
    ended_at = time.monotonic()
    os.kill(process, signal.SIGCONT)
    time.sleep(0.1)
    worst = idle.worst()
    assert worst.seconds >= PAUSE_S - 0.05
    assert ended_at <= worst.ended_at < ended_at + 5


def test_a_pause_of_the_service_is_the_slowest_answer(tiny_artifact: Path) -> None:
    with running_server(tiny_artifact, ["--threads", "1"]) as server:
        livez = Watcher("benchmarks.service.livez_answers", str(server.port))
        time.sleep(0.2)
        os.kill(server.process.pid, signal.SIGSTOP)
        time.sleep(PAUSE_S)
        os.kill(server.process.pid, signal.SIGCONT)
        time.sleep(0.2)
        assert PAUSE_S - 0.05 <= livez.worst().seconds < PAUSE_S + 5


def answer(seconds: float, **stages: float) -> Answer:
    return Answer(200, json.dumps({"latency_ms": {**stages, "total": 1.0}}).encode(), seconds)


def test_what_no_stage_took_is_the_rest() -> None:
    alone, seen = Seen(honest_s=[0.1, 0.1]), Seen(honest_s=[0.2, 0.2])
    for _ in range(2):
        seen.note_stages(answer(0.2, decode=30.0, encode_image=100.0))
    row = seen.row("a.png", alone)
    assert row["honest_ms"] == {"decode": 30, "encode_image": 100, "rest": 70}
    assert row["honest_ratio"] == 2.0


def test_a_delay_of_the_machine_counts_as_that_of_livez_only_at_the_same_time() -> None:
    seen = Seen(honest_s=[0.1], livez=Lateness(0.15, 10.0))
    for ended_at, expected in ((10.05, True), (5.0, False)):
        seen.idle = Lateness(0.14, ended_at)
        row = seen.row("a.png", seen)
        assert (row["livez_worst_ms"], row["idle_at_the_same_time"]) == (150, expected)
