"""Video files whose frames carry their own number."""

from fractions import Fraction

import av
import numpy as np

from salfom_hf.video.reading import read_frames

WIDTH, HEIGHT = 64, 48


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
    path,
    ticks=range(60),
    rate=30,
    time_base=None,
    pictures=None,
    codec="libx264",
    pix_fmt="yuv420p",
    tone=None,
    codec_options=None,
    **kw,
):
    """Write a picture at each tick; `tone` is the codec of one second of sound per second."""
    pictures = pictures or [numbered(i) for i in range(len(ticks))]
    with av.open(str(path), "w", **kw) as output:
        stream = output.add_stream(codec, rate=rate, options=codec_options)
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


def numbers(path, **kw):
    return [number_of(frame.image) for frame in read_frames(path, **kw)]
