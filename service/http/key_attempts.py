"""How often an address may try keys that are not valid."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable

from service.http.callers import network_of

MINUTE_S = 60.0
MOST_ADDRESSES = 10_000
"""Addresses remembered; the one seen longest ago makes room."""


class FailedAttempts:
    """Counts failed attempts of each address; the allowance grows back evenly over a minute.

    An address above its limit has to wait, with a valid key as well: else every further guess would
    be answered. A key that this address was let in with before is no guess, so that somebody who
    guesses behind the same proxy keeps nobody out who works.
    """

    def __init__(self, per_minute: int, clock: Callable[[], float]) -> None:
        """Start with no address seen.

        Args:
            per_minute: failed attempts a minute from one address, 0 for any number.
            clock: seconds of a clock that never goes back.
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
        """Count one attempt with a key that is not valid."""
        network = network_of(address)
        self._spent[network] = (self._spent_now(network) + 1, self._clock())
        self._spent.move_to_end(network)
        if len(self._spent) > MOST_ADDRESSES:
            self._spent.popitem(last=False)

    def note_proven(self, address: str, sha256: str) -> None:
        """Remember that this address was let in with this key."""
        pair = (network_of(address), sha256)
        self._proven[pair] = None
        self._proven.move_to_end(pair)
        if len(self._proven) > MOST_ADDRESSES:
            self._proven.popitem(last=False)

    def _spent_now(self, network: str) -> float:
        spent, at = self._spent.get(network, (0.0, self._clock()))
        return max(0.0, spent - (self._clock() - at) * self._per_minute / MINUTE_S)
