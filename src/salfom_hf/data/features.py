"""What the rows of the gaze datasets hold."""

from collections.abc import Iterable

from datasets import Features, Image, List, Value, Video


class DataError(ValueError):
    """A dataset cannot be read; the message names the file or folder and says what to do."""


VIDEO_FEATURES = Features(
    {
        "video_id": Value("string"),
        # None where the dataset holds frames.
        "video": Video(decode=False),
        # One per frame in order; [] where `video` is given.
        "frames": List(Image(decode=False)),
        "num_frames": Value("int32"),
        "fps": Value("float32"),
        "width": Value("int32"),
        "height": Value("int32"),
        # Density maps and binary fixation maps, one per frame in order; [] for videos without labels.
        "maps": List(Image(decode=False)),
        "fixations": List(Image(decode=False)),
    }
)
"""One row per video. Files are `{"path": …, "bytes": …}`, one of which may be None; sizes are in pixels."""

STILL_FEATURES = Features(
    {
        "image": Image(decode=False),
        "image_id": Value("string"),
        "dataset": Value("string"),
        "width": Value("int32"),
        "height": Value("int32"),
        # In pixels from the outer corner of the first pixel, whose centre is (0.5, 0.5).
        "fixation_x": List(Value("float32")),
        "fixation_y": List(Value("float32")),
        # Who looked, one per fixation; [] where that is unknown.
        "observer": List(Value("int32")),
    }
)
"""One row per image, with the fixations of all observers."""


def id_column(columns: Iterable[str]) -> str:
    """The column that names the rows: `"image_id"` where they are stills, `"video_id"` where they are videos."""
    return "image_id" if "image_id" in columns else "video_id"


__all__ = ["STILL_FEATURES", "VIDEO_FEATURES", "DataError", "id_column"]
