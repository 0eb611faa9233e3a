"""Tests of clocks that do not run on, and of the sound of the pictures: what is written is read back."""

import re
from fractions import Fraction

import av
import numpy as np
import pytest

from numbered_video import HEIGHT, WIDTH, number_of, numbered
from salfom_hf.video.reading import probe, read_frames
from salfom_hf.video.writing import VideoWriter

RATE = 25


def as_it_is(kind, time):
    return time


def beeping(path, first=0, count=60, tones=("aac",), codec="libx264", moved=as_it_is, rate=48000, **kw):
    """Numbered pictures, and tones with a beep of 0.1 s at each whole second; `moved` gives the time, or None, of each
    packet's time."""
    packets = []
    with av.open(str(path), "w", **kw) as output:
        video = output.add_stream(codec, rate=RATE, options={"bf": "0"})
        video.width, video.height, video.pix_fmt, video.gop_size = WIDTH, HEIGHT, "yuv420p", 12
        sounds = [output.add_stream(tone, rate=rate, layout="stereo") for tone in tones]
        if len(sounds) > 1:
            sounds[1].disposition = av.stream.Disposition.default
            sounds[1].metadata["language"] = "fra"
        output.start_encoding()
        for number in range(count):
            frame = av.VideoFrame.from_ndarray(numbered(first + number)).reformat(format="yuv420p")
            frame.pts, frame.time_base = number, Fraction(1, RATE)
            packets += video.encode(frame)
        packets += video.encode(None)
        samples = np.arange(rate * count // RATE)
        wave = (np.sin(samples * 0.3) * 20000 * (samples % rate < rate // 10)).astype(np.int16)
        for sound in sounds:
            for begin in range(0, len(wave), 960):
                part = wave[None, begin : begin + 960].repeat(2, axis=1)
                frame = av.AudioFrame.from_ndarray(part, format="s16", layout="stereo")
                frame.sample_rate, frame.pts, frame.time_base = rate, begin, Fraction(1, rate)
                packets += sound.encode(frame)
            packets += sound.encode(None)
        for packet in sorted(packets, key=lambda packet: packet.pts * packet.time_base):
            time = moved(packet.stream.type, float(packet.pts * packet.time_base))
            if time is not None:
                packet.pts = packet.dts = round(time / packet.time_base)
                output.mux(packet)
    return path


def copied(source, target, **span):
    info = probe(source)
    with VideoWriter(target, info.width, info.height, info.frame_rate, audio_from=source, **span) as writer:
        for frame in read_frames(source, **span):
            writer.write(frame.image, frame.timestamp)
    return target


def beeps(path, track=0):
    """The times in seconds, on the clock of the file, at which a beep begins."""
    times, last = [], -1.0
    with av.open(str(path)) as container:
        for frame in container.decode(container.streams.audio[track]):
            heard = frame.to_ndarray().reshape(
                -1 if frame.format.is_packed else frame.layout.nb_channels, frame.samples
            )
            scale = 32768 if frame.format.name.startswith("s16") else 1
            loud = np.abs(heard[0]) > 0.1 * scale
            begin = float(frame.pts * frame.time_base)
            if loud.any():
                if begin - last > 0.2:
                    times.append(begin + loud.argmax() / frame.sample_rate)
                last = begin
    return times


def pictures(path):
    """The numbers of the pictures, and their times in seconds on the clock of the file."""
    with av.open(str(path)) as container:
        begins = float(min(stream.start_time * stream.time_base for stream in container.streams))
    frames = list(read_frames(path))
    return [number_of(frame.image) for frame in frames], [float(frame.timestamp) + begins for frame in frames]


def check(path, count, expected, track=0):
    numbers, times = pictures(path)
    assert numbers == list(count if isinstance(count, range) else range(count))
    assert np.diff(times) == pytest.approx(1 / RATE, abs=2e-3)
    assert beeps(path, track) == pytest.approx([times[number] for number in expected], abs=0.03)


@pytest.mark.parametrize(
    ("suffix", "codec", "tone"),
    [(".ts", "libx264", "aac"), (".mpg", "mpeg2video", "mp2"), (".vob", "mpeg2video", "ac3")],
)
@pytest.mark.parametrize("count", [65, 15])
def test_joined_recordings_keep_all_pictures_and_their_sound(tmp_path, suffix, codec, tone, count):
    parts = [beeping(tmp_path / f"{n}{suffix}", n * count, count, [tone], codec) for n in range(3)]
    (tmp_path / f"in{suffix}").write_bytes(b"".join(part.read_bytes() for part in parts))
    whole = range(0, count, RATE)
    expected = [number + n * count for n in range(3) for number in whole]
    for target in ("out.mp4", "out.mkv"):
        check(copied(tmp_path / f"in{suffix}", tmp_path / target), 3 * count, expected)
    part = copied(tmp_path / f"in{suffix}", tmp_path / "part.mp4", start=(count + 5.5) / RATE)
    numbers, times = pictures(part)
    assert numbers == list(range(numbers[0], 3 * count))
    assert numbers[0] in range(count + 4, count + 7)
    expected = [times[number - numbers[0]] for number in expected if number > numbers[0]]
    assert beeps(part) == pytest.approx(expected, abs=0.03)


@pytest.mark.parametrize(
    ("suffix", "tones", "leap"),
    [(".ts", ["aac"], 5000), (".ts", [], 5000), (".ts", ["aac"], 100), (".ts", ["aac"], 3), (".flv", ["aac"], 100),
     (".mkv", ["aac"], 5000), (".mkv", ["aac"], 3), (".mp4", ["aac"], 100), (".mp4", [], 5000)],
)  # fmt: skip
def test_a_leap_of_the_clock_is_closed(tmp_path, suffix, tones, leap):
    source = beeping(tmp_path / f"in{suffix}", tones=tones, moved=lambda _, time: time + leap * (time > 1.3))
    if tones:
        check(copied(source, tmp_path / "out.mp4"), 60, [0, 25, 50])
    numbers, times = pictures(copied(source, tmp_path / "again.mp4"))
    assert numbers == list(range(60))
    assert np.diff(times) == pytest.approx(1 / RATE, abs=2e-3)


def test_sound_whose_clock_leaps_alone_goes_on(tmp_path):
    def leaping(kind, time):
        return time + 20 if kind == "audio" and time > 1.3 else time

    source = beeping(tmp_path / "in.ts", count=250, moved=leaping)
    check(copied(source, tmp_path / "out.mp4"), 250, range(0, 250, RATE))


def test_two_leaps_one_after_the_other_are_closed(tmp_path):
    source = beeping(tmp_path / "in.ts", moved=lambda _, time: time + 50 * (time > 1.3) + 700 * (time > 1.7))
    check(copied(source, tmp_path / "out.mp4"), 60, [0, 25, 50])


@pytest.mark.parametrize("suffix", [".ts", ".mkv", ".mp4"])
def test_a_picture_may_stand_where_the_sound_has_ended(tmp_path, suffix):
    def still(kind, time):
        return time if time < 2 or (kind == "video" and (time < 3 or time > 18)) else None

    source = beeping(tmp_path / f"in{suffix}", count=500, moved=still)
    times = pictures(copied(source, tmp_path / "out.mp4"))[1]
    assert times[73:77] == pytest.approx([2.92, 2.96, 18.04, 18.08], abs=0.03)


def test_joined_recordings_may_have_different_sound(tmp_path):
    parts = [beeping(tmp_path / f"{n}.ts", n * 60, rate=rate) for n, rate in enumerate((44100, 48000, 22050))]
    (tmp_path / "in.ts").write_bytes(b"".join(part.read_bytes() for part in parts))
    check(
        copied(tmp_path / "in.ts", tmp_path / "out.mp4"),
        180,
        [n + part * 60 for part in range(3) for n in (0, 25, 50)],
    )


def test_a_picture_may_stand_for_long(tmp_path):
    def held(kind, time):
        return None if kind == "video" and 0.98 < time < 21.98 else time

    source = beeping(tmp_path / "in.mkv", count=600, moved=held)
    assert pictures(copied(source, tmp_path / "out.mp4"))[1][24:27] == pytest.approx([0.96, 22, 22.04], abs=0.03)
    slides = beeping(tmp_path / "slides.mp4", moved=lambda kind, time: 15 * time if kind == "video" else time)
    assert np.diff(pictures(copied(slides, tmp_path / "slides_out.mp4"))[1]) == pytest.approx(0.6, abs=0.001)
    silent = beeping(tmp_path / "silent.mp4", moved=lambda _, time: time + 60 * (time > 1), tones=[])
    assert float(list(read_frames(silent))[-1].timestamp) == pytest.approx(62.36, abs=0.001)


def with_stray(path, kind, number, ahead):
    """Move the time of a packet of pictures or sound in an MPEG-TS file by `ahead` seconds."""
    data, start = bytearray(path.read_bytes()), {"video": b"\0\0\1\xe0", "audio": b"\0\0\1\xc0"}[kind]
    at = -1
    for _ in range(number + 1):
        at = data.index(start, at + 1)
    field = int.from_bytes(data[at + 9 : at + 14], "big")  # 33 bits, in three parts with marks between them.
    ticks = (field >> 33 & 7) << 30 | (field >> 17 & 0x7FFF) << 15 | field >> 1 & 0x7FFF
    ticks += int(ahead * 90_000)
    field = 0x21 << 32 | (ticks >> 30) << 33 | (ticks >> 15 & 0x7FFF) << 17 | 1 << 16 | (ticks & 0x7FFF) << 1 | 1
    data[at + 9 : at + 14] = field.to_bytes(5, "big")
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("kind", "number", "ahead"),
    [("video", 30, 5), ("video", 36, 50), ("video", 30, -0.5), ("audio", 30, 50), ("audio", 30, -0.5)],
)
def test_a_stray_time_is_set_between_its_neighbours(tmp_path, kind, number, ahead):
    source = with_stray(beeping(tmp_path / "in.ts"), kind, number, ahead)
    check(copied(source, tmp_path / "out.mp4"), 60, [0, 25, 50])
    for further in (1, 2):
        with_stray(source, kind, number + further, ahead)
    numbers, times = pictures(copied(source, tmp_path / "again.mp4"))
    assert numbers == list(range(60))
    assert np.diff(times) == pytest.approx(1 / RATE, abs=0.021)
    assert beeps(tmp_path / "again.mp4") == pytest.approx([times[number] for number in (0, 25, 50)], abs=0.03)


@pytest.mark.parametrize(("kind", "ahead"), [("video", 0.3), ("video", 200), ("audio", 0.3), ("audio", 5)])
def test_many_strays_in_a_row_are_set_between_their_neighbours(tmp_path, kind, ahead):
    source = beeping(tmp_path / "in.ts", count=100)
    for number in range(30, 42):
        with_stray(source, kind, number, ahead)
    numbers, times = pictures(copied(source, tmp_path / "out.mp4"))
    assert numbers == list(range(100))
    assert np.diff(times) == pytest.approx(1 / RATE, abs=0.021)
    assert beeps(tmp_path / "out.mp4") == pytest.approx([times[number] for number in (0, 25, 50, 75)], abs=0.05)


@pytest.mark.parametrize(("kind", "ahead"), [("video", 5), ("audio", 50)])
def test_a_stray_last_time_comes_after_the_one_before(tmp_path, kind, ahead):
    source = beeping(tmp_path / "in.ts")
    start = {"video": b"\0\0\1\xe0", "audio": b"\0\0\1\xc0"}[kind]
    with_stray(source, kind, source.read_bytes().count(start) - 1, ahead)
    check(copied(source, tmp_path / "out.mp4"), 60, [0, 25, 50])


@pytest.mark.parametrize(("kind", "ahead"), [("video", 5), ("audio", 50)])
def test_a_stray_first_time_comes_before_the_next(tmp_path, kind, ahead):
    source = with_stray(beeping(tmp_path / "in.ts"), kind, 0, ahead)
    check(copied(source, tmp_path / "out.mp4"), 60, [0, 25, 50])
    assert pictures(tmp_path / "out.mp4")[1][0] == pytest.approx(0, abs=0.03)


def test_a_part_with_a_stray_picture_keeps_its_sound(tmp_path):
    source = with_stray(beeping(tmp_path / "in.ts", count=100), "video", 50, 5)
    part = copied(source, tmp_path / "part.mp4", start=1.0, duration=2.5)
    numbers, times = pictures(part)
    expected = [times[number - numbers[0]] for number in (25, 50, 75) if number >= numbers[0]]
    assert beeps(part) == pytest.approx(expected, abs=0.03)


@pytest.mark.parametrize("tone", ["flac", "libopus"])
def test_a_part_of_ogg_keeps_its_sound(tmp_path, tone):
    source = beeping(tmp_path / "in.ogv", count=200, tones=[tone], codec="libvpx")
    part = copied(source, tmp_path / "part.mp4", start=3.52, duration=3.0)
    assert pictures(part)[0] == list(range(88, 163))
    assert beeps(part) == pytest.approx([0.48, 1.48, 2.48], abs=0.03)


def test_sound_that_repeats_a_time_or_steps_back_stays_in_step(tmp_path):
    source = beeping(tmp_path / "in.mkv")
    data = bytearray(source.read_bytes())
    with av.open(str(source)) as container:
        times = [(packet.pos, packet.stream.type) for packet in container.demux() if packet.pts is not None]
    heads = [place for place, kind in times if kind == "audio"]
    for n in (20, 60):  # The time in a block of Matroska is two bytes behind the number of its track.
        for ago, into in ((1, n), (4, n + 20)):
            one, other = (
                re.compile(rb"\x82..\x80", re.DOTALL).search(data, heads[k]).start() + 1 for k in (into, into - ago)
            )
            data[one : one + 2] = data[other : other + 2]
    source.write_bytes(data)
    for target in ("out.mp4", "out.mkv"):
        check(copied(source, tmp_path / target), 60, [0, 25, 50])


@pytest.mark.parametrize(
    ("tone", "suffix", "codecs"),
    [
        ("pcm_s16le", ".mkv", ("aac", "aac", "opus")),
        ("alac", ".mkv", ("aac", "aac", "opus")),
        ("libopus", ".mkv", ("aac", "opus", "opus")),
        ("ac3", ".mkv", ("ac3", "ac3", "opus")),
        ("libmp3lame", ".mkv", ("mp3", "mp3", "opus")),
    ],
)
def test_sound_is_in_a_codec_that_players_know_with_its_holes(tmp_path, tone, suffix, codecs):
    def with_hole(kind, time):
        return None if kind == "audio" and 1.2 < time < 2.7 else time

    source = beeping(tmp_path / f"in{suffix}", count=100, tones=[tone], moved=with_hole)
    for target, codec in zip((".mp4", ".mkv", ".webm"), codecs, strict=True):
        target = copied(source, tmp_path / f"out{target}")
        with av.open(str(target)) as container:
            assert container.streams.audio[0].codec_context.codec.canonical_name == codec
        check(target, 100, [0, 25, 75])
    check(copied(source, tmp_path / "part.mp4", start=0.8, duration=2.6), range(20, 85), [5, 55])


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".webm"])
def test_the_default_track_and_the_language_are_kept(tmp_path, suffix):
    source = beeping(tmp_path / "in.mkv", tones=["aac", "ac3"])
    target = copied(source, tmp_path / f"out{suffix}")
    with av.open(str(target)) as container:
        tracks = [
            (bool(s.disposition & av.stream.Disposition.default), s.language in ("fra", "fre"))
            for s in container.streams.audio
        ]
    assert tracks == [(False, False), (True, True)]
    for track in (0, 1):
        check(target, 60, [0, 25, 50], track)


def test_sound_that_cannot_be_written_is_left_out_with_a_line(tmp_path, capsys, monkeypatch):
    source = beeping(tmp_path / "in.mkv", tones=["aac", "pcm_s16le"])

    def failing(*_):
        raise av.error.InvalidDataError(1094995529, "Invalid data found when processing input")

    monkeypatch.setattr("salfom_hf.video.sound._Encoded._encode", failing)
    check(copied(source, tmp_path / "out.mp4"), 60, [0, 25, 50])
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert "out.mp4" in said[0]
    assert "Invalid data" in said[0]
