"""Limits on attempts with invalid keys from one address."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable

from service.http.callers import network_of

MINUTE_S = 60.0
MOST_ADDRESSES = 10_000
"""Most addresses remembered; a new one replaces the one seen longest ago."""


class FailedAttempts:
    """Counts failed attempts of each address; the allowance is refilled evenly over a minute.

    An address above its limit must wait even with a valid key; otherwise every further guess would
    be answered. A key that was accepted from this address before is not a guess, so somebody who
    guesses behind a shared proxy does not lock out other users.
    """

    def __init__(self, per_minute: int, clock: Callable[[], float]) -> None:
        """Start without addresses.

        Args:
            per_minute: failed attempts a minute from one address, 0 for any number.
            clock: monotonic clock, in seconds.
        """
        self._per_minute = per_minute
        self._clock = clock
        self._spent: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._proven: OrderedDict[tuple[str, str], None] = OrderedDict()

    def wait_s(self, address: str, sha256: str) -> int:
        """Return the seconds until this address may try this key, 0 for now.

        Args:
            address: the caller's IP address.
            sha256: hash of the key.
        """
        if self._per_minute == 0 or (network_of(address), sha256) in self._proven:
            return 0
        left = self._per_minute - self._spent_now(network_of(address))
        return 0 if left >= 1 else math.ceil((1 - left) * MINUTE_S / self._per_minute)

    def note_failed(self, address: str) -> None:
        """Count an attempt with an invalid key."""
        network = network_of(address)
        self._spent[network] = (self._spent_now(network) + 1, self._clock())
        self._spent.move_to_end(network)
        if len(self._spent) > MOST_ADDRESSES:
            self._spent.popitem(last=False)

    def note_proven(self, address: str, sha256: str) -> None:
        """Remember that this key was accepted from this address."""
        pair = (network_of(address), sha256)
        self._proven[pair] = None
        self._proven.move_to_end(pair)
        if len(self._proven) > MOST_ADDRESSES:
            self._proven.popitem(last=False)

    def _spent_now(self, network: str) -> float:
        spent, at = self._spent.get(network, (0.0, self._clock()))
        return max(0.0, spent - (self._clock() - at) * self._per_minute / MINUTE_S)
