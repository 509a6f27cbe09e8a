"""The severity of each warning, and what to do about it.

One table serves all answers, so a program can gate on `severity` alone and needs no new release
when a code is added. Severities were set by masks of known quality:
`python -m benchmarks.quality.gating` prints how many poor and good masks get each code.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from service.imaging.response_warnings import WarningCode


class Severity(StrEnum):
    """How grave a warning is, from the least to the most."""

    INFO = "info"
    """Picture or mask was changed, without harm to the mask."""
    LOOK = "look"
    """The mask may be wrong: a person must look at it before it is used."""
    REFUSE = "refuse"
    """The mask must not be used: it or the picture is not of the kind that the model was made
    for."""


@dataclass(frozen=True)
class Advice:
    """What to do about one kind of warning.

    Attributes:
        severity: how grave it is.
        action: what to do, one imperative sentence.
    """

    severity: Severity
    action: str


_NOTHING = "Nothing needs to be done."
_LOOK = "Look at the mask before it is used."
_OTHER_BOX = "Look at the mask, and move the box so that no edge cuts through a lung."
_OTHER_PICTURE = "Do not use the mask; send a frontal chest X-ray."
_NO_USE = "Do not use the mask; annotate this X-ray by hand."

ADVICE: Mapping[WarningCode, Advice] = MappingProxyType(
    {
        WarningCode.COLOUR_TO_GREY: Advice(Severity.INFO, _NOTHING),
        WarningCode.ALPHA_COMPOSITED: Advice(Severity.INFO, _NOTHING),
        WarningCode.ORIENTATION_APPLIED: Advice(Severity.INFO, _NOTHING),
        WarningCode.INVERTED_TO_MONOCHROME2: Advice(Severity.INFO, _NOTHING),
        WarningCode.WINDOW_APPLIED: Advice(Severity.INFO, _NOTHING),
        WarningCode.ORIENTATION_DOUBTFUL: Advice(
            Severity.LOOK,
            "Look at the overlay: the header may say wrongly how the X-ray is turned.",
        ),
        WarningCode.LOSSY_PRECISION: Advice(Severity.INFO, _NOTHING),
        WarningCode.NOT_FRONTAL_VIEW: Advice(Severity.REFUSE, _OTHER_PICTURE),
        WarningCode.NOT_A_CHEST: Advice(Severity.REFUSE, _OTHER_PICTURE),
        WarningCode.FOR_PROCESSING_IMAGE: Advice(
            Severity.LOOK, "Look at the mask, or send the image made for presentation."
        ),
        WarningCode.CONTRADICTORY_PRESENTATION: Advice(
            Severity.LOOK, "Look at the grey values and the mask before it is used."
        ),
        WarningCode.BITS_BEYOND_STORED: Advice(
            Severity.LOOK, "Look at the grey values and the mask before it is used."
        ),
        WarningCode.CONSTANT_IMAGE: Advice(Severity.REFUSE, _OTHER_PICTURE),
        WarningCode.SATURATED_IMAGE: Advice(Severity.LOOK, _LOOK),
        WarningCode.EMPTY_MASK: Advice(
            Severity.REFUSE, "Do not use the answer; send another box, or none."
        ),
        WarningCode.MASK_MISSES_BOX: Advice(
            Severity.REFUSE, "Do not use the mask; send another box, or none."
        ),
        WarningCode.MASK_LEAVES_BOX: Advice(Severity.LOOK, _OTHER_BOX),
        WarningCode.IMPLAUSIBLY_SMALL_MASK: Advice(Severity.REFUSE, _NO_USE),
        WarningCode.IMPLAUSIBLY_LARGE_MASK: Advice(Severity.REFUSE, _NO_USE),
        WarningCode.NARROW_MASK: Advice(Severity.LOOK, _OTHER_BOX),
        WarningCode.FRAGMENTED_MASK: Advice(Severity.LOOK, _OTHER_BOX),
        WarningCode.UNDECIDED_MASK: Advice(Severity.LOOK, _LOOK),
        WarningCode.LOW_SCORE: Advice(Severity.LOOK, _LOOK),
        WarningCode.CUT_OFF_MASK: Advice(
            Severity.LOOK, "Look at the mask, or send a picture that shows all of both lungs."
        ),
        WarningCode.ONE_LUNG: Advice(Severity.LOOK, _LOOK),
        WarningCode.TOO_MANY_LUNGS: Advice(
            Severity.REFUSE, "Do not use the mask; send each X-ray as a picture of its own."
        ),
        WarningCode.MASK_BEYOND_THORAX: Advice(Severity.LOOK, _LOOK),
        WarningCode.NOT_A_FRONTAL_CHEST: Advice(Severity.REFUSE, _OTHER_PICTURE),
        WarningCode.TURNED: Advice(
            Severity.REFUSE, "Do not use the mask; turn the X-ray upright and send it again."
        ),
        WarningCode.MIRRORED: Advice(
            Severity.LOOK, "Compare the sides with the marker on the X-ray; mirror it if need be."
        ),
        WarningCode.ISLANDS_REMOVED: Advice(Severity.INFO, _NOTHING),
        WarningCode.SIDES_UNKNOWN: Advice(
            Severity.LOOK, "Look at the mask; it may show the other lung, or both as one piece."
        ),
        WarningCode.CARDIOTHORACIC_RATIO_ON_AP: Advice(
            Severity.LOOK, "Do not use the ratio; the masks are not affected."
        ),
        WarningCode.CARDIOTHORACIC_VIEW_UNKNOWN: Advice(
            Severity.LOOK, "Use the ratio only if the X-ray is PA; the masks are not affected."
        ),
        WarningCode.INVERTED: Advice(
            Severity.LOOK, "Look at the mask, and invert the grey values if bone is dark."
        ),
    }
)
"""Advice by code; every code has an entry."""


def advice_on(code: str) -> Advice:
    """Return the advice on a warning.

    Args:
        code: a member of `WarningCode`.

    Raises:
        ValueError: no warning has this code.
    """
    return ADVICE[WarningCode(code)]


ABOUT_NUMBERS = frozenset(
    {WarningCode.CARDIOTHORACIC_RATIO_ON_AP, WarningCode.CARDIOTHORACIC_VIEW_UNKNOWN}
)
"""Warnings about a number only, which do not change how masks are shown."""


def gravest_of_masks(codes: Iterable[str]) -> Severity | None:
    """Return the gravest severity among warnings about masks or their picture."""
    return gravest(code for code in codes if code not in ABOUT_NUMBERS)


def gravest(codes: Iterable[str]) -> Severity | None:
    """Return the gravest severity among warnings; None without warnings."""
    found = {advice_on(code).severity for code in codes}
    return next((one for one in reversed(Severity) if one in found), None)
