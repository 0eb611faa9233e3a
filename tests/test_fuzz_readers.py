"""Damaged files end in the documented errors, and what the fuzzer has found stays fixed."""

import io
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from salfom_hf.evaluation.methods import EvaluationError
from salfom_hf.evaluation.predictions import read_prediction
from salfom_hf.video import read_frames

FUZZ = Path(__file__).with_name("fuzz_readers.py")


def test_damaged_files_of_all_kinds():
    """`python tests/fuzz_readers.py --files 10000` is the same at length."""
    # Enough for one process to see whether its memory grows.
    command = [sys.executable, FUZZ, "--files", "240", "--jobs", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found = re.fullmatch(r"240 files in \d+ s: (.*); 0 faults\n", done.stdout)
    counts = {name: int(count) for count, name in re.findall(r"(\d+) (\w+)", found[1])}
    assert counts.keys() == {"read", "refused"}
    assert min(counts.values()) > 24  # Neither is all damage harmless, nor are all files refused.


@pytest.mark.parametrize(("orientation", "red"), [(1, (4, 4)), (3, (-4, -4)), (6, (4, -4)), (8, (-4, 4))])
def test_motion_jpeg_with_exif_data(tmp_path, orientation, red):
    """Which comes with the frames as a kind of data that PyAV does not know."""
    picture, exif, file = Image.new("RGB", (64, 48)), Image.Exif(), io.BytesIO()
    picture.paste((255, 0, 0), (0, 0, 32, 24))
    exif[0x0112] = orientation
    picture.save(file, "JPEG", exif=exif)
    (tmp_path / "clip.mjpeg").write_bytes(file.getvalue() * 3)
    images = [frame.image for frame in read_frames(tmp_path / "clip.mjpeg")]
    assert len(images) == 3
    corners = [(y, x) for y in (4, -4) for x in (4, -4) if images[0][y, x, 0] > 200]
    assert corners == [red]


def test_a_map_with_a_damaged_header(tmp_path):
    (tmp_path / "map.npy").write_bytes(b"\x93NUMPY\x01\x00v\x00{'descr': (\xbd" + bytes(200))
    with pytest.raises(EvaluationError, match="Cannot read the prediction"):
        read_prediction(tmp_path / "map.npy")
