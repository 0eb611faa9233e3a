"""
The shipped weights give the maps that they gave when they were trained, so that no change degrades them unseen.

After a new training, `python tests/test_default_model.py` writes the maps anew.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch.nn import functional as F

import salfom_hf
from salfom_hf import SalFoMForVideoSaliencyPrediction, SaliencyPredictor
from salfom_hf.video.seeking import read_frames_at

PACKAGE = Path(salfom_hf.__file__).parent
EXAMPLE = PACKAGE / "assets" / "example.mp4"
WEIGHTS = PACKAGE / "weights" / "salfom" / "model.safetensors"
MAPS = Path(__file__).parent / "data" / "default_model.npz"
FRAMES = range(30, 50)


def maps() -> dict[str, np.ndarray]:
    """float32 `(36, 64)`: the last frame of a part of the example as a still, and after the frames before it."""
    frames = np.stack(list(read_frames_at(EXAMPLE, FRAMES)))
    predictor = SaliencyPredictor.from_pretrained("salfom")
    whole = {"still": predictor.predict(frames[-1:])[-1], "clip": predictor.predict(frames)[-1]}
    return {
        name: F.interpolate(torch.from_numpy(saliency)[None, None], (36, 64), mode="area")[0, 0].numpy()
        for name, saliency in whole.items()
    }


@pytest.fixture(scope="module")
def now():
    return maps()


@pytest.mark.parametrize("name", ["still", "clip"])
def test_maps_are_those_of_the_training(now, name):
    with np.load(MAPS) as stored:
        expected = stored[name].astype(np.float32)
    assert np.abs(now[name] - expected).max() < 0.01 * expected.max()
    assert np.corrcoef(now[name].ravel(), expected.ravel())[0, 1] > 0.9998


def test_time_is_used(now):
    assert np.corrcoef(now["still"].ravel(), now["clip"].ravel())[0, 1] < 0.98


def test_weights_are_small_loaded_whole_and_say_what_they_are():
    assert 1e6 < WEIGHTS.stat().st_size < 40e6
    card = (WEIGHTS.parent / "README.md").read_text(encoding="utf-8").removeprefix("---").split("---", 1)[1]
    opening = " ".join(line for line in card.strip().splitlines()[:8] if not line.startswith("#"))
    assert "not" in opening
    assert "paper" in opening
    with safe_open(WEIGHTS, "pt") as file:
        assert {str(file.get_tensor(key).dtype) for key in file.keys()} <= {"torch.float16", "torch.int64"}  # noqa: SIM118
    model = SalFoMForVideoSaliencyPrediction.from_pretrained("salfom")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


if __name__ == "__main__":
    np.savez_compressed(MAPS, **{name: saliency.astype(np.float16) for name, saliency in maps().items()})
