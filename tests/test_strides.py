"""The benchmark of what a stride costs: its scores are those of an evaluation, its times those of its rounds."""

import importlib
import json
from pathlib import Path

import pytest

from salfom_hf import cli

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def strides(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("strides")


def test_scores_of_every_stride(strides, ucf_sports, model_folder, tmp_path, capsys):
    common = ["--dataset", "ucf_sports", "--data-dir", str(ucf_sports), "--model", str(model_folder)]
    output = tmp_path / "strides.json"
    strides.main([*common, "--strides", "1", "8", "--frames", "16", "--rounds", "1", "-o", str(output)])
    printed = capsys.readouterr().out
    first, second = rows = json.loads(output.read_text())["rows"]
    assert [row["stride"] for row in rows] == [1, 8]
    assert first["times_as_fast"] == 1
    assert second["times_as_fast"] == pytest.approx(first["ms_per_map"] / second["ms_per_map"])
    for row in rows:
        folder = tmp_path / f"scores-{row['stride']}"
        cli.main(["evaluate", *common, "--stride", str(row["stride"]), "--device", "cpu", "-o", str(folder)])
        (expected,) = json.loads((folder / "results.json").read_text())["methods"]
        for metric in strides.SHOWN:
            assert row[metric] == pytest.approx(expected["mean_over_frames"][metric], rel=1e-6)
        assert f"| {row['nss']:.3f} |" in printed
    assert first["nss"] != second["nss"]
    assert "1 video, means over 20 frames" in printed
