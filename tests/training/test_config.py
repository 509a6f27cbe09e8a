from pathlib import Path

import pytest

from model_store.model_index import default_float_twin_folder
from training.config import load_config
from training.errors import ConfigError

CONFIGS = sorted((Path(__file__).parents[2] / "training" / "configs").glob("*.toml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_shipped_config_is_valid(path: Path) -> None:
    assert load_config(path).stage in path.stem


@pytest.mark.parametrize("stage", ["stage1", "stage2"])
def test_the_recipes_for_own_xrays_name_nothing_that_a_hospital_does_not_have(stage: str) -> None:
    config = load_config(CONFIGS[0].parent / f"own_xrays_{stage}.toml")
    data, (teacher,) = config.data, config.teacher.models
    assert not (data.repeats or data.convention_mismatch or data.also or data.further_masks)
    assert Path(teacher).resolve() == default_float_twin_folder().resolve()
    assert (config.precision, config.compile, config.batch_size) == ("fp32", False, 4)


def write(folder: Path, text: str) -> Path:
    path = folder / "run.toml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('stage = "pretrain"', "steps"),
        ('stage = "stage9"\nsteps = 1', "stage9"),
        ('stage = "pretrain"\nsteps = 0', "steps is 0"),
        ('stage = "pretrain"\nsteps = 1\nspeed = 3', "speed"),
        ('stage = "pretrain"\nsteps = 1\n[optimizer]\nlearning_rat = 1', "learning_rat"),
        ('stage = "pretrain"\nsteps = 1\n[data]\nrepeats = {a = 0}', "repeats"),
        ('stage = "pretrain"\nsteps = 1\n[model]\nvariant = "vit_x"', "vit_x"),
        ('stage = "pretrain"\nsteps = "many"', "run.toml"),
        ('stage = "pretrain"\nsteps = 1\n[data]\nfolds = 2\nwithout_fold = 2', "without_fold is 2"),
        ('stage = "pretrain"\nsteps = 1\n[data]\nwithout_fold = 0', "leaves nothing"),
        ("stage = ", "not TOML"),
    ],
)
def test_a_wrong_setting_is_named(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load_config(write(tmp_path, text))


def test_single_settings_can_be_replaced(tmp_path: Path) -> None:
    path = write(tmp_path, 'stage = "pretrain"\nsteps = 5\n[data]\nroot = "a"')
    config = load_config(path, {"data.root": "b", "optimizer.learning_rate": 0.5, "steps": 7})
    assert (config.data.root, config.optimizer.learning_rate, config.steps) == ("b", 0.5, 7)


def test_a_renamed_setting_is_read_by_its_former_name_with_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(
        tmp_path, 'stage = "pretrain"\nsteps = 5\n[data]\nroot = "a"\ndrawn_otherwise = ["a.csv"]'
    )
    warning = "warning: data.drawn_otherwise is now called data.convention_mismatch\n"
    assert load_config(path).data.convention_mismatch == ("a.csv",)
    assert capsys.readouterr().err == warning
    for name in ("data.drawn_otherwise", "data.convention_mismatch"):
        assert load_config(path, {name: ["b.csv"]}).data.convention_mismatch == ("b.csv",)
    with path.open("a") as file:
        file.write('\nconvention_mismatch = ["b.csv"]')
    with pytest.raises(ConfigError, match=r"is the former name of data\.convention_mismatch"):
        load_config(path)
