"""The result of a self test, in a module that needs no PyTorch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class SelfTestResult:
    """Outcome of a self test.

    Attributes:
        passed: Whether enough pixels agree.
        agreement: Share of equal pixels, 0..1.
        minimum: Share that is required.
        seconds: Time of the prediction.
    """

    passed: bool
    agreement: float
    minimum: float
    seconds: float
