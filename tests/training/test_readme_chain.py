"""The chain of the README, as printed, ends at the Dice that it promises; minutes on two cores."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.service.server_process import running_server

ROOT = Path(__file__).parents[2]

PYTHON = ".venv-train/bin/python"
"""The interpreter that `make train-env` makes; the tests' own stands in for it."""

PROMISED_DICE = 0.9


def printed_commands() -> list[list[str]]:
    """Return the commands below "Train it yourself", without their comments."""
    section = (ROOT / "README.md").read_text(encoding="utf-8").partition("## Train it yourself")[2]
    found = re.search(r"```sh\n(.*?)```", section, re.DOTALL)
    assert found is not None, "the README prints no chain"
    lines = found[1].replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True) for line in lines]


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the printed paths exist, as in a clone, and nothing else."""
    folder = tmp_path_factory.mktemp("clone")
    (folder / "training").mkdir()
    (folder / "training" / "configs").symlink_to(ROOT / "training" / "configs")
    return folder


def run(command: list[str], work: Path) -> str:
    """Run a printed command in a process of its own; return what it printed."""
    assert command[0] == PYTHON, f"{shlex.join(command)} names another interpreter"
    done = subprocess.run(
        [sys.executable, *command[1:]], cwd=work, capture_output=True, text=True, check=False,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "HOME": str(work)},
    )  # fmt: skip
    assert done.returncode == 0, f"{shlex.join(command)}\n{done.stderr[-2000:]}"
    return done.stdout


def test_the_printed_chain_trains_a_model_that_finds_the_lungs_of_phantoms(work: Path) -> None:
    environment, *steps, serve = printed_commands()
    assert environment == ["make", "train-env"]
    assert [step[3] for step in steps] == [
        "phantoms", "pretrain", "stage1", "stage2", "export", "evaluate",
    ]  # fmt: skip
    *made, evaluate = steps
    for step in made:
        run(step, work)
    scores = work / "scores.json"
    run([*evaluate, "--json", str(scores)], work)
    dices = [
        score["dice"]
        for score in json.loads(scores.read_text(encoding="utf-8"))
        if (score["model"], score["box"]) == ("int8", "own_box")
    ]
    assert len(dices) >= 10
    assert sum(dices) / len(dices) >= PROMISED_DICE
    assert serve[:4] == [PYTHON, "-m", "service", "--model"]
    with running_server(work / serve[4], ["--threads", "1"]) as server:
        picture = sorted((work / "phantoms" / "test" / "images").iterdir())[0]
        answer = server.segment(picture.read_bytes(), {})
    assert answer.status == 200
    assert json.loads(answer.body)["model"]["name"] == "my-model"
