"""The notebook of one X-ray runs from its first cell to its last, and shows what it says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from matplotlib import pyplot

NOTEBOOK = Path(__file__).parents[2] / "examples" / "one_xray.ipynb"


def code_cells() -> list[str]:
    found = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    return ["".join(cell["source"]) for cell in found["cells"] if cell["cell_type"] == "code"]


def test_every_cell_runs_in_turn(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    matplotlib.use("Agg")
    monkeypatch.chdir(NOTEBOOK.parent)
    names: dict[str, Any] = {}
    for place, cell in enumerate(code_cells()):
        exec(compile(cell, f"cell {place}", "exec"), names)  # the notebook is of this repository
    pyplot.close("all")
    assert names["predictor"].info.precision == "int8" and names["twin"].info.precision == "fp32"
    assert names["integers"].abs().max() <= 63
    assert names["agreement"] > 0.99
    field, whole, heart = (names["answers"][kind].mask for kind in names["requests"])
    assert whole.sum() > field.sum() and not (field & heart).sum() > 0.05 * heart.sum()
    assert 0.3 < names["right_lung"].sum() / field.sum() < 0.7
    assert np.flatnonzero(names["right_lung"].any(axis=0)).max() < 0.6 * field.shape[1]
    assert "Dice of integers and floats" in capsys.readouterr().out


def test_the_notebook_is_stored_without_what_a_run_left_in_it() -> None:
    found = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    code = [cell for cell in found["cells"] if cell["cell_type"] == "code"]
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in code)
