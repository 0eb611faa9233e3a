"""The contact sheet, read back from its pixels: which frames it shows, and whether marks lie where people looked."""

import numpy as np
import pytest
from PIL import Image

from salfom_hf.data.contact_sheet import contact_sheet
from salfom_hf.data.samples import open_sample

HEIGHT, WIDTH = 64, 96
GREEN = (40, 200, 40)  # of all pictures; nothing else on a sheet is green
FIXATIONS = ((16, 24), (50, 80))  # row, column
LABELS = ("maps", "fixations")


def video_row(folder, frames=1, labels=True, colors=None, video_id="clip"):
    """Frames of one colour each, with the highest density at the first of two fixations."""
    row = {"video_id": video_id, "video": None, "num_frames": frames, "fps": 10.0, "width": WIDTH, "height": HEIGHT}
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    fixation = np.zeros((HEIGHT, WIDTH), np.uint8)
    density = np.zeros((HEIGHT, WIDTH))
    for weight, (y, x) in zip((1, 0.5), FIXATIONS, strict=True):
        fixation[y, x] = 255
        density = np.maximum(density, weight * np.exp(-((rows - y) ** 2 + (columns - x) ** 2) / 50))
    pictures = {"maps": Image.fromarray((density * 255).astype(np.uint8)), "fixations": Image.fromarray(fixation)}
    for kind in ("frames", *LABELS):
        row[kind] = []
        for index in range(frames if labels or kind == "frames" else 0):
            path = folder / f"{kind}_{index + 1}.png"
            color = colors[index] if colors else GREEN
            (Image.new("RGB", (WIDTH, HEIGHT), color) if kind == "frames" else pictures[kind]).save(path)
            row[kind].append({"path": str(path), "bytes": None})
    return row


def still_row(folder, width, height, x=(), y=(), color=GREEN):
    path = folder / f"{width}x{height}.png"
    Image.new("RGB", (width, height), color).save(path)
    image = {"path": str(path), "bytes": None}
    still = {"image_id": path.stem, "dataset": "", "observer": [], "image": image, "width": width, "height": height}
    return {**still, "fixation_x": list(x), "fixation_y": list(y)}


def sheet_of(*rows, **options):
    return np.asarray(contact_sheet(map(open_sample, rows), **options)).astype(int)


def where(pixels, color, tolerance=12):
    return (np.abs(pixels - color) <= tolerance).all(axis=-1)


def runs(mask):
    """(first, stop) of each run of true values."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], mask.astype(int), [0]])))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))


def boxes(sheet, color=GREEN):
    """(top, bottom, left, right) of all pictures, row by row."""
    green = where(sheet, color)
    return [
        (top, bottom, left, right)
        for top, bottom in runs(green.any(axis=1))
        for left, right in runs(green[top:bottom].any(axis=0))
    ]


def dot_center(picture):
    """Row and column, from the outer corner, of the only dot."""
    return np.argwhere((picture[..., 0] > 200) & (picture[..., 1] < 120)).mean(axis=0) + 0.5


def test_dots_lie_on_the_fixations(tmp_path):
    sheet = sheet_of(video_row(tmp_path))
    frame, density, (top, bottom, left, right) = boxes(sheet)
    assert frame[2:] == density[2:] == (left, right)
    picture = sheet[top:bottom, left:right]
    height, width = picture.shape[:2]
    rows, columns = np.mgrid[:height, :width] + 0.5
    for y, x in FIXATIONS:
        distance = np.hypot(rows - (y + 0.5) / HEIGHT * height, columns - (x + 0.5) / WIDTH * width)
        red, green, _ = np.moveaxis(picture, -1, 0)
        assert (red[distance < 1.2] > 200).all()
        assert (green[distance < 1.2] < 120).all()
        assert where(picture, GREEN)[(distance > 6) & (distance < 9)].all()
    # No other dots.
    assert where(picture, GREEN).mean() > 0.98


def test_heat_lies_on_the_density(tmp_path):
    sheet = sheet_of(video_row(tmp_path))
    frame, (top, bottom, left, right), _ = boxes(sheet)
    assert where(sheet[frame[0] : frame[1], frame[2] : frame[3]], GREEN).all()
    picture = sheet[top:bottom, left:right]
    # The end of the heat map's colours is red; at half the maximum it is not.
    hot = np.argwhere(picture[..., 0] - picture[..., 1] > 20)
    center = (hot.mean(axis=0) + 0.5) / picture.shape[:2]
    expected = (np.array(FIXATIONS[0]) + 0.5) / (HEIGHT, WIDTH)
    np.testing.assert_allclose(center, expected, atol=0.02)
    assert not where(picture, GREEN)[int(50.5 / HEIGHT * len(picture)), int(80.5 / WIDTH * picture.shape[1])]


@pytest.mark.parametrize(("num_frames", "expected"), [(5, [2, 6, 10, 14, 18]), (1, [10]), (30, list(range(20)))])
def test_frames_are_evenly_spaced(tmp_path, num_frames, expected):
    colors = [(10 * index + 40, 255, 255 - 10 * index) for index in range(20)]
    sheet = sheet_of(video_row(tmp_path, 20, labels=False, colors=colors), num_frames=num_frames)
    shown = (sheet[..., 1] >= 253) & (np.abs(sheet[..., 0] + sheet[..., 2] - 295) <= 4)
    rows = [(top + bottom) // 2 for top, bottom in runs(shown.mean(axis=1) > 0.2)]
    cells = [[sheet[row, (left + right) // 2, 0] for left, right in runs(shown[row])] for row in rows]
    # Without labels there is nothing below the frames but those that do not fit next to them.
    assert [len(row) for row in cells] == {5: [5], 1: [1], 30: [12, 8]}[num_frames]
    assert [round((red - 40) / 10) for row in cells for red in row] == expected


def test_maps_of_another_size_than_the_frames(tmp_path):
    row = video_row(tmp_path)
    fixation = np.zeros((2 * HEIGHT, 2 * WIDTH), np.uint8)
    for y, x in FIXATIONS:
        fixation[2 * y, 2 * x] = 255
    Image.fromarray(fixation).save(row["fixations"][0]["path"])
    sheet = sheet_of(row)
    top, bottom, left, right = boxes(sheet)[2]
    halves = np.split(sheet[top:bottom, left:right], [(right - left) // 2], axis=1)
    for picture, (y, x), skipped in zip(halves, FIXATIONS, (0, halves[0].shape[1]), strict=True):
        center = (dot_center(picture) + np.array((0, skipped))) / (bottom - top, right - left)
        # A quarter of a frame's pixel: the middle of a map's pixel.
        np.testing.assert_allclose(center, ((y + 0.25) / HEIGHT, (x + 0.25) / WIDTH), atol=0.004)


def test_stills_of_any_shape_stand_side_by_side(tmp_path):
    shapes = [(96, 64), (64, 96), (96, 64), (200, 20), (96, 64)]
    sheet = sheet_of(*(still_row(tmp_path, *shape) for shape in shapes), num_frames=3)
    green = where(sheet, GREEN)
    found = []
    # In a row of cells the tallest picture is found first: cut it into columns, and each column to its picture.
    for top, bottom in runs(green.any(axis=1)):
        for left, right in runs(green[top:bottom].any(axis=0)):
            rows = runs(green[top:bottom, left:right].any(axis=1))
            assert len(rows) == 1
            found.append((right - left, rows[0][1] - rows[0][0]))
            assert green[top + rows[0][0] : top + rows[0][1], left:right].all()
    # Two rows of stills, each in three bands; nobody looked at any of them.
    expected = 3 * shapes[:3] + 3 * shapes[3:]
    assert len(found) == len(expected)
    for (width, height), shape in zip(found, expected, strict=True):
        assert width / height == pytest.approx(shape[0] / shape[1], rel=0.06)


def test_fixations_of_stills_are_pixels_from_the_corner(tmp_path):
    sheet = sheet_of(still_row(tmp_path, 96, 64, x=[24.0], y=[48.0]))
    top, bottom, left, right = boxes(sheet)[2]
    center = dot_center(sheet[top:bottom, left:right]) / (bottom - top, right - left)
    np.testing.assert_allclose(center, (48 / 64, 24 / 96), atol=0.004)


def test_nothing_to_show():
    with pytest.raises(ValueError, match="nothing to show"):
        contact_sheet([])
