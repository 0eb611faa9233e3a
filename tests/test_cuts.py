"""At a hard cut the window starts again: found where a shot begins, nowhere else, and with equal maps in every way."""

from pathlib import Path

import numpy as np
import pytest
from transformers import pipeline

import salfom_hf
from salfom_hf import SaliencyPredictor
from salfom_hf.inference.cuts import shots
from salfom_hf.video.seeking import read_frames_at

EXAMPLE = Path(salfom_hf.__file__).parent / "assets" / "example.mp4"
CUTS = (60, 114)  # The example's, by eye.


def cuts_of(frames):
    lengths = [len(list(shot)) for shot in shots(frames, lambda frame: frame)]
    return np.cumsum(lengths)[:-1].tolist()


@pytest.fixture(scope="module")
def example():
    return list(read_frames_at(EXAMPLE, range(150)))


@pytest.fixture(scope="module")
def predictor():
    return SaliencyPredictor.from_pretrained("salfom")


def test_cuts_of_the_example_are_found(example):
    assert cuts_of(example) == list(CUTS)


def test_a_flash_and_a_fast_pan_are_no_cuts(example):
    shot = example[:40]
    flash = [*shot[:20], (shot[20] // 2 + 120).astype(np.uint8), *shot[21:]]
    wide = np.concatenate([shot[0], shot[0][:, ::-1]], axis=1)
    pan = [wide[:, x : x + shot[0].shape[1]] for x in range(0, shot[0].shape[1], shot[0].shape[1] // 6)]
    assert cuts_of(flash) == cuts_of(pan) == []
    # Frames of one colour, and tiny, can be distinguished.
    black, white = np.zeros((4, 5, 3), np.uint8), np.full((4, 5, 3), 255, np.uint8)
    assert cuts_of([black, black, white, white]) == [2]


def test_a_map_after_a_cut_does_not_depend_on_the_old_shot(example, predictor):
    new = example[CUTS[0] : CUTS[0] + 3]
    after = [predictor.predict([*old, *new])[len(old) :] for old in (example[40 : CUTS[0]], example[130:150])]
    np.testing.assert_allclose(after[0], after[1], atol=1e-5)


def test_every_way_restarts_alike(example, predictor, monkeypatch):
    frames = example[CUTS[0] - 4 : CUTS[0] + 6]
    shared = predictor.predict(frames)
    monkeypatch.setattr("salfom_hf.inference.predictor.can_share_windows", lambda model: False)
    windows = predictor.predict(frames)
    pipe = pipeline("video-saliency-prediction", model=predictor.model, video_processor=predictor.processor)
    np.testing.assert_allclose(windows, shared, atol=2e-4)
    np.testing.assert_allclose(pipe(frames)["maps"], shared, atol=2e-4)
