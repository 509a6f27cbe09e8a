import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import torch

from training.checkpoint import load_checkpoint, load_latest, save_checkpoint
from training.errors import CheckpointError


def state(step: int) -> dict[str, object]:
    return {"model": {"w": torch.full((4,), float(step))}, "step": step}


def test_the_one_before_is_kept_and_used_when_the_latest_is_damaged(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, "latest.pt", state(1))
    save_checkpoint(tmp_path, "latest.pt", state(2))
    found = load_latest(tmp_path)
    assert found is not None and found[0]["step"] == 2
    path = tmp_path / "latest.pt"
    path.write_bytes(path.read_bytes()[:200])
    found = load_latest(tmp_path)
    assert found is not None and found[0]["step"] == 1 and found[1].name == "previous.pt"


def test_nothing_readable_is_said(tmp_path: Path) -> None:
    assert load_latest(tmp_path) is None
    (tmp_path / "latest.pt").write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match=r"latest\.pt"):
        load_latest(tmp_path)


def test_code_in_a_checkpoint_is_never_run(tmp_path: Path) -> None:
    class Hostile:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (os.system, (f"touch {tmp_path / 'owned'}",))

    torch.save({"model": Hostile()}, tmp_path / "latest.pt")
    with pytest.raises(CheckpointError):
        load_checkpoint(tmp_path / "latest.pt")
    assert not (tmp_path / "owned").exists()


def test_a_writer_killed_at_any_moment_leaves_a_readable_checkpoint(tmp_path: Path) -> None:
    code = textwrap.dedent(
        """
        import sys, torch
        from pathlib import Path
        from training.checkpoint import save_checkpoint
        for step in range(10**6):
            model = {"w": torch.full((400_000,), float(step))}
            save_checkpoint(Path(sys.argv[1]), "latest.pt", {"model": model, "step": step})
            print(step, flush=True)
        """
    )
    for seconds in (0.05, 0.11):
        process = subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE
        )
        assert process.stdout is not None
        process.stdout.readline()  # one checkpoint is complete
        time.sleep(seconds)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        found = load_latest(tmp_path)
        assert found is not None
        assert found[0]["model"]["w"].eq(float(found[0]["step"])).all()


@pytest.mark.parametrize("place", [0.1, 0.5, 0.9])
def test_a_flipped_bit_is_noticed(tmp_path: Path, place: float) -> None:
    for step in (1, 2):
        weights = {"w": torch.full((4000,), float(step))}
        save_checkpoint(tmp_path, "latest.pt", {"model": weights, "step": step})
    path = tmp_path / "latest.pt"
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= 1
    path.write_bytes(content)
    found = load_latest(tmp_path)
    assert found is not None and found.state["step"] == 1
    assert "latest.pt is damaged" in found.refused[0]


def test_a_full_disk_leaves_the_checkpoint_before(tmp_path: Path) -> None:
    """``/dev/full`` answers every write as a full disk does."""
    save_checkpoint(tmp_path, "latest.pt", state(1))
    (tmp_path / "latest.pt.partial").symlink_to("/dev/full")
    with pytest.raises(CheckpointError, match=r"latest\.pt cannot be written: No space left"):
        save_checkpoint(tmp_path, "latest.pt", {"model": {"w": torch.ones(100_000)}, "step": 2})
    found = load_latest(tmp_path)
    assert found is not None and found.state["step"] == 1
    assert not (tmp_path / "latest.pt.partial").exists()
