"""Readiness: what each state lets pass."""

from __future__ import annotations

import pytest

from model_store.self_test_result import SelfTestResult
from service.compute.readiness import Readiness, State
from service.errors import Draining, NotReady

FIGURES = SelfTestResult(passed=True, agreement=1.0, minimum=0.99, seconds=0.1)


def test_loading_refuses_with_a_pause() -> None:
    """Nothing is answered before the self test."""
    with pytest.raises(NotReady) as caught:
        Readiness().require_ready()
    assert caught.value.retry_after_s is not None


def test_ready_lets_pass_and_shows_the_figures() -> None:
    """After a passed self test."""
    readiness = Readiness()
    readiness.mark_ready(FIGURES)
    readiness.mark_images_ready()
    readiness.require_ready()
    assert readiness.self_test == FIGURES


def test_broken_stays_broken() -> None:
    """A later success of anything does not open a broken service."""
    readiness = Readiness()
    readiness.mark_broken("The self test failed.")
    readiness.mark_ready(FIGURES)
    with pytest.raises(NotReady, match="self test failed"):
        readiness.require_ready()


@pytest.mark.parametrize("first", ["ready", "loading"])
def test_draining_wins_over_everything(first: str) -> None:
    """A model that becomes ready late does not reopen a process that is stopping."""
    readiness = Readiness()
    if first == "ready":
        readiness.mark_ready(FIGURES)
    readiness.mark_draining()
    readiness.mark_ready(FIGURES)
    readiness.mark_broken("late")
    assert readiness.state is State.DRAINING
    with pytest.raises(Draining):
        readiness.require_ready()


def test_a_model_without_image_workers_is_not_ready() -> None:
    """Loading until the first worker has decoded the golden image, then recovering."""
    readiness = Readiness()
    readiness.mark_ready(FIGURES)
    assert readiness.state is State.LOADING
    with pytest.raises(NotReady, match="image workers"):
        readiness.require_ready()
    readiness.mark_images_ready()
    readiness.require_ready()
    readiness.mark_images_lost("No worker.")
    assert readiness.state is State.RECOVERING  # type: ignore[comparison-overlap]
    with pytest.raises(NotReady, match="No worker"):
        readiness.require_ready()
    readiness.mark_images_ready()
    readiness.require_ready()
