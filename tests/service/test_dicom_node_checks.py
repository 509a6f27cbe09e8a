"""What a node checks before it runs: settings, peers, its spool."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.service.node_hospital import Hospital
from tests.service.node_peers import free_port, settings_text

pynetdicom = pytest.importorskip("pynetdicom")
from pynetdicom import AE  # noqa: E402

from service.dicom_node.__main__ import EXIT_FAULT, EXIT_SETTINGS  # noqa: E402
from service.dicom_node.node import faults_of  # noqa: E402
from service.dicom_node.settings import (  # noqa: E402
    NodeSettingsError,
    read_node_settings,
)
from service.dicom_node.spool import Spool, SpoolInUse  # noqa: E402

# pynetdicom leaves the socket of a connection that failed to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


VERIFICATION = "1.2.840.10008.1.1"
"""SOP class of a C-ECHO."""


def test_two_nodes_do_not_share_a_spool(tmp_path: Path) -> None:
    first = Spool(tmp_path, 10**9, 0)
    with pytest.raises(SpoolInUse):
        Spool(tmp_path, 10**9, 0)
    first.close()
    Spool(tmp_path, 10**9, 0).close()


def test_check_says_what_is_wrong_in_a_sentence_each(hospital: Hospital) -> None:
    assert faults_of(hospital.settings) == []
    hospital.archive.stop()
    (fault,) = faults_of(hospital.settings)
    assert fault.startswith("destination archive: 127.0.0.1 port")
    assert "does not answer" in fault


def fault_where_the_archive_is(entity: AE, hospital: Hospital) -> str:
    """The one fault that is found with this entity at the archive's port."""
    hospital.archive.stop()
    server = entity.start_server(("127.0.0.1", hospital.archive.port), block=False)
    try:
        (fault,) = faults_of(hospital.settings)
    finally:
        assert server is not None
        server.shutdown()
    return fault


def test_check_says_which_storage_class_is_missing(hospital: Hospital) -> None:
    entity = AE("ARCHIVE")
    for sop_class in (VERIFICATION, "1.2.840.10008.5.1.4.1.1.7"):
        entity.add_supported_context(sop_class)
    fault = fault_where_the_archive_is(entity, hospital)
    assert "takes no seg, sr in explicit VR little endian" in fault


def test_check_says_which_title_is_wrong(hospital: Hospital) -> None:
    entity = AE("OTHER")
    entity.require_called_aet = True
    entity.add_supported_context(VERIFICATION)
    fault = fault_where_the_archive_is(entity, hospital)
    assert "rejects the association" in fault
    assert "ARCHIVE" in fault


def run_command(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "service.dicom_node", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


def test_the_command_checks_and_refuses(hospital: Hospital, tmp_path: Path) -> None:
    config = tmp_path / "node.toml"
    text = settings_text(hospital.spool, hospital.service.url, hospital.archive.port, free_port())
    config.write_text(text)
    checked = run_command("--config", str(config), "--check")
    assert (checked.returncode, checked.stdout) == (0, "Everything answers.\n")
    hospital.archive.stop()
    checked = run_command("--config", str(config), "--check")
    assert checked.returncode == EXIT_FAULT
    assert "does not answer" in checked.stdout
    config.write_text("receive = 1")
    refused = run_command("--config", str(config))
    assert refused.returncode == EXIT_SETTINGS
    assert "is not usable" in refused.stderr


@pytest.mark.parametrize(
    ("before", "after", "named"),
    [
        ('ae_title = "ARCHIVE"', 'ae_title = "A TITLE THAT IS TOO LONG"', "ae_title"),
        ('addresses = ["127.0.0.1"]', 'addresses = ["nowhere"]', "addresses"),
        ('kind = "dimse"', 'kind = "fax"', "kind"),
        ("timeout_s = 20", "timeout_s = 0", "timeout_s"),
        ("timeout_s = 20", "tmeout_s = 20", "tmeout_s"),
        ("timeout_s = 20", 'model = "lungs/6/7"', "segment.model"),
        ("timeout_s = 20", 'model = ""', "segment.model"),
        ('name = "archive"', 'name = "with space"', "name"),
        ("[spool]", "[spol]", "spo"),
    ],
)
def test_a_wrong_setting_is_refused_by_its_name(
    tmp_path: Path, before: str, after: str, named: str
) -> None:
    config = tmp_path / "node.toml"
    text = settings_text(tmp_path, "http://127.0.0.1:1", 104, 11112)
    assert before in text
    config.write_text(text.replace(before, after))
    with pytest.raises(NodeSettingsError, match=named):
        read_node_settings(config)
