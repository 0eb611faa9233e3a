"""Tests of reading videos and images, on files made here whose frames carry their own number."""

from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image

from numbered_video import HEIGHT, WIDTH, make_video, number_of, numbered, numbers
from salfom_hf.errors import VideoError
from salfom_hf.video.reading import probe, read_frames
from salfom_hf.video.seeking import read_frames_at


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return make_video(tmp_path_factory.mktemp("clip") / "clip.mp4", rate=30, tone="aac")


# Reading.


@pytest.mark.parametrize(
    ("name", "codec"),
    [("a.mp4", "libx264"), ("a.mkv", "libx264"), ("a.mov", "mpeg4"), ("a.avi", "mpeg4"), ("a.ts", "libx264"),
     ("a.webm", "libvpx"), ("a:b %d.mp4", "libx264")],
)  # fmt: skip
def test_every_frame_is_read_in_order_and_described(tmp_path, name, codec):
    path = make_video(tmp_path / name, codec=codec)
    info = probe(path)
    assert (info.width, info.height, info.frame_rate, info.has_audio) == (WIDTH, HEIGHT, 30, False)
    assert info.path == path
    assert info.num_frames == pytest.approx(60, abs=1)
    assert info.duration == pytest.approx(2, abs=0.05)
    frames = list(read_frames(path))
    assert [number_of(f.image) for f in frames] == list(range(60))
    assert all(f.image.dtype == np.uint8 and f.image.shape == (HEIGHT, WIDTH, 3) for f in frames)
    assert all(isinstance(f.timestamp, Fraction) for f in frames)
    assert [float(f.timestamp) for f in frames] == pytest.approx([i / 30 for i in range(60)], abs=6e-4)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".ts", ".avi"])
def test_a_range_starts_and_ends_at_the_right_frames(tmp_path, suffix):
    path = make_video(tmp_path / f"clip{suffix}", range(150), codec="mpeg4" if suffix == ".avi" else "libx264")
    assert numbers(path, start=1.0, duration=0.5) == list(range(30, 45))
    assert numbers(path, start=3.37) == list(range(101, 150))
    assert float(next(read_frames(path, start=4.5)).timestamp) == pytest.approx(4.5, abs=6e-4)
    halves = numbers(path, duration=1.7) + numbers(path, start=1.7)
    assert halves == list(range(150))


def test_variable_frame_rate_keeps_its_timestamps(tmp_path):
    ticks = [0, 30, 100, 110, 500, 1234, 1235, 3000]
    path = make_video(tmp_path / "vfr.mp4", ticks, time_base=Fraction(1, 600))
    assert [f.timestamp for f in read_frames(path)] == [Fraction(t, 600) for t in ticks]


def test_a_clock_that_does_not_begin_at_zero_is_taken_from_its_beginning(tmp_path):
    path = make_video(tmp_path / "late.ts", [3600 + i for i in range(60)])
    assert [float(f.timestamp) for f in read_frames(path)] == pytest.approx([i / 30 for i in range(60)])
    assert numbers(path, start=1.0) == list(range(30, 60))


def test_missing_timestamps_follow_at_the_frame_rate(tmp_path):
    path = make_video(tmp_path / "raw.h264", format="h264")
    rate = probe(path).frame_rate
    assert [f.timestamp for f in read_frames(path)] == [i / rate for i in range(60)]
    assert numbers(path, start=float(30 / rate)) == list(range(30, 60))


@pytest.mark.parametrize(
    ("pts", "expected"),
    [
        ([0, 1, 1, 2, 3], [0, 1, 1.5, 2, 3]),
        ([0, 1, 2, None, 4], [0, 1, 2, 3, 4]),
        ([0, 1, 99, 3, 4], [0, 1, 2, 3, 4]),
        ([0, 1, 2, 3, 99], [0, 1, 2, 3, 99]),
        ([7, 8, 2, 10], [7, 8, 9, 10]),
    ],
)
def test_timestamps_strictly_increase_whatever_the_file_says(clip, monkeypatch, pts, expected):
    import salfom_hf.video.reading as module

    def decoded(container, stream, rate, check):
        for ticks in pts:
            frame = av.VideoFrame(WIDTH, HEIGHT, "rgb24")
            frame.pts = None if ticks is None else round(ticks / 30 / stream.time_base)
            yield frame

    monkeypatch.setattr(module, "_decoded", decoded)
    assert [float(f.timestamp * 30) for f in read_frames(clip)] == pytest.approx(expected)


def test_odd_sizes_are_kept(tmp_path):
    path = make_video(
        tmp_path / "odd.mp4", range(5), pictures=[numbered(i, 65, 47) for i in range(5)], pix_fmt="yuv444p"
    )
    assert (probe(path).width, probe(path).height) == (65, 47)
    assert next(read_frames(path)).image.shape == (47, 65, 3)
    assert numbers(path) == list(range(5))


def test_grey_pictures_become_rgb(tmp_path):
    path = make_video(tmp_path / "grey.mkv", range(5), codec="ffv1", pix_fmt="gray")
    for i, frame in enumerate(read_frames(path)):
        assert np.array_equal(frame.image, numbered(i))


def test_transparency_is_put_over_black(tmp_path):
    with av.open(str(tmp_path / "alpha.mkv"), "w") as output:
        stream = output.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "bgra"
        rgba = np.full((HEIGHT, WIDTH, 4), (200, 100, 50, 0), np.uint8)
        rgba[:, 16:32, 3], rgba[:, 32:, 3] = 128, 255
        frame = av.VideoFrame.from_ndarray(rgba, format="rgba").reformat(format="bgra")
        output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    image = next(read_frames(tmp_path / "alpha.mkv")).image
    assert image[0, 0].tolist() == [0, 0, 0]
    assert image[0, 20].tolist() == [100, 50, 25]
    assert image[0, 40].tolist() == [200, 100, 50]
    # What is transparent has no colour, which would show at the edge.
    small = Image.fromarray(image).resize((WIDTH // 2, HEIGHT // 2), Image.Resampling.BICUBIC)
    scaled = next(read_frames(tmp_path / "alpha.mkv", size=(HEIGHT // 2, WIDTH // 2))).image
    assert np.array_equal(scaled, np.asarray(small))


@pytest.mark.parametrize("size", [(HEIGHT // 2, WIDTH // 2), (HEIGHT // 3, WIDTH - 5), (2 * HEIGHT, 2 * WIDTH)])
def test_frames_are_scaled_to_the_size_that_is_asked_for(tmp_path, size):
    with pytest.raises(ValueError, match="1 or more pixels"):
        next(read_frames(tmp_path, size=(0, 10)))
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    picture = np.stack([rows * 255 // HEIGHT, columns * 255 // WIDTH, 255 - rows * 255 // HEIGHT], axis=-1)
    path = make_video(tmp_path / "ramp.mkv", range(2), pictures=[picture.astype(np.uint8)] * 2, codec="ffv1")
    whole, scaled = (next(read_frames(path, size=asked)).image for asked in (None, size))
    expected = Image.fromarray(whole).resize(size[::-1], Image.Resampling.BICUBIC)
    assert np.abs(scaled.astype(int) - np.asarray(expected)).max() <= 10
    squares = np.where((rows // 8 + columns // 8)[..., None] % 2, (200, 40, 40), (40, 40, 200)).astype(np.uint8)
    path = make_video(tmp_path / "squares.mkv", range(2), pictures=[squares] * 2, codec="ffv1")
    colours = next(read_frames(path, size=size)).image
    expected_colours = Image.fromarray(squares).resize(size[::-1], Image.Resampling.BICUBIC)
    assert np.abs(colours.astype(int) - np.asarray(expected_colours)).mean() < 12
    images = tmp_path / "images"
    images.mkdir()
    Image.fromarray(whole).save(images / "1.png")
    assert np.array_equal(next(read_frames(images, size=size)).image, np.asarray(expected))


def test_a_size_that_changes_on_the_way_is_scaled_to_the_first(tmp_path):
    small = make_video(tmp_path / "1.h264", range(10), format="h264")
    large = make_video(
        tmp_path / "2.h264", range(10), pictures=[numbered(i, 128, 96) for i in range(10, 20)], format="h264"
    )
    joined = tmp_path / "joined.h264"
    joined.write_bytes(small.read_bytes() + large.read_bytes())
    frames = list(read_frames(joined))
    assert {f.image.shape for f in frames} == {(HEIGHT, WIDTH, 3)}
    assert [number_of(f.image) for f in frames] == list(range(20))


# Frames by number.


def numbers_at(source, indices):
    return [number_of(image) for image in read_frames_at(source, indices)]


OPEN_GOP = {"x264-params": "open-gop=1:keyint=12:min-keyint=12:scenecut=0"}


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [("a.mp4", "libx264", {}), ("open.mp4", "libx264", OPEN_GOP), ("open.mkv", "libx264", OPEN_GOP),
     ("a.ts", "libx264", OPEN_GOP), ("open.avi", "libx264", OPEN_GOP), ("raw.h264", "libx264", {}),
     ("a.avi", "mpeg4", {}), ("b.avi", "mpeg4", {"bf": "2"}), ("b.mp4", "mpeg4", {"bf": "2"}),
     ("a.mjpeg.avi", "mjpeg", {}), ("a.mpg", "mpeg2video", {"bf": "2"}), ("a.wmv", "wmv2", {}),
     ("a.webm", "libvpx-vp9", {"auto-alt-ref": "1", "lag-in-frames": "16"}),
     ("old.webm", "libvpx", {"auto-alt-ref": "1", "lag-in-frames": "16"})],
)  # fmt: skip
def test_any_frame_is_the_one_that_reading_in_order_gives(tmp_path, name, codec, options):
    pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    path = make_video(tmp_path / name, codec=codec, pix_fmt=pix_fmt, codec_options=options)
    expected = [frame.image for frame in read_frames(path)]
    assert [number_of(image) for image in expected] == list(range(60))
    for index in range(60):
        (image,) = read_frames_at(path, [index])
        assert np.array_equal(image, expected[index]), index
    for indices in (range(60), range(5, 21), range(13, 60, 9), [0, 59], [30, 31, 58]):
        for source in (str(path), path.read_bytes()):
            for index, image in zip(indices, read_frames_at(source, indices), strict=True):
                assert np.array_equal(image, expected[index]), (indices, index)


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [("a.mp4", "libx264", {}), ("a.mkv", "libx264", OPEN_GOP), ("a.avi", "mpeg4", {}), ("b.avi", "mpeg4", {"bf": "2"}),
     ("mjpeg.avi", "mjpeg", {}), ("b_frames.avi", "libx264", {})],
)  # fmt: skip
def test_a_frame_is_decoded_from_the_key_frame_before_it(tmp_path, monkeypatch, name, codec, options):
    pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    path = make_video(tmp_path / name, range(200), codec=codec, pix_fmt=pix_fmt, codec_options=options)
    import salfom_hf.video.seeking as module

    numbers_at(path, [0])  # The file is searched once for where its frames are.
    demuxed, original = [], module._whole_packets
    monkeypatch.setattr(
        module, "_whole_packets", lambda *a: (demuxed.append(packet.pts) or packet for packet in original(*a))
    )
    assert numbers_at(path, [171, 175]) == [171, 175]
    assert len(demuxed) < 60


def test_frames_of_a_variable_rate_are_found(tmp_path):
    ticks = [0, 30, 100, 110, 500, 1234, 1235, *range(3000, 3100), 9000]
    path = make_video(tmp_path / "vfr.mp4", ticks, time_base=Fraction(1, 600))
    for index in range(len(ticks)):
        assert numbers_at(path, [index]) == [index]


def test_frames_of_joined_recordings_are_found(tmp_path):
    parts = [
        make_video(tmp_path / f"{i}.ts", range(30), pictures=[numbered(30 * i + n) for n in range(30)]) for i in (0, 1)
    ]
    joined = tmp_path / "joined.ts"
    joined.write_bytes(b"".join(part.read_bytes() for part in parts))
    expected = numbers(joined)
    assert len(expected) > 50
    assert [numbers_at(joined, [index])[0] for index in range(len(expected))] == expected


def with_bad_packet(path, codec, number):
    """A video of which one packet is no packet of a picture."""
    make_video(path, codec=codec)
    with av.open(str(path)) as container:
        payload = bytes(next(p for i, p in enumerate(container.demux(video=0)) if i == number))
    data = path.read_bytes()
    assert data.count(payload) == 1
    path.write_bytes(data.replace(payload, b"\xff" * len(payload)))
    return path


def test_a_frame_that_cannot_be_decoded_does_not_shift_the_others(tmp_path):
    path = with_bad_packet(tmp_path / "bad.webm", "libvpx", 20)
    expected = numbers(path)
    assert len(expected) < 60
    assert [numbers_at(path, [index])[0] for index in range(len(expected))] == expected


def test_a_damaged_frame_is_reported_by_its_number(tmp_path):
    path = with_bad_packet(tmp_path / "bad.webm", "libvpx-vp9", 20)
    with pytest.raises(VideoError, match=r"bad\.webm .*frame 20"):
        numbers_at(path, [20])
    assert numbers_at(path, [3, 24, 40]) == [3, 24, 40]


def test_a_file_that_was_replaced_is_read_anew(tmp_path):
    path = make_video(tmp_path / "a.mp4")
    assert numbers_at(path, [50]) == [50]
    make_video(path, range(80), pictures=[numbered(100 + i) for i in range(80)])
    assert numbers_at(path, [50, 79]) == [150, 179]


def test_numbers_beyond_the_end_or_out_of_order_are_refused(clip):
    with pytest.raises(VideoError, match=r"clip\.mp4 has 60 frames.* 60"):
        numbers_at(clip, [59, 60])
    with pytest.raises(VideoError, match=r"\d+ bytes has 60 frames"):
        numbers_at(clip.read_bytes(), [60])
    for indices in ([-1, 2], [3, 3], [4, 2]):
        with pytest.raises(ValueError, match="increase"):
            numbers_at(clip, indices)
    assert numbers_at(clip, []) == []


# Images.


def test_a_folder_of_images_is_a_video_in_natural_order(tmp_path):
    names = ["f1.png", "f2.PNG", "f10.bmp", "f11²2.tiff", "f100.webp"]
    for i, name in enumerate(names):
        Image.fromarray(numbered(i)).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "._f1.png").write_bytes(b"no image either")
    info = probe(tmp_path)
    assert (info.width, info.height, info.frame_rate, info.num_frames) == (WIDTH, HEIGHT, 25, 5)
    assert (info.duration, info.has_audio) == (0.2, False)
    frames = list(read_frames(tmp_path))
    assert [number_of(f.image) for f in frames] == list(range(5))
    assert [f.timestamp for f in frames] == [Fraction(i, 25) for i in range(5)]
    assert np.array_equal(frames[0].image, numbered(0))
    assert numbers(tmp_path, start=0.08, duration=0.08) == [2, 3]


def test_images_of_other_sizes_are_scaled_to_the_first(tmp_path):
    Image.fromarray(numbered(5)).save(tmp_path / "1.png")
    Image.fromarray(numbered(6, 200, 150)).save(tmp_path / "2.png")
    frames = list(read_frames(tmp_path))
    assert {f.image.shape for f in frames} == {(HEIGHT, WIDTH, 3)}
    assert [number_of(f.image) for f in frames] == [5, 6]


def test_a_single_image_is_one_frame_set_upright(tmp_path):
    picture = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    picture[: HEIGHT // 2, : WIDTH // 2] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # To be turned a quarter clockwise.
    Image.fromarray(picture).save(tmp_path / "photo.jpg", exif=exif)
    (frame,) = read_frames(tmp_path / "photo.jpg")
    assert (probe(tmp_path / "photo.jpg").width, probe(tmp_path / "photo.jpg").height) == (HEIGHT, WIDTH)
    assert frame.image.shape == (WIDTH, HEIGHT, 3)
    assert frame.image[0, -1, 0] > 200
    assert frame.image[0, 0, 0] < 50
    assert frame.timestamp == 0


def test_images_of_every_mode_become_rgb(tmp_path):
    Image.fromarray(np.full((20, 20), 0x8040, np.uint16)).save(tmp_path / "deep.png")
    Image.new("RGBA", (20, 20), (200, 100, 50, 128)).save(tmp_path / "alpha.png")
    Image.new("L", (20, 20), 77).save(tmp_path / "grey.png")
    Image.new("CMYK", (20, 20), (0, 0, 0, 255)).save(tmp_path / "print.jpg")
    palette = Image.new("P", (20, 20), 0)
    palette.putpalette([10, 20, 30])
    palette.save(tmp_path / "palette.png")
    expected = {
        "deep.png": (128, 128, 128),
        "alpha.png": (100, 50, 25),
        "grey.png": (77, 77, 77),
        "print.jpg": (0, 0, 0),
        "palette.png": (10, 20, 30),
    }
    for name, colour in expected.items():
        (frame,) = read_frames(tmp_path / name)
        assert frame.image[3, 3] == pytest.approx(colour, abs=2), name


# Bad input.


def cut(path, target, share):
    data = path.read_bytes()
    target.write_bytes(data[: int(len(data) * share)])
    return target


def bad_inputs(folder):
    (folder / "empty").mkdir()
    (folder / "text.txt").write_text("These are words.\n" * 50)
    (folder / "words.mp4").write_text("These are words.\n" * 50)
    (folder / "nothing.mp4").write_bytes(b"")
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(50))
    (folder / "noise.mkv").write_bytes(np.random.default_rng(0).bytes(5000))
    whole = make_video(folder / "whole.mp4")
    cut(whole, folder / "no_index.mp4", 0.5)
    make_video(folder / "tiny.mkv", range(3), pictures=[np.zeros((2, 2, 3), np.uint8)] * 3, codec="ffv1")
    Image.new("RGB", (15, 400)).save(folder / "thin.png")
    with av.open(str(folder / "sound.wav"), "w") as output:
        stream = output.add_stream("pcm_s16le", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        frame.sample_rate = 8000
        output.mux(stream.encode(frame))
    with av.open(str(folder / "no_frames.mkv"), "w") as output:
        stream = output.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        output.start_encoding()
    names = (
        "text.txt words.mp4 nothing.mp4 broken.png noise.mkv no_index.mp4 tiny.mkv thin.png sound.wav no_frames.mkv"
    )
    return ["empty", *names.split(), "missing.mp4", "whole.mp4/inside.mp4", "nul\0byte.mp4", "x" * 300 + ".mp4"]


def test_bad_inputs_are_refused_with_one_clear_message(tmp_path):
    for name in bad_inputs(tmp_path):
        uses = [probe, lambda path: list(read_frames(path))]
        if not name.endswith(("empty", ".png", "tiny.mkv")):
            uses.append(lambda path: list(read_frames_at(path, [0])))
        for use in uses:
            with pytest.raises(VideoError) as caught:
                use(tmp_path / name)
            message = str(caught.value)
            assert name in message
            assert "\n" not in message
            assert message.endswith(".")


def test_a_damaged_image_in_a_folder_is_named(tmp_path):
    Image.fromarray(numbered(0)).save(tmp_path / "1.png")
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8)).save(tmp_path / "0.png")
    cut(tmp_path / "0.png", tmp_path / "2.png", 0.5)
    frames = read_frames(tmp_path)
    next(frames), next(frames)
    with pytest.raises(VideoError, match=r"2\.png"):
        next(frames)


@pytest.mark.parametrize(
    "bounds", [{"start": 2.5}, {"start": -1}, {"start": float("nan")}, {"start": float("inf")}, {"duration": 0},
               {"duration": -1}, {"duration": float("nan")}]
)  # fmt: skip
def test_impossible_ranges_are_refused(clip, tmp_path, bounds):
    Image.fromarray(numbered(0)).save(tmp_path / "1.png")
    for path in (clip, tmp_path):
        with pytest.raises(VideoError, match=path.name):
            list(read_frames(path, **bounds))


def test_one_bad_packet_is_skipped(tmp_path):
    seen = numbers(with_bad_packet(tmp_path / "bad.webm", "libvpx-vp9", 24))
    assert len(seen) >= 48
    assert seen[:24] == list(range(24))
    assert seen[-12:] == list(range(48, 60))
