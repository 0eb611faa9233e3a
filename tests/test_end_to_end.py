"""The benchmark of a prediction from file to file: both ways are run, and the numbers fit together."""

import importlib.util
import json
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "end_to_end.py"


@pytest.fixture(scope="module")
def end_to_end():
    spec = importlib.util.spec_from_file_location("end_to_end", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_both_ways_and_all_stages(end_to_end, model_folder, tmp_path, capsys, monkeypatch, reproducible):
    monkeypatch.setattr(end_to_end, "keep_freed_memory", lambda: None)  # It would hold for all other tests.
    file = tmp_path / "end_to_end.json"
    size = ["--size", "96", "64", "--rate", "10", "--seconds", "1.2"]
    end_to_end.main(["--model", str(model_folder), *size, "--rounds", "2", "--threads", "1", "-o", str(file)])
    printed = capsys.readouterr().out
    report = json.loads(file.read_text())
    assert list(report["results"]) == ["float32", "bfloat16"]
    for dtype, ways in report["results"].items():
        assert list(ways) == ["one after the other", "at once"]
        for way, found in ways.items():
            assert f"{dtype}, {way}\n" in printed
            assert found["frames"] == 12
            assert len(found["fps"]) == 2
            assert min(found["fps"]) <= found["median_fps"] <= max(found["fps"])
            assert list(found["stages_ms"]) == [
                "decode", "preprocess", "encoder", "branches", "fusion", "overlay", "encode"
            ]  # fmt: skip
        # One after the other, stages cannot take longer than all; the table is that of one of the rounds.
        serial = ways["one after the other"]
        assert sum(serial["stages_ms"].values()) <= 1000 / min(serial["fps"])
        gain = ways["at once"]["median_fps"] / serial["median_fps"]
        assert f"real time, {gain:.2f} times one after the other\n" in printed
