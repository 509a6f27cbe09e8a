"""The compute process, really started: answers, errors, deaths and hangs on the other side."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from service.compute.compute_child import ComputeChild, resident_bytes
from service.compute.compute_process import failure_of
from service.compute.hosted_model import DeviceLostError, OutOfDeviceMemoryError
from service.compute.model_handle import ModelCallError, ModelRefusedError
from service.compute.network_data import NetworkInput, NetworkOutput
from service.errors import ComputeLost, OutOfMemory
from service.settings import Settings
from tests.service import child_models
from tests.service.fake_model import output_about
from tests.service.live_service import until

PATIENT = Settings()
HASTY = Settings(stall_timeout_s=1.0)


@pytest.fixture
def child() -> Iterator[ComputeChild]:
    started = ComputeChild(PATIENT, "tests.service.child_models:make")
    yield started
    started.close()


@pytest.fixture
def watched_child() -> Iterator[ComputeChild]:
    """One that may take a second for an answer."""
    started = ComputeChild(HASTY, "tests.service.child_models:make")
    yield started
    started.close()


@pytest.fixture
def gate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the next child's gate; to be asked for before the child."""
    monkeypatch.setenv("GATE_FOLDER", str(tmp_path))
    return tmp_path


def image(first: int = 0, level: int = 250, side: int = 40) -> NetworkInput:
    pixels = bytes([first]) + bytes([level]) * (side**2 - 1)
    boxes = ((1.0, 2.0, 30.0, 31.5), (0.0, 0.0, 5.0, 5.0))
    return NetworkInput(pixels, side, side, side, boxes, "lung_field")


def answered(found: object) -> NetworkOutput:
    assert isinstance(found, NetworkOutput)
    return found


def assert_same(found: object, wanted: NetworkOutput) -> None:
    assert answered(found).masks == wanted.masks


def has_lung(found: object) -> bool:
    logits = np.frombuffer(answered(found).masks[0].logits, np.float32)
    return bool((logits > 0).any())


def is_gone(process_id: int) -> bool:
    try:
        os.kill(process_id, 0)
    except ProcessLookupError:
        return True
    return False


def test_answers_cross_the_border_unchanged(child: ComputeChild) -> None:
    rng = np.random.default_rng(5)
    box = (0.0, 0.0, 41.0, 37.0)
    batch = [
        NetworkInput(
            rng.integers(0, 200, side**2, np.uint8).tobytes(),
            side,
            41 + i,
            37,
            (box,),
            "whole_lung",
        )
        for i, side in enumerate((64, 32, 64))
    ]
    for given, found in zip(batch, child.answer_batch(batch), strict=True):
        alone = output_about(given)
        assert_same(found, alone)
        assert answered(found).quality == {"inverted": given.pixels[0] / 255}
        assert answered(found).stage_seconds == alone.stage_seconds


def test_the_bad_item_of_a_batch_fails_alone_and_without_its_words(child: ComputeChild) -> None:
    batch = [image(), image(child_models.RAISE), image(level=100)]
    found = list(child.answer_batch(batch))
    assert has_lung(found[0])
    assert not has_lung(found[2])
    assert isinstance(found[1], ModelCallError)
    assert found[1].failure.error_type == "ValueError" and found[1].failure.where
    assert "DOE" not in repr(found[1].failure)


def test_out_of_memory_frees_memory_and_the_process_goes_on(child: ComputeChild) -> None:
    found = list(child.answer_batch([image(child_models.OUT_OF_MEMORY), image()]))
    assert isinstance(found[0], OutOfMemory) and "DOE" not in str(found[0])
    assert isinstance(found[1], NetworkOutput)
    assert child.self_test().agreement == 1  # times that memory was freed
    assert child.memory.gpu_bytes == {"allocated": 5, "reserved": 6, "total": 7}
    assert child.memory.resident_bytes > 1_000_000


@pytest.fixture
def sharing() -> Iterator[ComputeChild]:
    started = ComputeChild(PATIENT, "tests.service.child_models:make_sharing")
    yield started
    started.close()


def stages(found: object) -> dict[str, float]:
    return dict(answered(found).stage_seconds)


def test_images_share_a_call_where_their_masks_stay_the_same(sharing: ComputeChild) -> None:
    batch = [image(level=250), image(level=100), image(level=200)]
    found = list(sharing.answer_batch(batch))
    assert [stages(one)["encode_image"] for one in found] == [3, 3, 3]
    assert [answered(one).together for one in found] == [3, 3, 3]
    for request, one in zip(batch, found, strict=True):
        assert_same(one, output_about(request))
    (lone,) = sharing.answer_batch([image()])
    assert stages(lone) == dict(output_about(image()).stage_seconds)


def test_what_comes_while_a_call_runs_shares_the_next(gate: Path, sharing: ComputeChild) -> None:
    """Up to the most in a call; the answers come in the order of asking, whoever asked."""
    slow = sharing.answer_batch([image(child_models.GATED)])
    until((gate / "begun").exists)
    rest = [sharing.answer_batch([image(level=100 + i)]) for i in range(6)]
    time.sleep(0.3)  # the other side has received them
    (gate / "go").touch()
    assert isinstance(next(iter(slow)), NetworkOutput)
    reader, writer = os.pipe()
    assert sharing.answer_is_there(reader)
    found = [next(iter(one)) for one in rest]
    for level, one in enumerate(found, start=100):
        assert_same(one, output_about(image(level=level)))
    assert [answered(one).together for one in found] == [4, 4, 4, 4, 2, 2]
    os.write(writer, b"x")
    assert not sharing.answer_is_there(reader)
    os.close(reader)
    os.close(writer)


def test_the_bad_item_of_a_shared_call_fails_alone(sharing: ComputeChild) -> None:
    found = list(sharing.answer_batch([image(), image(child_models.RAISE), image(level=100)]))
    assert isinstance(found[1], ModelCallError)
    for one in (found[0], found[2]):
        assert stages(one) == dict(output_about(image()).stage_seconds)
    assert [stages(one)["encode_image"] for one in sharing.answer_batch([image()] * 2)] == [2, 2]


def test_memory_is_freed_when_a_shared_call_needs_too_much(sharing: ComputeChild) -> None:
    found = list(sharing.answer_batch([image(child_models.OUT_OF_MEMORY), image()]))
    assert isinstance(found[0], OutOfMemory) and isinstance(found[1], NetworkOutput)
    assert sharing.self_test().agreement == 2  # after the shared call, after the bad one alone


def test_what_serves_later_calls_is_recorded_after_the_self_test(child: ComputeChild) -> None:
    """The first answer does not wait for it, and one that fails ends nothing."""
    time.sleep(0.2)
    assert child.self_test().minimum == 0
    assert has_lung(next(iter(child.answer_batch([image()]))))
    until(lambda: child.self_test().minimum == 3)
    assert has_lung(next(iter(child.answer_batch([image()]))))


def test_a_lost_device_is_a_lost_process(child: ComputeChild) -> None:
    (found,) = child.answer_batch([image(child_models.DEVICE_LOST)])
    assert isinstance(found, ComputeLost)


def test_death_is_noticed_at_once(child: ComputeChild) -> None:
    with pytest.raises(ComputeLost):
        list(child.answer_batch([image(), image(child_models.DIE)]))
    with pytest.raises(ComputeLost):
        child.self_test()


def test_a_killed_process_is_noticed_while_idle(child: ComputeChild) -> None:
    os.kill(child.process_id, signal.SIGKILL)
    with pytest.raises(ComputeLost):
        child.self_test()


@pytest.mark.parametrize("side", [40, 3000])
def test_a_process_that_hangs_is_killed(watched_child: ComputeChild, side: int) -> None:
    """While it computes, and while it does not even read what it is sent."""
    began = time.monotonic()
    if side == 40:
        request = image(child_models.HANG)
    else:
        request = image(side=side)
        os.kill(watched_child.process_id, signal.SIGSTOP)
    with pytest.raises(ComputeLost):
        list(watched_child.answer_batch([request]))
    assert 0.9 < time.monotonic() - began < child_models.HANGS_S


def test_answers_out_of_step_are_never_taken(child: ComputeChild) -> None:
    """A batch that was given up half-way leaves answers behind; they are nobody else's."""
    answers = iter(child.answer_batch([image(), image(level=100)]))
    next(answers)
    with pytest.raises(ComputeLost):
        list(child.answer_batch([image()]))


def test_closing_ends_the_process_and_a_stopping_terminal_does_not(child: ComputeChild) -> None:
    for ours in (signal.SIGINT, signal.SIGTERM):
        os.kill(child.process_id, ours)
    time.sleep(0.1)
    assert child.self_test().passed
    child.close()
    assert is_gone(child.process_id)


def test_a_refusal_and_a_death_while_loading() -> None:
    with pytest.raises(ModelRefusedError, match="cuda") as caught:
        ComputeChild(PATIENT, "tests.service.child_models:refuse")
    assert caught.value.is_setting
    with pytest.raises(ComputeLost):
        ComputeChild(PATIENT, "tests.service.child_models:die")


@pytest.mark.parametrize(
    ("error", "memory", "lost"),
    [
        (OutOfDeviceMemoryError(), True, False),
        (MemoryError(), True, False),
        (DeviceLostError(), False, True),
        (RuntimeError("shapes do not match"), False, False),
        (RuntimeError("CUDA error"), False, False),
    ],
)
def test_kinds_of_failure(error: Exception, memory: bool, lost: bool) -> None:
    failure = failure_of(error)
    assert (failure.out_of_memory, failure.device_lost) == (memory, lost)


def test_resident_memory_is_that_of_the_process() -> None:
    assert 10_000_000 < resident_bytes(os.getpid()) < 2**40
    assert resident_bytes(2**30) == 0  # larger than any process id
