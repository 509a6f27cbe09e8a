"""The model card of a stored model, rendered from its manifest so that the two agree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from model_store.artifact import write_manifest
from model_store.manifest import Manifest

CARD_FILE = "README.md"


_LONG = (
    "ranks",
    "sensitivity",
    "provenance",
    "settings",
)
"""Facts that are too long for a line and are summarised below."""


def write_manifest_and_card(folder: Path, manifest: Manifest) -> None:
    """Write ``manifest.json`` and the card with the same content for people."""
    write_manifest(folder, manifest)
    (folder / CARD_FILE).write_text(render_card(manifest), encoding="utf-8")


def render_card(manifest: Manifest) -> str:
    """Return the card as Markdown."""
    parts = [
        f"# {manifest.name}, version {manifest.version}",
        manifest.intended_use,
        _facts(manifest),
        _quality(manifest.metrics, manifest.evaluation),
        _training(manifest),
        "## Limits\n\n" + (LIMITS if manifest.training_data else UNKNOWN_LIMITS),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def card_facts(manifest: Manifest) -> dict[str, str]:
    """Return the first facts of the card, in Markdown, by name."""
    sizes, weights = manifest.architecture, manifest.weights
    integers = list(manifest.quantization.layers.values()).count("int8")
    facts = {
        "Architecture": f"SAM `{sizes['variant']}`, {sizes['input_size']} px, width "
        f"{sizes['embed_dim']}, depth {sizes['depth']}, {sizes['num_heads']} heads",
        "Weights": f"{weights.size_bytes / 1e6:.2f} MB, "
        f"{weights.size_bytes / weights.float_size_bytes:.3f} of the same weights in float32",
        "Integers": f"{integers} of {len(manifest.quantization.layers)} layers in int8, scheme "
        f"`{manifest.quantization.scheme}`{_stored_bits(manifest)}",
        "Conventions": ", ".join(f"`{name}`" for name in manifest.conventions),
        "sha256": f"`{weights.sha256}`",
        "Licence": manifest.license,
        "Made by": f"adalora-qat {manifest.code_version}",
    }
    if manifest.float_twin is not None:
        facts["Before quantization"] = f"`{manifest.float_twin}`"
    return facts


def _stored_bits(manifest: Manifest) -> str:
    bits = manifest.quantization.weight_bits
    return f", weights stored in {bits} bits" if manifest.quantization.weight_levels else ""


def _facts(manifest: Manifest) -> str:
    lines = [f"| {name} | {value} |" for name, value in card_facts(manifest).items()]
    return "\n".join(["| | |", "|---|---|", *lines])


def _quality(metrics: dict[str, Any], evaluation: dict[str, Any]) -> str:
    sections: list[str] = []
    for split, sources in metrics.items():
        lines = [
            f"## Quality on `{split}`",
            "",
            "Per data set, in its own convention, at the image's own resolution; patients of "
            "`val` and `test` are not in `train`. `own_box` is the tight box of both lungs"
            + (
                ", `ptq` the float model rounded by GPTQ without training."
                if any("ptq" in models for boxes in sources.values() for models in boxes.values())
                else "."
            ),
            "",
            "| data set | box | model | n | Dice mean | median | 5th pc "
            "| IoU mean | median | 5th pc |",
            "|---|---|---|---|---|---|---|---|---|---|",
        ]
        for source, boxes in sources.items():
            for box, models in boxes.items():
                lines += [_quality_line(source, box, name, models[name]) for name in models]
        sections.append("\n".join(lines))
        sections += _details(split, sources, evaluation.get(split, {}))
    for split in sorted(evaluation.keys() - metrics.keys()):  # groups need no table of data sets
        sections += _details(split, {}, evaluation[split])
    return "\n\n".join(sections)


def _quality_line(source: str, box: str, model: str, measures: dict[str, Any]) -> str:
    d, i = measures["dice"], measures["iou"]
    numbers = " | ".join(
        f"{m[key]:.4f}" for m in (d, i) for key in ("mean", "median", "percentile_5")
    )
    return f"| {source} | {box} | {model} | {d['n']} | {numbers} |"


def _details(split: str, sources: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """Return the tables of optional measures."""
    parts: list[str] = []
    outlines = [
        f"| {source} | {box} | {model} | " + " | ".join(_outline_cells(measures)) + " |"
        for source, boxes in sources.items()
        for box, models in boxes.items()
        for model, measures in models.items()
        if "nsd" in measures
    ]
    if outlines:
        head = "| data set | box | model | NSD mean | 5th pc | HD95 mean | 95th pc | ASSD mean |"
        parts.append(
            "\n".join([f"### Outlines on `{split}`", "", head, "|---" * 8 + "|", *outlines])
        )
    if found.get("comparison"):
        parts.append(_comparison(f"Against FP32 on `{split}`", "FP32", found["comparison"]))
    if found.get("post_training"):
        title = f"Against the same model without training (PTQ) on `{split}`"
        parts.append(_comparison(title, "PTQ", found["post_training"]))
    if found.get("similarity"):
        parts.append(_similarity(split, found["similarity"]))
    if found.get("jitter"):
        parts.append(_jitter(split, found["jitter"]))
    if found.get("groups"):
        parts.append(render_groups(split, found["groups"]))
    return parts


def _comparison(title: str, second: str, table: Mapping[str, Any]) -> str:
    head = f"| data set | box | Dice minus {second} | Wilcoxon p | TOST p | equal within |"
    lines = [
        f"| {source} | {box} | {c['mean']:+.5f} | {c['wilcoxon_p']:.2g} | "
        f"{'-' if c['tost_p'] is None else format(c['tost_p'], '.2g')} | "
        f"{'yes' if c['equivalent'] else 'not shown'}, {c['margin']:g} |"
        for source, boxes in table.items()
        for box, c in boxes.items()
    ]
    return "\n".join([f"### {title}, paired by image", "", head, "|---" * 6 + "|", *lines])


def render_groups(split: str, lines: Sequence[Mapping[str, Any]]) -> str:
    """Return the table of groups of X-rays."""
    names = ("dice_mean", "dice_median", "dice_percentile_5", "dice_lowest", "confidence_median")
    rows = []
    for line in lines:
        cells = [f"{line[name]:.4f}" if name in line else "" for name in names]
        rows.append(
            f"| {line['group']} | {line['n']} | {' | '.join(cells)} | {line['undecided']:.1%} |"
        )
    return "\n".join(
        [
            f"### By age group, patient and view, `{split}`",
            "",
            "Whole image; a patient counts once, by the mean of the X-rays. `undecided` is the "
            "share of masks with a confidence below 0.94.",
            "",
            "| group | n | Dice mean | median | 5th pc | lowest | confidence | undecided |",
            "|---|---|---|---|---|---|---|---|",
            *rows,
        ]
    )


def _similarity(split: str, table: dict[str, dict[str, Any]]) -> str:
    lines = [
        f"| {source} | {row['ssim_whole']['mean']:.4f} | {row['ssim_whole']['percentile_5']:.4f} | "
        f"{row['ssim_band']['mean']:.4f} | {row['ssim_band']['percentile_5']:.4f} |"
        for source, row in table.items()
    ]
    head = "| data set | SSIM, whole map | 5th pc | SSIM near outlines | 5th pc |"
    title = f"### Probability maps beside FP32 on `{split}`"
    return "\n".join([title, "", head, "|---" * 5 + "|", *lines])


def _jitter(split: str, table: dict[str, dict[str, dict[str, Any]]]) -> str:
    labels = list(next(iter(table.values())))
    lines = [
        f"| {source} | "
        + " | ".join(
            f"{row[label]['mean']:.4f} ({row[label]['percentile_5']:.3f})" for label in labels
        )
        + " |"
        for source, row in table.items()
    ]
    head = "| data set | " + " | ".join(label.replace("_", " ") for label in labels) + " |"
    return "\n".join(
        [
            f"### When the box is off, on `{split}`",
            "",
            "Dice, mean (5th pc), every edge of the tight box moved by up to so much of its side.",
            "",
            head,
            "|---" * (len(labels) + 1) + "|",
            *lines,
        ]
    )


def _outline_cells(measures: dict[str, Any]) -> list[str]:
    nsd, hd95, assd = measures["nsd"], measures["hd95"], measures["assd"]
    return [
        f"{nsd['mean']:.4f}", f"{nsd['percentile_5']:.4f}", f"{hd95['mean']:.2f} {hd95['unit']}",
        f"{hd95['percentile_95']:.2f}", f"{assd['mean']:.2f}",
    ]  # fmt: skip


def _training(manifest: Manifest) -> str:
    if not manifest.training_data and not manifest.training:
        return ""
    if not manifest.training_data:
        return "\n".join(["## Trained on", "", "Not recorded here. The stages:", "",
                          *_stages(manifest)])  # fmt: skip
    lines = ["## Trained on", "", "| source | convention | images | licence |", "|---|---|---|---|"]
    lines += [
        f"| {entry.source} | `{entry.convention}` | {entry.images} | {entry.license} |"
        for entry in manifest.training_data
    ]
    if manifest.training.get("training_data") == "at least":
        lines += ["", "At least so many: the stored model that it goes on from told numbers only."]
    lines += _distributions(manifest)
    lines += ["", "`phantoms` counts drawn chest phantoms that were mixed in. The stages:", ""]
    return "\n".join([*lines, *_stages(manifest)])


def _distributions(manifest: Manifest) -> list[str]:
    """Return the distributions over the training X-rays and their masks."""
    found = manifest.training_distributions
    if not found:
        return []
    shares = list(next(iter(found.values())).quantiles)
    lines = ["", "How numbers lie over X-rays that trained, each by its own convention:", ""]
    lines += [
        "| | n | mean | deviation | " + " | ".join(f"{float(s):.0%}" for s in shares) + " |",
        "|---" * (4 + len(shares)) + "|",
    ]
    for name, one in found.items():
        cells = [f"{value:.4g}" for value in (one.mean, one.deviation, *one.quantiles.values())]
        lines.append(f"| {name} | {one.n} | {' | '.join(cells)} |")
    return lines


def _stages(manifest: Manifest) -> list[str]:
    lines: list[str] = []
    for stage in manifest.training.get("stages", ()):
        shown = ", ".join(f"{key} {value}" for key, value in stage.items() if key not in _LONG)
        lines.append(f"- {shown}")
        if "ranks" in stage:
            total = sum(sum(slices.values()) for slices in stage["ranks"].values())
            lines.append(f"  - {total} triplets kept by the rank budget, per slice in the manifest")
        if "provenance" in stage:
            lines.append(f"  - {_provenance(stage['provenance'])}")
        if "sensitivity" in stage:
            lines.append(f"  - {_sensitivity(stage['sensitivity'])}")
    return lines


def _provenance(record: dict[str, Any]) -> str:
    """Return the provenance of a stage, with abbreviated hashes."""
    train, val = record["train"], record["val"]
    code = f", commit `{record['commit'][:12]}`" if record["commit"] else ""
    command = f"; `{record['command']}`" if record["command"] else ""
    return (
        f"{train['xrays']} X-rays to train on (names `{train['names_sha256'][:12]}`), "
        f"{val['xrays']} to choose by, data set's manifest `{record['manifest_sha256'][:12]}`"
        f"{code}{command}; every setting is in the manifest"
    )


def _sensitivity(record: dict[str, Any]) -> str:
    layers = record["layers"]
    kept = sum(row["precision"] == "float" for row in layers.values())
    return (
        f"{kept} of {len(layers)} layers stay float, as each of them alone loses more than "
        f"{record['dice_margin']:g} Dice or {record['ssim_margin']:g} SSIM when it is quantized; "
        "the losses of every layer are in the manifest"
    )


LIMITS = """\
- Frontal views only. Children of 1 to 5 years and adults were trained on; older children and
  newborns were not.
- Annotators disagree: X-rays masked twice agree to a median Dice of 0.971, and the two conventions
  with each other to 0.950. Choose the convention that your downstream step was built for.
- A box means the lungs of which at least half lies inside. One whose edge cuts through a lung may
  get a mask without it, or in pieces; the service warns of most.
- Lungs hidden by dense consolidation or effusion, and gas below the diaphragm, are where masks
  go wrong most often. The service warns of masks that are implausible; a qualified reader checks.
"""

UNKNOWN_LIMITS = """\
- What X-rays it was trained on is not recorded here, so neither is where it fails. Evaluate it on
  X-rays like those that it will see before using it.
"""
