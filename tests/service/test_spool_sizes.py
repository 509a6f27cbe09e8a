"""What a spool holds is counted while other associations move their files."""

from __future__ import annotations

import os
import threading
from pathlib import Path

from service.dicom_node.spool import _file_sizes


def test_files_that_are_moved_or_deleted_meanwhile_stop_no_count(tmp_path: Path) -> None:
    """A sender was told "out of resources" because a neighbour's job had been renamed."""
    stays = tmp_path / "stays"
    stays.mkdir()
    (stays / "xray.dcm").write_bytes(b"1" * 10)
    stop = threading.Event()

    def churn(name: str) -> None:
        unfinished, job = tmp_path / f"{name}.new", tmp_path / name
        while not stop.is_set():
            unfinished.mkdir()
            (unfinished / "xray.dcm").write_bytes(b"1" * 10)
            os.rename(unfinished, job)
            (job / "xray.dcm").unlink()
            job.rmdir()

    threads = [threading.Thread(target=churn, args=(name,)) for name in ("a", "b", "c")]
    for thread in threads:
        thread.start()
    try:
        sizes = {sum(_file_sizes(tmp_path)) for _ in range(2000)}
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert sizes <= {10, 20, 30, 40}
