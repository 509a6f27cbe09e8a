"""The number of hosts from the measured cost of an X-ray, and a check of the queueing simulation.

    python -m benchmarks.service.capacity                # the tables of docs/scaling.md
    python -m benchmarks.service.capacity --check 5      # overload measured and simulated, beside

The simulation is `queue_simulation`, the check `overload_check`. The check starts the real server,
measures one caller and then the overload curve. It fails if a point differs by more than a tenth.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass

DAY_S = 86_400
XRAYS_A_DAY = (10**4, 10**6, 10**8)
PEAK_OVER_MEAN = 3.0
"""Ratio of a hospital's busiest hour to its mean hour; an archive has no peak."""


@dataclass(frozen=True)
class Cost:
    """The resources that one X-ray uses.

    Attributes:
        cpu_s: seconds of a processor, including the network on a host without a GPU.
        gpu_s: seconds of a GPU.
        in_bytes: bytes read from disk or network.
        out_bytes: bytes written.
    """

    cpu_s: float
    gpu_s: float
    in_bytes: float
    out_bytes: float


@dataclass(frozen=True)
class Host:
    """The resources of a host.

    Attributes:
        watts: power under load.
        price_per_hour: in any currency.
        share: share of its processors and GPUs that the plan uses.
    """

    processors: float
    gpus: float
    network_bytes_per_s: float
    watts: float
    price_per_hour: float
    share: float = 0.8


def hosts_for(xrays_a_day: float, peak: float, cost: Cost, host: Host) -> tuple[int, str, str]:
    """Return the number of hosts, the first bottleneck, and the next one.

    Args:
        xrays_a_day: mean number of X-rays.
        peak: ratio of the busiest hour to the mean hour.
        cost: resources that one X-ray uses.
        host: resources of each host.
    """
    rate = xrays_a_day * peak / DAY_S
    loads = {
        "processors": rate * cost.cpu_s / (host.processors * host.share),
        "network": rate * (cost.in_bytes + cost.out_bytes) / host.network_bytes_per_s,
    }
    if cost.gpu_s:
        loads["GPU"] = rate * cost.gpu_s / (host.gpus * host.share)
    first, second = sorted(loads, key=lambda name: -loads[name])[:2]
    return max(1, math.ceil(loads[first])), first, second


def plan(cost: Cost, host: Host) -> list[str]:
    """Return the lines of the table: hosts, bottlenecks, energy and price a day."""
    lines = ["| X-rays a day | peak | hosts | first bottleneck | next | kWh a day | price a day |"]
    lines.append("|---|---|---|---|---|---|---|")
    for xrays in XRAYS_A_DAY:
        for name, peak in (("archive", 1.0), ("hospital", PEAK_OVER_MEAN)):
            count, first, second = hosts_for(xrays, peak, cost, host)
            kwh = count * host.watts * 24 / 1000
            price = count * host.price_per_hour * 24
            lines.append(
                f"| 1e{round(math.log10(xrays))} | {name}, {peak:g} | {count:,} | {first} | "
                f"{second} | {kwh:,.0f} | {price:,.0f} |"
            )
    return lines


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the plan, or check the simulation."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    add = parser.add_argument
    add("--check", type=float, metavar="SECONDS", help="measure overload so long at each point")
    add("--cpu-s", type=float, default=0.094, help="seconds of a processor for an X-ray")
    add("--gpu-s", type=float, default=0.0, help="seconds of a GPU for an X-ray")
    add("--in-bytes", type=float, default=1.2e6, help="of an X-ray's file")
    add("--out-bytes", type=float, default=2e4, help="of its row and mask")
    add("--processors", type=float, default=16)
    add("--gpus", type=float, default=1)
    add("--network-gbit", type=float, default=10)
    add("--watts", type=float, default=300)
    add("--price-per-hour", type=float, default=1)
    flags = parser.parse_args(arguments)
    if flags.check:
        from benchmarks.service.overload_check import check  # needs a model and its engine

        return check(flags.check)
    cost = Cost(flags.cpu_s, flags.gpu_s, flags.in_bytes, flags.out_bytes)
    network = flags.network_gbit * 1e9 / 8
    host = Host(flags.processors, flags.gpus, network, flags.watts, flags.price_per_hour)
    print(f"{cost}; {host}")
    print("\n".join(plan(cost, host)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
