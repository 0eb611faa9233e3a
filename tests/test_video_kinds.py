"""Tests of reading the kinds of files that cameras, phones and screens write, made here."""

import re
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from numbered_video import HEIGHT, WIDTH, make_video, number_of, numbered, numbers
from salfom_hf import SaliencyPredictor, cli
from salfom_hf.errors import CutOffError, VideoError
from salfom_hf.inference.results import default_output
from salfom_hf.video.reading import demuxed, frames_there, probe, read_frames
from salfom_hf.video.seeking import read_frames_at
from salfom_hf.video.writing import VideoWriter


@pytest.fixture
def predict(model_folder, tmp_path, capsys):
    """Runs `salfom predict` for a video next to its picture, and gives the numbers, times and durations of frames."""

    def predict(source, *options):
        output = tmp_path / "predicted.mp4"
        command = ["predict", str(source), "--model", str(model_folder), "-o", str(output), "--format", "side-by-side"]
        assert cli.main([*command, "--overwrite", *options]) == 0, capsys.readouterr().err
        frames = list(read_frames(output))
        halves = [frame.image[:, : frame.image.shape[1] // 2] for frame in frames]
        return [(number_of(i), float(f.timestamp), float(f.duration)) for i, f in zip(halves, frames, strict=True)]

    return predict


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
    small = right[::2, ::2]
    scaled = next(read_frames(path, size=small.shape[:2])).image
    whole = next(read_frames(path)).image, next(read_frames_at(path, [1]))
    for image, expected in ((scaled, small), *((image, right) for image in whole)):
        assert image.shape == expected.shape
        assert np.abs(image.astype(int) - expected).mean() < 6


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


def frames_and_times(path, **part):
    return [(number_of(f.image), float(f.timestamp), float(f.duration)) for f in read_frames(path, **part)]


@pytest.fixture(scope="module")
def long_frames(tmp_path_factory):
    """Frames at 0, 0.1, 0.2 and 2 seconds, of which the last is shown for 3 seconds."""
    path = tmp_path_factory.mktemp("long") / "long.mp4"
    with VideoWriter(path, WIDTH, HEIGHT, Fraction(25)) as writer:
        for number, begin, length in ((0, 0, 0.1), (1, 0.1, 0.1), (2, 0.2, 1.8), (3, 2, 3)):
            writer.write(numbered(number), Fraction(str(begin)), Fraction(str(length)))
    return path


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        ({}, [(0, 0, 0.1), (1, 0.1, 0.1), (2, 0.2, 1.8), (3, 2, 3)]),
        ({"start": 1.3, "duration": 0.5}, [(2, 1.3, 0.5)]),
        ({"start": 1.3, "duration": 1}, [(2, 1.3, 0.7), (3, 2, 0.3)]),
        ({"start": 3.5}, [(3, 3.5, 1.5)]),
        ({"start": 0.1, "duration": 0.1}, [(1, 0.1, 0.1)]),
    ],
)
def test_a_part_begins_with_the_frame_on_screen_and_ends_with_the_range(long_frames, part, expected):
    assert frames_and_times(long_frames, **part) == [pytest.approx(frame) for frame in expected]


def test_nothing_is_on_screen_after_the_last_frame(long_frames):
    with pytest.raises(VideoError, match=r"No frame at or after 5\.00 s in .*, which is 5\.00 s long"):
        next(read_frames(long_frames, start=5))


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv", ".webm"])
@pytest.mark.parametrize("count", [1, 2, 3, 12])
def test_the_last_frame_is_written_as_long_as_it_is_shown(tmp_path, suffix, count):
    path = tmp_path / f"long{suffix}"
    with VideoWriter(path, WIDTH, HEIGHT, Fraction(25)) as writer:
        for number in range(count):
            writer.write(
                numbered(number), Fraction(number, 25), Fraction(1, 25) if number < count - 1 else Fraction(3)
            )
    assert frames_and_times(path)[-1] == pytest.approx((count - 1, (count - 1) / 25, 3), abs=2e-3)
    with av.open(str(path)) as container:
        assert container.duration / av.time_base == pytest.approx((count - 1) / 25 + 3, abs=2e-3)


def test_gifs_keep_the_duration_of_their_last_frame(tmp_path, predict):
    images = [Image.fromarray(numbered(i)) for i in range(4)]
    images[0].save(tmp_path / "a.gif", save_all=True, append_images=images[1:], duration=[100, 100, 100, 3000])
    assert frames_and_times(tmp_path / "a.gif")[-1] == pytest.approx((3, 0.3, 3))
    assert [round(frame[2], 2) for frame in predict(tmp_path / "a.gif")] == [0.1, 0.1, 0.1, 3]
    assert predict(tmp_path / "a.gif", "--start", "2", "--duration", "1") == [pytest.approx((3, 0, 1))]


@pytest.mark.parametrize("suffix", [".webp", ".png", ".avif"])
def test_all_frames_of_animated_pictures_are_read_with_their_durations(tmp_path, suffix, predict):
    images = [Image.fromarray(numbered(i)) for i in range(4)]
    path, lengths = tmp_path / f"animated{suffix}", [100, 200, 100, 1000]
    images[0].save(path, save_all=True, append_images=images[1:], duration=lengths)
    expected = [(0, 0, 0.1), (1, 0.1, 0.2), (2, 0.3, 0.1), (3, 0.4, 1)]
    assert frames_and_times(path) == [pytest.approx(frame) for frame in expected]
    assert frames_and_times(path, start=0.2, duration=0.2) == [
        pytest.approx((1, 0.2, 0.1)),
        pytest.approx((2, 0.3, 0.1)),
    ]
    for source in (path, path.read_bytes()):
        assert [number_of(image) for image in read_frames_at(source, [1, 3, 4], missing_at_end=1)] == [1, 3, 3]
        with pytest.raises(VideoError, match="has 4 frames; there is no frame with the number 4"):
            next(read_frames_at(source, [4]))
    info = probe(path)
    assert (info.num_frames, info.duration, info.frame_rate) == (4, 1.4, Fraction(20, 7))
    assert predict(path) == [pytest.approx(frame) for frame in expected]
    assert default_output(path, "overlay") == tmp_path / "animated_overlay.mp4"


def test_pages_of_a_tiff_are_frames_but_for_smaller_copies(tmp_path):
    images = [Image.fromarray(numbered(i)) for i in range(3)]
    images[0].save(tmp_path / "pages.tif", save_all=True, append_images=images[1:])
    assert frames_and_times(tmp_path / "pages.tif") == [pytest.approx((i, i / 25, 1 / 25)) for i in range(3)]
    small = images[1].resize((32, 24))
    small.encoderinfo = {"tiffinfo": {254: 1}}
    images[0].save(tmp_path / "copy.tif", save_all=True, append_images=[small])
    assert probe(tmp_path / "copy.tif").num_frames == 1


def test_the_picture_that_stands_for_an_animated_png_is_no_frame(tmp_path):
    images = [Image.fromarray(numbered(i)) for i in range(3)]
    path = tmp_path / "a.png"
    images[0].save(path, save_all=True, append_images=images[1:], default_image=True, duration=100)
    assert numbers(path) == [1, 2]


@pytest.mark.parametrize(
    ("aspect", "shown"), [(Fraction(16, 11), (94, 48)), (Fraction(1, 2), (64, 96)), (1, (64, 48)), (1000, (64, 48))]
)
def test_pixels_that_are_not_square_are_shown_in_their_shape(tmp_path, aspect, shown):
    path = tmp_path / "wide.mp4"
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.codec_context.sample_aspect_ratio = aspect
        for number in range(5):
            output.mux(stream.encode(av.VideoFrame.from_ndarray(numbered(number)).reformat(format="yuv420p")))
        output.mux(stream.encode(None))
    info = probe(path)
    assert (info.width, info.height) == shown
    assert numbers(path) == list(range(5))
    assert next(read_frames(path)).image.shape == next(read_frames_at(path, [3])).shape == (shown[1], shown[0], 3)


@pytest.mark.parametrize("curve", ["hlg", "pq"])
def test_hdr_is_read_in_the_colours_of_ordinary_video(tmp_path, curve):
    colours = np.array([[200, 40, 40], [40, 160, 60], [50, 60, 190], [128, 128, 128], [0, 0, 0]], np.uint8)
    light = (colours / 255) ** 2.4  # 1 is white, of 100 cd/m².
    to_2020 = np.array([[0.6274, 0.3293, 0.0433], [0.0691, 0.9195, 0.0114], [0.0164, 0.0880, 0.8956]])
    light = light @ to_2020.T
    if curve == "pq":
        power = (light / 100) ** 0.1593017578125
        signal = ((0.8359375 + 18.8515625 * power) / (1 + 18.6875 * power)) ** 78.84375
    else:
        luminance = (light / 10) @ [0.2627, 0.6780, 0.0593]
        scene = light / 10 * np.maximum(luminance, 1e-9)[:, None] ** (1 / 1.2 - 1)
        with np.errstate(invalid="ignore", divide="ignore"):
            upper = 0.17883277 * np.log(12 * scene - 0.28466892) + 0.55991073
        signal = np.where(scene <= 1 / 12, np.sqrt(3 * scene), upper)
    picture = (signal * 255).round().astype(np.uint8).repeat(16, axis=0)[None].repeat(48, axis=0)
    path = tmp_path / "hdr.mkv"
    with av.open(str(path), "w") as output:
        stream = output.add_stream("ffv1", rate=25)
        stream.height, stream.width, stream.pix_fmt = *picture.shape[:2], "bgr0"
        stream.codec_context.color_trc = {"pq": 16, "hlg": 18}[curve]
        stream.codec_context.color_primaries = 9
        output.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(picture)).reformat(format="bgr0")))
        output.mux(stream.encode(None))
    for image in (next(read_frames(path)).image, next(read_frames_at(path, [0]))):
        assert np.abs(image[24, 8::16].astype(int) - colours).max() <= 16


@pytest.mark.parametrize("codec", ["libvpx", "libvpx-vp9"])
def test_transparency_of_webm_is_put_over_black(tmp_path, codec):
    path = tmp_path / "clear.webm"
    rgba = np.full((HEIGHT, WIDTH, 4), (255, 0, 0, 128), np.uint8)
    with av.open(str(path), "w") as output:
        stream = output.add_stream(codec, rate=25, options={"auto-alt-ref": "0"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuva420p"
        stream.metadata["alpha_mode"] = "1"
        for _ in range(3):
            output.mux(stream.encode(av.VideoFrame.from_ndarray(rgba, format="rgba").reformat(format="yuva420p")))
        output.mux(stream.encode(None))
    frames = [frame.image for frame in read_frames(path)]
    assert len(frames) == 3
    for image in (*frames, *read_frames_at(path, [0, 2])):
        assert np.abs(image.astype(int) - (127, 0, 0)).max() <= 4


def test_photos_of_several_parts_are_no_videos(tmp_path):
    path = tmp_path / "photo.mp4"
    Image.fromarray(np.full((HEIGHT, WIDTH, 4), 128, np.uint8)).save(path, format="AVIF")
    for read in (probe, lambda path: next(read_frames_at(path, [0]))):
        with pytest.raises(
            VideoError, match="is a photo of several parts, as phones write; convert it to JPEG or PNG"
        ):
            read(path)
    (tmp_path / "photo.heic").write_bytes(b"\0\0\0\x1cftypheic\0\0\0\0mif1heicmiaf")
    with pytest.raises(VideoError, match=r"photo\.heic.*; convert it to JPEG or PNG"):
        probe(tmp_path / "photo.heic")


def test_photos_of_phones_are_read_whole(tmp_path):
    heif = pytest.importorskip("pillow_heif", reason="needs the extra heic")
    heif.register_heif_opener()
    picture = numbered(5, 1200, 900)
    path = tmp_path / "photo.heic"
    Image.fromarray(picture).save(path, quality=90)
    (frame,) = read_frames(path)
    assert frame.image.shape == picture.shape
    assert np.abs(frame.image.astype(int) - picture).mean() < 3


@pytest.mark.parametrize(
    ("codec", "options"), [("libx264", {"bf": "3", "b-pyramid": "normal"}), ("mpeg4", {"bf": "2"})]
)
def test_pictures_of_avi_come_one_after_the_other(tmp_path, predict, codec, options):
    ticks, base = (range(0, 120, 2), Fraction(1, 50)) if codec == "libx264" else (range(60), Fraction(1, 25))
    path = make_video(tmp_path / "b.avi", ticks, 25, base, codec=codec, codec_options=options)
    info = probe(path)
    assert (info.frame_rate, info.num_frames) == (25, 60)
    expected = [pytest.approx((number, number / 25, 1 / 25)) for number in range(60)]
    assert frames_and_times(path) == predict(path) == expected
    assert frames_and_times(path, start=1.4) == expected[35:]
    assert number_of(next(read_frames_at(path, [40]))) == 40


def test_the_rate_of_dv_is_that_of_its_pictures(tmp_path):
    pictures = [numbered(number, 720, 576) for number in range(5)]
    path = make_video(tmp_path / "tape.dv", range(5), 25, pictures=pictures, codec="dvvideo")
    assert (probe(path).frame_rate, probe(path).num_frames) == (25, 5)


@pytest.mark.parametrize("suffix", [".avi", ".mkv", ".mp4", ".flv", ".fragments.mp4"])
def test_of_a_video_that_breaks_off_all_that_is_there_is_written(tmp_path, capsys, model_folder, suffix):
    rng = np.random.default_rng(0)
    pictures = [numbered(i) // 2 + rng.integers(0, 60, (HEIGHT, WIDTH, 3), np.uint8) + 30 for i in range(100)]
    options = {"movflags": "frag_keyframe+empty_moov" if "fragments" in suffix else "faststart"}
    options = options if suffix.endswith(".mp4") else {}
    data = make_video(tmp_path / f"whole{suffix}", range(100), 25, pictures=pictures, options=options).read_bytes()
    path, output = tmp_path / f"cut{suffix}", tmp_path / "out.mp4"
    path.write_bytes(data[: len(data) // 2])
    shown = []
    with pytest.raises(CutOffError, match=r"cut\.\S+ breaks off after [12]\.\d\d s; download or copy it again"):
        shown.extend(read_frames(path))
    assert 30 < len(shown) < 60
    assert len(list(read_frames(path, duration=1.0))) == 25
    with pytest.raises(CutOffError):
        list(read_frames(path, start=3.5))
    predictor = SaliencyPredictor.from_pretrained(model_folder)
    streamed = []
    with pytest.raises(CutOffError):
        streamed.extend(predictor.stream(path))
    assert len(streamed) == len(list(frames_there(path))) == len(shown)
    assert re.match(r"salfom: \S*cut\.\S+ breaks off after .* s;", capsys.readouterr().err)
    assert cli.main(["predict", str(path), "--model", str(model_folder), "-o", str(output)]) == 2
    assert re.search(r"salfom: \S*out\.mp4 ends early: \S*cut\.\S+ breaks off after .* s;", capsys.readouterr().err)
    assert [frame.timestamp for frame in read_frames(output)] == [frame.timestamp for frame in shown]


def test_a_stream_that_appears_late_is_no_error_of_python():
    with pytest.raises(VideoError, match=r"late-stream\.flv has no frame that can be decoded"):
        next(read_frames(Path(__file__).parent / "data" / "late-stream.flv"))


def repeating(path, size, count, step, tone=False):
    """A video of one picture, and of one packet of sound, every `step` seconds."""
    picture = av.VideoFrame.from_ndarray(numbered(0, *size)).reformat(format="yuv420p")
    with av.open(str(path), "w") as output:
        streams = [output.add_stream("mpeg4", rate=25)]
        streams[0].width, streams[0].height, streams[0].pix_fmt = *size, "yuv420p"
        contents = [bytes((streams[0].encode(picture) + streams[0].encode(None))[0])]
        if tone:
            streams.append(output.add_stream("ac3", rate=48000, layout="mono"))
            silence = av.AudioFrame.from_ndarray(np.zeros((1, 1536), np.float32), format="fltp", layout="mono")
            silence.sample_rate = 48000
            contents.append(bytes((streams[1].encode(silence) + streams[1].encode(None))[0]))
        output.start_encoding()
        for number in range(count):
            for stream, content in zip(streams, contents, strict=True):
                packet = av.Packet(content)
                packet.stream, packet.time_base, packet.is_keyframe = stream, Fraction(1, 1000), True
                packet.pts = packet.dts = round(number * step * 1000)
                output.mux(packet)
    return path


def test_memory_at_4k_does_not_grow_with_the_number_of_frames(tmp_path):
    program = """
import sys, psutil
from salfom_hf.video.reading import probe, read_frames
from salfom_hf.video.writing import VideoWriter
source, target = sys.argv[1:]
info, peaks = probe(source), [0]
with VideoWriter(target, info.width, info.height, info.frame_rate, audio_from=source) as writer:
    for frame in read_frames(source):
        writer.write(frame.image, frame.timestamp)
        peaks.append(max(peaks[-1], psutil.Process().memory_info().rss))
print(peaks[60] - peaks[20])
"""
    source = repeating(tmp_path / "4k.mkv", (3840, 2160), 60, Fraction(1, 25), tone=True)
    command = [sys.executable, "-c", program, str(source), str(tmp_path / "out.mp4")]
    grown = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert grown < 8 * 3840 * 2160 * 3  # Of 40 more frames; decoders on threads hold a few.


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".mov", ".ts"])
def test_a_video_of_ten_hours_is_started_in_its_middle_at_once(tmp_path, monkeypatch, suffix):
    source = repeating(tmp_path / f"long{suffix}", (WIDTH, HEIGHT), 3600, Fraction(10), tone=True)
    read = []

    def counted(*args):
        for packet in demuxed(*args):
            read.append(packet)
            yield packet

    for module in ("reading", "sound"):
        monkeypatch.setattr(f"salfom_hf.video.{module}.demuxed", counted)
    span = {"start": 18_000.0, "duration": 30.0}
    times = []
    with VideoWriter(tmp_path / "out.mkv", WIDTH, HEIGHT, Fraction(25), audio_from=source, **span) as writer:
        for frame in read_frames(source, **span):
            writer.write(frame.image, frame.timestamp, frame.duration)
            times.append(float(frame.timestamp))
    assert times == pytest.approx([18_000, 18_010, 18_020])
    assert len(read) < 400  # Of 7200, and of what MPEG files are searched by.
    with av.open(str(tmp_path / "out.mkv")) as container:
        assert len([packet for packet in container.demux(audio=0) if packet.size]) == 3
