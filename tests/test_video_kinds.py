"""Tests of reading the kinds of files that cameras, phones and screens write, made here."""

from fractions import Fraction

import av
import numpy as np
import pytest

from numbered_video import HEIGHT, WIDTH, make_video, numbered, numbers
from salfom_hf.video.reading import probe, read_frames
from salfom_hf.video.seeking import read_frames_at


def with_matrix(path, a, b, c, d):
    """Set the display matrix in the header of a file's first track, as cameras and editors do."""
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4 + 40  # Version 0: 40 bytes come before the matrix, of 16.16 fixed-point numbers.
    for place, value in zip((0, 4, 12, 16), (a, b, c, d), strict=True):
        data[at + place : at + place + 4] = (value << 16).to_bytes(4, "big", signed=True)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("matrix", "shown"),
    [
        ((1, 0, 0, 1), lambda image: image),
        ((-1, 0, 0, 1), lambda image: image[:, ::-1]),
        ((1, 0, 0, -1), lambda image: image[::-1]),
        ((-1, 0, 0, -1), lambda image: image[::-1, ::-1]),
        ((0, 1, -1, 0), lambda image: np.rot90(image, -1)),
        ((0, -1, 1, 0), lambda image: np.rot90(image)),
        ((0, 1, 1, 0), lambda image: image.swapaxes(0, 1)),
        ((0, -1, -1, 0), lambda image: np.rot90(image.swapaxes(0, 1), 2)),
    ],
)
def test_pictures_are_turned_and_mirrored_as_their_file_says(tmp_path, matrix, shown):
    picture = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    picture[: HEIGHT // 2, : WIDTH // 2], picture[HEIGHT // 2 :, : WIDTH // 2] = 255, 128
    path = with_matrix(make_video(tmp_path / "turned.mp4", range(3), pictures=[picture] * 3), *matrix)
    right = shown(picture)
    info = probe(path)
    assert (info.height, info.width) == right.shape[:2]
    for image in (next(read_frames(path)).image, next(read_frames_at(path, [1]))):
        assert image.shape == right.shape
        assert np.abs(image.astype(int) - right).mean() < 6


def make_tracks(path, tracks):
    """A video file of tracks: for each its size, whether it is the default one, and its pictures' first number."""
    with av.open(str(path), "w") as output:
        streams = []
        for (width, height), default, first in tracks:
            stream = output.add_stream("mpeg4", rate=25)
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            stream.disposition = av.stream.Disposition.default if default else av.stream.Disposition(0)
            streams.append((stream, width, height, first))
        for number in range(10):
            for stream, width, height, first in streams:
                frame = av.VideoFrame.from_ndarray(numbered(first + number, width, height)).reformat(format="yuv420p")
                frame.pts, frame.time_base = number, Fraction(1, 25)
                output.mux(stream.encode(frame))
        for stream, *_ in streams:
            output.mux(stream.encode(None))
    return path


@pytest.mark.parametrize(
    ("tracks", "shown"),
    [
        ([((128, 96), False, 100), ((64, 48), True, 0)], 0),
        ([((64, 48), True, 100), ((128, 96), True, 0)], 0),
        ([((64, 48), True, 0), ((64, 48), True, 100)], 0),
    ],
)
def test_the_default_track_is_shown_else_the_largest(tmp_path, tracks, shown):
    path = make_tracks(tmp_path / "tracks.mkv", tracks)
    assert numbers(path) == list(range(shown, shown + 10))
