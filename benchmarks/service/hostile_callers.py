"""Callers that send one upload repeatedly, in their own process.

`python -m benchmarks.service.hostile_callers PORT FILE SECONDS CALLERS ADDRESS` prints the number
of answers by status and code as JSON. The process runs at low priority (`nice`): real callers have
their own computers and take no processor time from the service.
"""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

NICENESS = 15
_BOUNDARY = "hostile"


def start(
    port: int, file: Path, seconds: float, callers: int, address: str
) -> subprocess.Popen[bytes]:
    """Start the callers.

    Args:
        port: port of the service on this machine.
        file: upload; `FILE.boxes` in the same folder has its boxes.
        seconds: time during which they start new requests.
        callers: number of concurrent callers.
        address: their source address; the service schedules fairly between addresses.
    """
    words = map(str, (port, file, seconds, callers, address))
    command = [sys.executable, "-m", __name__, *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE)


def answers_of(process: subprocess.Popen[bytes]) -> Counter[str]:
    """Wait until the callers end; return the number of answers by status and code."""
    said, _ = process.communicate()
    return Counter(json.loads(said))


def form_of(file: Path) -> bytes:
    """Return the body of a form with a file and its boxes."""
    beside = file.with_name(file.name + ".boxes")
    boxes = beside.read_text(encoding="ascii").split() if beside.exists() else []
    disposition = "Content-Disposition: form-data; name="
    parts = [f'--{_BOUNDARY}\r\n{disposition}"bbox"\r\n\r\n{box}\r\n'.encode() for box in boxes]
    parts.append(f'--{_BOUNDARY}\r\n{disposition}"image"; filename="x"\r\n\r\n'.encode())
    return b"".join([*parts, file.read_bytes(), f"\r\n--{_BOUNDARY}--\r\n".encode()])


def post(port: int, body: bytes, address: str) -> tuple[int, bytes]:
    """Send one form; status 0 stands for a broken connection."""
    headers = {"Content-Type": f"multipart/form-data; boundary={_BOUNDARY}"}
    connection = http.client.HTTPConnection(
        "127.0.0.1", port, timeout=120, source_address=(address, 0)
    )
    try:
        connection.request("POST", "/segment", body, headers)
        answer = connection.getresponse()
        return answer.status, answer.read()
    except (OSError, http.client.HTTPException):
        return 0, b""
    finally:
        connection.close()


def code_in(body: bytes) -> str:
    """Return a refusal's code, `mask` for an answer with a mask, `-` for neither."""
    if not body:
        return "-"
    if b'"masks":[' in body[:1000]:
        return "mask"
    try:
        return str(json.loads(body)["code"])
    except (ValueError, KeyError):
        return "undocumented"


def main(arguments: Sequence[str]) -> int:
    """Send and print."""
    port, file, seconds, callers, address = arguments
    os.nice(NICENESS)
    body = form_of(Path(file))
    until_s = time.monotonic() + float(seconds)
    found: Counter[str] = Counter()

    def call() -> None:
        while time.monotonic() < until_s:
            status, answer = post(int(port), body, address)
            found[f"{status} {code_in(answer)}"] += 1
            if status == 0:
                time.sleep(0.1)

    threads = [threading.Thread(target=call) for _ in range(int(callers))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
