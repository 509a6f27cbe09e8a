"""Runs as they happen: killed, stopped, in several processes, on a disk that is full."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from training.__main__ import main
from training.checkpoint import weights_sha256

CONFIGS = Path(__file__).parents[2] / "training" / "configs"
ROOT = Path(__file__).parents[2]
SETTINGS = ["checkpoint_every_steps=1", "validate_every_steps=4", "data.workers=0"]


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    counts = ["--train", "8", "--val", "4", "--test", "1"]
    assert main(["phantoms", "--out", str(folder / "data"), *counts]) == 0
    assert main(arguments(folder, "pretrain", "pretrain")) == 0
    return folder


def arguments(work: Path, stage: str, run: str, *settings: str) -> list[str]:
    chosen = [f"data.root={work / 'data'}", *SETTINGS, *settings]
    bases = {"stage1": "pretrain", "stage2": "alone"}
    base = ["--base", str(work / bases[stage])] if stage in bases else []
    return [
        stage, "--config", str(CONFIGS / f"miniature_{stage}.toml"), "--run", str(work / run),
        "--device", "cpu", *base, *(part for text in chosen for part in ("--set", text)),
    ]  # fmt: skip


def start(*launch: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", *launch], cwd=ROOT, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def wait_for(path: Path, process: subprocess.Popen[str], seconds: float = 300) -> None:
    ends = time.monotonic() + seconds
    while not path.exists() and process.poll() is None:
        assert time.monotonic() < ends, f"{path} never came"
        time.sleep(0.0005)


def stored(work: Path, run: str, name: str = "latest.pt") -> dict[str, torch.Tensor]:
    state = torch.load(work / run / name, weights_only=True)
    weights: dict[str, torch.Tensor] = state["weights_now" if name == "latest.pt" else "model"]
    return weights


def validated(work: Path, run: str) -> float:
    log = (work / run / "log.jsonl").read_text().splitlines()
    events = [json.loads(line) for line in log]
    return float([event["selection"] for event in events if event["event"] == "validation"][-1])


def test_killed_at_any_moment_and_resumed_ends_with_the_same_weights(work: Path) -> None:
    """SIGKILL twice while a checkpoint is being written and once at a random moment."""
    whole = start("training", *arguments(work, "stage1", "whole"))
    output, errors = whole.communicate(timeout=600)
    assert whole.returncode == 0, errors
    parted = work / "parted"
    for moment in ("writing", "writing", "later"):
        resume = ["--resume"] if (parted / "provenance.json").exists() else []
        process = start("training", *arguments(work, "stage1", "parted"), *resume)
        wait_for(parted / "latest.pt.partial", process)
        if moment == "later":
            time.sleep(random.uniform(0.0, 0.3))
        process.send_signal(signal.SIGKILL)
        process.communicate()
    last = start("training", *arguments(work, "stage1", "parted"), "--resume")
    resumed_output, errors = last.communicate(timeout=600)
    assert last.returncode == 0, errors
    events = [json.loads(line)["event"] for line in (parted / "log.jsonl").read_text().splitlines()]
    assert events.count("start") > 1 and events.count("end") == 1
    for name in ("latest.pt", "best.pt"):
        wanted, got = stored(work, "whole", name), stored(work, "parted", name)
        assert weights_sha256(got) == weights_sha256(wanted), name
    # Both told the same hash to whoever watched.
    assert json.loads(output[output.index("{") :]) == json.loads(
        resumed_output[resumed_output.index("{") :]
    )


def test_sigterm_finishes_the_step_and_saves(work: Path) -> None:
    process = start("training", *arguments(work, "stage1", "stopped", "steps=2000"))
    wait_for(work / "stopped" / "latest.pt", process)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 3 and "go on with --resume" in errors
    state = torch.load(work / "stopped" / "latest.pt", weights_only=True)
    assert f"stopped after step {state['step']} of 2000" in errors


def test_two_processes_make_the_weights_of_one(work: Path) -> None:
    settings = ["checkpoint_every_steps=12", "validate_every_steps=12", "accumulate=2"]
    assert main(arguments(work, "stage1", "alone", *settings)) == 0
    launch = ["torch.distributed.run", "--nproc-per-node", "2", "--standalone", "-m", "--"]
    both = start(*launch, "training", *arguments(work, "stage1", "both", *settings))
    _, errors = both.communicate(timeout=600)
    assert both.returncode == 0, errors
    alone, shared = stored(work, "alone"), stored(work, "both")
    for name, tensor in alone.items():
        # Adam turns rounding of tiny gradients into whole steps; twelve of them reach 1e-2.
        torch.testing.assert_close(shared[name], tensor, atol=2e-4, rtol=1e-4)
    log = (work / "both" / "log.jsonl").read_text().splitlines()
    assert sum(json.loads(line)["event"] == "end" for line in log) == 1
    # Stage 2 validates integers, each process its share of the X-rays.
    both = start(*launch, "training", *arguments(work, "stage2", "both2", *settings))
    _, errors = both.communicate(timeout=600)
    assert both.returncode == 0, errors
    assert main(arguments(work, "stage2", "alone2", *settings)) == 0
    alone, shared = stored(work, "alone2"), stored(work, "both2")
    # A last bit that tips a rounding moves whole steps, and scales take ten times larger ones;
    # which bits tip depends on the processor. Gradients that are not averaged move every weight.
    beyond = {
        name: ((shared[name] - tensor).abs() > (5e-2 if name.endswith("scale") else 5e-3)).sum()
        for name, tensor in alone.items()
    }
    elements = sum(tensor.numel() for tensor in alone.values())
    assert sum(int(count) for count in beyond.values()) < 1e-4 * elements, beyond
    moved = torch.cat([(shared[n] - t).abs().flatten() for n, t in alone.items()])
    assert float(moved.mean()) < 1e-4
    assert validated(work, "both2") == pytest.approx(validated(work, "alone2"), abs=0.02)


def test_a_process_killed_among_two_is_started_anew_and_changes_nothing(work: Path) -> None:
    settings = ["steps=14", "validate_every_steps=14", "data.workers=0"]
    launch = ["torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    run = ["-m", "--", "training"]
    whole = start(*launch, *run, *arguments(work, "pretrain", "whole2", *settings))
    _, errors = whole.communicate(timeout=600)
    assert whole.returncode == 0, errors
    both = start(*launch, "--max-restarts", "1", *run,
                 *arguments(work, "pretrain", "elastic", *settings))  # fmt: skip
    wait_for(work / "elastic" / "latest.pt", both)
    children = Path(f"/proc/{both.pid}/task/{both.pid}/children").read_text().split()
    os.kill(int(children[-1]), signal.SIGKILL)
    _, errors = both.communicate(timeout=600)
    assert both.returncode == 0, errors
    log = (work / "elastic" / "log.jsonl").read_text().splitlines()
    events = [json.loads(line)["event"] for line in log]
    assert events.count("start") == 2 and events.count("end") == 1
    assert weights_sha256(stored(work, "elastic")) == weights_sha256(stored(work, "whole2"))


def test_patience_ends_a_run_and_keeps_the_best(work: Path) -> None:
    settings = ["steps=40", "validate_every_steps=1", "patience=2",
                "optimizer.learning_rate=1e-12", "optimizer.matrix_learning_rate=0"]  # fmt: skip
    assert main(arguments(work, "pretrain", "patient", *settings)) == 0
    state = torch.load(work / "patient" / "latest.pt", weights_only=True)
    best = torch.load(work / "patient" / "best.pt", weights_only=True)
    assert best["step"] < state["step"] < 40
    assert state["validations_without_gain"] == 2
    again = [*arguments(work, "pretrain", "patient", *settings), "--resume"]
    assert main(again) == 0
    assert torch.load(work / "patient" / "latest.pt", weights_only=True)["step"] == state["step"]


def test_deterministic_runs_are_equal(work: Path) -> None:
    for run in ("once", "twice"):
        assert main(arguments(work, "pretrain", run, "deterministic=true")) == 0
    assert weights_sha256(stored(work, "once")) == weights_sha256(stored(work, "twice"))
    assert not torch.are_deterministic_algorithms_enabled()


def test_a_damaged_checkpoint_is_named_and_the_one_before_used(
    work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(work, "pretrain", "damaged")) == 0
    latest = work / "damaged" / "latest.pt"
    content = bytearray(latest.read_bytes())
    content[len(content) // 2] ^= 1
    latest.write_bytes(content)
    assert main([*arguments(work, "pretrain", "damaged"), "--resume"]) == 0
    errors = capsys.readouterr().err
    assert "latest.pt is damaged" in errors and "previous.pt" in errors
