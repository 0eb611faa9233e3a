"""Tests of writing videos: pictures, times and sound are read back."""

import os
from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image

from numbered_video import HEIGHT, WIDTH, make_video, number_of, numbered, numbers
from salfom_hf.errors import VideoError
from salfom_hf.video.reading import probe, read_frames
from salfom_hf.video.writing import VideoWriter

NTSC = Fraction(30000, 1001)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return make_video(tmp_path_factory.mktemp("clip") / "clip.mp4", rate=30, tone="aac")


def audio_packets(path):
    with av.open(str(path)) as container:
        return [(float(p.pts * p.time_base), bytes(p)) for p in container.demux(audio=0) if p.pts is not None]


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


@pytest.mark.parametrize(("suffix", "size"), [(".mp4", (66, 48)), (".mkv", (66, 48)), (".webm", (65, 47))])
def test_odd_sizes_are_made_even_where_players_need_it(tmp_path, capsys, suffix, size):
    pictures = [numbered(i, 65, 47) for i in range(5)]
    with VideoWriter(tmp_path / f"out{suffix}", 65, 47, Fraction(25)) as writer:
        for i, picture in enumerate(pictures):
            writer.write(picture, Fraction(i, 25))
    with av.open(str(tmp_path / f"out{suffix}")) as container:
        assert container.streams.video[0].pix_fmt == "yuv420p"
    frames = list(read_frames(tmp_path / f"out{suffix}"))
    assert frames[0].image.shape == (size[1], size[0], 3)
    assert [number_of(frame.image[:47, :65]) for frame in frames] == list(range(5))
    assert np.abs(frames[1].image[:, -1].astype(int) - frames[1].image[:, 64]).max() < 20
    assert (f"out{suffix} is written as 66x48 pixels" in capsys.readouterr().err) == (suffix != ".webm")


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
