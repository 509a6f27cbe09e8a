"""A run that goes on is the run that was begun, and what it stores says where it comes from."""

from __future__ import annotations

import json
import resource
import shutil
from pathlib import Path

import pytest
import torch

from model_store.artifact import read_manifest
from training.__main__ import main
from training.config import load_config
from training.phantom.dataset import write_phantom_dataset
from training.run.provenance import names_sha256
from training.run.resuming import settings_to_resume

CONFIGS = Path(__file__).parents[2] / "training" / "configs"


def arguments(work: Path, run: str, *extra: str, stage: str = "pretrain") -> list[str]:
    config = str(CONFIGS / f"miniature_{stage}.toml")
    if not any(word.startswith("data.root=") for word in extra):
        extra = ("--set", f"data.root={work / 'data'}", *extra)
    return [stage, "--config", config, "--run", str(work / run), "--device", "cpu", *extra]


def settings(**changes: object) -> list[str]:
    plain = {"steps": 2, "optimizer.warmup_steps": 0, "validate_every_steps": 2,
             "checkpoint_every_steps": 1, "data.workers": 0}  # fmt: skip
    values = {**plain, **{name.replace("__", "."): value for name, value in changes.items()}}
    return [word for name, value in values.items() for word in ("--set", f"{name}={value}")]


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("provenance")
    write_phantom_dataset(folder / "data", {"train": 8, "val": 2, "test": 2}, 64)
    assert main(arguments(folder, "run", *settings())) == 0
    return folder


def resumed(work: Path, copy: Path, *extra: str, **changes: object) -> int:
    """Resume a copy of the run, so that each test begins with the same one."""
    shutil.copytree(work / "run", copy, dirs_exist_ok=True)
    words = arguments(work, "run", *settings(**changes), "--resume", *extra)
    words[words.index("--run") + 1] = str(copy)
    return main(words)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"seed": 2}, "seed was 1, not 2"),
        ({"optimizer__learning_rate": 0.5}, "optimizer.learning_rate was 0.001, not 0.5"),
        ({"batch_size": 2}, "batch_size was 4, not 2"),
        ({"steps": 3}, "steps was 2, not 3; --extend prolongs a run"),
        ({"data__folds": 2}, "data.folds was 1, not 2"),
        ({"data__repeats": '{"phantom_lung_field": 2}'}, "data.repeats was {}, not"),
        ({"augment__mirror": 0.5, "seed": 3}, "seed was 1, not 3; augment.mirror was"),
    ],
)
def test_other_settings_are_refused_by_name(
    work: Path, tmp_path: Path, changes: dict[str, object], said: str,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    assert resumed(work, tmp_path / "run", **changes) == 2
    assert said in capsys.readouterr().err


def test_workers_and_paths_may_change(work: Path, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere"
    shutil.copytree(work / "data", moved)
    assert resumed(work, tmp_path / "run", data__root=moved, data__workers=1) == 0


def test_an_extension_says_what_the_schedules_become(
    work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert resumed(work, tmp_path / "run", "--extend", steps=4) == 0
    said = capsys.readouterr().err
    assert "extended from 2 to 4 steps: the rate falls from step 2 to 4" in said
    assert torch.load(tmp_path / "run" / "latest.pt", weights_only=True)["step"] == 4
    assert resumed(work, tmp_path / "other", "--extend") == 2
    assert "--extend needs more steps than the 2" in capsys.readouterr().err


def test_an_extended_stage1_keeps_its_ranks() -> None:
    config = load_config(CONFIGS / "miniature_stage1.toml", {"steps": 20})
    begun = load_config(CONFIGS / "miniature_stage1.toml").to_dict()
    longer, said = settings_to_resume(config, {"config": begun, "step": 12}, extend=True)
    assert longer.adalora.final_steps == 4 + 8
    assert "ranks settle at step 8 as before" in said


def test_a_run_goes_on_that_was_begun_before_a_setting_was_renamed() -> None:
    config = load_config(CONFIGS / "miniature_stage1.toml", {"steps": 20})
    begun = config.to_dict()
    begun["data"]["drawn_otherwise"] = begun["data"].pop("convention_mismatch")
    resumed_by, _ = settings_to_resume(config, {"config": begun, "step": 12}, extend=False)
    assert resumed_by == config


def test_a_run_that_is_not_there_is_an_error(
    work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(work, "absent", *settings(), "--resume")) == 2
    assert "absent holds no run to resume" in capsys.readouterr().err
    assert not (work / "absent").exists()
    assert main(arguments(work, "alone", *settings(), "--extend")) == 2
    assert "--resume" in capsys.readouterr().err


def test_a_run_stopped_before_its_first_checkpoint_goes_on(work: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(work / "run", run)
    for path in run.glob("*.pt"):
        path.unlink()
    words = arguments(work, "run", *settings(), "--resume")
    words[words.index("--run") + 1] = str(run)
    assert main([*words[:-1], "--set", "seed=5", "--resume"]) == 2
    assert main(words) == 0
    one, other = (
        torch.load(folder / "latest.pt", weights_only=True)["model"]
        for folder in (run, work / "run")
    )
    assert all(torch.equal(one[name], other[name]) for name in other)


def test_other_xrays_are_noticed(
    work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data"
    shutil.copytree(work / "data", data)
    text = (data / "manifest.csv").read_text()
    (data / "manifest.csv").write_text(text.replace("phantom_00001,train", "phantom_00001,test"))
    assert resumed(work, tmp_path / "run", data__root=data) == 2
    assert "of train 1 are gone (phantom_00001)" in capsys.readouterr().err
    (data / "manifest.csv").write_text(text)
    mask = data / "val" / "masks" / "phantom_00008.png"
    shutil.copy(data / "train" / "images" / "phantom_00000.jpg", mask)
    assert resumed(work, tmp_path / "run", data__root=data) == 2
    assert "of val 1 are changed (phantom_00008)" in capsys.readouterr().err


def test_what_a_run_left_out_is_not_on_the_card(work: Path, tmp_path: Path) -> None:
    fewer = settings(data__leave_out='["phantom_whole_lung"]')
    assert main(arguments(work, "fields", *fewer)) == 0
    out = tmp_path / "models"
    command = ["export", "--run", str(work / "fields"), "--version", "1", "--out", str(out)]
    assert main([*command, "--name", "fields"]) == 0
    manifest = read_manifest(out / "fields" / "1")
    assert [(d.source, d.images) for d in manifest.training_data] == [("phantom_lung_field", 4)]
    stage = manifest.training["stages"][0]
    names = [f"phantom_{number:05d}" for number in (0, 2, 4, 6)]
    assert stage["provenance"]["train"] == {"xrays": 4, "names_sha256": names_sha256(names)}
    assert stage["settings"]["data"]["leave_out"] == ["phantom_whole_lung"]
    told = json.dumps(manifest.training)
    assert "python -m training pretrain" in told and str(work) not in told
    card = (out / "fields" / "1" / "README.md").read_text()
    assert "| phantom_lung_field | `lung_field` | 4 |" in card
    assert "4 X-rays to train on (names `" in card
    beginning = json.loads((work / "fields" / "provenance.json").read_text())
    assert beginning["provenance"]["command"].endswith("'data.leave_out=[\"phantom_whole_lung\"]'")


def test_the_runs_before_are_counted_with_it(work: Path, tmp_path: Path) -> None:
    """A pretraining on all, a stage 1 on one source: the model has learned from both."""
    fewer = settings(
        data__leave_out='["phantom_whole_lung"]', adalora__warmup_steps=0, adalora__final_steps=1
    )
    base = ["--base", str(work / "run")]
    assert main(arguments(work, "stage1", *fewer, *base, stage="stage1")) == 0
    out = str(tmp_path / "models")
    common = ["--version", "1", "--out", out]
    assert main(["export", "--run", str(work / "stage1"), "--name", "both", *common]) == 0
    manifest = read_manifest(Path(out) / "both" / "1")
    assert sum(entry.images for entry in manifest.training_data) == 8
    # A stored model tells numbers only; the next one says "at least".
    stored = ["--base", str(Path(out) / "both" / "1")]
    assert main(arguments(work, "on", *fewer, *stored, stage="stage1")) == 0
    assert main(["export", "--run", str(work / "on"), "--name", "on", *common]) == 0
    manifest = read_manifest(Path(out) / "on" / "1")
    assert manifest.training["training_data"] == "at least"
    assert sum(entry.images for entry in manifest.training_data) == 8


def test_another_data_set_is_not_taken_for_its_own(
    work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_phantom_dataset(tmp_path / "other", {"train": 3, "val": 1}, 64)
    command = ["export", "--run", str(work / "run"), "--name", "a", "--version", "1",
               "--out", str(tmp_path / "models"), "--data", str(tmp_path / "other")]  # fmt: skip
    assert main(command) == 2
    assert "is not the manifest that the run was trained on" in capsys.readouterr().err
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (["--name", "../escaped"], "--name is '../escaped'; it must be"),
        (["--name", "Big"], "--name is 'Big'; it must be"),
        (["--version", "1.0"], "--version is '1.0'; it must be a whole number"),
        (["--version", "../1"], "--version is '../1'"),
        (["--float-twin", "absent/1"], "--float-twin absent/1 is not in"),
        (["--float-twin", "../a/1"], "it must be NAME/VERSION"),
    ],
)
def test_names_are_checked_before_anything_is_read(
    tmp_path: Path, change: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["export", "--run", "absent", "--name", "a", "--version", "1"]
    out = tmp_path / "models"
    assert main([*command, "--out", str(out), *change]) == 2
    assert said in capsys.readouterr().err
    assert not out.exists() and not (tmp_path / "escaped").exists()


def test_a_disk_that_fills_up_leaves_nothing(
    work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "models"
    command = ["export", "--run", str(work / "run"), "--name", "a", "--version", "1", "--out",
               str(out)]  # fmt: skip
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))  # the weights are larger
    try:
        assert main(command) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "cannot be written, nothing of it is left" in capsys.readouterr().err
    assert not out.exists()
    assert main(command) == 0
    assert sorted(path.name for path in (out / "a").iterdir()) == ["1"]
