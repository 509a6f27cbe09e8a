"""The page of an acceptance: verdict, margins, intervals by patient, worst masks."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources

from jinja2 import Environment, StrictUndefined

from model_store.predictor import PredictionRequest, Predictor
from training.data.dataset import DataRow, load_xray
from training.evaluation.acceptance import Finding, Margins
from training.evaluation.scores import ImageScore, prompt_boxes
from training.model_card import card_facts
from training.report.figures import jpeg_address
from training.report.overlays import Example, overlay

TEMPLATE = "acceptance.html.jinja"

WORST = 6
"""Number of worst masks with pictures."""


def verdict_of(findings: Sequence[Finding]) -> str:
    """Return ``pass`` if every margin is met with both kinds of box, otherwise ``fail``."""
    return "pass" if all(finding.passes for finding in findings) else "fail"


def render_acceptance(
    predictor: Predictor,
    rows: Sequence[DataRow],
    scores: Sequence[ImageScore],
    findings: Sequence[Finding],
    margins: Margins,
) -> str:
    """Return the page as self-contained HTML."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    text = resources.files("training.report").joinpath(TEMPLATE).read_text(encoding="utf-8")
    facts = {name: value.replace("`", "") for name, value in
             card_facts(predictor.info.manifest).items()}  # fmt: skip
    return environment.from_string(text).render(
        name=f"{predictor.info.name} {predictor.info.version}",
        verdict=verdict_of(findings),
        xrays=len(rows),
        conventions=" and ".join(sorted({row.convention for row in rows})),
        findings=findings,
        margins=margins,
        worst=_worst(predictor, rows, scores),
        facts=facts,
    )


def _worst(
    predictor: Predictor, rows: Sequence[DataRow], scores: Sequence[ImageScore]
) -> list[Example]:
    own = sorted((s for s in scores if s.box == "own_box"), key=lambda s: (s.dice, s.name))
    by_name = {row.name: row for row in rows}
    examples = []
    for score in own[:WORST]:
        xray = load_xray(by_name[score.name])
        request = PredictionRequest(xray.image, (prompt_boxes(xray)[0],), xray.convention)
        mask = predictor.predict(request).masks[0].mask
        examples.append(Example("worst", xray.name, score.dice, jpeg_address(overlay(xray, mask))))
    return examples
