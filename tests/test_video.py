"""Tests of reading and writing videos, on files made here whose frames carry their own number."""

import os
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from salfom_hf.video import VideoError, VideoWriter, atomic_output, probe, read_frames

WIDTH, HEIGHT = 64, 48
NTSC = Fraction(30000, 1001)


def numbered(number, width=WIDTH, height=HEIGHT):
    """A grey picture with `number` in ten black or white columns, least significant bit on the left."""
    image = np.full((height, width, 3), 128, np.uint8)
    edges = np.linspace(0, width, 11).astype(int)
    for bit in range(10):
        image[:, edges[bit] : edges[bit + 1]] = 255 * (number >> bit & 1)
    return image


def number_of(image):
    edges = np.linspace(0, image.shape[1], 11).astype(int)
    return sum((image[:, edges[b] : edges[b + 1]].mean() > 128) << b for b in range(10))


def make_video(
    path, ticks=range(60), rate=30, time_base=None, pictures=None, codec="libx264", pix_fmt="yuv420p", tone=None, **kw
):
    """Write a picture at each tick; `tone` is the codec of one second of sound per second."""
    pictures = pictures or [numbered(i) for i in range(len(ticks))]
    with av.open(str(path), "w", **kw) as output:
        stream = output.add_stream(codec, rate=rate)
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = pix_fmt
        stream.gop_size = 12
        if time_base is not None:
            stream.codec_context.time_base = stream.time_base = time_base
        sound = output.add_stream(tone, rate=48000, layout="mono") if tone else None
        for tick, picture in zip(ticks, pictures, strict=True):
            frame = av.VideoFrame.from_ndarray(picture).reformat(format=pix_fmt)
            frame.pts = tick
            frame.time_base = time_base or Fraction(1, 1) / rate
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
        if sound:
            length = int(48000 * len(ticks) / rate)
            wave = (np.sin(np.arange(length) * 0.05) * 9000).astype(np.int16)[None]
            for begin in range(0, length, 960):
                frame = av.AudioFrame.from_ndarray(wave[:, begin : begin + 960].copy(), format="s16", layout="mono")
                frame.sample_rate, frame.pts, frame.time_base = 48000, begin, Fraction(1, 48000)
                output.mux(sound.encode(frame))
            output.mux(sound.encode(None))
    return path


def audio_packets(path):
    with av.open(str(path)) as container:
        return [(float(p.pts * p.time_base), bytes(p)) for p in container.demux(audio=0) if p.pts is not None]


def numbers(path, **kw):
    return [number_of(frame.image) for frame in read_frames(path, **kw)]


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


def test_sound_is_noticed(clip):
    assert probe(clip).has_audio


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".ts", ".avi"])
def test_a_range_starts_and_ends_at_the_right_frames(tmp_path, suffix):
    path = make_video(tmp_path / f"clip{suffix}", range(150), codec="mpeg4" if suffix == ".avi" else "libx264")
    assert numbers(path, start=1.0, duration=0.5) == list(range(30, 45))
    assert numbers(path, start=3.37) == list(range(102, 150))
    assert float(next(read_frames(path, start=4.5)).timestamp) == pytest.approx(4.5, abs=6e-4)
    halves = numbers(path, duration=1.7) + numbers(path, start=1.7)
    assert halves == list(range(150))


def test_seeking_does_not_decode_what_comes_before(tmp_path, monkeypatch):
    path = make_video(tmp_path / "long.mp4", range(600))
    decoded = []
    import salfom_hf.video as module

    original = module._decoded
    monkeypatch.setattr(module, "_decoded", lambda *a: (decoded.append(frame.pts) or frame for frame in original(*a)))
    assert numbers(path, start=18.0, duration=0.1) == [540, 541, 542]
    assert len(decoded) < 40


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
        ([100, 101, 0, 1, 2], [100, 101, 102, 103, 104]),
    ],
)
def test_timestamps_strictly_increase_whatever_the_file_says(clip, monkeypatch, pts, expected):
    import salfom_hf.video as module

    def decoded(container, stream, rate):
        for ticks in pts:
            frame = av.VideoFrame(WIDTH, HEIGHT, "rgb24")
            frame.pts = None if ticks is None else round(ticks / 30 / stream.time_base)
            yield frame

    monkeypatch.setattr(module, "_decoded", decoded)
    assert [float(f.timestamp * 30) for f in read_frames(clip)] == pytest.approx(expected)


def rotated(path, quarter_turns_clockwise):
    """Set the display matrix in a file's track header, as phones do."""
    matrix = [(1, 0, 0, 1), (0, 1, -1, 0), (-1, 0, 0, -1), (0, -1, 1, 0)][quarter_turns_clockwise]
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4 + 40  # Version 0: 40 bytes come before the matrix, of 16.16 fixed-point numbers.
    for place, value in zip((0, 4, 12, 16), matrix, strict=True):
        data[at + place : at + place + 4] = (value << 16).to_bytes(4, "big", signed=True)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(("turns", "red_corner"), [(0, (0, 0)), (1, (0, -1)), (2, (-1, -1)), (3, (-1, 0))])
def test_rotation_metadata_is_applied(tmp_path, turns, red_corner):
    picture = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    picture[: HEIGHT // 2, : WIDTH // 2] = 255, 0, 0
    path = rotated(make_video(tmp_path / "turned.mp4", range(3), pictures=[picture] * 3), turns)
    size = (WIDTH, HEIGHT) if turns % 2 == 0 else (HEIGHT, WIDTH)
    info = probe(path)
    assert (info.width, info.height) == size
    image = next(read_frames(path)).image
    assert image.shape == (size[1], size[0], 3)
    corners = {(y, x): image[y, x, 0] > 200 for y in (0, -1) for x in (0, -1)}
    assert [corner for corner, red in corners.items() if red] == [red_corner]


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


COPY_AND_WEIGH = """
import sys
from salfom_hf.video import VideoWriter, probe, read_frames

def peak():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))

info = probe(sys.argv[1])
with VideoWriter(sys.argv[2], info.width, info.height, info.frame_rate, audio_from=sys.argv[1]) as writer:
    for count, frame in enumerate(read_frames(sys.argv[1]), 1):
        writer.write(*frame)
        if count == 150:
            early = peak()
print(count, peak() - early)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs the memory peak that Linux reports")
def test_memory_does_not_grow_with_length(tmp_path):
    pictures = [numbered(i, 160, 120) for i in range(1000)]
    path = make_video(tmp_path / "in.mp4", range(1000), pictures=pictures, codec="mpeg4", tone="aac")
    command = [sys.executable, "-c", COPY_AND_WEIGH, str(path), str(tmp_path / "out.mp4")]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    count, growth = map(int, result.stdout.split())
    assert count == 1000
    assert growth < 16_000  # The other 850 frames would take 49 MB.


def test_reading_is_lazy(clip, monkeypatch):
    import salfom_hf.video as module

    made = []
    original = module._rgb
    monkeypatch.setattr(module, "_rgb", lambda frame: made.append(1) or original(frame))
    frames = read_frames(clip)
    assert not made
    for count in range(1, 4):
        next(frames)
        assert len(made) == count


# Images.


def test_a_folder_of_images_is_a_video_in_natural_order(tmp_path):
    names = ["f1.png", "f2.PNG", "f10.bmp", "f11.tiff", "f100.webp"]
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
        for use in (probe, lambda path: list(read_frames(path))):
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


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_a_file_that_breaks_off_gives_its_frames_and_then_an_error(tmp_path, suffix):
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 60, (150, HEIGHT, WIDTH, 3), np.uint8)
    pictures = [numbered(i) // 2 + noise[i] + 30 for i in range(150)]
    options = {"movflags": "faststart"} if suffix == ".mp4" else {}
    whole = make_video(tmp_path / f"whole{suffix}", range(150), pictures=pictures, options=options)
    path = cut(whole, tmp_path / f"cut{suffix}", 0.6)
    assert len(list(read_frames(whole))) == 150
    seen = []
    with pytest.raises(VideoError, match=r"cut.* breaks off after [23]\.\d\d s"):
        seen.extend(frame.timestamp for frame in read_frames(path))
    assert 70 < len(seen) < 110
    assert seen == sorted(set(seen))
    assert len(list(read_frames(path, duration=1.0))) == 30
    with pytest.raises(VideoError, match="breaks off"):
        list(read_frames(path, start=4.8))


def test_one_bad_packet_is_skipped(tmp_path):
    path = make_video(tmp_path / "bad.webm", codec="libvpx-vp9")
    with av.open(str(path)) as container:
        packet = next(p for i, p in enumerate(container.demux(video=0)) if i == 24)
        payload = bytes(packet)
    data = path.read_bytes()
    assert data.count(payload) == 1
    path.write_bytes(data.replace(payload, b"\xff" * len(payload)))
    seen = numbers(path)
    assert len(seen) >= 48
    assert seen[:24] == list(range(24))
    assert seen[-12:] == list(range(48, 60))


# Writing.


def copy_video(source, target, **kw):
    info = probe(source)
    span = {k: kw[k] for k in ("start", "duration") if k in kw}
    with VideoWriter(target, info.width, info.height, info.frame_rate, audio_from=source, **kw) as writer:
        for frame in read_frames(source, **span):
            writer.write(frame.image, frame.timestamp)
    return target


@pytest.mark.parametrize("suffix", [".mp4", ".MOV", ".mkv", ".webm"])
@pytest.mark.parametrize("rate", [NTSC, Fraction(24), Fraction(25, 2)])
def test_what_is_written_has_the_same_frames_times_and_rate(tmp_path, suffix, rate):
    target = tmp_path / f"out{suffix}"
    times = [i / rate for i in range(40)]
    with VideoWriter(target, WIDTH, HEIGHT, rate) as writer:
        for i, time in enumerate(times):
            writer.write(numbered(i), time)
    with av.open(str(target)) as container:
        stream = container.streams.video[0]
        assert stream.average_rate == rate
        assert stream.codec_context.name == ("vp9" if suffix == ".webm" else "h264")
    frames = list(read_frames(target))
    assert [number_of(f.image) for f in frames] == list(range(40))
    if suffix in (".mp4", ".MOV"):
        assert [f.timestamp for f in frames] == times
        assert probe(target).duration == pytest.approx(40 / rate)
    else:
        assert [float(f.timestamp) for f in frames] == pytest.approx([float(t) for t in times], abs=6e-4)
    assert os.listdir(tmp_path) == [target.name]


def test_colours_survive(tmp_path):
    picture = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    colours = [(200, 40, 90), (20, 180, 60), (30, 60, 220), (235, 235, 235)]
    for i, colour in enumerate(colours):
        picture[:, i * 16 : i * 16 + 16] = colour
    with VideoWriter(tmp_path / "out.mp4", WIDTH, HEIGHT, Fraction(25)) as writer:
        for i in range(5):
            writer.write(picture, Fraction(i, 25))
    image = next(read_frames(tmp_path / "out.mp4")).image
    for i, colour in enumerate(colours):
        assert image[24, i * 16 + 8] == pytest.approx(colour, abs=6)


@pytest.mark.parametrize("suffix", [".mp4", ".webm"])
def test_odd_sizes_are_written_exactly(tmp_path, suffix):
    with VideoWriter(tmp_path / f"out{suffix}", 65, 47, Fraction(25)) as writer:
        for i in range(5):
            writer.write(numbered(i, 65, 47), Fraction(i, 25))
    info = probe(tmp_path / f"out{suffix}")
    assert (info.width, info.height) == (65, 47)
    assert numbers(tmp_path / f"out{suffix}") == list(range(5))


def test_variable_frame_rate_is_written_exactly(tmp_path):
    times = [Fraction(t, 1000) for t in (0, 33, 34, 200, 1000, 1001, 5000)]
    with VideoWriter(tmp_path / "out.mp4", WIDTH, HEIGHT, Fraction(7, 5)) as writer:
        for i, time in enumerate(times):
            writer.write(numbered(i), time)
    assert [f.timestamp for f in read_frames(tmp_path / "out.mp4")] == times


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
def test_sound_is_copied_packet_for_packet(clip, tmp_path, suffix):
    target = copy_video(clip, tmp_path / f"out{suffix}")
    source, copied = audio_packets(clip), audio_packets(target)
    if suffix == ".mkv":  # Which has no way to say that the packet before 0 is not played.
        assert source.pop(0)[0] < -0.02
    assert [data for _, data in copied] == [data for _, data in source]
    assert [time for time, _ in copied] == pytest.approx([time for time, _ in source], abs=1e-3)
    assert numbers(target) == list(range(60))
    assert [float(f.timestamp) for f in read_frames(target)] == pytest.approx([i / 30 for i in range(60)], abs=6e-4)


def test_opus_is_copied_to_webm(tmp_path):
    source = make_video(tmp_path / "in.mkv", tone="libopus")
    target = copy_video(source, tmp_path / "out.webm")
    assert audio_packets(target) == audio_packets(source)
    assert next(read_frames(target)).timestamp == 0


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_sound_is_cut_to_the_range_and_stays_in_step(clip, tmp_path, suffix):
    target = copy_video(clip, tmp_path / f"out{suffix}", start=0.5, duration=1.0)
    expected = [(time - 0.5, data) for time, data in audio_packets(clip) if 0.5 <= time < 1.5]
    copied = audio_packets(target)
    assert [data for _, data in copied] == [data for _, data in expected]
    assert [time for time, _ in copied] == pytest.approx([time for time, _ in expected], abs=1e-3)
    assert numbers(target) == list(range(15, 45))
    assert next(read_frames(target)).timestamp == 0


@pytest.mark.parametrize(
    ("tone", "suffix", "codec"),
    [
        ("aac", ".webm", "opus"),
        ("pcm_alaw", ".mkv", "aac"),
        ("pcm_alaw", ".mp4", "aac"),
        ("pcm_s16le", ".webm", "opus"),
    ],
)
def test_sound_that_does_not_fit_the_format_is_encoded_anew(tmp_path, tone, suffix, codec):
    source = make_video(tmp_path / "in.mov", tone=tone)
    target = copy_video(source, tmp_path / f"out{suffix}", start=0.5)
    with av.open(str(target)) as container:
        sound = container.streams.audio[0]
        assert sound.codec_context.codec.canonical_name == codec
        frames = list(container.decode(sound))
    heard = np.concatenate([f.to_ndarray()[0] for f in frames])
    assert len(heard) / 48000 == pytest.approx(1.5, abs=0.1)
    assert np.abs(heard[4800:-9600]).max() > 0.2
    assert float(frames[0].pts * frames[0].time_base) == pytest.approx(0, abs=0.05)


def test_sound_is_spread_through_the_file(tmp_path):
    source = make_video(tmp_path / "in.mp4", range(300), tone="aac")
    target = copy_video(source, tmp_path / "out.mp4")
    with av.open(str(target)) as container:
        places = {"audio": [], "video": []}
        for packet in container.demux():
            if packet.pts is not None:
                places[packet.stream.type].append((packet.pos, float(packet.pts * packet.time_base)))
    # Sound stored within a second and a half of the pictures it goes with.
    video = sorted(places["video"])
    assert len(places["audio"]) > 400
    for place, time in places["audio"]:
        before = [t for p, t in video if p < place]
        assert not before or abs(before[-1] - time) < 1.5


def test_images_make_a_silent_video(tmp_path):
    (tmp_path / "in").mkdir()
    for i in range(3):
        Image.fromarray(numbered(i)).save(tmp_path / "in" / f"{i}.png")
    assert not probe(copy_video(tmp_path / "in", tmp_path / "out.mp4")).has_audio


def test_pictures_of_another_size_or_type_are_refused(tmp_path):
    with pytest.raises(ValueError, match="uint8"), VideoWriter(tmp_path / "a.mp4", 64, 48, Fraction(25)) as writer:
        writer.write(np.zeros((64, 48, 3), np.uint8), Fraction(0))
    with pytest.raises(ValueError, match="float"), VideoWriter(tmp_path / "a.mp4", 64, 48, Fraction(25)) as writer:
        writer.write(np.zeros((48, 64, 3), np.float32), Fraction(0))
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError, VideoError, SystemExit])
@pytest.mark.parametrize("written", [0, 3])
def test_an_exception_leaves_no_trace_and_keeps_what_was_there(tmp_path, error, written):
    (tmp_path / "out.mp4").write_bytes(b"precious")

    def interrupted():
        with VideoWriter(tmp_path / "out.mp4", WIDTH, HEIGHT, Fraction(25), overwrite=True) as writer:
            for i in range(written):
                writer.write(numbered(i), Fraction(i, 25))
            raise error("stop")

    with pytest.raises(error, match="stop"):
        interrupted()
    assert os.listdir(tmp_path) == ["out.mp4"]
    assert (tmp_path / "out.mp4").read_bytes() == b"precious"


def test_nothing_is_in_place_until_the_end(tmp_path):
    with VideoWriter(tmp_path / "new" / "out.mp4", WIDTH, HEIGHT, Fraction(25)) as writer:
        writer.write(numbered(1), Fraction(0))
        assert not (tmp_path / "new" / "out.mp4").exists()
    assert numbers(tmp_path / "new" / "out.mp4") == [1]


def test_an_existing_output_is_replaced_only_on_request(tmp_path):
    target = tmp_path / "out.mp4"
    target.write_bytes(b"old")
    with pytest.raises(VideoError, match="--overwrite"):
        VideoWriter(target, WIDTH, HEIGHT, Fraction(25))
    assert target.read_bytes() == b"old"
    with VideoWriter(target, WIDTH, HEIGHT, Fraction(25), overwrite=True) as writer:
        writer.write(numbered(9), Fraction(0))
    assert numbers(target) == [9]


def test_a_video_without_frames_is_not_written(tmp_path):
    with pytest.raises(VideoError, match="no frames"), VideoWriter(tmp_path / "out.mp4", 64, 48, Fraction(25)):
        pass
    assert os.listdir(tmp_path) == []


def test_an_unknown_suffix_is_refused_with_the_list(tmp_path):
    with pytest.raises(VideoError, match=r"out\.xyz.*\.mkv, \.mov, \.mp4, \.webm"):
        VideoWriter(tmp_path / "out.xyz", WIDTH, HEIGHT, Fraction(25))


def test_a_place_that_cannot_be_written_is_reported(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with (
        pytest.raises(VideoError, match=r"Cannot write .*out\.mp4"),
        VideoWriter(tmp_path / "file" / "out.mp4", 64, 48, Fraction(25)),
    ):
        pass


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_is_reported(tmp_path, monkeypatch):
    original = av.open

    def full(file, mode="r", **kw):
        return original("/dev/full" if mode == "w" else file, mode, format="matroska" if mode == "w" else None)

    monkeypatch.setattr(av, "open", full)

    def fill():
        with VideoWriter(tmp_path / "out.mkv", WIDTH, HEIGHT, Fraction(25)) as writer:
            for i in range(200):
                writer.write(numbered(i), Fraction(i, 25))

    with pytest.raises(VideoError, match=r"Cannot write .*out\.mkv.*space"):
        fill()
    assert os.listdir(tmp_path) == []


# Outputs of any kind.


def test_atomic_output_puts_files_and_folders_in_place(tmp_path):
    with atomic_output(tmp_path / "a" / "maps.txt", overwrite=False) as temporary:
        temporary.write_text("new")
    with atomic_output(tmp_path / "a" / "maps", overwrite=False) as temporary:
        temporary.mkdir()
        (temporary / "1.png").write_text("new")
    assert (tmp_path / "a" / "maps.txt").read_text() == "new"
    assert (tmp_path / "a" / "maps" / "1.png").read_text() == "new"
    assert sorted(os.listdir(tmp_path / "a")) == ["maps", "maps.txt"]


def make_folder(path, names, overwrite):
    with atomic_output(path, overwrite) as temporary:
        temporary.mkdir()
        for name in names:
            (temporary / name).write_text("new")


def test_atomic_output_replaces_a_folder_only_of_the_same_kind(tmp_path):
    target = tmp_path / "maps"
    target.mkdir()
    make_folder(target, ["1.png", "2.png"], overwrite=False)  # An empty folder is free.
    with pytest.raises(VideoError, match="--overwrite"):
        make_folder(target, ["1.png"], overwrite=False)
    make_folder(target, ["1.png"], overwrite=True)
    assert os.listdir(target) == ["1.png"]
    (target / "thesis.doc").write_text("precious")
    with pytest.raises(VideoError, match="other files"):
        make_folder(target, ["1.png"], overwrite=True)
    with pytest.raises(VideoError, match="other files"), atomic_output(target, True) as temporary:
        temporary.write_text("a file")
    assert sorted(os.listdir(target)) == ["1.png", "thesis.doc"]
    assert os.listdir(tmp_path) == ["maps"]
