"""One row for each X-ray: what was found, or why there is nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow

from service.archive.inputs import ArchiveInput
from service.errors import ServiceError
from service.imaging.answer_schema import StructureMeasurements
from service.imaging.warning_advice import gravest

DONE, FAILED = "done", "failed"

_TEXT, _REAL, _WHOLE = pyarrow.string(), pyarrow.float64(), pyarrow.int64()
_MEASURED = pyarrow.struct(
    [
        pyarrow.field(name, _WHOLE if name.endswith("_px") else _REAL)
        for name in StructureMeasurements.model_fields
    ]
)
_MASK = pyarrow.struct(
    [
        ("bbox", pyarrow.list_(_REAL)),
        ("box_index", _WHOLE),
        ("structure", _TEXT),
        ("side", _TEXT),
        ("score", _REAL),
        ("confidence", _REAL),
        ("area_px", _WHOLE),
        ("area_fraction", _REAL),
        ("rle_height", _WHOLE),
        ("rle_width", _WHOLE),
        ("rle_counts", _TEXT),
        ("png_sha256", _TEXT),
        ("png_file", _TEXT),
    ]
)
_SPACING = pyarrow.struct(
    [("row_mm", _REAL), ("column_mm", _REAL), ("source", _TEXT), ("plane", _TEXT)]
)
_MEASUREMENTS = pyarrow.struct(
    [
        ("box_index", _WHOLE),
        ("spacing", _SPACING),
        ("lungs", _MEASURED),
        ("right_lung", _MEASURED),
        ("left_lung", _MEASURED),
        ("area_ratio", _REAL),
        ("asymmetry", _REAL),
    ]
)
ROW_SCHEMA = pyarrow.schema(
    [
        ("input_id", _TEXT),
        ("input", _TEXT),
        ("boxes", _TEXT),
        ("convention", _TEXT),
        ("status", _TEXT),
        ("code", _TEXT),
        ("reason", _TEXT),
        ("file_bytes", _WHOLE),
        ("format", _TEXT),
        ("width", _WHOLE),
        ("height", _WHOLE),
        ("threshold", _REAL),
        ("model_name", _TEXT),
        ("model_version", _TEXT),
        ("model_sha256", _TEXT),
        ("precision", _TEXT),
        ("device", _TEXT),
        ("severity", _TEXT),
        ("warnings", pyarrow.list_(_TEXT)),
        ("confidence", _REAL),
        ("score", _REAL),
        ("area_fraction", _REAL),
        ("masks", pyarrow.list_(_MASK)),
        ("measurements", pyarrow.list_(_MEASUREMENTS)),
        ("overlay_file", _TEXT),
        ("seg_file", _TEXT),
    ]
)
"""`code` and `reason` are those of `POST /segment`. `confidence`, `score` and `area_fraction` are
those of the least confident mask. `rle_counts` is COCO's; `png_sha256` is the hash of the mask's
PNG."""


def done_row(
    one: ArchiveInput,
    answer: Mapping[str, Any],
    masks: Sequence[Mapping[str, Any]],
    facts: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the row of an X-ray that was segmented.

    Args:
        one: the X-ray.
        answer: the JSON answer of the service.
        masks: name and digest of each mask's file, in the answer's order.
        facts: further columns.
    """
    model = answer["model"]
    found = [_mask(mask) | dict(files) for mask, files in zip(answer["masks"], masks, strict=True)]
    least_sure = min(found, key=lambda mask: float(mask["confidence"]))
    codes = [warning["code"] for warning in answer["warnings"]]
    return {
        **one.row(),
        "status": DONE,
        **answer["image"],
        "threshold": answer["threshold"],
        **{f"model_{name}": model[name] for name in ("name", "version", "sha256")},
        **{name: model[name] for name in ("precision", "device")},
        "severity": str(gravest(codes) or ""),
        "warnings": list(dict.fromkeys(codes)),
        **{name: least_sure[name] for name in ("confidence", "score", "area_fraction")},
        "masks": found,
        "measurements": answer["measurements"],
        **facts,
    }


def failed_row(one: ArchiveInput, code: str, reason: str) -> dict[str, Any]:
    """Return the row of an X-ray that could not be segmented.

    Args:
        one: the X-ray.
        code: code of a refusal of the service, or `unreadable_file`.
        reason: one sentence.
    """
    return {**one.row(), "status": FAILED, "code": code, "reason": reason}


def refused_row(one: ArchiveInput, error: ServiceError) -> dict[str, Any]:
    """Return the row of an X-ray that the service refused."""
    return failed_row(one, error.code, error.detail)


def table_of(rows: Sequence[Mapping[str, Any]]) -> pyarrow.Table:
    """Return rows as a table; missing values are null."""
    return pyarrow.Table.from_pylist([dict(row) for row in rows], schema=ROW_SCHEMA)


def _mask(mask: Mapping[str, Any]) -> dict[str, Any]:
    height, width = mask["rle"]["size"]
    return {
        **{name: mask[name] for name in ("box_index", "structure", "side", "score", "confidence")},
        "bbox": list(mask["bbox"]),
        "area_px": mask["area_px"],
        "area_fraction": mask["area_fraction"],
        "rle_height": height,
        "rle_width": width,
        "rle_counts": mask["rle"]["counts"],
    }
