"""Steadiness: the correlation of each map with the one before."""

import json

import numpy as np
import pytest

from salfom_hf.evaluation.steadiness import steadiness, steadiness_table, write_steadiness


def test_each_map_is_compared_with_the_one_before():
    maps = np.random.default_rng(0).random((5, 12, 17)).astype(np.float32)
    maps = np.concatenate([maps, maps[-1:]])
    expected = [np.corrcoef(maps[i].ravel(), maps[i + 1].ravel())[0, 1] for i in range(5)]
    assert expected[-1] == pytest.approx(1)
    np.testing.assert_allclose(steadiness(iter(maps)), expected, atol=1e-6)
    assert steadiness(maps[:1]).shape == (0,)


def test_constant_maps_have_no_steadiness():
    maps = np.random.default_rng(0).random((4, 8, 8))
    maps[1] = 0.5
    assert np.isnan(steadiness(maps)).tolist() == [True, True, False]


def test_means_leave_out_what_is_undefined(tmp_path):
    values = {"a": [np.array([0.5, np.nan, 0.7]), np.array([])], "b": [np.full(3, 0.9), np.array([])]}
    cells = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in steadiness_table(["walk", "photo"], values).splitlines()
    ]
    assert cells[0] == ["video", "a", "b", "frames"]
    assert cells[2:] == [
        ["walk", "0.6000", "0.9000", "4"], ["photo", "nan", "nan", "1"], ["mean", "0.6000", "0.9000", "5"]
    ]  # fmt: skip
    write_steadiness(tmp_path / "out.json", ["walk", "photo"], values, {})
    results = json.loads((tmp_path / "out.json").read_text())
    assert results["frames"] == {"walk": 4, "photo": 1}
    assert results["methods"][0] == {
        "name": "a", "mean_over_videos": pytest.approx(0.6), "videos": {"walk": pytest.approx(0.6), "photo": None}
    }  # fmt: skip
