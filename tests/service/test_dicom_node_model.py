"""A node that asks for one of several models, and a service that does not have it or the key."""

from __future__ import annotations

import gc
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from tests.service.node_peers import (
    Archive,
    FakeService,
    archive,
    free_port,
    node_settings,
    objects_of,
    running,
    service,
    store,
    until,
    xray,
)

pytest.importorskip("pynetdicom")
from service.dicom_node.node import Node, faults_of
from service.dicom_node.settings import NodeSettings

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


class Place:
    """A service of two models, an archive, and a node's settings."""

    def __init__(self, folder: Path, asked: FakeService, to: Archive) -> None:
        asked.models = ("lungs/6", "lungs/7")
        self.folder, self.service, self.archive, self.port = folder, asked, to, free_port()

    def asking_for(self, model: str | None, **more: Any) -> NodeSettings:
        settings = node_settings(self.folder, self.service.url, self.archive.port, self.port)
        (one,) = settings.segment.services
        segment = settings.segment.model_copy(
            update={"model": model, "services": (one.model_copy(update=more),)}
        )
        return settings.model_copy(update={"segment": segment})


@pytest.fixture
def place(tmp_path: Path) -> Generator[Place, None, None]:
    with service() as asked, archive() as to:
        yield Place(tmp_path, asked, to)
    gc.collect()  # the sockets that pynetdicom leaves, while the mark above is in force


def events(caplog: pytest.LogCaptureFixture, name: str) -> list[dict[str, Any]]:
    return [one.fields for one in caplog.records if one.getMessage() == name]  # type: ignore[attr-defined]


def failures(node: Node) -> float:
    labels = {"target": "service"}
    return node.metrics.registry.get_sample_value("lungseg_node_failures_total", labels) or 0.0


@pytest.mark.parametrize(
    ("model", "answered"), [(None, "lungs/6"), ("lungs", "lungs/6"), ("lungs/7", "lungs/7")]
)
def test_the_model_that_the_file_names_answers_and_the_log_says_which(
    place: Place, caplog: pytest.LogCaptureFixture, model: str | None, answered: str
) -> None:
    caplog.set_level("INFO", logger="service.dicom_node")
    settings = place.asking_for(model)
    assert faults_of(settings) == []
    with running(settings):
        assert store(place.port, xray(1)) == [0]
        until(lambda: len(place.archive.files) == 3)
    (line,) = events(caplog, "segmented")
    assert line["model"] == answered


def test_an_xray_waits_for_a_model_that_is_not_served_and_is_no_dead_letter(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    place.service.models = ("lungs/6",)
    settings = place.asking_for("lungs/7")
    (fault,) = faults_of(settings)
    assert "serves no model lungs/7; it serves lungs/6." in fault
    with running(settings) as node:
        assert store(place.port, xray(1)) == [0]
        until(lambda: failures(node) >= 1)
        (line, *_) = events(caplog, "service_unusable")
        assert line["service"] == place.service.url and "unknown_model" in line["reason"]
        place.service.models = ("lungs/6", "lungs/7")
        until(lambda: len(place.archive.files) == 3)
    assert list((place.folder / "dead").iterdir()) == []


def test_masks_of_a_model_that_was_not_asked_for_are_not_sent(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    def by_another(data: bytes) -> tuple[int, dict[str, str], bytes]:
        media_type, body = objects_of(data, ("seg", "sc", "sr"))
        return 200, {"Content-Type": media_type, "X-Lungseg-Model": "lungs/6"}, body

    place.service.respond = by_another
    with running(place.asking_for("lungs/7")) as node:
        assert store(place.port, xray(1)) == [0]
        until(lambda: failures(node) >= 1)
        assert place.archive.files == {}
        (line, *_) = events(caplog, "service_unusable")
        assert line["reason"] == "it answered by lungs/6, not lungs/7."
        place.service.respond = None
        until(lambda: len(place.archive.files) == 3)


def test_a_key_that_the_service_does_not_take_costs_no_xray(
    place: Place, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    place.service.key = "valid"
    key_file = tmp_path / "key"
    key_file.write_text("expired\n")
    settings = place.asking_for(None, api_key_file=key_file)
    (fault,) = faults_of(settings)
    assert "does not take the key of api_key_file (403)." in fault
    with running(settings) as node:
        assert store(place.port, xray(1)) == [0]
        until(lambda: failures(node) >= 1)
        (line, *_) = events(caplog, "service_unusable")
        assert "403 unknown_key" in line["reason"]
        place.service.key = "expired"
        until(lambda: len(place.archive.files) == 3)
    assert list((place.folder / "dead").iterdir()) == []
