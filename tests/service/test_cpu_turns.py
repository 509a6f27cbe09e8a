"""Turns on the CPUs: in order, as many at a time as there are places, and a hang ends one's own."""

from __future__ import annotations

import threading
import time

from service.compute.cpu_turns import CpuTurns
from service.container_limits import ContainerLimits
from service.cpu_allowance import models_at_a_time


def taking(turns: CpuTurns, taken: list[int], number: int) -> threading.Thread:
    """Start a thread that takes a turn and keeps it."""

    def take() -> None:
        turns.take()
        taken.append(number)

    thread = threading.Thread(target=take, daemon=True)
    thread.start()
    return thread


def test_turns_go_in_the_order_in_which_they_were_asked_for() -> None:
    turns, taken = CpuTurns(1), list[int]()
    held = turns.take()
    threads = []
    for number in range(3):
        threads.append(taking(turns, taken, number))
        while len(turns._waiting) <= number:
            time.sleep(0.001)
    time.sleep(0.05)
    assert taken == []
    turns.give_back(held)
    threads[0].join(5)
    assert taken == [0]


def test_as_many_compute_at_a_time_as_there_are_places() -> None:
    turns, taken = CpuTurns(2), list[int]()
    first = turns.take()
    taking(turns, taken, 1).join(5)
    third = taking(turns, taken, 2)
    time.sleep(0.05)
    assert taken == [1]
    turns.give_back(first)
    turns.give_back(first)  # once more gives no further place
    third.join(5)
    assert taken == [1, 2]
    fourth = taking(turns, taken, 3)
    fourth.join(0.4)
    assert fourth.is_alive()


def test_a_turn_that_is_never_given_back_holds_up_others_for_so_long_alone() -> None:
    turns = CpuTurns(1, longest_s=0.3)
    turns.take()
    began = time.monotonic()
    turns.take()
    assert 0.2 < time.monotonic() - began < 5


def test_models_compute_together_as_far_as_cpus_reach() -> None:
    quota = ContainerLimits(cpus=2.0)  # at most, whatever this machine has
    assert models_at_a_time(1, quota) == 1
    assert models_at_a_time(8, quota) == 1
