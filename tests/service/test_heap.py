"""One heap for all threads: counted in the memory map of a process that uses several."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

FREED = """
from service.heap import give_back_free_memory, keep_one_heap
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096
keep_one_heap()
small = [bytes(1000) for _ in range(40_000)]  # below what has a mapping of its own
last = bytes(1000)  # keeps the top of the heap where it is
del small
before = resident()
assert give_back_free_memory()
print(before - resident())
"""

SCRIPT = """
import sys, threading
from service.heap import keep_one_heap
if sys.argv[1] == "one":
    assert keep_one_heap()
together = threading.Barrier(4)
def work():
    together.wait()
    kept = [bytearray(100_000) for _ in range(50)]
    together.wait()
threads = [threading.Thread(target=work) for _ in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
arenas = 0
for line in open("/proc/self/maps"):
    first, last = (int(one, 16) for one in line.split()[0].split("-"))
    arenas += first % (64 << 20) == 0 and "rw-p 00000000 00:00" in line
print(arenas)
"""


def arenas(how: str) -> int:
    """Beside the main one; each begins at a multiple of 64 MiB."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, how], capture_output=True, text=True, check=True
    )
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_all_threads_share_one_heap() -> None:
    assert arenas("one") == 0
    assert arenas("many") > 0  # else the count above proves nothing


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told")
def test_what_is_free_is_given_back() -> None:
    found = subprocess.run(
        [sys.executable, "-c", FREED], capture_output=True, text=True, check=True
    )
    assert int(found.stdout) > 20_000_000
