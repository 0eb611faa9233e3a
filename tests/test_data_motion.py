"""Moving pictures of stills against stills that have one bright dot, on which all fixations lie."""

import io

import numpy as np
import pytest
import torch
from datasets import Dataset
from PIL import Image

from gaze_data import gaze_stills, png, same
from salfom_hf import SalFoMVideoProcessor
from salfom_hf.data import (
    STILL_FEATURES,
    ClipDataset,
    MotionDataset,
    load_dhf1k,
    load_stills,
    motion,
    shots,
)

SIZE = (96, 144)


def still(name, picture, x, y):
    return {
        "image": png(picture),
        "image_id": name,
        "dataset": "dots",
        "width": picture.shape[1],
        "height": picture.shape[0],
        "fixation_x": list(x),
        "fixation_y": list(y),
        "observer": [],
    }


def dots(count, height=144, width=192, radius=4):
    """Dark stills with one bright dot each, fixated in and about its middle; its place as (x, y)."""
    rng = np.random.default_rng(5)
    rows, columns = np.mgrid[:height, :width] + 0.5
    stills = []
    for number in range(count):
        x, y = rng.uniform(0.15, 0.85, 2) * (width, height)
        dot = (columns - x) ** 2 + (rows - y) ** 2 < radius**2
        picture = np.where(dot[..., None], np.uint8(250), rng.integers(10, 50, (height, width, 3), dtype=np.uint8))
        offsets = np.array([(0, 0), (1, 0), (-1, 0), (0, 1), (0, -1)])
        stills.append(still(str(number), picture, x + offsets[:, 0], y + offsets[:, 1]))
    return stills_of(stills)


def stills_of(rows):
    return Dataset.from_list(rows, features=STILL_FEATURES)


@pytest.fixture
def only(monkeypatch):
    """Have only one kind of clip made, whose objects show what was looked at, and whose colours are as they are."""

    def choose(kind):
        monkeypatch.setattr(motion, "KINDS", {kind: 1.0})
        monkeypatch.setattr(shots, "SALIENT_OBJECTS", 1.0)
        monkeypatch.setattr(motion, "degraded", lambda frames, size, rng: (frame.clamp(0, 255) for frame in frames))

    return choose


@pytest.fixture
def plain():
    """A processor that leaves pixels in 0…255."""
    size = {"height": SIZE[0], "width": SIZE[1]}
    return SalFoMVideoProcessor(size=size, do_rescale=False, do_normalize=False)


def brightness(frame):
    """Of the pixels `(height, width)`: 0, that of the darkest, to 1, that of the brightest."""
    grey = frame.mean(dim=0)
    return (grey - grey.min()) / (grey.max() - grey.min())


def middle(weights):
    """(row, column) of the centre of mass, in pixels."""
    return (weights.nonzero() + 0.5).T @ weights[weights > 0] / weights.sum()


@pytest.mark.parametrize("kind", ["camera", "rest"])
def test_gaze_is_where_the_dot_is_seen(only, plain, kind):
    only(kind)
    clips = MotionDataset(dots(4), plain)
    travelled = []
    for epoch in range(25):
        item = clips.clip(epoch % 4, epoch)
        first, last = (middle((brightness(item["pixel_values_videos"][i]) - 0.6).clamp_min(0)) for i in (0, -1))
        if min(*last, *(torch.tensor(SIZE) - last)) < 8:
            continue  # The edge of the frame cuts the dot.
        fixated = middle(item["fixations"].float())
        peak = torch.tensor(divmod(int(item["labels"].argmax()), SIZE[1])) + 0.5
        assert (fixated - last).abs().max() < 1
        # The product of two Gaussians, of 3 % of the width and of 25 % of the frame, peaks nearer to the centre.
        width, frame = 0.03 * SIZE[1], 0.25 * torch.tensor(SIZE)
        expected = last + (torch.tensor(SIZE) / 2 - last) * width**2 / (width**2 + frame**2)
        assert (peak - expected).abs().max() < 1.6
        travelled.append((last - first).abs().max())
    assert len(travelled) > 12
    assert (max(travelled) > 10) == (kind == "camera")


@pytest.mark.parametrize("kind", ["object", "cut"])
def test_gaze_is_on_the_dots_that_are_seen(only, plain, kind):
    """Dots of the scene and of the objects over it; one that is hidden is not looked at."""
    only(kind)
    clips = MotionDataset(dots(4), plain)
    dots_seen = []
    for epoch in range(25):
        item = clips.clip(epoch % 4, epoch)
        bright = brightness(item["pixel_values_videos"][-1])
        assert bright[item["fixations"]].min() > 0.4
        assert bright.flatten()[item["labels"].argmax()] > 0.4
        # Fixations on one dot are within a few pixels of each other.
        places = item["fixations"].nonzero().float()
        dots_seen.append(len({tuple(row) for row in (torch.cdist(places, places) < 12).int().tolist()}))
    assert {1, 2, 3} <= set(dots_seen)


def test_the_mover_draws_most_of_the_gaze(only, plain, monkeypatch):
    """The dot of the scene is red, those of objects are green."""
    only("object")
    monkeypatch.setattr(motion, "recoloring", lambda rng: lambda pixels: pixels)
    rows = []
    for channel, row in enumerate(dots(2, radius=12).to_list()):
        picture = np.array(Image.open(io.BytesIO(row["image"]["bytes"])))
        picture[..., [other for other in range(3) if other != channel]] = 0
        rows.append(still(str(channel), picture, row["fixation_x"], row["fixation_y"]))
    clips = MotionDataset(stills_of(rows), plain)
    peaks = []
    for epoch in range(25):
        item = clips.clip(0, epoch)
        red, green, _ = item["pixel_values_videos"][-1].flatten(1)[:, item["labels"].argmax()]
        peaks.append(bool(green > red))
    assert sum(peaks) >= 22


def test_a_camera_at_rest_shows_a_still(only, plain):
    only("rest")
    frames = MotionDataset(dots(1), plain)[0]["pixel_values_videos"]
    assert all(torch.equal(frame, frames[0]) for frame in frames)


def test_cuts_are_hard(only, plain):
    """On one side of it stills are dark, on the other bright."""
    only("cut")
    pictures = [np.full((96, 144, 3), grey, np.uint8) for grey in (40, 200)]
    clips = MotionDataset(stills_of([still(str(i), p, [70], [40]) for i, p in enumerate(pictures)]), plain)
    steps = clips.clip(1, 0)["pixel_values_videos"][:, :, 0, 0].mean(dim=1).diff().abs()
    assert (steps > 60).sum() == 1
    assert 1 < int(steps.argmax()) < 14


def test_no_borders_are_seen(only, plain):
    """White stills stay white in every corner of every frame, whatever the camera does."""
    only("camera")
    white = np.full((90, 150, 3), 255, np.uint8)
    clips = MotionDataset(stills_of([still("white", white, [3, 80], [88, 5])]), plain)
    for epoch in range(25):
        frames = clips.clip(0, epoch)["pixel_values_videos"]
        assert (frames.amax(dim=(0, 2, 3)) - frames.amin(dim=(0, 2, 3)) < 0.5).all()


@pytest.mark.parametrize("points", [([0.0], [0.0]), ([192.0, 500.0], [144.0, -3.0]), ([96.0], [72.0])])
def test_few_fixations_and_those_at_the_border_give_labels(processor, points):
    picture = np.random.default_rng(0).integers(0, 255, (144, 192, 3), dtype=np.uint8)
    clips = MotionDataset(stills_of([still(str(i), picture, *points) for i in range(2)]), processor, num_frames=2)
    for epoch in range(20):
        item = clips.clip(0, epoch)
        assert item["pixel_values_videos"].isfinite().all()
        assert item["labels"].isfinite().all()
        assert item["labels"].min() >= 0
        assert item["labels"].max() == 1
        assert item["fixations"].any()


@pytest.mark.parametrize("num_frames", [2, 3, 16])
def test_items_are_like_those_of_clips(stills_parquet, processor, num_frames):
    stills = load_stills(stills_parquet, split="train")
    clips = MotionDataset(stills, processor, num_frames=num_frames)
    other = ClipDataset(load_stills(stills_parquet, split="train"), processor, num_frames=num_frames)[0]
    # The last still has no fixations.
    assert [item["video_id"] for item in clips] == [row["image_id"] for row in list(gaze_stills("train", 4))[:3]]
    item = clips[-1]
    assert item.keys() == other.keys()
    assert item["pixel_values_videos"].shape == (num_frames, 3, 64, 96)
    assert item["labels"].shape == item["fixations"].shape == (64, 96)
    assert item["frame"] == num_frames - 1
    assert all(item[key].dtype == other[key].dtype for key in ("pixel_values_videos", "labels", "fixations"))
    bounds = processor.prepare_frames(torch.tensor([0.0, 255.0]).view(2, 1, 1, 1).expand(2, 3, 64, 96))
    assert bounds[0].min() - 1e-5 <= item["pixel_values_videos"].min()
    assert item["pixel_values_videos"].max() <= bounds[1].max() + 1e-5
    with pytest.raises(IndexError):
        clips[3]


def test_sizes_are_those_of_common_videos(stills_parquet):
    stills = load_stills(stills_parquet, split="train")
    processor = SalFoMVideoProcessor(size={"height": 96, "width": 128}, keep_aspect_ratio=True, size_divisor=32)
    shapes = [tuple(MotionDataset(stills, processor, num_frames=2).clip(0, i)["labels"].shape) for i in range(60)]
    assert set(shapes) == {(96, 128), (96, 160)}
    assert 15 < shapes.count((96, 128)) < 45
    assert MotionDataset(stills, processor, num_frames=2, size=(32, 64))[0]["labels"].shape == (32, 64)


def test_a_seed_an_epoch_and_an_index_make_the_clip(stills_parquet, processor):
    stills = load_stills(stills_parquet, split="train")

    def clip(seed, epoch, index=1):
        clips = MotionDataset(stills, processor, num_frames=4, seed=seed)
        clips.set_epoch(epoch)
        return clips[index]

    assert same(clip(0, 0), clip(0, 0))
    assert same(clip(0, 0), clip(0, 0, -2))
    assert not same(clip(0, 0), clip(1, 0))
    assert not same(clip(0, 0), clip(0, 1))


def test_bad_arguments_are_refused(stills_parquet, dhf1k_frames, processor):
    stills = load_stills(stills_parquet, split="train")
    with pytest.raises(TypeError, match="without streaming"):
        MotionDataset(stills.to_iterable_dataset(), processor)
    with pytest.raises(ValueError, match="no column image_id"):
        MotionDataset(load_dhf1k(dhf1k_frames, split="train"), processor)
    with pytest.raises(ValueError, match="num_frames must be at least 2, not 1"):
        MotionDataset(stills, processor, num_frames=1)
    with pytest.raises(ValueError, match="has none"):
        MotionDataset(stills.select([3]), processor)
