"""Meaning of labels: label maps use numbers, annotations use names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from training.errors import ConfigError
from training.prepare.pixels import PixelError

Part = Literal["right", "left", "lungs", "heart"]
"""The parts that labels can mean: the patient's right or left lung, both, or the heart."""

PARTS: tuple[Part, ...] = get_args(Part)

_USUAL_NAMES: Mapping[str, Part] = {
    "right": "right", "right_lung": "right", "lung_right": "right", "rl": "right",
    "left": "left", "left_lung": "left", "lung_left": "left", "ll": "left",
    "lung": "lungs", "lungs": "lungs", "both_lungs": "lungs",
    "heart": "heart", "cardiac": "heart", "cardiac_silhouette": "heart",
}  # fmt: skip


@dataclass(frozen=True)
class Labels:
    """The meaning of labels.

    Attributes:
        numbers: Parts by number in a label map.
        names: Parts by name of an annotation, lower case; usual names are built in.
    """

    numbers: Mapping[int, Part] = field(default_factory=dict)
    names: Mapping[str, Part] = field(default_factory=dict)

    def of_name(self, name: str) -> Part:
        """Return the part of an annotation of this name.

        Raises:
            PixelError: The name is unknown.
        """
        plain = name.strip().lower().replace(" ", "_").replace("-", "_")
        part = self.names.get(name.strip().lower()) or _USUAL_NAMES.get(plain)
        if part is None:
            raise PixelError(f"the label {name!r} is not known; say what it is by --labels")
        return part

    def of_map(self, values: NDArray[np.integer]) -> dict[Part, NDArray[np.bool_]]:
        """Divide a label map (H, W) into its parts; a single value other than 0 means both lungs.

        Raises:
            PixelError: A value has no meaning.
        """
        present = [int(value) for value in np.unique(values) if value != 0]
        if len(present) <= 1 and not self.numbers:
            return {"lungs": values != 0}
        unknown = [value for value in present if value not in self.numbers]
        if unknown:
            raise PixelError(
                f"the label map has the values {', '.join(map(str, present))}; say what "
                f"{unknown[0]} is, as --labels right=1,left=2,heart=3"
            )
        parts: dict[Part, NDArray[np.bool_]] = {}
        for value in present:
            part = self.numbers[value]
            mask = values == value
            parts[part] = parts[part] | mask if part in parts else mask
        return parts


def parse_labels(text: str) -> Labels:
    """Read ``right=1,left=2,heart=3`` or ``lungs=Lunge``; numbers and names may be mixed.

    Raises:
        ConfigError: A part is unknown, or an entry is not ``PART=LABEL``.
    """
    numbers: dict[int, Part] = {}
    names: dict[str, Part] = {}
    for entry in filter(None, (entry.strip() for entry in text.split(","))):
        name, separator, label = entry.partition("=")
        part = next((one for one in PARTS if one == name.strip().lower()), None)
        if not separator or part is None or not label.strip():
            raise ConfigError(
                f"--labels {entry!r} is not PART=LABEL with one of {', '.join(PARTS)}"
            )
        if label.strip().isdecimal():
            numbers[int(label)] = part
        else:
            names[label.strip().lower()] = part
    return Labels(numbers, names)


def lungs_of(parts: Mapping[Part, NDArray[np.bool_]]) -> NDArray[np.bool_]:
    """Return both lungs as one mask, bool (H, W).

    Raises:
        PixelError: One lung is annotated and the other is not.
    """
    if "lungs" not in parts and ("right" in parts) != ("left" in parts):
        missing = "left" if "right" in parts else "right"
        raise PixelError(f"the {missing} lung is not annotated")
    found = [mask for part, mask in parts.items() if part != "heart"]
    if not found:
        raise PixelError("no lung is annotated")
    together: NDArray[np.bool_] = np.logical_or.reduce(found)
    return together


def joined(found: Sequence[tuple[Part, NDArray[np.bool_]]]) -> dict[Part, NDArray[np.bool_]]:
    """Return the union of all shapes of each part."""
    parts: dict[Part, NDArray[np.bool_]] = {}
    for part, mask in found:
        parts[part] = parts[part] | mask if part in parts else mask
    return parts
