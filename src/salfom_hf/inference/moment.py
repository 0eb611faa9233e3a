"""The map of one moment of a video, without predicting all that comes before it."""

from contextlib import closing

from ..errors import VideoError
from ..video.reading import VideoInfo
from .predictor import SaliencyFrame, SaliencyPredictor


def frame_at(predictor: SaliencyPredictor, info: VideoInfo, moment: float) -> SaliencyFrame:
    """
    The frame on screen at so many seconds, with the map that it has when the whole video is predicted.

    Raises:
        VideoError: the video cannot be read, or is shorter.
    """
    if info.duration is not None and moment > info.duration:
        raise VideoError(f"{info.path} lasts {info.duration:.2f} s, not {moment:g} s; choose an earlier moment.")
    window = predictor.processor.num_frames
    before = max(1.0, 2 * window / float(info.frame_rate))  # seconds, enough if the frames come evenly
    while True:
        start, shown, count = max(0.0, moment - before), None, 0
        try:
            with closing(predictor.stream(info.path, start)) as frames:
                for frame in frames:
                    if shown is not None and frame.timestamp > moment:
                        break
                    shown, count = frame, count + 1
        except VideoError as error:
            if shown is None and start:  # There is nothing where the window would begin.
                raise VideoError(f"{info.path} ends before {moment:g} s; choose an earlier moment.") from error
            raise
        # A map is made of a whole window; where frames last long, that begins earlier.
        if shown is not None and (not start or count >= window):
            return shown
        before *= 4
