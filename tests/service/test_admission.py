"""Admission: exact bounds, and places that come back however a request ends."""

from __future__ import annotations

import threading

import pytest

from service.errors import QueueFull
from service.pipeline.admission import ABOUT_S, PAST_THE_MODEL_BATCHES, AdmissionControl


def make_admission(queue_limit: int = 2, max_batch: int = 1, budget: int = 100) -> AdmissionControl:
    """A small admission."""
    return AdmissionControl(
        queue_limit=queue_limit, max_batch=max_batch, upload_budget_bytes=budget
    )


def test_the_limit_is_exact() -> None:
    """The third of two is refused, with a pause."""
    admission = make_admission(queue_limit=2)
    admission.enter()
    admission.enter()
    with pytest.raises(QueueFull) as caught:
        admission.enter()
    assert caught.value.retry_after_s is not None
    assert caught.value.retry_after_s >= 1
    assert "limit is 2" in caught.value.detail
    with pytest.raises(QueueFull):
        admission.refuse_if_full()
    assert admission.waiting == 2


def test_reaching_the_model_frees_a_waiting_place_once() -> None:
    """Both ways out are idempotent, in any order."""
    admission = make_admission(queue_limit=1)
    with admission.enter() as place:
        place.reach_model()
        place.reach_model()
        assert (admission.waiting, admission.inside) == (0, 1)
        with admission.enter():
            assert (admission.waiting, admission.inside) == (1, 2)
    place.leave()
    assert (admission.waiting, admission.inside) == (0, 0)


def test_a_place_comes_back_after_an_error() -> None:
    """The gauge must not drift."""
    admission = make_admission()
    with pytest.raises(RuntimeError), admission.enter():
        raise RuntimeError
    assert (admission.waiting, admission.inside) == (0, 0)


def test_requests_past_the_model_are_bounded_too() -> None:
    """A slow render cannot pile up images without end."""
    admission = make_admission(queue_limit=1, max_batch=1)
    for _ in range(1 + PAST_THE_MODEL_BATCHES):
        admission.enter().reach_model()
    with pytest.raises(QueueFull):
        admission.enter()


def test_the_pause_grows_with_the_pace() -> None:
    """Slow models announce longer pauses, up to the bound."""
    pauses = []
    for seconds in (0.01, 5.0):
        admission = make_admission(queue_limit=4)
        for _ in range(50):
            admission.note_pace(seconds)
        for _ in range(4):
            admission.enter()
        with pytest.raises(QueueFull) as caught:
            admission.enter()
        pauses.append(caught.value.retry_after_s or 0)
    assert pauses[0] == 1
    assert 15 <= pauses[1] <= 30


def test_counts_hold_when_threads_come_and_go() -> None:
    """No lost update."""
    admission = make_admission(queue_limit=1000, max_batch=1000)

    def visit() -> None:
        for _ in range(300):
            with admission.enter() as place:
                place.reach_model()

    threads = [threading.Thread(target=visit) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (admission.waiting, admission.inside) == (0, 0)


def test_bytes_inside_are_bounded_and_come_back() -> None:
    """A large one is let in alone, and nobody beside it."""
    admission = AdmissionControl(
        queue_limit=9, max_batch=1, upload_budget_bytes=100, queue_limit_bytes=1000
    )
    with admission.enter() as large:
        large.hold_bytes(5000)
        large.hold_bytes(5000)
        with pytest.raises(QueueFull) as caught, admission.enter() as small:
            small.hold_bytes(1)
        assert "limit is 1000" in caught.value.detail
        assert admission.inside_bytes == 10_000
    assert admission.inside_bytes == 0
    with admission.enter() as first, admission.enter() as second:
        first.hold_bytes(500)
        second.hold_bytes(500)
    assert (admission.inside_bytes, admission.inside) == (0, 0)


def test_an_answer_counts_until_it_is_taken() -> None:
    """Given back once, however often it is said."""
    admission = make_admission()
    give_back = admission.keep_answer(70)
    assert admission.inside_bytes == 70
    give_back()
    give_back()
    assert admission.inside_bytes == 0


def test_a_caller_of_many_requests_leaves_a_quarter_of_the_places_to_others() -> None:
    admission = make_admission(queue_limit=8)
    held = [admission.enter("many") for _ in range(8)]  # alone, it may have all
    for refused in (admission.refuse_if_full, admission.enter):
        with pytest.raises(QueueFull):
            refused("few")
    held.pop().leave()
    held.pop().leave()
    for refused in (admission.refuse_if_full, admission.enter):
        with pytest.raises(QueueFull, match="6 of your requests wait"):
            refused("many")
    with admission.enter("few"), admission.enter("few"):
        assert admission.waiting == 8
    held.pop().reach_model()
    with admission.enter("many"):
        assert admission.waiting == 6


def test_a_caller_whose_answers_are_being_made_leaves_places_too() -> None:
    admission = make_admission(queue_limit=8, max_batch=1)  # 8 wait, 4 more are past the model
    for _ in range(9):
        admission.enter("many").reach_model()
    with admission.enter("few"), pytest.raises(QueueFull):
        admission.enter("many")


def test_a_caller_who_went_away_keeps_no_place_free() -> None:
    now_s = [1000.0]
    admission = AdmissionControl(
        queue_limit=4, max_batch=1, upload_budget_bytes=100, clock=lambda: now_s[0]
    )
    admission.enter("few").leave()
    held = [admission.enter("many") for _ in range(3)]
    with pytest.raises(QueueFull):
        admission.enter("many")
    now_s[0] += ABOUT_S + 1
    held.append(admission.enter("many"))
    assert admission.waiting == 4


def test_what_the_service_does_for_itself_is_bounded_by_all_places_alone() -> None:
    admission = make_admission(queue_limit=4)
    admission.refuse_if_full("few")
    admission.refuse_if_full("many")
    for _ in range(4):
        admission.enter()
    with pytest.raises(QueueFull, match="4 requests wait"):
        admission.enter()
