"""Lookup tables of DICOM headers: their values, and whether they rise or fall.

Format: DICOM PS3.3, sections C.11.1 (modality), C.11.2 (VOI) and C.11.6 (softcopy presentation).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

_MOST_ENTRIES = 65_536
_SAMPLES = 64


@dataclass(frozen=True)
class LookupTable:
    """One table.

    Attributes:
        first: the input value that the first entry belongs to; lower ones get the first entry.
        entries: output values, (N,) uint16.
        bits: of an output value, 8 to 16.
    """

    first: int
    entries: NDArray[np.uint16]
    bits: int = 16

    def apply(self, values: NDArray[Any]) -> NDArray[np.uint16]:
        """Return the output of each input value."""
        places = np.clip(values.astype(np.int32) - self.first, 0, len(self.entries) - 1)
        return np.asarray(self.entries[places])

    def falls_between(self, lowest: float, highest: float) -> bool:
        """Return whether higher inputs mostly give lower outputs.

        Args:
            lowest: lower end of the inputs that matter.
            highest: upper end of them.
        """
        inputs = np.linspace(lowest, highest, _SAMPLES)
        outputs = self.apply(np.rint(inputs).astype(np.int64)).astype(np.float64)
        slope = np.dot(inputs - inputs.mean(), outputs - outputs.mean())
        return bool(slope < 0)


def read_lookup_table(
    header: Dataset, keyword: str, *, is_signed: bool, is_little_endian: bool
) -> LookupTable | None:
    """Read the first table of a sequence.

    Args:
        header: the data set that holds the sequence.
        keyword: keyword of the sequence.
        is_signed: whether the first input value may be negative.
        is_little_endian: byte order of tables that are stored as bytes.

    Returns:
        None where there is no such sequence, or it is empty.

    Raises:
        ValueError: the table contradicts its description.
    """
    sequence = header.get(keyword)
    if not sequence:
        return None
    order = "<" if is_little_endian else ">"
    descriptor = _integers(sequence[0].get("LUTDescriptor"), order, 2)
    if len(descriptor) != 3:
        raise ValueError("the table has no description")
    count, first = int(descriptor[0]) & 0xFFFF or _MOST_ENTRIES, int(descriptor[1]) & 0xFFFF
    if is_signed and first & 0x8000:
        first -= 0x10000
    data = sequence[0].get("LUTData")
    itemsize = 1 if isinstance(data, bytes) and len(data) < 2 * count else 2
    entries = _integers(data, order, itemsize)
    if len(entries) < count:
        raise ValueError("the table has fewer entries than said")
    bits = int(descriptor[2]) if 8 <= int(descriptor[2]) <= 16 else 16
    return LookupTable(first, entries[:count].astype(np.uint16), bits)


def _integers(value: Any, order: str, itemsize: int) -> NDArray[np.int64]:
    if isinstance(value, bytes):
        whole = len(value) // itemsize * itemsize
        return np.frombuffer(value[:whole], f"{order}u{itemsize}").astype(np.int64)
    if value is None:
        return np.empty(0, np.int64)
    return np.atleast_1d(np.asarray(value, np.int64))
