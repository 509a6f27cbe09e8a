"""The service's warnings about single pictures, stored in a file so that a run can continue."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from service.imaging.warning_advice import advice_on

POOR_DICE = 0.7
SEVERITIES = ("none", "info", "look", "refuse")


@dataclass(frozen=True)
class Judged:
    """One picture: its row, its warnings, and the quality of its mask."""

    group: str
    kind: str
    codes: tuple[str, ...]
    confidence: float
    score: float
    dice: float | None = None
    right_codes: tuple[str, ...] = ()

    @property
    def is_named_right(self) -> bool:
        """Whether a warning names the picture's fault."""
        return not set(self.codes).isdisjoint(self.right_codes)

    @property
    def severity(self) -> str:
        """The gravest severity of the warnings."""
        found = [str(advice_on(code).severity) for code in self.codes]
        return max(found, key=SEVERITIES.index, default="none")

    @property
    def is_poor(self) -> bool:
        """Whether the mask differs from the human mask."""
        return self.dice is not None and self.dice < POOR_DICE


class Record:
    """Judged pictures by name; each new one is appended to a file at once."""

    def __init__(self, path: Path | None) -> None:
        """Read the file; None stores nothing."""
        self._path = path
        self._known: dict[str, Judged] = {}
        if path is not None and path.is_file():
            for line in path.read_text(encoding="utf-8").splitlines():
                name, fields = json.loads(line)
                for key in ("codes", "right_codes"):
                    fields[key] = tuple(fields[key])
                self._known[name] = Judged(**fields)

    def judged(self, name: str, judge: Callable[[], Judged]) -> Judged:
        """Return the stored judgement of a picture, or judge it now."""
        if name not in self._known:
            self._known[name] = judge()
            if self._path is not None:
                with self._path.open("a", encoding="utf-8") as file:
                    file.write(json.dumps([name, dataclasses.asdict(self._known[name])]) + "\n")
        return self._known[name]
