"""Rows of gaze datasets, whose files are real, read back frame by frame."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gaze_data import EMPTY_FRAME, HEIGHT, WIDTH, gaze_video, png, write_avi, write_images
from salfom_hf.data.features import DataError
from salfom_hf.data.samples import GazeStill, GazeVideo, open_sample
from salfom_hf.errors import VideoError
from salfom_hf.video.reading import read_frames

NAMES = [f"{number:04d}.png" for number in range(1, 21)]
PICTURES, FIXATIONS, DENSITIES = gaze_video(7, empty=(EMPTY_FRAME,))


def by_path(path):
    return {"path": str(path), "bytes": None}


def by_content(file):
    """As in exported shards: the name alone, and the content."""
    return {"path": Path(file["path"]).name, "bytes": Path(file["path"]).read_bytes()}


def with_contents(row):
    lists = {name: [by_content(file) for file in row[name]] for name in ("frames", "maps", "fixations")}
    return {**row, **lists, "video": row["video"] and by_content(row["video"])}


def video_row(folder, **values):
    size = {"num_frames": 20, "fps": 30.0, "width": WIDTH, "height": HEIGHT}
    labels = {name: [by_path(folder / name / file) for file in NAMES] for name in ("maps", "fixations")}
    return {"video_id": "0007", "video": None, "frames": [], **size, **labels, **values}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("video")
    write_avi(folder / "007.AVI", PICTURES)
    for name, images in (("frames", PICTURES), ("maps", DENSITIES), ("fixations", FIXATIONS)):
        write_images(folder / name, images, NAMES)
    return folder


@pytest.fixture(params=["path", "content"])
def stored(request):
    return {"path": lambda row: row, "content": with_contents}[request.param]


def avi_row(folder):
    return video_row(folder, video=by_path(folder / "007.AVI"))


def frames_row(folder):
    return video_row(folder, frames=[by_path(folder / "frames" / name) for name in NAMES], fps=10.0)


def test_a_row_is_described_without_opening_a_file(stored, folder):
    sample = open_sample(stored(avi_row(folder)))
    assert isinstance(sample, GazeVideo)
    assert (sample.id, sample.num_frames, sample.fps, sample.size) == ("0007", 20, 30.0, (HEIGHT, WIDTH))
    assert sample.has_labels
    assert sample.frame_names == [Path(name).stem for name in NAMES]
    missing = [by_path(folder / "missing" / f"clip_{n}.jpg") for n in (98, 99, 100)]
    row = video_row(folder, num_frames=3, frames=missing, maps=[], fixations=[])
    sample = open_sample(row)
    assert not sample.has_labels
    assert sample.frame_names == ["clip_98", "clip_99", "clip_100"]
    unnamed = open_sample(video_row(folder, num_frames=3, maps=[], fixations=[], video=by_path(folder / "007.AVI")))
    assert unnamed.frame_names == ["0001", "0002", "0003"]


@pytest.mark.parametrize(("bounds", "expected"), [((), [*range(20), 19, 19]), ((21,), [19]), ((18, 22, 2), [18, 19])])
def test_the_last_frame_stands_in_for_two_that_only_the_header_counts(stored, folder, bounds, expected):
    sample = open_sample(stored(video_row(folder, video=by_path(folder / "007.AVI"), num_frames=22)))
    whole = [frame.image for frame in read_frames(folder / "007.AVI")]
    np.testing.assert_array_equal(list(sample.frames(*bounds)), [whole[index] for index in expected])


def test_a_video_that_lacks_more_frames_is_refused(stored, folder):
    sample = open_sample(stored(video_row(folder, video=by_path(folder / "007.AVI"), num_frames=23)))
    with pytest.raises(VideoError, match="has 20 frames"):
        list(sample.frames(16))


@pytest.mark.parametrize("bounds", [(), (5,), (0, 16), (13, 19, 2), (17, 99), (3, 3), (0, None, 7)])
def test_frames_are_those_of_the_range(stored, folder, bounds):
    decoded = np.stack([frame.image for frame in read_frames(folder / "007.AVI")])
    for row, pictures in ((frames_row(folder), PICTURES), (avi_row(folder), decoded)):
        frames = list(open_sample(stored(row)).frames(*bounds))
        expected = pictures[slice(*(bounds if len(bounds) > 1 else (*bounds, None)))]
        assert len(frames) == len(expected)
        assert all(map(np.array_equal, frames, expected))


@pytest.mark.parametrize("make", [frames_row, avi_row])
@pytest.mark.parametrize("first", [20, 100])
def test_frames_beyond_the_end_are_refused_at_once(folder, make, first):
    with pytest.raises(IndexError, match=f"20 frames, counted from 0; there is no frame {first}"):
        open_sample(make(folder)).frames(first)


def test_density_and_fixations_of_every_frame(stored, folder):
    sample = open_sample(stored(frames_row(folder)))
    for index in range(20):
        density, fixations = sample.density(index), sample.fixations(index)
        assert (density.dtype, fixations.dtype) == (np.float32, np.bool_)
        np.testing.assert_allclose(density, DENSITIES[index] / 255, rtol=0, atol=1e-7)
        assert np.array_equal(fixations, FIXATIONS[index])
    assert not sample.density(EMPTY_FRAME).any()
    assert not sample.fixations(EMPTY_FRAME).any()


def test_every_kind_of_map_is_read_as_grey(tmp_path):
    density, fixations = DENSITIES[0], FIXATIONS[0].astype(np.uint8)
    palette = Image.fromarray(density, "P")
    palette.putpalette([value for grey in range(256) for value in (grey, grey, grey)])
    images = {
        "rgb.png": Image.fromarray(np.stack([density] * 3, axis=-1)),
        "alpha.png": Image.fromarray(np.stack([density] * 3 + [np.full_like(density, 255)], axis=-1)),
        "deep.png": Image.fromarray(density.astype(np.uint16) * 257),
        "palette.png": palette,
        "bits.png": Image.fromarray(fixations * 255).convert("1"),
        "ones.png": Image.fromarray(fixations),
        "lossy.jpg": Image.fromarray(fixations * 255),
    }
    row = video_row(tmp_path, num_frames=len(images))
    for name, image in images.items():
        image.save(tmp_path / name)
    row["maps"] = row["fixations"] = [by_path(tmp_path / name) for name in images]
    sample = open_sample(row)
    for index in range(4):
        np.testing.assert_allclose(sample.density(index), density / 255, rtol=0, atol=1e-6)
    for index in (4, 5, 6):
        assert np.array_equal(sample.fixations(index), FIXATIONS[0]), list(images)[index]
    assert sample.density(4).max() == 1
    # The test would be blind if the compression had left the map as it was.
    assert (np.asarray(Image.open(tmp_path / "lossy.jpg")) > 0).sum() > FIXATIONS[0].sum()


def test_maps_that_would_be_misread(tmp_path):
    density = DENSITIES[0] / np.float32(255)
    Image.fromarray(density).save(tmp_path / "floats.tif")
    Image.fromarray(np.stack([DENSITIES[0], 0 * DENSITIES[0], 255 - DENSITIES[0]], axis=-1)).save(
        tmp_path / "heat.png"
    )
    Image.fromarray(255 * (1 - FIXATIONS[0].astype(np.uint8))).save(tmp_path / "inverted.png")
    Image.new("L", (WIDTH, HEIGHT)).save(tmp_path / "empty.jpg")
    names = ("floats.tif", "heat.png", "inverted.png", "empty.jpg")
    row = video_row(tmp_path, num_frames=4)
    row["maps"] = row["fixations"] = [by_path(tmp_path / name) for name in names]
    sample = open_sample(row)
    np.testing.assert_array_equal(sample.density(0), density)
    with pytest.raises(DataError, match=r"heat.png \(it is in colour; write the map itself, in grey\)"):
        sample.density(1)
    with pytest.raises(DataError, match=r"Most pixels of the fixation map .*inverted.png are above 0"):
        sample.fixations(2)
    assert not sample.fixations(3).any()


def test_what_is_missing_or_unreadable_is_named(folder, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(50))
    (tmp_path / "broken.avi").write_bytes(b"RIFF")
    bad = [by_path(tmp_path / name) for name in ("broken.png", "missing.png")]
    paths = video_row(folder, num_frames=2, frames=bad, maps=bad, fixations=bad)
    for row, names in ((paths, ["broken", "missing"]), (with_contents_of_first(paths), ["0007"])):
        sample = open_sample(row)
        for index, name in enumerate(names):
            with pytest.raises(VideoError, match=name):
                next(sample.frames(index))
            for read in (sample.density, sample.fixations):
                with pytest.raises(DataError, match=name) as caught:
                    read(index)
                assert "\n" not in str(caught.value)
    for name in ("broken.avi", "missing.avi"):
        with pytest.raises(VideoError, match=name):
            next(open_sample(video_row(folder, video=by_path(tmp_path / name))).frames())
    with pytest.raises(VideoError, match="0007"):
        next(open_sample(video_row(folder, video=by_content(by_path(tmp_path / "broken.avi")))).frames())
    with pytest.raises(DataError, match="0007 has no density"):
        open_sample(video_row(folder, maps=[], fixations=[])).density(0)


def with_contents_of_first(row):
    return {**row, **{name: [by_content(row[name][0])] for name in ("frames", "maps", "fixations")}, "num_frames": 1}


def test_impossible_frames_are_refused(folder):
    sample = open_sample(frames_row(folder))
    still = open_sample(still_row([], [], []))
    for read in (sample.density, sample.fixations, still.density, still.fixations):
        for index in (-1, 20):
            with pytest.raises(IndexError, match="no"):
                read(index)
    for refused in (sample, still):
        for bounds in ((-1,), (0, 5, 0), (5, 0, -1)):
            with pytest.raises(ValueError, match="forwards"):
                refused.frames(*bounds)


# Stills.


def still_row(x, y, observer, width=64, height=40, image=None):
    values = {"width": width, "height": height, "fixation_x": x, "fixation_y": y, "observer": observer}
    return {"image": image, "image_id": "face 1", "dataset": "osie", **values}


def test_a_still_is_a_video_of_one_frame(tmp_path):
    picture = PICTURES[0]
    Image.fromarray(picture).save(tmp_path / "1.png")
    for image in (by_path(tmp_path / "1.png"), png(picture)):
        sample = open_sample(still_row([3.5], [2.5], [0], WIDTH, HEIGHT, image))
        assert isinstance(sample, GazeStill)
        assert (sample.id, sample.num_frames, sample.size) == ("face 1", 1, (HEIGHT, WIDTH))
        assert (sample.frame_names, sample.has_labels) == (["face 1"], True)
        for bounds in ((), (0, 1), (0, 16, 2)):
            (frame,) = sample.frames(*bounds)
            assert np.array_equal(frame, picture)
        assert list(sample.frames(0, 0)) == []
        with pytest.raises(IndexError, match="one frame, with the index 0; there is no frame 1"):
            sample.frames(1)
    with pytest.raises(VideoError, match="face 1"):
        next(open_sample(still_row([], [], [], image={"path": None, "bytes": b"noise"})).frames())


def test_a_stills_fixations_are_pixels_and_those_on_the_border_the_outermost():
    sample = open_sample(still_row([0, 63.99, 64, 10.2, 10.9], [0, 39.99, 40, 7.99, 7.0], [0, 0, 1, 1, 1]))
    fixations = sample.fixations(0)
    assert fixations.dtype == np.bool_
    assert sorted(zip(*np.nonzero(fixations), strict=True)) == [(0, 0), (7, 10), (39, 63)]


@pytest.mark.parametrize("turned", [False, True])
def test_a_still_of_another_size_than_its_fixations_is_refused(tmp_path, turned):
    picture, exif = Image.new("RGB", (64, 40) if turned else (32, 20)), Image.Exif()
    exif[0x0112] = 6 if turned else 1
    picture.save(tmp_path / "a.jpg", exif=exif)
    row = still_row([1], [1], [0]) | {"image": by_path(tmp_path / "a.jpg")}
    with pytest.raises(DataError, match=f"on 64×40 pixels, but its image has {'40×64' if turned else '32×20'}"):
        list(open_sample(row).frames())


def density_by_hand(points, width, height):
    """The sum of the Gaussians of all fixated pixels, each cut off to a square of four standard deviations."""
    sigma = 24 * width / 512
    radius = int(4 * sigma + 0.5)
    rows, columns = np.mgrid[:height, :width]
    density = np.zeros((height, width))
    for x, y in points:
        dx, dy = columns - min(int(x), width - 1), rows - min(int(y), height - 1)
        inside = (abs(dx) <= radius) & (abs(dy) <= radius)
        density += np.exp(-(dx**2 + dy**2) / (2 * sigma**2)) * inside
    return density / density.max()


def test_a_stills_density_is_its_blurred_fixations_over_their_maximum():
    points = [(0, 0), (150.7, 80.2), (150.7, 80.2), (152.1, 84.9), (199.9, 120)]
    x, y = zip(*points, strict=True)
    sample = open_sample(still_row(x, y, [0, 0, 1, 1, 2], 200, 120))
    density = sample.density(0)
    assert density.dtype == np.float32
    assert density.max() == 1
    np.testing.assert_allclose(density, density_by_hand(points, 200, 120), rtol=0, atol=1e-6)
    some = sample.density(observers=[1, 2])
    np.testing.assert_allclose(some, density_by_hand(points[2:], 200, 120), rtol=0, atol=1e-6)
    assert sorted(zip(*np.nonzero(sample.fixations(observers=np.array([0]))), strict=True)) == [(0, 0), (80, 150)]


def test_stills_without_fixations_or_observers():
    sample = open_sample(still_row([], [], []))
    assert [sample.has_labels, sample.density(0).any(), sample.fixations(0).any()] == [False] * 3
    sample = open_sample(still_row([1.0, 2.0], [1.0, 2.0], []))
    assert sample.fixations(0).sum() == 2
    for choose in (sample.density, sample.fixations):
        with pytest.raises(DataError, match="face 1 does not tell"):
            choose(observers=[0])
