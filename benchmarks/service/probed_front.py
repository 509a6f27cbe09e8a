"""The service with a monitor of its event loop: how late it runs, and what delays it.

`python -m benchmarks.service.probed_front REPORT FLAGS...` is `python -m service FLAGS...`; it
writes the file REPORT when it ends. A callback of the loop records the time every few milliseconds.
If the callback is late, a separate thread records the loop's current stack. For each delay, the
loop's processor time is recorded. That part is computation in the front; the rest is waiting for
Python's lock, the kernel or a processor. Every callback is also timed, which distinguishes one long
callback from many short ones.
"""

from __future__ import annotations

import asyncio
import heapq
import json
import sys
import threading
import time
import traceback
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

TICK_S = 0.005
LATE_S = 0.02
FRAMES_TOLD = 4
TOLD = 12


class CallbackTimes:
    """The longest callbacks of all event loops of this process, and their total time by kind."""

    def __init__(self) -> None:
        """Start to time every callback."""
        self._longest: list[tuple[float, float, str]] = []
        self._sums: Counter[str] = Counter()
        self._counts: Counter[str] = Counter()
        run = asyncio.events.Handle._run

        def timed(handle: asyncio.Handle) -> None:
            name, began, cpu = _name_of(handle), time.perf_counter(), time.thread_time()
            run(handle)
            spent = (time.perf_counter() - began, time.thread_time() - cpu, name)
            self._sums[name] += spent[0]  # type: ignore[assignment]
            self._counts[name] += 1
            if len(self._longest) < TOLD:
                heapq.heappush(self._longest, spent)
            else:
                heapq.heappushpop(self._longest, spent)

        asyncio.events.Handle._run = timed  # type: ignore[method-assign, assignment]

    def report(self) -> dict[str, object]:
        """Return the longest callbacks, and the number and seconds of each kind."""
        kinds = {
            name: (self._counts[name], round(s, 3)) for name, s in self._sums.most_common(TOLD)
        }
        longest = [_as_json(each) for each in sorted(self._longest, reverse=True)]
        return {"longest_callbacks": longest, "callbacks": kinds}


def _name_of(handle: asyncio.Handle) -> str:
    """Return the name of a callback's function; for a task, of the function that it resumes."""
    callback = handle._callback  # type: ignore[attr-defined]
    task = getattr(callback, "__self__", None)
    if not isinstance(task, asyncio.Task):
        return str(getattr(callback, "__qualname__", callback))
    found = task.get_coro()
    while (inner := getattr(found, "cr_await", None)) is not None and hasattr(inner, "cr_code"):
        found = inner
    return f"task {getattr(found, '__qualname__', found)}"


@dataclass
class LoopDelays:
    """The delays of one event loop.

    Attributes:
        ticks: number of ticks, on time and late.
        delays: seconds of each delay, the loop's processor time in it, and the loop's stack.
    """

    ticks: int = 0
    delays: list[tuple[float, float, str]] = field(default_factory=list)
    _last: float = 0.0
    _last_cpu: float = 0.0
    _seen: Counter[str] = field(default_factory=Counter)

    def start(self) -> None:
        """Start in this thread's running loop."""
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._clock = time.pthread_getcpuclockid(self._thread)
        self._last, self._last_cpu = time.monotonic(), time.clock_gettime(self._clock)
        self._loop.call_later(TICK_S, self._tick)
        threading.Thread(target=self._look, name="loop-watch", daemon=True).start()

    def report(self) -> dict[str, object]:
        """Return the figures, the longest delays first."""
        late_s = sorted((delay for delay, _, _ in self.delays), reverse=True)
        computed_s = sorted((cpu for _, cpu, _ in self.delays), reverse=True)
        worst = sorted(self.delays, reverse=True)[:TOLD]
        busiest = sorted(self.delays, key=lambda each: -each[1])[:TOLD]
        return {
            "ticks": self.ticks,
            "late": len(self.delays),
            "worst_ms": round(1000 * max(late_s, default=0.0), 1),
            "worst_computed_ms": round(1000 * max(computed_s, default=0.0), 1),
            "longest": [_as_json(each) for each in worst],
            "busiest": [_as_json(each) for each in busiest],
        }

    def _tick(self) -> None:
        now, cpu = time.monotonic(), time.clock_gettime(self._clock)
        delay_s = now - self._last - TICK_S
        self.ticks += 1
        if delay_s > LATE_S:
            where = self._seen.most_common(1)
            self.delays.append((delay_s, cpu - self._last_cpu, where[0][0] if where else "-"))
        self._seen = Counter()
        self._last, self._last_cpu = now, cpu
        self._loop.call_later(TICK_S, self._tick)

    def _look(self) -> None:
        while True:
            time.sleep(TICK_S)
            if time.monotonic() - self._last > 2 * TICK_S:
                frame = sys._current_frames().get(self._thread)
                if frame is not None:
                    self._seen[_place(traceback.extract_stack(frame))] += 1


def _place(stack: traceback.StackSummary) -> str:
    inner = stack[-FRAMES_TOLD:]
    return " < ".join(
        f"{Path(each.filename).name}:{each.lineno} {each.name}" for each in inner[::-1]
    )


def _as_json(delay: tuple[float, float, str]) -> dict[str, object]:
    return {
        "ms": round(1000 * delay[0], 1),
        "computed_ms": round(1000 * delay[1], 1),
        "where": delay[2],
    }


def main() -> int:
    """Serve, then write the report; return the service's exit code."""
    report = Path(sys.argv.pop(1))
    import service.__main__
    from service.http import server

    delays, callbacks = LoopDelays(), CallbackTimes()

    class ProbedServer(server.DrainingServer):
        """Starts the monitor together with the loop."""

        async def startup(self, *arguments: object, **options: object) -> None:
            """Start the monitor, then the server."""
            delays.start()
            await super().startup(*arguments, **options)  # type: ignore[arg-type]

    server.DrainingServer = ProbedServer  # type: ignore[misc]
    code = service.__main__.main()
    report.write_text(json.dumps(delays.report() | callbacks.report()), encoding="utf-8")
    return code


if __name__ == "__main__":
    sys.exit(main())
