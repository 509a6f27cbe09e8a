"""Learning from a finished model: what it says, what that weighs, and that a student follows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from model_store.conventions import Convention, token_of
from tests.tiny_models import make_tiny_config, make_tiny_model
from training.checkpoint import load_checkpoint, save_checkpoint
from training.config import TeacherConfig, load_config
from training.errors import CheckpointError, ConfigError
from training.export import write_deployed
from training.losses import LossWeights
from training.phantom.dataset import write_phantom_dataset
from training.run.assembly import prepare_run
from training.run.loop import TrainingLoop
from training.run.teacher import Teacher
from training.stages.base import load_base
from training.stages.lineage import lineage_of

CONFIG = Path(__file__).parents[2] / "training" / "configs" / "miniature_pretrain.toml"
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("teacher") / "data"
    write_phantom_dataset(folder, {"train": 6, "val": 2}, longest_side=96)
    return folder


def make_loop(data: Path, folder: Path, resume: bool = False, **changes: Any) -> TrainingLoop:
    settings = {"data.root": str(data), "data.workers": 0, "steps": 2, "batch_size": 2}
    named = {name.replace("__", "."): value for name, value in changes.items()}
    config = load_config(CONFIG, {**settings, **named})
    return prepare_run(config, None, folder, resume=resume, device=CPU)


Settings = dict[str, Any]
FOLDS = torch.tensor([1, 0, 0])


def question() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    pixels = torch.randn(2, 1, 64, 64, generator=torch.Generator().manual_seed(5))
    boxes = torch.tensor([[4.0, 4.0, 60.0, 60.0], [0.0, 0.0, 64.0, 64.0], [8.0, 2.0, 30.0, 50.0]])
    return pixels, boxes, torch.tensor([0, 1, 1])


def test_the_teacher_is_the_mean_of_its_models() -> None:
    one, two = make_tiny_model(1), make_tiny_model(2)
    teacher = Teacher([one, two], 0.5, LossWeights(), compiled=False)
    masks = teacher.masks(*question(), FOLDS)
    with torch.no_grad():
        wanted = (one(*question())[0].sigmoid() + two(*question())[0].sigmoid()) / 2
    assert torch.allclose(masks, wanted)
    assert not any(parameter.requires_grad for parameter in one.parameters())


def test_each_model_teaches_what_it_never_saw() -> None:
    one, two = make_tiny_model(1), make_tiny_model(2)
    teacher = Teacher([one, two], 0.5, LossWeights(), compiled=False, held_out=True)
    masks = teacher.masks(*question(), FOLDS)
    with torch.no_grad():
        of_one, of_two = (model(*question())[0].sigmoid() for model in (one, two))
    assert torch.equal(masks[0], of_two[0]) and torch.equal(masks[1:], of_one[1:])


def test_each_convention_has_its_own_teachers() -> None:
    models = [make_tiny_model(seed) for seed in (1, 2, 3)]
    conventions: tuple[Convention, ...] = ("whole_lung", "lung_field", "lung_field")
    teacher = Teacher(models, 0.5, LossWeights(), compiled=False, conventions=conventions)
    masks = teacher.masks(*question(), FOLDS)
    with torch.no_grad():
        one, two, three = (model(*question())[0].sigmoid() for model in models)
    field, whole = token_of("lung_field"), token_of("whole_lung")
    assert torch.equal(masks[:, whole], one[:, whole])
    assert torch.allclose(masks[:, field], (two[:, field] + three[:, field]) / 2)


@pytest.mark.parametrize(
    ("conventions", "held_out", "message"),
    [
        (("lung_field",), False, "must name one for each of the 2 models"),
        (("lung_field", "lung_field"), False, "each of lung_field, whole_lung at least once"),
        (("lung_field", "heart"), False, "each entry one of lung_field, whole_lung"),
        (("lung_field", "whole_lung"), True, "leave teacher.conventions empty"),
    ],
)
def test_conventions_without_a_teacher_are_refused(
    conventions: Any, held_out: bool, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        TeacherConfig(("a", "b"), conventions, held_out=held_out)


def test_the_lineage_says_who_teaches_which_convention(data: Path, tmp_path: Path) -> None:
    for name in ("fields", "wholes"):
        make_loop(data, tmp_path / name, seed=7).run()
    models = [str(tmp_path / name) for name in ("fields", "wholes")]
    taught: Settings = {
        "teacher__models": models,
        "teacher__conventions": ["lung_field", "whole_lung"],
    }
    make_loop(data, tmp_path / "student", **taught).run()
    (own,) = load_base(tmp_path / "student").lineage
    assert own["teachers_teach"] == ["lung_field", "whole_lung"]


def test_nothing_is_lower_than_the_loss_of_the_teacher_itself() -> None:
    teacher = Teacher([make_tiny_model(1)], 0.5, LossWeights(), compiled=False)
    taught = teacher.masks(*question(), FOLDS)
    tokens = torch.zeros(len(taught), dtype=torch.int64)
    itself = teacher.loss(torch.logit(taught), taught, tokens)
    other = torch.logit(taught) + 0.3
    assert itself < teacher.loss(other, taught, tokens)
    assert itself < teacher.loss(-torch.logit(taught), taught, tokens)


def test_a_teacher_of_the_annotated_convention_says_nothing_of_the_other() -> None:
    teacher = Teacher([make_tiny_model(1)], 0.5, LossWeights(), False, annotated_only=True)
    taught = teacher.masks(*question(), FOLDS)
    tokens = torch.arange(len(taught)) % 2
    logits = torch.logit(taught)
    before = teacher.loss(logits, taught, tokens)
    rows = torch.arange(len(taught))
    logits[rows, 1 - tokens] += 5
    assert torch.equal(teacher.loss(logits, taught, tokens), before)
    logits[rows, tokens] += 5
    assert teacher.loss(logits, taught, tokens) > before


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_the_share_divides_the_loss(share: float) -> None:
    teacher = Teacher([make_tiny_model(1)], share, LossWeights(), compiled=False)
    joined = teacher.joined(torch.tensor(2.0), torch.tensor(10.0))
    assert joined.item() == pytest.approx(2.0 * (1 - share) + 10.0 * share)


@pytest.mark.parametrize("side_of_the_teacher", [64, 128])
def test_a_student_comes_nearer_to_its_teacher(
    data: Path, tmp_path: Path, side_of_the_teacher: int
) -> None:
    make_loop(data, tmp_path / "teacher", seed=7, model__input_size=side_of_the_teacher).run()
    taught: Settings = {
        "teacher__models": [str(tmp_path / "teacher")],
        "teacher__share": 1.0,
        "steps": 30,
    }
    loop = make_loop(data, tmp_path / "student", **taught)
    batch = loop._run.source.batch(0)

    def distance() -> float:
        loss, terms = loop.training_step._forward(batch)
        assert loss.item() == pytest.approx(terms["imitation"].item(), rel=1e-5)
        return loss.item()

    before = distance()
    loop.run()
    assert distance() < before


def test_the_lineage_names_the_teachers(data: Path, tmp_path: Path) -> None:
    make_loop(data, tmp_path / "teacher", seed=7).run()
    taught: Settings = {
        "teacher__models": [str(tmp_path / "teacher")],
        "teacher__share": 0.25,
    }
    make_loop(data, tmp_path / "student", **taught).run()
    (alone,), (own,) = (load_base(tmp_path / run).lineage for run in ("teacher", "student"))
    assert (own["teachers"], own["teacher_share"]) == (["teacher"], 0.25)
    assert "teachers" not in alone


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ("/home/someone/runs/teacher_a", "teacher_a"),
        ("model_store/models/some-model-float/2", "some-model-float/2"),
        ("/home/someone/runs/teacher_a/latest.pt", "teacher_a/latest.pt"),
    ],
)
def test_a_teacher_is_named_so_that_it_can_be_told_from_others(
    data: Path, tmp_path: Path, path: str, shown: str
) -> None:
    make_loop(data, tmp_path / "run").run()
    state = load_checkpoint(tmp_path / "run" / "latest.pt")
    state["config"]["teacher"] = {"models": [path], "share": 0.5}
    assert lineage_of(state)[-1]["teachers"] == [shown]


def test_the_lineage_says_who_never_saw_what(data: Path, tmp_path: Path) -> None:
    for fold in range(2):
        folds: Settings = {"data__folds": 2, "data__without_fold": fold}
        make_loop(data, tmp_path / f"teacher_{fold}", batch_size=1, **folds).run()
    models = [str(tmp_path / f"teacher_{fold}") for fold in range(2)]
    taught: Settings = {
        "data__folds": 2,
        "teacher__models": models,
        "teacher__held_out": True,
    }
    make_loop(data, tmp_path / "student", **taught).run()
    (alone,), (own,) = (load_base(tmp_path / run).lineage for run in ("teacher_1", "student"))
    assert alone["without_fold"] == "1 of 2" and "without_fold" not in own
    assert own["teachers_teach"] == "what they never saw" and "teachers_teach" not in alone


def test_a_teacher_that_saw_its_fold_is_refused(data: Path, tmp_path: Path) -> None:
    for fold in range(2):
        folds: Settings = {"data__folds": 2, "data__without_fold": fold}
        make_loop(data, tmp_path / f"teacher_{fold}", batch_size=1, **folds).run()
    turned = [str(tmp_path / f"teacher_{fold}") for fold in (1, 0)]
    taught: Settings = {
        "data__folds": 2,
        "teacher__models": turned,
        "teacher__held_out": True,
    }
    with pytest.raises(ConfigError, match=r"teacher_1 was not trained without fold 0 of 2"):
        make_loop(data, tmp_path / "student", **taught)


def test_a_model_for_each_fold_is_needed(data: Path, tmp_path: Path) -> None:
    taught: Settings = {
        "data__folds": 3,
        "teacher__models": ["a", "b"],
        "teacher__held_out": True,
    }
    with pytest.raises(
        ConfigError, match=r"held_out needs a model for each of data.folds 3, not 2"
    ):
        make_loop(data, tmp_path / "student", **taught)


def test_a_resumed_run_is_taught_as_if_it_had_never_stopped(data: Path, tmp_path: Path) -> None:
    make_loop(data, tmp_path / "teacher", seed=7).run()
    taught: Settings = {"teacher__models": [str(tmp_path / "teacher")], "steps": 3}
    whole = make_loop(data, tmp_path / "whole", **taught)
    whole.run()
    stopped = make_loop(data, tmp_path / "stopped", **taught)
    assert stopped.run(lambda: stopped.step == 2) is None
    resumed = make_loop(data, tmp_path / "stopped", resume=True, **taught)
    assert resumed.step == 2
    resumed.run()
    assert resumed.weights_sha256() == whole.weights_sha256()
    with pytest.raises(CheckpointError, match="nowhere"):
        make_loop(data, tmp_path / "stopped", True, **{**taught, "teacher__models": ["nowhere"]})
    make_loop(data, tmp_path / "other", seed=8).run()
    other = {**taught, "teacher__models": [str(tmp_path / "other")]}
    with pytest.raises(CheckpointError, match="with the teachers that the run was begun with"):
        make_loop(data, tmp_path / "stopped", True, **other)


def test_a_missing_teacher_is_refused_before_anything_is_written(
    data: Path, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match="nowhere"):
        make_loop(data, tmp_path / "student", teacher__models=["nowhere"])
    assert not (tmp_path / "student").exists()


def test_a_teacher_of_one_convention_is_refused(data: Path, tmp_path: Path) -> None:
    """Its other mask token never learned anything that could be taught."""
    folder = write_deployed(
        make_tiny_model(), make_tiny_config(), tmp_path, name="one", version="1",
        conventions=("lung_field",),
    ).folder  # fmt: skip
    with pytest.raises(ConfigError, match=r"one/1 does not know whole_lung"):
        make_loop(data, tmp_path / "student", teacher__models=[str(folder)])


def test_a_teacher_of_another_structure_is_refused(data: Path, tmp_path: Path) -> None:
    make_loop(data, tmp_path / "teacher").run()
    state = load_checkpoint(tmp_path / "teacher" / "best.pt")
    state["config"]["data"]["structure"] = "infection"
    save_checkpoint(tmp_path / "teacher", "best.pt", state)
    with pytest.raises(ConfigError, match=r"teacher knows infection; this run learns lungs"):
        make_loop(data, tmp_path / "student", teacher__models=[str(tmp_path / "teacher")])


def test_the_people_are_not_heard_with_a_share_of_one(data: Path, tmp_path: Path) -> None:
    make_loop(data, tmp_path / "teacher", seed=7).run()
    taught: Settings = {"teacher__models": [str(tmp_path / "teacher")], "teacher__share": 1.0}
    loop = make_loop(data, tmp_path / "student", **taught)
    batch = loop._run.source.batch(0)
    inverted = type(batch)(**{**vars(batch), "target": 1 - batch.target})
    assert (
        loop.training_step._forward(batch)[0].item()
        == loop.training_step._forward(inverted)[0].item()
    )


def test_a_teacher_sees_the_xray_and_the_boxes_at_its_own_input_size() -> None:
    own, larger = make_tiny_model(1), make_tiny_model(2, input_size=128)
    pixels, boxes, image_index = question()
    teacher = Teacher([own, larger], 0.5, LossWeights(), compiled=False)
    with torch.no_grad():
        fine = functional.interpolate(pixels, (128, 128), mode="bilinear", antialias=True)
        masks = larger(fine, 2 * boxes, image_index)[0].sigmoid()
        shrunk = functional.interpolate(masks, (16, 16), mode="bilinear", antialias=True)
        wanted = (own(*question())[0].sigmoid() + shrunk) / 2
    assert torch.allclose(teacher.masks(*question(), FOLDS), wanted)


def test_a_teacher_that_takes_pixels_otherwise_is_refused(data: Path, tmp_path: Path) -> None:
    make_loop(data, tmp_path / "teacher", model__pixel_mean=[100.0]).run()
    with pytest.raises(ConfigError, match=r"takes .*100.*this run's model "):
        make_loop(data, tmp_path / "student", teacher__models=[str(tmp_path / "teacher")])


def test_a_share_outside_its_range_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"teacher.share is 1.5"):
        TeacherConfig(share=1.5)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # dynamo looks at one
def test_compiled_parts_compute_the_same(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compile_module, compiled, graphs = nn.Module.compile, [], []

    def without_a_c_compiler(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Any:
        graphs.append(graph)
        return torch._dynamo.lookup_backend("aot_eager")(graph, inputs)

    def compile_without_a_c_compiler(self: nn.Module, **settings: Any) -> None:
        compiled.append(type(self).__name__)
        compile_module(self, backend=without_a_c_compiler, **settings)

    monkeypatch.setattr(nn.Module, "compile", compile_without_a_c_compiler)
    plain = make_loop(data, tmp_path / "plain", steps=1)
    fused = make_loop(data, tmp_path / "fused", steps=1, compile=True)
    assert compiled == ["Block", "Block", "TwoWayTransformer", "Sequential"]
    batch = plain._run.source.batch(0)
    plain.train_step(batch)
    fused.train_step(batch)
    for (name, one), two in zip(
        plain.stage.model.named_parameters(), fused.stage.model.parameters(), strict=True
    ):
        if one.grad is not None:
            assert two.grad is not None, name
            assert torch.allclose(one.grad, two.grad, rtol=1e-3, atol=1e-5), name
    trained_with = len(graphs)
    assert trained_with >= 3  # a block, the transformer, the upscaling
    scores, wanted = fused.validate(), plain.validate()
    assert len(graphs) == trained_with  # validation, of other shapes, compiles nothing
    assert scores.own_box == pytest.approx(wanted.own_box, abs=1e-3)
