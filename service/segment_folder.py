"""Segment many X-ray files with one model: `segment_file` on folders, globs and several paths.

It writes a table with one row for each file, failures included: result, warnings and measurements.
A file that fails does not stop the others.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from service.imaging.warning_advice import gravest

TABLE_NAME = "results.csv"
_GLOB_LETTERS = frozenset("*?[")
_STRUCTURE_COLUMNS = ("area_px", "area_mm2", "height_mm", "width_mm", "grey_mean", "grey_sd")
_STRUCTURES = ("lungs", "right_lung", "left_lung", "heart")
COLUMNS = (
    *("file", "status", "error", "width", "height", "convention", "score", "confidence"),
    *("severity", "warnings", "area_fraction", "area_ratio", "asymmetry"),
    *(f"{structure}_{column}" for structure in _STRUCTURES for column in _STRUCTURE_COLUMNS),
    *("cardiothoracic_ratio", "projection"),
    *("spacing_source", "mask_file", "overlay_file"),
)

SegmentOne = Callable[[argparse.Namespace], dict[str, Any]]


def is_many(paths: Sequence[Path]) -> bool:
    """Return whether paths name more than one file: several, a folder, or a pattern."""
    return len(paths) != 1 or paths[0].is_dir() or _is_pattern(paths[0])


def files_of(paths: Sequence[Path]) -> list[Path]:
    """Return the files of all paths, each once, sorted within each path.

    Args:
        paths: files, folders (searched to any depth, hidden files left out) and patterns such as
            `xrays/**/*.dcm`.
    """
    found = [file for path in paths for file in _files_below(path)]
    return list(dict.fromkeys(found))


def segment_files(
    flags: argparse.Namespace, files: Sequence[Path], segment_one: SegmentOne
) -> dict[str, Any]:
    """Segment files one after another and write the table beside the masks.

    Args:
        flags: flags of the command; `output_mask_path` gives the folder and the kind of masks.
        files: the X-rays.
        segment_one: segments one file by its flags, or raises.

    Returns:
        Numbers of files and failures, and the path of the table.

    Raises:
        OSError: the table cannot be written.
    """
    folder: Path = flags.output_mask_path.parent
    folder.mkdir(parents=True, exist_ok=True)
    table_path = folder / TABLE_NAME
    failures = 0
    with table_path.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, COLUMNS)
        table.writeheader()
        for number, (path, name) in enumerate(zip(files, _names(files), strict=True), start=1):
            own = {
                "image_path": path,
                "output_mask_path": folder / f"{name}_mask{flags.output_mask_path.suffix}",
                "result_name": name,
            }
            try:
                row = _row_of(segment_one(argparse.Namespace(**{**vars(flags), **own})))
            except Exception as failure:  # the border of one file: the others are still segmented
                failures += 1
                row = {"status": "failed", "error": " ".join(str(failure).split())}
            table.writerow({"file": str(path), **row})
            file.flush()
            _say_progress(number, len(files), failures)
    return {"files": len(files), "failed": failures, "table": str(table_path)}


def _files_below(path: Path) -> Iterator[Path]:
    if path.is_dir():
        below = sorted(path.rglob("*"))
        yield from (
            one
            for one in below
            if one.is_file() and not any(part[0] == "." for part in one.relative_to(path).parts)
        )
    elif _is_pattern(path) and not path.exists():
        root = Path(path.anchor) if path.is_absolute() else Path()
        pattern = str(path.relative_to(path.anchor) if path.is_absolute() else path)
        matching = (one for one in sorted(root.glob(pattern)) if one.is_file())
        yield from (one for one in matching if one.name[0] != ".")
    else:
        yield path  # a missing file becomes a row that says so


def _is_pattern(path: Path) -> bool:
    return not path.exists() and bool(_GLOB_LETTERS & set(str(path)))


def _names(files: Sequence[Path]) -> list[str]:
    """Return the prefix of each file's results; files of equal names get a number."""
    totals = Counter(file.stem for file in files)
    met: Counter[str] = Counter()
    names = []
    for file in files:
        met[file.stem] += 1
        number = f"_{met[file.stem]}" if totals[file.stem] > 1 else ""
        names.append(f"{file.stem}{number}")
    return names


def _row_of(result: Mapping[str, Any]) -> dict[str, Any]:
    measured, files = result["measurements"], result["files"]
    codes = [one["code"] for one in result["warnings"]]
    row = {
        "status": "done",
        **result["image"],
        **{name: result[name] for name in ("convention", "score", "confidence")},
        "severity": str(gravest(codes) or ""),
        "warnings": " ".join(codes),
        "area_fraction": result["area_fraction"],
        **{name: measured[name] for name in ("area_ratio", "asymmetry")},
        "spacing_source": (measured["spacing"] or {}).get("source"),
        "mask_file": files.get("mask"),
        "overlay_file": files.get("overlay"),
    }
    ratio = measured["cardiothoracic"] or {}
    row |= {"cardiothoracic_ratio": ratio.get("ratio"), "projection": ratio.get("projection")}
    for structure in _STRUCTURES:
        found = measured[structure] or {}
        row |= {f"{structure}_{column}": found.get(column) for column in _STRUCTURE_COLUMNS}
    return row


def _say_progress(done: int, total: int, failures: int) -> None:
    """Show a bar on a terminal; elsewhere print every hundredth file."""
    text = f"{done} of {total} files, {failures} failed"
    if sys.stderr.isatty():
        filled = 30 * done // total
        end = "\n" if done == total else ""
        print(f"\r[{'#' * filled}{'.' * (30 - filled)}] {text}", end=end, file=sys.stderr)
    elif done % 100 == 0 or done == total:
        print(f"segment_file: {text}", file=sys.stderr)
