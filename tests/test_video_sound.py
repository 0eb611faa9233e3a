"""Tests of clocks that do not run on, and of the sound beside the pictures: what is written is read back."""

from fractions import Fraction

import av
import numpy as np
import pytest

from numbered_video import HEIGHT, WIDTH, number_of, numbered
from salfom_hf.video.reading import probe, read_frames
from salfom_hf.video.writing import VideoWriter

RATE = 25


def beeping(path, first=0, count=60, tones=("aac",), codec="libx264", moved=lambda time: time, rate=48000, **kw):
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
            time = moved(packet.stream.type, float(packet.pts * packet.time_base)) if moved else None
            if time is not None:
                packet.pts = packet.dts = round(time / packet.time_base)
                output.mux(packet)
    return path


def as_it_is(kind, time):
    return time


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
            heard = frame.to_ndarray().reshape(-1 if frame.format.is_packed else frame.layout.nb_channels, frame.samples)
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
    assert numbers == list(range(count))
    assert np.diff(times) == pytest.approx(1 / RATE, abs=2e-3)
    assert beeps(path, track) == pytest.approx([times[number] for number in expected], abs=0.03)


@pytest.mark.parametrize(
    ("suffix", "codec", "tone"), [(".ts", "libx264", "aac"), (".mpg", "mpeg2video", "mp2"), (".vob", "mpeg2video", "ac3")]
)
@pytest.mark.parametrize("count", [65, 15])
def test_joined_recordings_keep_all_pictures_and_their_sound(tmp_path, suffix, codec, tone, count):
    parts = [
        beeping(tmp_path / f"{n}{suffix}", n * count, count, [tone], codec, as_it_is) for n in range(3)
    ]
    (tmp_path / f"in{suffix}").write_bytes(b"".join(part.read_bytes() for part in parts))
    whole = range(0, count, RATE)
    expected = [number + n * count for n in range(3) for number in whole]
    for target in ("out.mp4", "out.mkv"):
        check(copied(tmp_path / f"in{suffix}", tmp_path / target), 3 * count, expected)


@pytest.mark.parametrize("suffix", [".ts", ".mkv", ".mp4", ".flv"])
@pytest.mark.parametrize("tones", [["aac"], []])
def test_a_leap_of_the_clock_is_closed(tmp_path, suffix, tones):
    source = beeping(tmp_path / f"in{suffix}", tones=tones, moved=lambda _, time: time + 5000 * (time > 1.3))
    if tones:
        check(copied(source, tmp_path / "out.mp4"), 60, [0, 25, 50])
    numbers, times = pictures(copied(source, tmp_path / "again.mp4"))
    assert numbers == list(range(60))
    assert np.diff(times) == pytest.approx(1 / RATE, abs=2e-3)


def test_a_picture_may_stand_for_long(tmp_path):
    def held(kind, time):
        return None if kind == "video" and 0.98 < time < 21.98 else time

    source = beeping(tmp_path / "in.mkv", count=600, moved=held)
    assert pictures(copied(source, tmp_path / "out.mp4"))[1][24:27] == pytest.approx([0.96, 22, 22.04], abs=0.03)
    silent = beeping(tmp_path / "silent.mp4", moved=lambda _, time: time + 60 * (time > 1), tones=[])
    assert float(list(read_frames(silent))[-1].timestamp) == pytest.approx(62.36, abs=0.001)


@pytest.mark.parametrize("ahead", [5, 50, -0.5])
@pytest.mark.parametrize("kind", ["video", "audio"])
def test_a_stray_time_is_set_between_its_neighbours(tmp_path, ahead, kind):
    def moved(this, time):
        return time + ahead * (this == kind and 1.0 <= time < 1.019)

    source = beeping(tmp_path / "in.nut", moved=as_it_is)
    lines = source  # NUT refuses such times; MPEG-TS is written with them by a muxer that does not look.
    source = stray(lines, tmp_path / "in.ts", moved)
    check(copied(source, tmp_path / "out.mp4"), 60, [0, 25, 50])
