"""The claims of the reference, the figures of this repository, and how far they are comparable.

The reference is arXiv 2604.01167. Figures of the stored model come from its manifest, where
`python -m training evaluate --full --store` wrote them. The rounding error is computed from its
float twin; parameters are counted. The output is a table in Markdown.

    python -m benchmarks.quality.reference_claims
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from model_store.architecture import sam_config
from model_store.artifact import load_model, read_manifest
from model_store.manifest import Manifest
from model_store.model_index import MODELS_FOLDER, default_model_folder
from training.config import load_config
from training.quantization.weight_error import compare_weights, error_in_steps, moments
from training.stages.parameter_count import count_parameters

CONFIGS = Path(__file__).parents[2] / "training" / "configs"


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; return 0."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quality.reference_claims")
    parser.add_argument("--model", type=Path, default=default_model_folder())
    parser.add_argument("--split", default="test", help="split that the manifest has figures of")
    options = parser.parse_args(arguments)
    manifest = read_manifest(options.model)
    print(f"{manifest.name}/{manifest.version}, `{options.split}`\n")
    print("| the reference | here | comparable? |\n|---|---|---|")
    for row in (
        _dice_row(manifest, options.split),
        _size_row(manifest),
        _parameter_row(),
        _test_row(manifest, options.split),
        _error_row(options.model, manifest),
        _similarity_row(manifest, options.split),
    ):
        print(f"| {' | '.join(row)} |")
    return 0


def _dice_row(manifest: Manifest, split: str) -> tuple[str, str, str]:
    means = {
        box: ", ".join(
            f"{source} {_mean(boxes[box])}" for source, boxes in manifest.metrics[split].items()
        )
        for box in ("whole_image", "own_box")
    }
    return (
        "95.6 % Dice, reported on 64,590 X-rays",
        f"whole image as the box: {means['whole_image']}. Box taken from the true mask: "
        f"{means['own_box']}",
        "No: other X-rays and other annotators. A box taken from the true mask tells where the "
        "lungs end, so it is not what a caller without one gets",
    )


def _mean(models: dict[str, Any]) -> str:
    return f"{models['int8']['dice']['mean']:.4f}"


def _size_row(manifest: Manifest) -> tuple[str, str, str]:
    weights = manifest.weights
    ratio = weights.float_size_bytes / weights.size_bytes
    return (
        "2.24x smaller; on its disk weights are floats, rounded whenever they run",
        f"{ratio:.2f}x: {weights.size_bytes / 1e6:.2f} MB on disk against "
        f"{weights.float_size_bytes / 1e6:.2f} MB of the same weights in float32",
        "In part: the same denominator, FP32 weights; ours is the file that is executed",
    )


def _parameter_row() -> tuple[str, str, str]:
    config = load_config(CONFIGS / "sam_vit_b_stage1.toml")
    count = count_parameters(config, sam_config("vit_b"))
    return (
        "5.4 M parameters train, 16.6x fewer",
        f"{count.trainable / 1e6:.2f} M of `vit_b` "
        f"({count.base_encoder / count.trainable:.1f}x fewer than its image encoder, "
        f"{count.base / count.trainable:.1f}x fewer than all of it)",
        "Yes for `vit_b`, counted at AdaLoRA's initial rank. The served model is another, compact "
        "one, all of whose weights were trained first",
    )


def _test_row(manifest: Manifest, split: str) -> tuple[str, str, str]:
    rows = [
        (f"{source}, {box.replace('_', ' ')}", found)
        for source, boxes in manifest.evaluation[split]["comparison"].items()
        for box, found in boxes.items()
    ]
    differ = [f"{n} ({c['mean']:+.5f}, p {c['wilcoxon_p']:.2g})" for n, c in rows
              if c["wilcoxon_p"] < 0.05]  # fmt: skip
    equal = sum(c["equivalent"] for _, c in rows)
    margins = {c["margin"] for _, c in rows}
    margin = ", ".join(f"{one:g}" for one in sorted(margins))
    named = f": {'; '.join(differ)}" if differ else ""
    both = (
        "Both are said here: a difference is there, and it is smaller than the margin"
        if differ
        else "Here none is found, and equality within the margin is shown apart from that"
    )
    return (
        "INT8 does not differ from FP32 (Wilcoxon)",
        f"INT8 differs in {len(differ)} of {len(rows)} comparisons{named}. "
        f"The difference is within {margin} Dice (TOST, p < 0.05) in {equal} of {len(rows)}",
        f"In part: a test that finds nothing shows no equality. {both}",
    )


def _error_row(folder: Path, manifest: Manifest) -> tuple[str, str, str]:
    claim = "weight errors described by a Gaussian"
    why = "Rounding alone is uniform: SD 0.289 steps, excess kurtosis -1.2. A Gaussian has 0"
    if manifest.float_twin is None or not (MODELS_FOLDER / manifest.float_twin).is_dir():
        return claim, "the float twin is not here", why
    stored, twin = load_model(folder)[0], load_model(MODELS_FOLDER / manifest.float_twin)[0]
    layers = compare_weights(stored, twin)
    found = moments(error_in_steps(layers, rounding_alone=True))
    return (
        claim,
        f"rounding of the float twin: SD {found.sd:.3f} steps, excess kurtosis "
        f"{found.kurtosis:+.2f}, skew {found.skew:+.3f}",
        why,
    )


def _similarity_row(manifest: Manifest, split: str) -> tuple[str, str, str]:
    table = manifest.evaluation[split].get("similarity", {})
    shown = ", ".join(
        f"{source} {row['ssim_whole']['mean']:.4f} ({row['ssim_band']['mean']:.4f})"
        for source, row in table.items()
    )
    return (
        "SSIM of INT8 against FP32",
        f"of probability maps, whole (within 8 px of an outline): {shown or 'not measured'}",
        "In part: the whole map is mostly background that agrees; the band is what differs",
    )


if __name__ == "__main__":
    sys.exit(main())
