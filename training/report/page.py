"""The report as one HTML file: measurements, plots and card."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib import resources
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup, escape

from training.adapters.rank_map import draw_rank_map
from training.data.dataset import DataRow
from training.evaluation.box_jitter import DRAWS, jitter_labels
from training.evaluation.evaluation import Evaluation
from training.evaluation.similarity import BAND_PX
from training.evaluation.surface import REFERENCE_SIDE, TOLERANCE
from training.evaluation.text import format_interval
from training.model_card import LIMITS, card_facts
from training.quantization.activation_error import activation_noise
from training.quantization.weight_error import (
    LayerWeights,
    compare_weights,
    correlation,
    error_in_steps,
    moments,
)
from training.report import quality_plots, quantization_plots
from training.report.figures import png_address, svg_address
from training.report.learning_curves import draw_learning_curves
from training.report.overlays import draw_examples
from training.report.sensitivity_plot import draw_sensitivity, sensitivity_record
from training.report.subject import Subject

ACTIVATION_XRAYS = 8
"""Number of X-rays for comparing the output of every layer in both models."""

TEMPLATE = "report.html.jinja"


def render_report(subject: Subject, rows: Sequence[DataRow], split: str, found: Evaluation) -> str:
    """Return the report as HTML without external addresses.

    Args:
        subject: The model, its float twin and its run.
        rows: The measured X-rays.
        split: `train`, `val` or `test`, as named in the report.
        found: Statistics over these rows.
    """
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    environment.filters["interval"] = format_interval
    environment.filters["code"] = _code
    text = resources.files("training.report").joinpath(TEMPLATE).read_text(encoding="utf-8")
    curves = draw_learning_curves(subject.run) if subject.run is not None else None
    return environment.from_string(text).render(
        subject=subject,
        manifest=subject.manifest,
        facts=card_facts(subject.manifest),
        limits=[" ".join(item.split()) for item in LIMITS.removeprefix("- ").split("\n- ")],
        split=split,
        count=len(rows),
        found=found,
        paired="fp32" in {s.model for s in found.scores if s.model != found.label},
        tolerance=TOLERANCE,
        reference_side=REFERENCE_SIDE,
        band_px=BAND_PX,
        draws=DRAWS,
        jitters=jitter_labels() if found.jitter else [],
        examples=draw_examples(subject.predictor, rows, found),
        plots=_quality_plots(found),
        quantization=_quantization(subject, rows, found),
        sensitivity=_sensitivity(subject),
        ranks=_rank_map(subject),
        curves=None if curves is None else svg_address(curves),
    )


def _quality_plots(found: Evaluation) -> dict[str, str]:
    plots = {"dice": svg_address(quality_plots.draw_dice_per_image(found))}
    if found.comparison:
        figure = quality_plots.draw_paired_differences(found, _margin(found))
        plots["paired"] = svg_address(figure)
    if found.jitter:
        plots["jitter"] = svg_address(quality_plots.draw_jitter(found.jitter))
    return plots


def _margin(found: Evaluation) -> float:
    first = next(iter(found.comparison.values()))
    return float(next(iter(first.values()))["margin"])


def _quantization(
    subject: Subject, rows: Sequence[DataRow], found: Evaluation
) -> dict[str, Any] | None:
    """Return tables and plots of the quantization error; None for a float model."""
    if subject.twin is None:
        return None
    layers = compare_weights(subject.predictor.model, subject.twin.model)
    if not layers:
        return None
    chosen = rows[:: max(1, len(rows) // ACTIVATION_XRAYS)][:ACTIVATION_XRAYS]
    noise = activation_noise(
        subject.predictor.model, subject.twin.model, chosen,
        int(subject.manifest.architecture["input_size"]),
    )  # fmt: skip
    plots = {
        "scatter": png_address(quantization_plots.draw_weight_scatter(layers)),
        "histograms": svg_address(quantization_plots.draw_error_histograms(layers)),
        "magnitude": svg_address(quantization_plots.draw_error_by_magnitude(layers)),
        "snr": svg_address(quantization_plots.draw_layer_snr(layers, noise)),
    }
    if found.difference is not None:
        plots["map"] = png_address(quantization_plots.draw_difference_map(found.difference))
        distance = quantization_plots.draw_difference_by_distance(found.difference)
        plots["distance"] = svg_address(distance)
    return {
        "plots": plots,
        "moments": _moments(layers),
        "correlation": correlation(layers),
        "weights": sum(len(x.floating) for x in layers),
        "xrays": len(chosen),
        "layers": [
            {"name": x.name, "stored": x.stored_snr_db, "rounded": x.rounded_snr_db,
             "own": noise[x.name].own_snr_db, "running": noise[x.name].running_snr_db}
            for x in layers
        ],
    }  # fmt: skip


def _moments(layers: list[LayerWeights]) -> dict[str, Mapping[str, float]]:
    return {
        "as stored": asdict(moments(error_in_steps(layers))),
        "rounding alone": asdict(moments(error_in_steps(layers, rounding_alone=True))),
    }


def _sensitivity(subject: Subject) -> dict[str, Any] | None:
    record = sensitivity_record(subject.manifest)
    if record is None:
        return None
    kept = [name for name, row in record["layers"].items() if row["precision"] == "float"]
    return {**record, "kept": kept, "plot": svg_address(draw_sensitivity(record))}


def _rank_map(subject: Subject) -> str | None:
    for stage in reversed(subject.manifest.training.get("stages", ())):
        if "ranks" in stage:
            return svg_address(draw_rank_map(stage["ranks"], stage.get("initial_rank")))
    return None


def _code(text: str) -> Markup:
    """Convert the backticks of a card's Markdown to ``<code>``; escape everything else."""
    parts = str(escape(text)).split("`")
    return Markup("").join(
        Markup(f"<code>{part}</code>" if place % 2 else part)  # escaped above
        for place, part in enumerate(parts)
    )
