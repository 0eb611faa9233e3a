"""What the rows of the gaze datasets hold."""

from collections.abc import Iterable

from datasets import Features, Image, List, Value, Video

# By how many frames the header of a video may differ from the number of its maps. Containers count frames that no
# decoder gives, and annotators stopped a frame early or late.
FRAME_TOLERANCE = 2


class DataError(ValueError):
    """A dataset cannot be read; the message names the file or folder and says what to do."""


_NAME, _WHOLE, _WHOLES, _NUMBERS = Value("string"), Value("int32"), List(Value("int32")), List(Value("float32"))
_FILES = List(Image(decode=False))
# Type of each column, and what it holds.
_COLUMNS = {
    "video_id": (_NAME, "name of the video"),
    "video": (Video(decode=False), "the video file; null where the dataset holds frames"),
    "frames": (_FILES, "one image per frame, in order; empty where the dataset holds a video file"),
    "num_frames": (_WHOLE, "number of frames"),
    "fps": (Value("float32"), "frames per second"),
    "width": (_WHOLE, "width of the frames, pixels"),
    "height": (_WHOLE, "height of the frames, pixels"),
    "maps": (_FILES, "density of fixations, one grey image per frame, in order; empty without labels"),
    "fixations": (_FILES, "pixels that were fixated, one binary image per frame, in order; empty without labels"),
    "fixation_frame": (_WHOLES, "in which frame, from 0, each of the following is; empty where observers are unknown"),
    "sigma": (
        Value("float32"),
        "standard deviation of the densities, pixels of a video 640 wide; null where unknown, then as DHF1K's",
    ),
    "image": (Image(decode=False), "the picture"),
    "image_id": (_NAME, "name of the picture"),
    "dataset": (_NAME, "which set of images it is from"),
    "fixation_x": (_NUMBERS, "of all fixations, pixels from the left edge"),
    "fixation_y": (_NUMBERS, "of all fixations, pixels from the upper edge"),
    "observer": (_WHOLES, "who looked, one number per fixation; empty where unknown"),
}
MEANINGS = {name: meaning for name, (_, meaning) in _COLUMNS.items()}
"""What the columns hold, as cards of exports say it."""


def _features(names: str) -> Features:
    return Features({name: _COLUMNS[name][0] for name in names.split()})


VIDEO_FEATURES = _features(
    "video_id video frames num_frames fps width height maps fixations "
    "fixation_frame fixation_x fixation_y observer sigma"
)
"""One row per video; see `MEANINGS`. Files are `{"path": …, "bytes": …}`, one of which may be None."""

STILL_FEATURES = _features("image image_id dataset width height fixation_x fixation_y observer")
"""One row per image, with the fixations of all observers, from the outer corner of the first pixel."""


def id_column(columns: Iterable[str]) -> str:
    """The column that names the rows: `"image_id"` where they are stills, `"video_id"` where they are videos."""
    return "image_id" if "image_id" in columns else "video_id"
