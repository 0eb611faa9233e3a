"""Augmentation of clips: which frames, which part of them, and that frames, density and fixations stay together."""

import math

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance

from conftest import noise
from salfom_hf.data.augmentation import Augmentation

FRAME = (40, 60)
EVERYTHING = Augmentation(
    horizontal_flip=0.5,
    crop=(0.3, 0.9),
    temporal_strides=(1, 2, 3),
    reverse=0.5,
    brightness=0.4,
    contrast=0.4,
    saturation=0.4,
)


def drawn(augmentation, seed, fixations=None, frame_size=FRAME):
    fixations = np.ones(frame_size, bool) if fixations is None else fixations
    return augmentation.draw(np.random.default_rng(seed), fixations, frame_size)


def test_nothing_is_changed_unless_asked_for():
    transform = drawn(Augmentation(), 3)
    assert transform[:7] == (1, False, 0, 0, *FRAME, False)
    frames = list(torch.rand(2, 3, *FRAME) * 255)
    torch.testing.assert_close(transform.recolor(frames), frames, rtol=0, atol=0)
    density = torch.rand(FRAME)
    torch.testing.assert_close(transform.density(density, FRAME, FRAME), density)
    fixations = np.random.default_rng(0).random(FRAME) < 0.1
    np.testing.assert_array_equal(transform.fixations(fixations, FRAME, FRAME), fixations)


def test_draws_are_in_their_ranges_and_use_them():
    transforms = [drawn(EVERYTHING, seed) for seed in range(400)]
    assert {transform.stride for transform in transforms} == {1, 2, 3}
    for name in ("flip", "backward"):
        assert 0.4 < np.mean([getattr(transform, name) for transform in transforms]) < 0.6
    for name in ("brightness", "contrast", "saturation"):
        values = [getattr(transform, name) for transform in transforms]
        assert 0.6 <= min(values) < 0.65
        assert 1.35 < max(values) <= 1.4
    areas = []
    for transform in transforms:
        assert 0 <= transform.top <= FRAME[0] - transform.height
        assert 0 <= transform.left <= FRAME[1] - transform.width
        areas.append(transform.height * transform.width / math.prod(FRAME))
        assert transform.width / transform.height == pytest.approx(FRAME[1] / FRAME[0], rel=0.05)
    # Sides are rounded to pixels.
    assert 0.27 < min(areas) < 0.35
    assert 0.8 < max(areas) < 0.95
    assert drawn(EVERYTHING, 7) == drawn(EVERYTHING, 7)


def test_a_crop_shows_a_fixation_if_there_is_one():
    fixations = np.zeros(FRAME, bool)
    fixations[3, 55] = True  # A corner, which few crops of this size show.
    crops = [drawn(Augmentation(crop=(0.3, 0.3)), seed, fixations) for seed in range(100)]
    for transform in crops:
        assert transform.top <= 3 < transform.top + transform.height
        assert transform.left <= 55 < transform.left + transform.width
    assert sum((transform.height, transform.width) != FRAME for transform in crops) > 10
    for seed in range(10):
        transform = drawn(Augmentation(crop=(0.3, 0.3)), seed, np.zeros(FRAME, bool))
        assert transform.height < FRAME[0]


@pytest.mark.parametrize("size", [(20, 30), (40, 60), (64, 48), (160, 240)])
def test_fixations_are_moved_as_points(size):
    rng = np.random.default_rng(1)
    for seed in range(40):
        fixations = rng.random(FRAME) < 0.05
        transform = drawn(EVERYTHING, seed, fixations)
        found = transform.fixations(fixations, FRAME, size)
        expected = set()
        for row, column in np.argwhere(fixations):
            y, x = row + 0.5 - transform.top, column + 0.5 - transform.left
            if 0 < y < transform.height and 0 < x < transform.width:
                row, column = int(y * size[0] // transform.height), int(x * size[1] // transform.width)
                expected.add((row, size[1] - 1 - column if transform.flip else column))
        assert {tuple(point) for point in found.nonzero().tolist()} == expected
        assert (found.shape, found.dtype) == (size, torch.bool)
        if size == (160, 240):  # Enlarged, no two fixations fall together.
            inside = fixations[transform.top :, transform.left :][: transform.height, : transform.width]
            assert found.sum() == inside.sum() > 0


@pytest.mark.parametrize("map_size", [FRAME, (20, 30), (80, 90)])
def test_density_and_fixations_stay_together(map_size):
    """Maps of another size than the frames, too: the density's peak and the fixation stay in one place."""
    size = (64, 80)
    for seed in range(60):
        row, column = np.random.default_rng(seed).integers(map_size)
        fixations = np.zeros(map_size, bool)
        fixations[row, column] = True
        rows, columns = np.mgrid[: map_size[0], : map_size[1]]
        density = np.exp(-((rows - row) ** 2 + (columns - column) ** 2) / 8).astype(np.float32)
        transform = drawn(EVERYTHING, seed, fixations)
        moved = transform.density(torch.from_numpy(density), FRAME, size)
        assert (moved.shape, moved.dtype) == (size, torch.float32)
        assert moved.min() >= 0
        (fixated,) = transform.fixations(fixations, FRAME, size).nonzero().tolist()
        peak = divmod(int(moved.argmax()), size[1])
        # Less than one pixel of the map or the frame, in pixels of the clip.
        for axis, kept in enumerate((transform.height, transform.width)):
            pixel = size[axis] / kept * max(1, FRAME[axis] / map_size[axis])
            assert abs(fixated[axis] - peak[axis]) <= pixel + 1


@pytest.mark.parametrize(
    ("name", "enhance"),
    [("brightness", ImageEnhance.Brightness), ("contrast", ImageEnhance.Contrast), ("saturation", ImageEnhance.Color)],
)
@pytest.mark.parametrize("factor", [0.5, 0.9, 1.4])
def test_colours_change_as_in_pil(name, enhance, factor):
    picture = noise(1)[0]
    transform = drawn(Augmentation(), 0)._replace(**{name: factor})
    frame = torch.from_numpy(picture).permute(2, 0, 1).float()
    expected = np.asarray(enhance(Image.fromarray(picture)).enhance(factor)).astype(float)
    for found in transform.recolor([frame, frame]):
        assert found.min() >= 0
        assert found.max() <= 255
        assert np.abs(found.permute(1, 2, 0).numpy() - expected).max() <= 1.5
    assert np.abs(picture - expected).max() > 10


def test_all_frames_of_a_clip_get_the_same_colours():
    """A pixel that is alike in two frames stays so, however else they differ."""
    frames = torch.rand(2, 3, *FRAME) * 255
    frames[1, :, :20] = frames[0, :, :20]
    for seed in range(5):
        found = torch.stack(drawn(EVERYTHING, seed).recolor(list(frames)))
        torch.testing.assert_close(found[1, :, :20], found[0, :, :20], rtol=0, atol=0)
        assert (found - frames).abs().max() > 1


BAD = {
    "horizontal_flip": [1.5],
    "reverse": [-0.1],
    "brightness": [math.nan],
    "contrast": [2],
    "saturation": [-1],
    "crop": [(0.0, 1.0), (0.9, 0.5), (0.5, 1.2), (0.5,)],
    "temporal_strides": [(), (0, 1), (1.5,)],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name in BAD for value in BAD[name]])
def test_bad_options_are_refused(name, value):
    with pytest.raises(ValueError, match=name):
        Augmentation(**{name: value})
