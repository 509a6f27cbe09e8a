"""MLflow gets the numbers of a run's log, and its loss stops no training."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from training.errors import ConfigError
from training.run.run_log import RunLog

SETTINGS = {"steps": 4, "data": {"root": "data/cxr"}}


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A folder stands in for a server: MLflow takes both by the same calls."""
    pytest.importorskip("mlflow", reason="MLflow is not installed: its log was NOT tested")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    address = f"file:{tmp_path / 'server'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    return address


def test_mlflow_has_the_settings_and_numbers_of_the_log(tmp_path: Path, server: str) -> None:
    from mlflow import MlflowClient

    folder = tmp_path / "stage1"
    folder.mkdir()
    log = RunLog(folder, mlflow=True)
    log.write("start", step=0, config=SETTINGS)
    log.write("step", step=2, loss=0.5)
    log.write("validation", step=2, own_box={"wingspan": 0.9})
    log.write("end", step=4, best=0.9, sha256="ab")
    client = MlflowClient(tracking_uri=server)
    experiment = client.get_experiment_by_name("adalora-qat")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.run_name == "stage1" and run.info.status == "FINISHED"
    assert run.data.params == {"steps": "4", "data.root": "data/cxr"}
    found = {"step/loss": 0.5, "validation/own_box/wingspan": 0.9, "end/best": 0.9}
    assert run.data.metrics == found
    (loss,) = client.get_metric_history(run.info.run_id, "step/loss")
    assert loss.step == 2
    RunLog(folder, mlflow=True)
    assert len(client.search_runs([experiment.experiment_id])) == 2


def test_a_server_that_is_lost_costs_lines_and_not_the_training(
    tmp_path: Path, server: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    log = RunLog(tmp_path, mlflow=True)

    def lost(*_: object, **__: object) -> None:
        raise MlflowException("connection refused")

    monkeypatch.setattr(MlflowClient, "log_batch", lost)
    log.write("step", step=2, loss=0.5)
    assert "connection refused" in capsys.readouterr().err
    (line,) = (tmp_path / "log.jsonl").read_text().splitlines()
    assert json.loads(line)["loss"] == 0.5


def test_mlflow_is_asked_for_by_name_when_it_or_its_server_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    if "mlflow" in sys.modules:
        with pytest.raises(ConfigError, match="MLFLOW_TRACKING_URI"):
            RunLog(tmp_path, mlflow=True)
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(ConfigError, match=r"pip install 'adalora-qat\[mlflow\]'"):
        RunLog(tmp_path, mlflow=True)
