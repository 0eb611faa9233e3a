"""Tables, pictures of one moment, and maps made smaller: what `salfom predict` writes apart from videos."""

import csv
import os
import re
import shutil
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from conftest import noise, write_clip
from salfom_hf import SaliencyPredictor, VideoError
from salfom_hf.inference.results import DRAWINGS, frame_at
from salfom_hf.inference.table import COLUMNS, Attention, attention, peak, write_table
from salfom_hf.video.drawing import color_table, heatmap, to_gray, with_color_bar
from salfom_hf.video.reading import probe


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder, with a clip of 30 frames of 64×96 at 25 per second."""
    monkeypatch.chdir(tmp_path)
    write_clip("talk.mp4", frames=30)
    return tmp_path


@pytest.fixture(scope="module")
def predictor(model_folder):
    return SaliencyPredictor.from_pretrained(model_folder)


def gaussian(height, width, row, column, spread):
    y, x = np.mgrid[:height, :width]
    return np.exp(-((x - column) ** 2 + (y - row) ** 2) / (2 * spread**2))


def read_table(path):
    with open(path, newline="") as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


# Numbers.


def test_numbers_of_a_gaussian():
    found = attention(gaussian(120, 160, 30, 100, 8).astype(np.float32))
    assert (found.peak_x, found.peak_y) == pytest.approx((100.5 / 160, 30.5 / 120))
    assert (found.mean_x, found.mean_y) == pytest.approx((100.5 / 160, 30.5 / 120), abs=1e-3)
    # Two axes with a variance of 8² each; the differential entropy of a Gaussian, in bits.
    assert found.spread == pytest.approx(8 * 2**0.5 / 200, rel=0.01)
    assert found.entropy == pytest.approx(np.log2(2 * np.pi * np.e * 8**2), rel=0.01)


@pytest.mark.parametrize("value", [0, 0.3])
def test_numbers_of_an_even_map(value):
    found = attention(np.full((7, 8), value, np.float32))
    assert found[:4] == pytest.approx((0.5,) * 4)
    assert found.entropy == pytest.approx(np.log2(56))
    assert found.spread == pytest.approx(np.sqrt((7**2 - 1) / 12 + (8**2 - 1) / 12) / np.hypot(7, 8))
    assert found.shares == pytest.approx((1 / 9,) * 9)  # Of pixels on a border, each cell has its part.


def test_numbers_of_a_single_pixel_and_of_two():
    saliency = np.zeros((6, 9), np.float32)
    saliency[4, 7] = 0.75
    found = attention(saliency)
    assert found[:4] == pytest.approx((7.5 / 9, 4.5 / 6) * 2)
    assert (found.spread, found.entropy) == pytest.approx((0, 0), abs=1e-6)
    assert found.shares == (0,) * 8 + (1,)
    saliency[0, 1] = 0.25
    found = attention(saliency)
    assert (found.mean_x * 9, found.mean_y * 6) == pytest.approx((6, 3.5))
    assert found.shares == pytest.approx((0.25, *(0,) * 7, 0.75))


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_the_peak_is_the_centre_of_its_plateau(dtype):
    flat = 0.51 * gaussian(200, 400, 80, 250, 150)
    stored = flat.astype(np.float16)
    first = np.unravel_index(stored.argmax(), stored.shape)
    assert np.hypot(first[0] - 80, first[1] - 250) > 2  # float16 has many places of the highest value.
    assert peak(flat.astype(dtype)) == pytest.approx((80.5, 250.5))


def test_of_several_plateaus_the_largest_counts():
    saliency = np.zeros((20, 30), np.float32)
    saliency[2, 3] = saliency[10:13, 20:25] = 0.9
    assert peak(saliency) == (11.5, 22.5)
    saliency[10:13, 20:25] = 0
    saliency[8, 8] = 0.9  # As large as the first one: not in between, where nobody looks.
    assert peak(saliency) == (2.5, 3.5)


def test_a_table_is_in_pixels_of_the_video(tmp_path):
    row = Attention(0.25, 0.5, 0.3, 0.6, 0.1, 12.5, (*(0,) * 8, 1))
    write_table([(Fraction(1, 30), row), (Fraction(1, 15), row)], tmp_path / "a.csv", 1920, 1080)
    lines = (tmp_path / "a.csv").read_text().splitlines()
    assert lines[0] == (
        "frame,time,peak_x,peak_y,mean_x,mean_y,spread,entropy,top_left,top,top_right,left,centre,right,"
        "bottom_left,bottom,bottom_right"
    )
    assert lines[1] == "0,0.033333,480.0,540.0,576.0,648.0,0.1,12.5,0,0,0,0,0,0,0,0,1"
    assert [line[:10] for line in lines[1:]] == ["0,0.033333", "1,0.066667"]


def test_the_command_writes_a_table(folder, salfom, predictor):
    code, said = salfom("talk.mp4", "--format", "csv", "--start", "0.4", "--duration", "0.4")
    assert (code, said.err) == (0, "")
    rows, frames = read_table("talk_table.csv"), list(predictor.stream("talk.mp4", 0.4, 0.4))
    assert [row["frame"] for row in rows] == list(range(10))
    assert [row["time"] for row in rows] == pytest.approx([float(frame.timestamp) for frame in frames])
    for row, frame in zip(rows, frames, strict=True):
        assert tuple(row) == COLUMNS
        stored = frame.saliency.astype(np.float16)
        assert stored[int(row["peak_y"]), int(row["peak_x"])] >= np.nextafter(stored.max(), np.float16(0))
        density = frame.saliency / frame.saliency.sum(dtype=np.float64)
        y, x = np.indices(density.shape) + 0.5
        assert (row["mean_x"], row["mean_y"]) == pytest.approx(((density * x).sum(), (density * y).sum()), abs=1e-3)
        distance = (x - row["mean_x"]) ** 2 + (y - row["mean_y"]) ** 2
        assert row["spread"] == pytest.approx(np.sqrt((density * distance).sum()) / np.hypot(64, 96), abs=1e-5)
        assert row["entropy"] == pytest.approx(-(density * np.log2(density)).sum(), abs=1e-3)
        assert sum(row[name] for name in COLUMNS[8:]) == pytest.approx(1, abs=1e-5)
        assert row["top"] + row["centre"] + row["bottom"] == pytest.approx(density[:, 32:64].sum(), abs=1e-5)


# One moment.


def test_a_moment_has_the_map_of_the_whole_video(folder, predictor):
    info, frames = probe("talk.mp4"), list(predictor.stream("talk.mp4"))
    for moment, number in ((0, 0), (0.03, 0), (0.04, 1), (0.5, 12), (1.1, 27), (1.2, 29)):
        found = frame_at(predictor, info, moment)
        assert found.timestamp == frames[number].timestamp
        np.testing.assert_array_equal(found.image, frames[number].image)
        np.testing.assert_allclose(found.saliency, frames[number].saliency, atol=1e-5)
    with pytest.raises(VideoError, match=r"talk\.mp4 lasts 1\.200 s, not 5 s; choose an earlier moment"):
        frame_at(predictor, info, 5)


def test_a_moment_is_not_looked_for_from_the_beginning(folder, predictor, monkeypatch):
    write_clip("long.mp4", frames=250, sound=False)
    stream, starts = SaliencyPredictor.stream, []

    def noted(self, video, start=0.0, duration=None):
        starts.append(start)
        return stream(self, video, start, duration)

    monkeypatch.setattr(SaliencyPredictor, "stream", noted)
    assert frame_at(predictor, probe("long.mp4"), 8.0).timestamp == 8
    assert starts == [7.0]
    # A window that the frames of a second do not fill begins earlier.
    monkeypatch.setattr(predictor.processor, "num_frames", 60)
    assert frame_at(predictor, probe("long.mp4"), 8.0).timestamp == 8
    assert min(starts) <= 8 - 60 / 25


def test_a_picture_with_a_color_bar(folder, salfom, predictor):
    Image.fromarray(noise(1, 48, 80)[0]).save("a.jpg")
    assert salfom("a.jpg", "--format", "png")[0] == 0
    assert Image.open("a_png.png").size > (80, 48)
    assert salfom("talk.mp4", "--format", "png", "--at", "0.5", "--colormap", "viridis")[0] == 0
    assert sorted(os.listdir()) == ["a.jpg", "a_png.png", "talk.mp4", "talk_png.png"]
    with Image.open("talk_png.png") as image:
        assert image.mode == "RGB"
        picture = np.asarray(image)
    frame = frame_at(predictor, probe("talk.mp4"), 0.5)
    np.testing.assert_array_equal(picture, with_color_bar(frame.saliency, "viridis"))


@pytest.mark.parametrize("style", ["overlay", "heatmap", "side-by-side"])
def test_one_moment_is_a_picture_of_what_the_video_would_show(folder, salfom, predictor, style):
    assert salfom("talk.mp4", "--format", style, "--at", "0.5")[0] == 0
    assert salfom("talk.mp4", "--format", style, "--at", "0.5", "-o", "figure.jpg")[0] == 0
    assert sorted(os.listdir()) == ["figure.jpg", "talk.mp4", f"talk_{style}.png"]
    frame = frame_at(predictor, probe("talk.mp4"), 0.5)
    expected = DRAWINGS[style](frame.image, frame.saliency, "turbo")
    np.testing.assert_array_equal(np.asarray(Image.open(f"talk_{style}.png")), expected)
    assert Image.open("figure.jpg").format == "JPEG"


@pytest.mark.parametrize(("height", "width"), [(64, 96), (480, 640)])
def test_the_bar_has_the_colours_from_highest_to_lowest(height, width):
    saliency = gaussian(height, width, height / 2, width / 3, height / 5).astype(np.float32)
    picture, text = with_color_bar(saliency), max(10, height // 24)
    np.testing.assert_array_equal(picture[text:-text, text : text + width], heatmap(saliency))
    bar = picture[text:-text, 2 * text + width : 3 * text + width]
    table = color_table("turbo")
    np.testing.assert_array_equal(bar[[0, -1], 0], table[[255, 0]])
    assert (bar == bar[:, :1]).all()
    assert (picture[:, -text // 2 :] == 255).all()  # No label is cut off.
    assert (picture[: text // 4] == 255).all()
    assert picture[:, 3 * text + width :].min() == 0  # Labels are drawn.
    if height == 480:  # The title is, too, upwards.
        assert (picture[:, -2 * text : -text].min(axis=(1, 2)) < 128).sum() > height / 3
    assert (with_color_bar(np.full((32, 48), width / 999, np.float32), "gray")[10:-10, 68:78] == 0).all()  # Constant.


# Smaller maps, and their size.


@pytest.mark.parametrize(("size", "shape"), [(48, (32, 48)), (35, (23, 35)), (500, (64, 96))])
def test_maps_are_made_smaller(folder, salfom, predictor, size, shape):
    whole = [frame.saliency for frame in predictor.stream("talk.mp4", 0, 0.2)]
    part = ("talk.mp4", "--duration", "0.2", "--max-size", size, "--format")
    for style in ("npz", "maps"):
        assert salfom(*part, style)[0] == 0
    maps = np.load("talk_npz.npz")["maps"]
    assert (maps.dtype, maps.shape) == (np.float16, (5, *shape))
    for number, saliency in enumerate(whole):
        expected = np.asarray(Image.fromarray(saliency).resize(shape[::-1], Image.Resampling.BILINEAR))
        np.testing.assert_allclose(maps[number], expected, atol=1e-3)
        gray = np.asarray(Image.open(f"talk_maps/{number + 1:04d}.png")).astype(int)
        assert np.abs(gray - to_gray(expected)).max() <= 1


@pytest.mark.parametrize(
    ("style", "options", "told"),
    [
        ("npz", (), "talk_npz.npz takes up to 0.37 MB (30 maps of 96×64); --max-size makes it smaller."),
        ("npz", ("--max-size", "48"), "talk_npz.npz takes up to 0.09 MB (30 maps of 48×32)."),
        (
            "maps",
            ("--start", "0.8"),
            "talk_maps takes up to 0.06 MB (10 maps of 96×64); --max-size makes it smaller.",
        ),
    ],
)
def test_the_size_is_said_beforehand(folder, salfom, style, options, told):
    code, said = salfom("talk.mp4", "--format", style, *options)
    assert (code, said.err) == (0, f"salfom: {told}\n")
    files = [*Path().glob("talk_*/*"), *Path().glob("talk_*.npz")]
    limit = float(re.search(r"up to ([\d.]+)", told)[1])
    assert sum(file.stat().st_size for file in files) < (limit + 0.05) * 1e6


# What does not go together.


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--at", "1", "--format", "csv"), "--at is for --format overlay, heatmap, side-by-side, png; of csv choose"),
        (("--at", "1", "--start", "1"), "choose it by --at"),
        (("--at", "1", "-o", "out.mp4"), "out.mp4 is not a picture of one moment"),
        (("-o", "out.png"), "name a video as the output, or one moment by --at SECONDS"),
        (("--format", "png", "--start", "1"), "choose it by --at"),
        (("--format", "png", "--duration", "1"), "choose it by --at"),
        (("--format", "csv", "--max-size", "64"), "--max-size is for --format maps and npz"),
        (("--format", "png", "--at", "7"), "lasts 1.200 s, not 7 s"),
        (("--format", "png", "-o", "out.mp4"), "an output that ends in .png"),
        (("--format", "csv", "-o", "out.png"), "ends in .csv"),
    ],
)
def test_options_that_do_not_fit_are_one_line(folder, salfom, options, words):
    code, said = salfom("talk.mp4", *options)
    assert (code, said.err.count("\n"), os.listdir()) == (2, 1, ["talk.mp4"])
    assert words in said.err


@pytest.mark.parametrize("style", ["overlay", "npz", "csv", "png"])
def test_a_name_that_becomes_too_long_is_told_at_once(folder, salfom, monkeypatch, style):
    """The source's name has all the bytes that a name may have; that of the result would have more."""
    name = f"{'é' * 125}.mp4"
    shutil.move("talk.mp4", name)
    monkeypatch.setattr(SaliencyPredictor, "stream", lambda *_: pytest.fail("It is predicted."))
    code, said = salfom(name, "--format", style)
    assert (code, said.err.count("\n"), os.listdir()) == (2, 1, [name])
    end = rf"{style.replace('csv', 'table')}\.\w+"
    assert re.search(rf"Cannot write é+_{end} \(File name too long\); choose a shorter name", said.err)


def test_a_long_name_is_no_trouble_elsewhere(folder, salfom):
    name = f"{'n' * 250}.mp4"
    shutil.move("talk.mp4", name)
    assert salfom(name, "-o", f"{'o' * 251}.csv", "--format", "csv")[0] == 0
    assert salfom(name, "--format", "maps", "--duration", "0.1")[0] == 0
    assert len(os.listdir(f"{'n' * 250}_maps")) == 3
