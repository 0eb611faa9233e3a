"""The benchmark of scores against time: what it measures, and that it can be drawn."""

import importlib
import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from salfom_hf import SalFoMVideoProcessor, cli

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def trade_off(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("trade_off")


def test_sizes_and_peers_side_by_side(trade_off, stills_parquet, model_folder, framewise_model, tmp_path, capsys):
    (tmp_path / "peers.json").write_text('{"points": [{"label": "peer", "nss": 1.8, "ms_per_map": 9.5}]}')
    trade_off.main(
        [str(stills_parquet), "--split", "train", "--model", f"tiny={model_folder}", "--size", "64x96", "128x192",
         "--frames", "6", "--rounds", "2", "--peer", str(tmp_path / "peers.json"), "-o", str(tmp_path / "out")]
    )  # fmt: skip
    printed = capsys.readouterr().out
    points = json.loads((tmp_path / "out" / "trade_off.json").read_text())["points"]
    assert [(p["label"], p.get("height"), p.get("width")) for p in points] == [
        ("tiny", 64, 96), ("tiny", 128, 192), ("peer", None, None)
    ]  # fmt: skip
    small, large = points[:2]
    assert small["parameters"] == sum(weight.numel() for weight in framewise_model.parameters())
    assert len(small["ms_per_round"]) == 2
    assert small["ms_per_map"] == pytest.approx(sum(small["ms_per_round"]) / 2)
    assert small["ms_per_map"] < large["ms_per_map"]
    # A model saved with this size scores the same.
    framewise_model.save_pretrained(tmp_path / "saved")
    SalFoMVideoProcessor(
        size={"height": 128, "width": 192}, num_frames=4, keep_aspect_ratio=True, size_divisor=32
    ).save_pretrained(tmp_path / "saved")
    cli.main(["evaluate", "--dataset", "stills", "--data-dir", str(stills_parquet), "--split", "train", "--model",
              str(tmp_path / "saved"), "-o", str(tmp_path / "scores"), "--device", "cpu"])  # fmt: skip
    (saved,) = json.loads((tmp_path / "scores" / "results.json").read_text())["methods"]
    for metric in ("nss", "cc", "sim", "auc_judd"):
        assert large[metric] == pytest.approx(saved["mean_over_videos"][metric], rel=1e-6)
        assert large[metric] != small[metric]
    assert large["nss_standard_error"] == pytest.approx(saved["standard_error"]["nss"], rel=1e-6)
    assert f" {large['nss']:.3f} |" in printed
    assert len(dots_in((tmp_path / "out" / "trade_off.svg").read_text(encoding="utf-8"))) == 3


def test_points_stand_where_their_numbers_say(trade_off):
    """Dots of two models, each found by its colour; heights of ticks tell the scale."""
    points = [{"label": "a", "nss": 1.0, "ms_per_map": 40.0}, {"label": "b", "nss": 2.0, "ms_per_map": 10.0}]
    (right, low), (left, high) = dots_in(trade_off.plot(points))
    begin = 80
    assert (right - begin) / (left - begin) == pytest.approx(4, rel=0.01)
    assert low > high


def dots_in(svg):
    root = ElementTree.fromstring(svg)
    return [(float(dot.get("cx")), float(dot.get("cy"))) for dot in root.iter("{http://www.w3.org/2000/svg}circle")]


def test_a_missing_file_of_peers_is_one_sentence(trade_off, stills_parquet, tmp_path, capsys):
    with pytest.raises(SystemExit):
        trade_off.main([str(stills_parquet), "--peer", str(tmp_path / "none.json"), "-o", str(tmp_path / "out")])
    assert "check the path of --peer" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_bound_that_is_not_above_zero_has_no_shares(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    bound = {"scores": {"nss": [2.0], "information_gain": [-0.1]}}
    model = {"scores": {"nss": [1.0], "information_gain": [0.728]}}
    videos = {"inter-observer": [bound, bound], "salfom": [model, model]}
    table = importlib.import_module("video_scores").table
    last = table(videos, ["nss", "information_gain"]).splitlines()[-1].split("|")
    assert [cell.strip() for cell in last[2:4]] == ["1.000 ± 0.000 (50%)", "0.728 ± 0.000 (–)"]
    # Nor has one of few observers.
    assert "1.000 ± 0.000 (–)" in table(videos, ["nss"], enough=False).splitlines()[-1]
