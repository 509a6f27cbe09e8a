"""Stop signals while one call computes for long, as a step of a large model on a CPU does."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from training.__main__ import main
from training.run.interruption import SAME_REQUEST_S, StopRequest

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "training" / "configs" / "miniature_pretrain.toml"

# One call without an instruction of Python in between, which no signal interrupts.
PROGRAM = """
import hashlib, sys
from training.run.interruption import StopRequest

with StopRequest() as stop:
    print("computes", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"a", b"b", int(sys.argv[1]))
    print("stops" if stop() else "goes on")
"""
SECONDS_OF_WORK, MINUTES_OF_WORK = "3000000", "1000000000"


@contextlib.contextmanager
def computing(amount: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, amount], cwd=ROOT, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "computes\n"
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_at_once_what_computes_for_minutes(second: signal.Signals) -> None:
    with computing(MINUTES_OF_WORK) as process:
        process.send_signal(signal.SIGTERM)
        time.sleep(SAME_REQUEST_S + 0.2)
        assert process.poll() is None  # the first waits
        process.send_signal(second)
        _, errors = process.communicate(timeout=20)
    assert process.returncode == 128 + second
    assert "SIGTERM: stops after this step, with a checkpoint" in errors


def test_a_signal_sent_to_process_and_group_is_one_request() -> None:
    with computing(SECONDS_OF_WORK) as process:
        for number in (signal.SIGINT, signal.SIGINT, signal.SIGTERM):
            process.send_signal(number)
            time.sleep(0.1)
        output, errors = process.communicate(timeout=60)
    assert (process.returncode, output) == (0, "stops\n")
    assert errors.count("SIGINT: stops after this step") == 1


def test_handlers_are_as_before_afterwards(capfd: pytest.CaptureFixture[str]) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    descriptors = os.listdir("/proc/self/fd")
    with StopRequest() as stop:
        assert not stop()
        os.kill(os.getpid(), signal.SIGTERM)
        stop_by = time.monotonic() + 10
        while not stop():
            assert time.monotonic() < stop_by
            time.sleep(0.01)
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before
    assert os.listdir("/proc/self/fd") == descriptors
    assert "SIGTERM" in capfd.readouterr().err


def test_a_trainer_in_a_long_step_ends_by_the_second_signal(tmp_path: Path) -> None:
    data, run = tmp_path / "data", tmp_path / "run"
    counts = ["--train", "4", "--val", "1", "--test", "1"]
    assert main(["phantoms", "--out", str(data), *counts]) == 0
    a_step_of_seconds = "prompts_per_image=8000"
    settings = [f"data.root={data}", "data.workers=0", a_step_of_seconds]
    process = subprocess.Popen(
        [sys.executable, "-m", "training", "pretrain", "--config", str(CONFIG), "--device", "cpu",
         "--run", str(run), *(part for one in settings for part in ("--set", one))],
        cwd=ROOT, text=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        log = run / "log.jsonl"
        while not (log.exists() and '"start"' in log.read_text()):
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        time.sleep(SAME_REQUEST_S + 0.5)
        assert process.poll() is None  # still in its first step
        process.send_signal(signal.SIGTERM)
        began = time.monotonic()
        _, errors = process.communicate(timeout=60)
        assert time.monotonic() - began < 5
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 128 + signal.SIGTERM
    assert "another signal ends at once" in errors
    assert not (run / "latest.pt").exists()
