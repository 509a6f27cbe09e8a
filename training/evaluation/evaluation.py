"""The whole evaluation of a stored model, with the measures that were requested."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from model_store.manifest import Manifest
from model_store.predictor import Predictor
from training.data.dataset import DataRow
from training.evaluation.box_jitter import JitterTable, score_jitter
from training.evaluation.mask_difference import MaskDifference
from training.evaluation.probability_maps import compare_maps, summarise_maps
from training.evaluation.scores import ImageScore, score_rows
from training.evaluation.statistics import EQUIVALENCE_MARGIN
from training.evaluation.tables import ComparisonTable, SummaryTable, compare_models, summarise
from training.evaluation.watching import Watch, unwatched
from training.model_card import write_manifest_and_card

POST_TRAINING = "ptq"
"""Name of the model without quantization-aware training in tables."""


@dataclass(frozen=True)
class EvaluationOptions:
    """What to measure beside Dice and IoU.

    Attributes:
        surface: NSD, HD95 and ASSD.
        similarity: SSIM of the probability maps against the float twin's.
        jitter: Dice against box jitter.
        bf16: The float twin in bfloat16.
        margin: Margin of the equivalence test, in Dice.
    """

    surface: bool = False
    similarity: bool = False
    jitter: bool = False
    bf16: bool = True
    margin: float = EQUIVALENCE_MARGIN


@dataclass(frozen=True)
class Evaluation:
    """The result of an evaluation.

    Attributes:
        label: Name of the evaluated model in tables, e.g. ``int8``.
        scores: Scores of every image, box and model.
        table: Summary of the scores.
        comparison: The model against its float twin, paired; empty without a twin.
        similarity: SSIM against the float twin per data set; empty if not measured.
        jitter: Dice against box jitter per data set; empty if not measured.
        difference: Where masks differ from the float twin's, or None if not measured.
    """

    label: str
    scores: list[ImageScore]
    table: SummaryTable
    comparison: ComparisonTable = field(default_factory=dict)
    similarity: dict[str, dict[str, Any]] = field(default_factory=dict)
    jitter: JitterTable = field(default_factory=dict)
    difference: MaskDifference | None = None


def load_float_twin(folder: Path, predictor: Predictor, device: str) -> Predictor | None:
    """Load the float twin, the model before quantization; None if the manifest names none.

    Raises:
        ArtifactError: The named twin is missing or refused.
    """
    twin = predictor.info.manifest.float_twin
    return None if twin is None else Predictor.load(folder.resolve().parent.parent / twin, device)


def evaluate(
    predictor: Predictor,
    twin: Predictor | None,
    rows: Sequence[DataRow],
    options: EvaluationOptions,
    watch: Watch = unwatched,
) -> Evaluation:
    """Measure a stored model on X-rays, and its float twin if there is one.

    Args:
        predictor: The model.
        twin: Its float twin, if any.
        rows: The X-rays.
        options: What to measure.
        watch: Shows the progress of each measurement.
    """
    label = predictor.info.precision
    scores = score_rows(predictor, label, rows, surface=options.surface, watch=watch)
    comparison: ComparisonTable = {}
    similarity: dict[str, dict[str, Any]] = {}
    difference: MaskDifference | None = None
    if twin is not None:
        scores += score_rows(twin, "fp32", rows, surface=options.surface, watch=watch)
        if options.bf16:
            with torch.autocast(twin.info.device, torch.bfloat16):
                scores += score_rows(twin, "bf16", rows, surface=options.surface, watch=watch)
        comparison = compare_models(scores, label, "fp32", options.margin)
        if options.similarity:
            input_size = int(predictor.info.manifest.architecture["input_size"])
            difference = MaskDifference()
            found = compare_maps(predictor.model, twin.model, rows, input_size, difference, watch)
            similarity = summarise_maps(found)
    return Evaluation(
        label, scores, summarise(scores), comparison, similarity,
        score_jitter(predictor, rows, watch=watch) if options.jitter else {}, difference,
    )  # fmt: skip


def store_evaluation(folder: Path, predictor: Predictor, split: str, found: Evaluation) -> None:
    """Write an evaluation into the manifest and the card of the evaluated model.

    Measures that this evaluation lacks are removed, and not kept from an older one. Results of
    other commands on as many X-rays stay: groups, and the model without training.
    """
    manifest = predictor.info.manifest
    details = {
        name: value
        for name in ("comparison", "similarity", "jitter")
        if (value := getattr(found, name))
    }
    table, before = found.table, manifest.metrics.get(split, {})
    if _counts(before) == _counts(table):
        table = _joined(table, before, (POST_TRAINING,))
        of_others = manifest.evaluation.get(split, {})
        details |= {n: of_others[n] for n in ("groups", "post_training") if n in of_others}
    changes = {
        "metrics": {**manifest.metrics, split: table},
        "evaluation": {**manifest.evaluation, split: details},
    }
    write_manifest_and_card(folder, manifest.model_copy(update=changes))


def store_post_training(
    folder: Path, manifest: Manifest, split: str, table: SummaryTable, comparison: ComparisonTable
) -> None:
    """Write the quality without quantization-aware training into manifest and card.

    Args:
        folder: The stored model.
        manifest: Manifest of the stored model.
        split: Split that was measured.
        table: The model and `POST_TRAINING` on every data set.
        comparison: The model minus `POST_TRAINING`, paired.
    """
    before = manifest.metrics.get(split, {})
    joined = _joined(before, table, (POST_TRAINING,)) if before else table
    details = {**manifest.evaluation.get(split, {}), "post_training": comparison}
    changes = {
        "metrics": {**manifest.metrics, split: joined},
        "evaluation": {**manifest.evaluation, split: details},
    }
    write_manifest_and_card(folder, manifest.model_copy(update=changes))


def _counts(table: SummaryTable) -> dict[str, int]:
    """Return the number of X-rays of each data set, which is equal for all boxes."""
    return {
        source: next(iter(next(iter(boxes.values())).values()))["dice"]["n"]
        for source, boxes in table.items()
    }


def _joined(table: SummaryTable, more: SummaryTable, models: Sequence[str]) -> SummaryTable:
    """Return a table with the lines of some models of another table added."""
    return {
        source: {
            box: own | {m: v for m, v in more.get(source, {}).get(box, {}).items() if m in models}
            for box, own in boxes.items()
        }
        for source, boxes in table.items()
    }


def evaluation_to_json(found: Evaluation) -> list[dict[str, Any]]:
    """Return the score of every image, box and model as plain data."""
    return [asdict(score) for score in found.scores]
