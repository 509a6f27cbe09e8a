"""Run service, node and Orthanc on this machine until Ctrl+C or SIGTERM: `make pacs`.

`python -m deploy.orthanc` needs the extra `pacs` and Debian's packages `orthanc` and
`orthanc-dicomweb`. None of the three is reachable from another machine. X-rays, masks and logs are
in one folder and survive a restart.

Exit codes: 0 stopped; 1 one of the three ended unexpectedly; 2 Orthanc is missing or a port is in
use.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path

from deploy.orthanc.loopback_files import HOST, Ports, node_toml, orthanc_configuration
from service.child_process import die_with_parent
from service.stop_signals import StopSignals

ROOT = Path(__file__).parents[2]
EXIT_ENDED, EXIT_CANNOT_START = 1, 2
STOP_TIMEOUT_S = 40.0  # more than --drain-timeout-s of service and node
_DEBIAN_ORTHANC = Path("/usr/sbin/Orthanc")
_DICOMWEB = "libOrthancDicomWeb.so"
_PERIOD_S = 0.5
_LOG_LINES = 5


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all three.

    Args:
        arguments: command-line arguments; those of the process if None.

    Returns:
        The exit code.
    """
    options = _parser().parse_args(arguments)
    ports = Ports(**{field.name: getattr(options, field.name) for field in fields(Ports)})
    orthanc = _orthanc()
    fault = MISSING if orthanc is None else _taken(ports)
    if fault is not None or orthanc is None:
        print(fault, file=sys.stderr)
        return EXIT_CANNOT_START
    if options.check:
        return 0
    folder: Path = options.folder.resolve()
    stopped = StopSignals([signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
    commands = _write_files(folder, ports, orthanc)
    with contextlib.ExitStack() as started:
        running = {
            name: started.enter_context(_running(command, folder / f"{name}.log"))
            for name, command in commands.items()
        }
        print("Service, node and Orthanc start ...", flush=True)
        is_ready = _await(lambda: _all_answer(ports), running, stopped)
        if is_ready:
            print(_greeting(folder, ports), flush=True)
            _await(stopped.is_set, running, stopped)
        if stopped.is_set():
            print("Stopping.", flush=True)
            return 0
        return _say_who_ended(running, folder)


MISSING = (
    "Orthanc is not installed. On Debian or Ubuntu:\n"
    "  sudo apt install orthanc orthanc-dicomweb dcmtk\n"
    "  sudo systemctl disable --now orthanc    # Debian starts one by itself, on the same ports"
)


def _orthanc() -> str | None:
    found = shutil.which("Orthanc")
    return found or (str(_DEBIAN_ORTHANC) if _DEBIAN_ORTHANC.exists() else None)


def _taken(ports: Ports) -> str | None:
    """Return a message about a port in use, None if all are free."""
    for field in fields(Ports):
        port = getattr(ports, field.name)
        try:
            socket.create_server(("", port)).close()
        except OSError as error:
            return (
                f"Port {port} is not available ({error.strerror}); choose another with"
                f" --{field.name}-port."
                " Debian starts an Orthanc by itself: sudo systemctl disable --now orthanc"
            )
    return None


def _write_files(folder: Path, ports: Ports, orthanc: str) -> dict[str, list[str]]:
    """Write three configurations and a phantom to send; return each program's command."""
    from deploy.orthanc.phantom import write_phantom

    stored = folder / "orthanc"
    stored.mkdir(parents=True, exist_ok=True)
    configuration, node = folder / "orthanc.json", folder / "node.toml"
    configuration.write_text(json.dumps(orthanc_configuration(stored, ports), indent=2), "utf-8")
    node.write_text(node_toml(folder / "spool", ports), "utf-8")
    write_phantom(folder / "phantom.dcm")
    python = [sys.executable, "-m"]
    return {
        "service": [*python, "service", "--host", HOST, "--port", str(ports.service)],
        "orthanc": [orthanc, str(configuration)],
        "node": [*python, "service.dicom_node", "--config", str(node)],
    }


@contextlib.contextmanager
def _running(command: Sequence[str], log: Path) -> Generator[subprocess.Popen[bytes], None, None]:
    """Run a program; programs stop in reverse order of their start."""
    # A new session, so that Ctrl+C in a terminal reaches only this process.
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            preexec_fn=functools.partial(die_with_parent, os.getpid()),
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _await(
    condition: Callable[[], bool],
    running: Mapping[str, subprocess.Popen[bytes]],
    stopped: StopSignals,
) -> bool:
    """Wait until a condition holds; return False if a program ends or a signal arrives first."""
    while not condition():
        if stopped.wait(_PERIOD_S) or any(one.poll() is not None for one in running.values()):
            return False
    return True


def _all_answer(ports: Ports) -> bool:
    return (
        _is_ok(f"http://{HOST}:{ports.service}/readyz")
        and _is_ok(f"http://{HOST}:{ports.orthanc}/system")
        and _is_ok(f"http://{HOST}:{ports.metrics}/metrics")
    )


def _is_ok(url: str) -> bool:
    # This opener ignores the environment's proxy, which cannot reach this machine.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def _greeting(folder: Path, ports: Ports) -> str:
    return f"""
Orthanc   http://{HOST}:{ports.orthanc}, and C-STORE to ORTHANC at port {ports.dicom}
Node      C-STORE to LUNGSEG at port {ports.node}, from Orthanc; figures: http://{HOST}:{ports.metrics}/metrics
Service   http://{HOST}:{ports.service}
Folder    {folder}, with the X-rays, their results and the logs

Send an X-ray, or drop it on Orthanc's page (Upload); phantom.dcm is a synthetic one:
  storescu -aec ORTHANC {HOST} {ports.dicom} {folder / "phantom.dcm"}
Its study then has four series: X-ray, segmentation, outlines as a picture, and report.
Ctrl+C stops all three.
"""


def _say_who_ended(running: Mapping[str, subprocess.Popen[bytes]], folder: Path) -> int:
    for name, process in running.items():
        if process.poll() is not None:
            log = folder / f"{name}.log"
            lines = log.read_text("utf-8", errors="replace").splitlines()[-_LOG_LINES:]
            print(f"The {name} ended ({process.returncode}); {log} says:", file=sys.stderr)
            print("\n".join(f"  {line}" for line in lines), file=sys.stderr)
    return EXIT_ENDED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m deploy.orthanc", description=__doc__)
    parser.add_argument(
        "--folder", type=Path, default=Path("pacs-data"), help="X-rays, masks and logs"
    )
    for field in fields(Ports):
        parser.add_argument(
            f"--{field.name}-port", dest=field.name, type=int, default=field.default,
            help=f"default: {field.default}",
        )  # fmt: skip
    parser.add_argument("--check", action="store_true", help="say what is missing, start nothing")
    return parser


if __name__ == "__main__":
    sys.exit(main())
