"""What the rows of the gaze datasets hold."""

from collections.abc import Iterable

from datasets import Features, Image, List, Value, Video

# By how many frames the header of a video may differ from the number of its maps. Containers count frames that no
# decoder gives, and annotators stopped a frame early or late.
FRAME_TOLERANCE = 2


class DataError(ValueError):
    """A dataset cannot be read; the message names the file or folder and says what to do."""


VIDEO_FEATURES = Features(
    {
        "video_id": Value("string"),
        "video": Video(decode=False),
        "frames": List(Image(decode=False)),
        "num_frames": Value("int32"),
        "fps": Value("float32"),
        "width": Value("int32"),
        "height": Value("int32"),
        "maps": List(Image(decode=False)),
        "fixations": List(Image(decode=False)),
        "fixation_frame": List(Value("int32")),
        "fixation_x": List(Value("float32")),
        "fixation_y": List(Value("float32")),
        "observer": List(Value("int32")),
    }
)
"""One row per video; see `MEANINGS`. Files are `{"path": …, "bytes": …}`, one of which may be None."""

STILL_FEATURES = Features(
    {
        "image": Image(decode=False),
        "image_id": Value("string"),
        "dataset": Value("string"),
        "width": Value("int32"),
        "height": Value("int32"),
        "fixation_x": List(Value("float32")),
        "fixation_y": List(Value("float32")),
        "observer": List(Value("int32")),
    }
)
"""One row per image, with the fixations of all observers, from the outer corner of the first pixel."""

MEANINGS = {
    "video_id": "name of the video",
    "video": "the video file; null where the dataset holds frames",
    "frames": "one image per frame, in order; empty where the dataset holds a video file",
    "num_frames": "number of frames",
    "fps": "frames per second",
    "width": "width of the frames, pixels",
    "height": "height of the frames, pixels",
    "maps": "density of fixations, one grey image per frame, in order; empty without labels",
    "fixations": "pixels that were fixated, one binary image per frame, in order; empty without labels",
    "fixation_frame": "in which frame, from 0, each of the following is; empty where observers are unknown",
    "image": "the picture",
    "image_id": "name of the picture",
    "dataset": "which set of images it is from",
    "fixation_x": "of all fixations, pixels from the left edge",
    "fixation_y": "of all fixations, pixels from the upper edge",
    "observer": "who looked, one number per fixation; empty where unknown",
}
"""What the columns hold, as cards of exports say it."""


def id_column(columns: Iterable[str]) -> str:
    """The column that names the rows: `"image_id"` where they are stills, `"video_id"` where they are videos."""
    return "image_id" if "image_id" in columns else "video_id"
