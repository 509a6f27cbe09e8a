"""The capacity plan and the queueing simulation behind it, against cases with a known answer."""

from __future__ import annotations

import pytest

from benchmarks.service.capacity import Cost, Host, hosts_for, plan
from benchmarks.service.queue_simulation import SimulatedService, Station, simulated_rate

STATION = Station(open_s=0.02, model_s=0.05, render_s=0.02, rest_s=0.01)
MANY = SimulatedService(workers=8, queue_limit=8, past_the_model=16, processors=100)


def test_one_caller_gets_the_sum_of_the_stages() -> None:
    assert simulated_rate(STATION, MANY, callers=1) == pytest.approx(1 / 0.1, rel=0.01)


def test_with_processors_enough_the_model_is_the_bottleneck() -> None:
    assert simulated_rate(STATION, MANY, callers=30) == pytest.approx(1 / 0.05, rel=0.02)


def test_one_image_worker_becomes_the_bottleneck_when_it_has_more_to_do() -> None:
    slow = Station(open_s=0.06, model_s=0.05, render_s=0.02, rest_s=0.01)
    one = SimulatedService(workers=1, queue_limit=8, past_the_model=16, processors=100)
    assert simulated_rate(slow, one, callers=30) == pytest.approx(1 / 0.08, rel=0.02)


def test_processors_bound_what_all_stages_do_together() -> None:
    small = SimulatedService(workers=8, queue_limit=8, past_the_model=16, processors=1)
    assert simulated_rate(STATION, small, callers=30) == pytest.approx(1 / 0.1, rel=0.02)


def test_more_callers_than_places_take_nothing_from_those_inside() -> None:
    full = simulated_rate(STATION, MANY, callers=9)
    assert simulated_rate(STATION, MANY, callers=36) == pytest.approx(full, rel=0.02)


def test_a_caller_waits_where_no_processor_works() -> None:
    idle = Station(open_s=0.02, model_s=0.05, render_s=0.02, rest_s=0.01, idle_s=0.1)
    assert simulated_rate(idle, MANY, callers=1) == pytest.approx(1 / 0.2, rel=0.01)
    assert simulated_rate(idle, MANY, callers=30) == pytest.approx(1 / 0.05, rel=0.02)


def test_refusals_take_processors_from_those_inside() -> None:
    """36 callers, 24 places: some 12 are refused four times a second, 10 ms each."""
    costly = Station(open_s=0.02, model_s=0.05, render_s=0.02, rest_s=0.01, refused_s=0.01)
    one = SimulatedService(workers=8, queue_limit=8, past_the_model=16, processors=1)
    rate = simulated_rate(costly, one, callers=36)
    assert rate < 0.8 * simulated_rate(STATION, one, callers=36)
    # What the processor does is answers and refusals; a refused caller comes back after 0.25 s.
    assert 1 - rate * 0.1 <= 36 / 0.25 * 0.01


def test_hosts_follow_what_runs_out_first() -> None:
    host = Host(processors=10, gpus=1, network_bytes_per_s=1e9, watts=100, price_per_hour=2)
    # 1e8 a day are 1157 a second; a host has 8 planned processors, so 80 X-rays a second each.
    cpu = Cost(cpu_s=0.1, gpu_s=0.0, in_bytes=1e6, out_bytes=0)
    assert hosts_for(10**8, 1.0, cpu, host) == (15, "processors", "network")
    heavy = Cost(cpu_s=0.001, gpu_s=0.0, in_bytes=1e8, out_bytes=0)
    assert hosts_for(10**8, 1.0, heavy, host)[:2] == (116, "network")
    gpu = Cost(cpu_s=0.001, gpu_s=0.01, in_bytes=1e4, out_bytes=0)
    assert hosts_for(10**8, 1.0, gpu, host)[:2] == (15, "GPU")
    assert hosts_for(1, 1.0, cpu, host)[0] == 1


def test_a_peak_takes_more_hosts_and_these_more_energy_and_money() -> None:
    host = Host(processors=10, gpus=0, network_bytes_per_s=1e9, watts=1000, price_per_hour=2)
    lines = plan(Cost(0.1, 0.0, 1e6, 0.0), host)
    assert lines[-2].endswith("| 15 | processors | network | 360 | 720 |")
    assert lines[-1].endswith("| 44 | processors | network | 1,056 | 2,112 |")
