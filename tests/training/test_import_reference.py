"""The reference's checkpoint: the same masks in our model, and every odd file refused by name."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from model_store.architecture import SAM_BOX_SHIFT_PX, VARIANTS, SamConfig, build_sam
from model_store.predictor import PredictionRequest, Predictor
from model_store.sam import PromptableSam
from model_store.self_test import run_self_test
from tests.reference_checkpoint import ALPHA, SIZES, TARGET_RANK, make_reference, save_reference
from training.__main__ import main
from training.errors import CheckpointError
from training.phantom import draw_phantom
from training.reference.checkpoint import load_reference
from training.reference.deployment import swap_first_tokens
from training.reference.names import hugging_face_name

RANKS = ["--alpha", str(ALPHA), "--target-rank", str(TARGET_RANK)]


@pytest.fixture(autouse=True)
def _small_variant(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(VARIANTS, "vit_small", SIZES)


def masks_of_both(path: Path, seed: int) -> tuple[torch.Tensor, torch.Tensor, PromptableSam]:
    """Logits of all mask tokens (N, 4, 16, 16) by the reference and by ours."""
    reference = make_reference(seed)
    ours = load_reference(save_reference(reference, path), ALPHA, TARGET_RANK).model
    torch.manual_seed(seed)
    pixels = torch.randn(2, 3, 64, 64)
    boxes = torch.tensor([[4.0, 6.0, 60.0, 50.0], [10.0, 0.0, 40.0, 64.0]])
    with torch.no_grad():
        arguments = {"pixel_values": pixels, "input_boxes": boxes[:, None]}
        several = reference.sam(**arguments, multimask_output=True).pred_masks[:, 0]
        single = reference.sam(**arguments, multimask_output=False).pred_masks[:, 0]
        got, _ = ours(pixels, boxes, torch.arange(2))
    return torch.cat([single, several], dim=1), got, ours


@pytest.mark.parametrize("seed", range(3))
def test_masks_are_those_of_the_reference(tmp_path: Path, seed: int) -> None:
    wanted, got, _ = masks_of_both(tmp_path / "best.pth", seed)
    assert wanted.shape == got.shape == (2, 4, 16, 16)
    assert float(wanted.std()) > 0.1  # something is drawn
    torch.testing.assert_close(got, wanted, atol=5e-5 * float(wanted.abs().max()), rtol=0)


def test_adapters_masks_and_rounding_matter(tmp_path: Path) -> None:
    """Without each of them the masks would differ by far more than the tolerance."""
    reference = make_reference()
    path = save_reference(reference, tmp_path / "best.pth")
    ours = load_reference(path, ALPHA, TARGET_RANK).model
    pixels, boxes = torch.randn(1, 3, 64, 64), torch.tensor([[4.0, 6.0, 60.0, 50.0]])
    with torch.no_grad():
        right, _ = ours(pixels, boxes, torch.arange(1))
        tolerance = 5e-5 * float(right.abs().max())
        other_scale, _ = load_reference(path, ALPHA, 2).model(pixels, boxes, torch.arange(1))
        assert float((other_scale - right).abs().max()) > 10 * tolerance
        unmasked = {
            name: torch.ones_like(value)
            for name, value in reference.state_dict().items()
            if ".mask_" in name and "Lambda" not in name and value.dtype == torch.bool
        }
        changed = save_reference(reference, tmp_path / "unmasked.pth", **unmasked)
        all_triplets = load_reference(changed, ALPHA, TARGET_RANK)
        assert all_triplets.facts["triplets_kept"] == 2 * 3 * 6
        masks, _ = all_triplets.model(pixels, boxes, torch.arange(1))
        assert float((masks - right).abs().max()) > 10 * tolerance
    weight = ours.mask_decoder.transformer.layers[0].mlp.lin1.weight
    assert len(torch.unique(weight)) <= 255
    raw = reference.sam.mask_decoder.transformer.layers[0].mlp.lin1
    assert torch.allclose(weight, raw.quant_weight().value) and not torch.equal(weight, raw.weight)


def test_the_command_stores_models_that_load_and_predict(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = save_reference(make_reference(), tmp_path / "best_model_stage2_int8.pth")
    command = ["import-reference", str(path), "--out", str(tmp_path / "models"), *RANKS]
    assert main([*command, "--name", "ref", "--calibrate", "3"]) == 0
    assert capsys.readouterr().out.count("Dice of its golden mask") == 2
    image = draw_phantom(3, (90, 80)).image
    for name, precision in (("ref-float", "fp32"), ("ref", "int8")):
        folder = tmp_path / "models" / name / "1"
        predictor = Predictor.load(folder, "cpu")
        assert predictor.info.precision == precision
        assert run_self_test(predictor, folder).passed
        mask = predictor.predict(PredictionRequest(image, (), "lung_field")).masks[0].mask
        assert mask.shape == image.shape
        with pytest.raises(ValueError, match="this model knows lung_field only"):
            predictor.predict(PredictionRequest(image, (), "whole_lung"))
        manifest = predictor.info.manifest
        stage = manifest.training["stages"][0]
        assert stage["file"] == path.name and stage["val_dice"] == 0.956
        assert stage["triplets_kept"] == 2 * 3 * TARGET_RANK and len(stage["sha256"]) == 64
        assert manifest.license.startswith("not stated")
        card = (folder / "README.md").read_text()
        assert "What X-rays it was trained on is not recorded" in card and "imported" in card
    assert main([*command, "--name", "ref"]) == 2
    assert "never changes" in capsys.readouterr().err


def test_it_is_evaluated_on_the_convention_that_it_knows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = save_reference(make_reference(), tmp_path / "best.pth")
    assert main(["phantoms", "--out", str(tmp_path / "data"), "--train", "4", "--val", "2",
                 "--test", "0"]) == 0  # fmt: skip
    data = ["--data", str(tmp_path / "data")]
    assert main(["import-reference", str(path), "--out", str(tmp_path), *RANKS, "--name", "ref",
                 "--calibrate", "2", *data]) == 0  # fmt: skip
    capsys.readouterr()
    model = ["--model", str(tmp_path / "ref" / "1"), "--device", "cpu"]
    assert main(["evaluate", *model, *data, "--split", "val"]) == 0
    table = capsys.readouterr().out
    assert "phantom_lung_field" in table and "phantom_whole_lung" not in table
    manifest = tmp_path / "data" / "manifest.csv"
    kept = [line for line in manifest.read_text().splitlines() if "lung_field" not in line]
    manifest.write_text("\n".join(kept) + "\n")
    again = ["import-reference", str(path), "--out", str(tmp_path / "again"), *RANKS]
    for refused in (["evaluate", *model, *data, "--split", "val"], [*again, *data]):
        assert main(refused) == 2
        assert "no mask follows lung_field" in capsys.readouterr().err


def test_the_float_model_draws_what_the_reference_draws(tmp_path: Path) -> None:
    """Through the stored file, float32, by the engine that serves it, with the same boxes."""
    reference = make_reference()
    path = save_reference(reference, tmp_path / "best.pth")
    command = ["import-reference", str(path), "--out", str(tmp_path), *RANKS, "--name", "ref"]
    assert main([*command, "--calibrate", "2"]) == 0
    predictor = Predictor.load(tmp_path / "ref-float" / "1", "cpu")
    stored, manifest = predictor.model, predictor.info.manifest
    assert manifest.architecture["box_shift_px"] == SAM_BOX_SHIFT_PX == 0.5
    pixels, boxes = torch.randn(1, 3, 64, 64), torch.tensor([[[4.0, 6.0, 60.0, 50.0]]])
    with torch.no_grad():
        wanted = reference.sam(pixel_values=pixels, input_boxes=boxes, multimask_output=False)
        got, _ = stored(pixels, boxes[0], torch.arange(1))
        plain = dataclasses.replace(SamConfig.from_dict(manifest.architecture), box_shift_px=0.0)
        other = build_sam(plain).eval()
        other.load_state_dict(stored.state_dict())
        without, _ = other(pixels, boxes[0], torch.arange(1))
    logits = wanted.pred_masks[0, 0, 0]
    tolerance = 5e-5 * float(logits.abs().max())
    assert float((got[0, 0] - logits).abs().max()) < tolerance
    assert float((without[0, 0] - logits).abs().max()) > 10 * tolerance  # without SAM's half pixel


def test_the_convention_can_be_named(tmp_path: Path) -> None:
    path = save_reference(make_reference(), tmp_path / "best.pth")
    for convention in ("lung_field", "whole_lung"):
        command = ["import-reference", str(path), "--out", str(tmp_path / convention), *RANKS]
        assert main([*command, "--calibrate", "2", "--convention", convention]) == 0
    image = draw_phantom(4, (64, 64)).image
    masks = []
    for convention in ("lung_field", "whole_lung"):
        folder = tmp_path / convention / "reference-vit-b-float" / "1"
        predictor = Predictor.load(folder, "cpu")
        assert tuple(predictor.info.manifest.conventions) == (convention,)
        assert run_self_test(predictor, folder).passed
        request = PredictionRequest(image, (), convention)  # type: ignore[arg-type]
        masks.append(predictor.predict(request).masks[0].mask)
    assert np.mean(masks[0] == masks[1]) > 0.999


def test_swapping_tokens_changes_no_mask(tmp_path: Path) -> None:
    _, before, model = masks_of_both(tmp_path / "best.pth", 1)
    swap_first_tokens(model)
    torch.manual_seed(1)
    pixels = torch.randn(2, 3, 64, 64)
    boxes = torch.tensor([[4.0, 6.0, 60.0, 50.0], [10.0, 0.0, 40.0, 64.0]])
    with torch.no_grad():
        after, _ = model(pixels, boxes, torch.arange(2))
    torch.testing.assert_close(after[:, [1, 0, 2, 3]], before, atol=1e-4, rtol=1e-4)


QKV = "sam.vision_encoder.layers.0.attn.qkv"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({f"{QKV}.qkv.weight": None}, f"lacks the entry '{QKV}.qkv.weight'"),
        ({f"{QKV}.Lambda_v": None}, f"lacks the entry '{QKV}.Lambda_v'"),
        ({f"{QKV}.mask_k": None}, f"lacks the entry '{QKV}.mask_k'"),
        ({f"{QKV}.qat_mode": None}, f"lacks the entry '{QKV}.qat_mode'"),
        ({"sam.mask_decoder.iou_token.weight": None}, "sam.mask_decoder.iou_token.weight"),
        ({"sam.vision_encoder.pos_embed": None}, "lacks the entry 'sam.vision_encoder.pos_embed'"),
        ({"sam.extra.weight": torch.ones(1)}, "unknown entries: sam.extra.weight"),
        ({"adalora_modules.9.P_q": torch.ones(1)}, "unknown entries: adalora_modules.9.P_q"),
        ({"adalora_modules.0.odd": torch.ones(1)}, "unknown entries: adalora_modules.0.odd"),
        ({"adalora_modules.0.P_q": torch.ones(32, 6)}, "adalora_modules.0.P_q differs from sam."),
        ({"sam.prompt_encoder.shared_embedding.positional_embedding": torch.ones(2, 16)},
         "shared_embedding.positional_embedding differs from"),
        ({f"{QKV}.P_q": torch.ones(32, 5)}, f"{QKV}.P_q has shape (32, 5), not (32, 6)"),
        ({f"{QKV}.qkv.bias": torch.full((96,), torch.nan)}, "numbers that are not finite"),
        ({"sam.vision_encoder.pos_embed": torch.ones(1, 5, 5, 40)}, "not a known variant"),
        ({"sam.vision_encoder.neck.conv1.weight": "text"}, "conv1.weight is no tensor"),
    ],
)  # fmt: skip
def test_odd_files_are_refused_by_name(
    changes: dict[str, object], said: str, tmp_path: Path
) -> None:
    path = save_reference(make_reference(), tmp_path / "odd.pth", **changes)
    with pytest.raises(CheckpointError) as refusal:
        load_reference(path, ALPHA, TARGET_RANK)
    assert said in str(refusal.value) and str(path) in str(refusal.value)


def test_other_files_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class Harmful:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return print, ("must not run",)

    path = tmp_path / "file.pth"
    command = ["import-reference", str(path), "--out", str(tmp_path)]
    for content in (Harmful(), {"weights": 1}, [1], {"model_state_dict": Harmful()}):
        torch.save(content, path)
        assert main(command) == 2
        captured = capsys.readouterr()
        assert "must not run" not in captured.out and str(path) in captured.err
    path.write_bytes(b"no checkpoint")
    assert main(command) == 2
    path.unlink()
    assert main(command) == 2
    assert "No such file" in capsys.readouterr().err
    assert main([*command, "--target-rank", "0"]) == 2


def test_every_name_has_its_own(tmp_path: Path) -> None:
    model = load_reference(
        save_reference(make_reference(), tmp_path / "x.pth"), ALPHA, TARGET_RANK
    ).model
    names = [hugging_face_name(name) for name in model.state_dict()]
    assert len(set(names)) == len(names)
