"""`python -m service.drift_report AUDIT_LOG`: do X-rays of this week differ from earlier ones?

    python -m service.drift_report /audit [--days 7] [--until 2027-01-31] [--key ct-room]

It reads the audit log, so it needs no Prometheus and covers restarts. The earlier time is three
times as long as the period. The log has no age, sex, view and device of an X-ray, so these cannot
be compared. Exit codes: 0 nothing differs, 1 something differs, 2 nothing to read.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from model_store.artifact import ArtifactError, read_manifest
from model_store.manifest import Manifest
from model_store.model_index import default_model_folder
from service.audit.chain import AuditError, entries_of
from service.drift_comparison import (
    LEAST_XRAYS,
    MOST_OUTSIDE,
    MOST_SHIFT,
    Compared,
    Period,
    compared,
)
from service.imaging.segment_request import DEFAULT_THRESHOLD
from service.imaging.warning_advice import Severity, gravest
from service.trained_range import WARNED, trained_ranges

EXIT_DIFFERS, EXIT_UNREADABLE = 1, 2
PERIODS_BEFORE = 3
NAMES = {
    "grey_level": "grey level",
    "pixels": "pixels",
    "confidence": "confidence",
    "area_ratio": "share that is lung",
    WARNED: "warned of (look, refuse)",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the report.

    Args:
        arguments: without the program's name; `sys.argv`'s when None.

    Returns:
        The exit code.
    """
    flags = _parser().parse_args(arguments)
    try:
        manifest = read_manifest(flags.model)
        report = _Report(manifest, flags.until, timedelta(days=flags.days))
        for entry in _answers(flags.log, flags.key):
            report.take(entry)
    except (AuditError, ArtifactError) as error:
        print(error, file=sys.stderr)
        return EXIT_UNREADABLE
    if not report.now.answers:
        print("The audit log holds no answer of this model in these days.", file=sys.stderr)
        return EXIT_UNREADABLE
    lines = compared(report.now, report.before, trained_ranges(manifest.training_distributions))
    print("\n".join(report.text(lines)))
    return EXIT_DIFFERS if any(_differences(lines)) else 0


class _Report:
    """Answers of one model, by day."""

    def __init__(self, manifest: Manifest, until: datetime, length: timedelta) -> None:
        """Start empty.

        Args:
            manifest: manifest of the model.
            until: end of the period.
            length: length of the period.
        """
        self._manifest = manifest
        self._until, self._since = until, until - length
        self._before_since = self._since - PERIODS_BEFORE * length
        self._others = self._unmeasured = 0
        self.now, self.before = Period(), Period()

    def take(self, entry: dict[str, Any]) -> None:
        """Add an answered request, if its day and model belong to the report."""
        moment = datetime.fromisoformat(entry["time"])
        if not self._before_since <= moment < self._until:
            return
        if entry["model_sha256"] != self._manifest.weights.sha256:
            self._others += 1
            return
        self._unmeasured += entry.get("image") is None
        is_whole_image = not entry["boxes"] or bool(entry.get("clip"))
        period = self.now if moment >= self._since else self.before
        period.take(
            entry,
            is_warned=gravest(entry["warnings"]) in (Severity.LOOK, Severity.REFUSE),
            is_whole_image=is_whole_image and entry["threshold"] == DEFAULT_THRESHOLD,
        )

    def text(self, lines: Sequence[Compared]) -> Iterator[str]:
        """Yield the lines of the report, in Markdown."""
        model = f"{self._manifest.name} {self._manifest.version}"
        yield f"# X-rays from {_day(self._since)} to {_day(self._until)}, {model}"
        yield f"\n{self.now.answers} answers; {self.before.answers} in the time before, from "
        yield f"{_day(self._before_since)} on.\n"
        yield "| number | X-rays | median | before | training | outside training | moved |"
        yield "|---|---|---|---|---|---|---|"
        for one in lines:
            medians = (one.median, one.median_before, one.median_trained)
            cells = [_number(value) for value in (*medians, one.outside, one.shift)]
            yield f"| {NAMES[one.name]} | {one.count} | {' | '.join(cells)} |"
        yield f"\nWarned of is a share. It differs above {MOST_OUTSIDE:g} outside, or moved by more"
        yield f"than {MOST_SHIFT:g}; with fewer than {LEAST_XRAYS} X-rays nothing is said.\n"
        yield from _warning_table(self.now, self.before)
        yield from self._lacks()
        found = list(_differences(lines))
        yield "\n" + ("\n".join(found) if found else "Nothing differs.")

    def _lacks(self) -> Iterator[str]:
        yield "\nNot compared, as the log does not hold it: age, sex, view and device."
        if self._others:
            yield f"{self._others} answers are of other models (--model FOLDER)."
        if self._unmeasured:
            yield f"{self._unmeasured} answers have no size and grey level: an older log."
        if not self._manifest.training_distributions:
            yield "The model's manifest does not say what trained it."


def _warning_table(now: Period, before: Period) -> Iterator[str]:
    yield "| warning | share of answers | before |"
    yield "|---|---|---|"
    for code in sorted(now.warnings | before.warnings):
        shares = (
            period.warnings[code] / period.answers if period.answers else None
            for period in (now, before)
        )
        yield f"| {code} | {' | '.join(map(_number, shares))} |"


def _differences(lines: Sequence[Compared]) -> Iterator[str]:
    for one in lines:
        if one.differs_from_training:
            beyond = "of the answers" if one.name == WARNED else "lie outside of what trained"
            yield f"DIFFERS: {NAMES[one.name]}: {one.outside:.0%} {beyond}."
        if one.differs_from_before:
            yield f"DIFFERS: {NAMES[one.name]}: moved by {one.shift:.2f} against the time before."


def _answers(log: Path, key: str | None) -> Iterator[dict[str, Any]]:
    files = sorted(log.glob("*.jsonl")) if log.is_dir() else [log]
    if not files:
        raise AuditError(f"There is no audit log in {log}.")
    for path in files:
        for entry in entries_of(path):
            is_answer = entry.get("event") == "segment" and entry.get("outcome") == "answered"
            if is_answer and key in (None, entry.get("key")):
                yield entry


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f}" if value >= 1000 else f"{value:.3g}"


def _day(moment: datetime) -> str:
    return moment.date().isoformat()


def _moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _days(text: str) -> float:
    days = float(text)
    if not 0 < days <= 3650:
        raise ValueError
    return days


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m service.drift_report",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("log", type=Path, help="folder of the audit log, or a file of it")
    parser.add_argument("--days", type=_days, default=7.0, help="length of the period")
    parser.add_argument(
        "--until", type=_moment, default=datetime.now(UTC), help="its end, a day or a time (UTC)"
    )
    parser.add_argument("--key", help="only X-rays sent with the API key of this name")
    parser.add_argument(
        "--model", type=Path, default=default_model_folder(), help="folder of the model served"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
