"""The page at the end of a run: counts, warnings, distributions, and the least confident X-rays.

It is one HTML file beside the results that loads nothing from elsewhere. The rows are read part by
part, so it takes as little memory for a million X-rays as for ten.
"""

from __future__ import annotations

import heapq
import html
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from service.archive.inputs import ArchiveInput
from service.archive.parts import ResultFolder
from service.archive.rows import DONE
from service.imaging.warning_advice import advice_on

PAGE_NAME, FIGURES_NAME = "summary.html", "summary.json"
BINS = 40
_COLUMNS = (
    *("input_id", "input", "boxes", "convention", "status", "code", "severity", "warnings"),
    *("confidence", "area_fraction", "model_name", "model_version", "model_sha256", "precision"),
    "device",
)
_MODEL = ("model_name", "model_version", "model_sha256", "precision", "device")


@dataclass
class Figures:
    """Counts over all rows.

    Attributes:
        statuses: rows by status.
        failures: failed rows by code.
        severities: done rows by the gravest severity of their warnings.
        warnings: rows by warning.
        conventions: rows by convention.
        models: rows by model, precision and device.
        confidence: done rows by bin of confidence, 0 to 1.
        area: done rows by bin of area fraction, 0 to 1.
        least_sure: the rows of lowest confidence, lowest first.
    """

    statuses: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    severities: Counter[str] = field(default_factory=Counter)
    warnings: Counter[str] = field(default_factory=Counter)
    conventions: Counter[str] = field(default_factory=Counter)
    models: Counter[str] = field(default_factory=Counter)
    confidence: list[int] = field(default_factory=lambda: [0] * BINS)
    area: list[int] = field(default_factory=lambda: [0] * BINS)
    least_sure: list[Mapping[str, Any]] = field(default_factory=list)


def write_summary(
    folder: ResultFolder,
    most_shown: int,
    with_overlays: Callable[[Sequence[ArchiveInput]], ResultFolder],
) -> dict[str, Any]:
    """Write the page and its figures as JSON.

    Args:
        folder: where the run wrote its rows.
        most_shown: X-rays on the contact sheet.
        with_overlays: makes overlays of X-rays and returns the folder with their rows.

    Returns:
        Numbers of X-rays done and failed, and the page's address.
    """
    figures = figures_of(folder, most_shown)
    overlays: dict[str, str] = {}
    if figures.least_sure:
        least = [_input_of(row) for row in figures.least_sure]
        sheet = with_overlays(least)
        prefix = sheet.location.path.rsplit("/", 1)[-1]
        for table in sheet.tables(["input_id", "overlay_file"]):
            overlays |= {
                row["input_id"]: f"{prefix}/{row['overlay_file']}"
                for row in table.to_pylist()
                if row["overlay_file"]
            }
    page = folder.location.below(PAGE_NAME)
    page.write(page_of(figures, overlays).encode())
    told = {
        "xrays": figures.statuses.total(),
        "done": figures.statuses[DONE],
        "failed": figures.failures.total(),
        "failures": dict(figures.failures),
        "warnings": dict(figures.warnings),
        "severities": dict(figures.severities),
    }
    folder.location.below(FIGURES_NAME).write(json.dumps(told, indent=1).encode())
    return {name: told[name] for name in ("xrays", "done", "failed")} | {"page": page.address}


def figures_of(folder: ResultFolder, most_shown: int) -> Figures:
    """Count over all rows, one part in memory at a time."""
    figures = Figures()
    least: list[tuple[float, str, Mapping[str, Any]]] = []
    for table in folder.tables(_COLUMNS):
        for row in table.to_pylist():
            _count(figures, row)
            if row["status"] != DONE:
                continue
            entry = (-row["confidence"], row["input_id"], row)
            if len(least) < most_shown:
                heapq.heappush(least, entry)
            elif least:
                heapq.heappushpop(least, entry)
    figures.least_sure = [row for _, _, row in sorted(least, reverse=True)]
    return figures


def _count(figures: Figures, row: Mapping[str, Any]) -> None:
    figures.statuses[row["status"]] += 1
    figures.conventions[row["convention"]] += 1
    if row["status"] != DONE:
        figures.failures[row["code"]] += 1
        return
    figures.severities[row["severity"] or "none"] += 1
    figures.warnings.update(row["warnings"])
    name, version, sha256, precision, device = (row[column] for column in _MODEL)
    figures.models[f"{name} {version} ({sha256[:12]}), {precision} on {device}"] += 1
    figures.confidence[_bin(row["confidence"])] += 1
    figures.area[_bin(row["area_fraction"])] += 1


def _bin(share: float) -> int:
    return min(BINS - 1, max(0, int(share * BINS)))


def _input_of(row: Mapping[str, Any]) -> ArchiveInput:
    return ArchiveInput(row["input"], row["boxes"], row["convention"])


def page_of(figures: Figures, overlays: Mapping[str, str]) -> str:
    """Return the page.

    Args:
        figures: what was counted.
        overlays: by id of an X-ray, path of its overlay relative to the page.
    """
    total = figures.statuses.total()
    cards = "".join(
        f'<div class="card"><b>{count:,}</b>{html.escape(name)}</div>'
        for name, count in (
            ("X-rays", total),
            ("segmented", figures.statuses[DONE]),
            ("failed", figures.failures.total()),
            ("to be looked at", figures.severities["look"]),
            ("not to be used", figures.severities["refuse"]),
        )
    )
    remarks = {code: str(advice_on(code).severity) for code in figures.warnings}
    tables = "".join(
        (
            _table("Warnings", figures.warnings, total, remarks),
            _table("Failures", figures.failures, total, {}),
            _table("Conventions", figures.conventions, total, {}),
            _table("Models", figures.models, total, {}),
        )
    )
    charts = _chart("Confidence", figures.confidence) + _chart("Share of lung", figures.area)
    sheet = "".join(_shown(row, overlays) for row in figures.least_sure)
    return _PAGE.format(cards=cards, tables=tables, charts=charts, sheet=sheet)


def _table(title: str, counts: Counter[str], total: int, remarks: Mapping[str, str]) -> str:
    if not counts:
        return f"<section><h2>{title}</h2><p>None.</p></section>"
    lines = "".join(
        f"<tr><td>{html.escape(name)}</td><td>{html.escape(remarks.get(name, ''))}</td>"
        f"<td>{count:,}</td><td>{100 * count / total:.1f} %</td></tr>"
        for name, count in counts.most_common()
    )
    return f"<section><h2>{title}</h2><table>{lines}</table></section>"


def _chart(title: str, bins: Sequence[int]) -> str:
    """Return a histogram from 0 to 1 as SVG."""
    width, height, most = 400, 120, max(max(bins), 1)
    step = width / len(bins)
    bars = "".join(
        f'<rect x="{index * step:.1f}" y="{height - height * count / most:.1f}" '
        f'width="{step - 1:.1f}" height="{height * count / most:.1f}">'
        f"<title>{index / len(bins):.3f} to {(index + 1) / len(bins):.3f}: {count:,}</title></rect>"
        for index, count in enumerate(bins)
    )
    ticks = "".join(
        f'<text x="{share * width:.0f}" y="{height + 16}" text-anchor="{anchor}">{share:g}</text>'
        for share, anchor in ((0, "start"), (0.25, "middle"), (0.5, "middle"), (0.75, "middle"))
    )
    end = f'<text x="{width}" y="{height + 16}" text-anchor="end">1</text>'
    box = f'viewBox="0 -2 {width} {height + 22}" role="img" aria-label="{title}"'
    axis = f'<line x1="0" y1="{height}" x2="{width}" y2="{height}"/>'
    return (
        f"<section><h2>{title}</h2><p>Highest bar: {max(bins):,} X-rays</p>"
        f"<svg {box}>{bars}{axis}{ticks}{end}</svg></section>"
    )


def _shown(row: Mapping[str, Any], overlays: Mapping[str, str]) -> str:
    name = html.escape(row["input"])
    place = overlays.get(row["input_id"])
    picture = (
        f'<a href="{html.escape(place)}"><img loading="lazy" src="{html.escape(place)}" alt=""></a>'
        if place
        else ""
    )
    said = html.escape(", ".join(row["warnings"]) or "no warning")
    return (
        f"<figure>{picture}<figcaption><b>{row['confidence']:.3f}</b> {said}"
        f"<br><small>{name}</small></figcaption></figure>"
    )


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Archive: lungs segmented</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
:root {{ color-scheme: light dark; --ink: #1b2530; --soft: #5b6875; --paper: #f6f8fa;
  --card: #fff; --line: #d8dee4; --bar: #2a7f9e; }}
@media (prefers-color-scheme: dark) {{ :root {{ --ink: #e6edf3; --soft: #9aa7b4;
  --paper: #10151b; --card: #1a212a; --line: #303a45; --bar: #55b4d4; }} }}
* {{ box-sizing: border-box; }}
body {{ margin: 0 auto; padding: 24px; max-width: 1200px; background: var(--paper);
  color: var(--ink); font: 15px/1.45 system-ui, sans-serif; }}
h1 {{ font-size: 24px; margin: 0 0 4px; }} h2 {{ font-size: 16px; margin: 0 0 8px; }}
p, small, td:nth-child(2) {{ color: var(--soft); margin: 0 0 8px; }}
.row {{ display: grid; gap: 16px; margin-top: 16px;
  grid-template-columns: repeat(auto-fit, minmax(320px, 1fr)); }}
.cards {{ grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); }}
.card, section, figure {{ background: var(--card); border: 1px solid var(--line);
  border-radius: 8px; padding: 14px; margin: 0; overflow-wrap: anywhere; }}
.card b {{ display: block; font-size: 26px; }}
table {{ border-collapse: collapse; width: 100%; }}
td {{ padding: 3px 6px; border-top: 1px solid var(--line); }}
td:nth-child(n+3) {{ text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }}
svg {{ width: 100%; }} rect {{ fill: var(--bar); }} line {{ stroke: var(--line); }}
text {{ fill: var(--soft); font-size: 12px; }}
.sheet {{ grid-template-columns: repeat(auto-fill, minmax(200px, 1fr)); }}
figure {{ padding: 8px; }} figure img {{ width: 100%; aspect-ratio: 1; object-fit: contain;
  background: #000; border-radius: 4px; display: block; margin-bottom: 6px; }}
</style></head><body>
<h1>Lungs segmented</h1>
<p>Decision support: a person must look at every mask that is used.</p>
<div class="row cards">{cards}</div>
<div class="row">{charts}</div>
<div class="row">{tables}</div>
<h2 style="margin-top:24px">The least sure</h2>
<p>Lowest confidence first; the overlay opens in full size.</p>
<div class="row sheet">{sheet}</div>
</body></html>
"""
