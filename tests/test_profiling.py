"""The table of stages, against work of known length and a whole prediction."""

import re
import threading
import time

import numpy as np
import pytest
from PIL import Image

from conftest import noise, write_clip
from salfom_hf import SaliencyPredictor
from salfom_hf.inference.profiling import Profile, stage
from salfom_hf.inference.results import write
from salfom_hf.video.reading import probe

BESIDE = {"encoder", "overlay", "encode"}  # in threads of their own


def test_stages_are_counted_while_a_profile_is_made():
    with stage("decode"):
        time.sleep(0.01)
    with Profile() as profile:
        for _ in range(2):
            with stage("encode"):
                time.sleep(0.02)
        other = threading.Thread(target=work, args=("decode", 0.03))
        other.start()
        other.join()
        with pytest.raises(TypeError), stage("overlay"):
            time.sleep(0.01, "too many arguments")
    work("encode", 0.05)
    assert list(profile.rows(1)) == ["decode", "overlay", "encode"]
    for name, seconds in {"decode": 0.03, "overlay": 0.0, "encode": 0.04}.items():
        assert seconds <= profile.seconds[name] < seconds + 0.05


def work(name, seconds):
    with stage(name):
        time.sleep(seconds)


def test_milliseconds_and_shares():
    profile = Profile()
    profile.seconds.update({"encode": 1.0, "decode": 0.5, "fusion": 2.5})
    assert profile.rows(10) == {"decode": (50.0, 0.125), "fusion": (250.0, 0.625), "encode": (100.0, 0.25)}
    lines = profile.table(10, 2.0, 25).splitlines()
    assert [line.split() for line in lines[1:5]] == [
        ["decode", "50.00", "12.5%"], ["fusion", "250.00", "62.5%"], ["encode", "100.00", "25.0%"],
        ["sum", "400.00", "100.0%"],
    ]  # fmt: skip
    assert re.fullmatch(r"end to end +200\.00  5\.0 frames per second, 0\.2× real time", lines[5])


@pytest.mark.parametrize(
    ("kind", "output_format", "stages"),
    [
        ("framewise", "overlay", ["decode", "preprocess", "encoder", "branches", "fusion", "overlay", "encode"]),
        ("framewise", "npz", ["decode", "preprocess", "encoder", "branches", "fusion", "encode"]),
        ("umt", "maps", ["decode", "preprocess", "network", "fusion", "encode"]),
    ],
)
def test_a_prediction_has_all_stages(framewise_model, umt_model, processor, tmp_path, kind, output_format, stages):
    clip = write_clip(tmp_path / "clip.mp4", frames=24, sound=False)
    predictor = SaliencyPredictor({"framewise": framewise_model, "umt": umt_model}[kind], processor)
    begin = time.perf_counter()
    with Profile() as profile:
        place = tmp_path / {"overlay": "out.mp4", "npz": "out.npz", "maps": "out"}[output_format]
        write(predictor.stream(clip), place, output_format, probe(clip))
    passed = time.perf_counter() - begin
    assert list(profile.rows(24)) == stages
    assert min(profile.seconds.values()) > 0
    # What runs in one thread cannot take longer than all together.
    assert 0.1 * passed < sum(profile.seconds[name] for name in {*stages} - BESIDE) <= passed


def test_a_still_has_all_stages(framewise_model, processor, tmp_path):
    image = tmp_path / "image.png"
    Image.fromarray(noise(1)[0]).save(image)
    with Profile() as profile:
        write(
            SaliencyPredictor(framewise_model, processor).stream(image), tmp_path / "out.png", "overlay", probe(image)
        )
    assert list(profile.rows(1)) == ["decode", "preprocess", "network", "encoder", "fusion", "overlay", "encode"]


def test_profiling_does_not_change_the_maps(framewise_model, processor):
    predictor = SaliencyPredictor(framewise_model, processor)
    expected = predictor.predict(noise(6))
    with Profile():
        np.testing.assert_array_equal(predictor.predict(noise(6)), expected)
