"""Datasets of one's own as folders: where their splits may lie, their frame rates, and what is wrong with them."""

import zlib

import numpy as np
import pytest
from PIL import Image

import gaze_data
from salfom_hf import cli
from salfom_hf.data import DataError, GazeFolder, load, load_gazefolder, open_sample

SIZE = (8, gaze_data.HEIGHT, gaze_data.WIDTH)


@pytest.fixture
def folder(tmp_path):
    """Two clips to train on and one to validate on, the second of them at 29.97 frames per second."""
    clips = {"train/walk": SIZE, "train/ride": (6, 80, 60), "validation/talk": SIZE}
    root = gaze_data.write_clips(tmp_path / "mine", clips)
    (root / "train" / "ride" / "fps.txt").write_text("29.97\n")
    return root


def test_clips_are_read(folder):
    ride, walk = load_gazefolder(folder)
    assert [(row["video_id"], row["num_frames"], row["width"], row["height"]) for row in (ride, walk)] == [
        ("ride", 6, 60, 80),
        ("walk", 8, 96, 64),
    ]
    assert (ride["fps"], walk["fps"]) == (pytest.approx(29.97), 25)
    pictures, fixations, densities = gaze_data.gaze_video(0, 8, empty=(gaze_data.EMPTY_FRAME,))
    sample = open_sample(walk)
    np.testing.assert_array_equal(next(sample.frames(5)), pictures[5])
    np.testing.assert_array_equal(sample.fixations(5), fixations[5])
    np.testing.assert_allclose(sample.density(5), densities[5] / 255)
    assert load("gazefolder", folder, "val")["video_id"][:] == ["talk"]


NAMES = {"train": ("train", "training"), "validation": ("validation", "val"), "test": ("test", "testing")}


@pytest.mark.parametrize(("name", "split"), [(name, split) for split in NAMES for name in NAMES[split]])
def test_a_single_split_under_each_of_its_names(tmp_path, name, split):
    root = gaze_data.write_clips(tmp_path, {f"{name}/walk": SIZE})
    for asked in (name, split):
        assert load_gazefolder(root, asked)["video_id"][:] == ["walk"]
    report = GazeFolder.check(root, decode=True)
    assert report.problems == []
    assert {split: found for split, found in report.found.items() if found.items} == {split: (1, 8, None)}
    other = "test" if split == "train" else "train"
    with pytest.raises(DataError, match=f"no videos to load for gazefolder's {other} split"):
        load_gazefolder(root, other)


def test_a_split_under_two_names_is_refused(folder):
    (folder / "training" / "swim").mkdir(parents=True)
    [problem] = GazeFolder.check(folder).fatal
    assert (problem.where, problem.text) == (folder / "training", "is the same split as train")
    with pytest.raises(DataError, match="is the same split as train"):
        load_gazefolder(folder)


@pytest.mark.parametrize("text", ["", "fast", "0", "-25", "nan", "inf", "25 fps"])
def test_frame_rates_that_are_none(folder, text):
    (folder / "train" / "walk" / "fps.txt").write_text(text)
    with pytest.raises(DataError, match=r"train/walk/fps\.txt: is not a number above 0"):
        load_gazefolder(folder)
    with pytest.warns(UserWarning, match="Left out of gazefolder: 1 video"):
        assert load_gazefolder(folder, skip_invalid=True)["video_id"][:] == ["ride"]


@pytest.mark.parametrize(
    ("row", "text"),
    [
        ("1,left,3,0", "1 fixation whose x or y is no number, such as line 3"),
        ("1,-5,3,0", "1 fixation outside of its 96×64 pixels, such as line 3"),
        ("8,3,3,0", "1 fixation in none of the frames 0 to 7, such as line 3"),
        ("-1,3,3,0", "1 fixation in none of the frames 0 to 7, such as line 3"),
        ("1.5,3,3,0", "1 fixation whose frame is no whole number, such as line 3"),
        ("1,3,3,", "1 fixation whose observer is no whole number, such as line 3"),
        ("1,3,3,1e30", "1 fixation whose observer is no whole number, such as line 3"),
        ("1,3", "1 row with more or fewer cells than line 1: line 3"),
    ],
)
def test_tables_of_who_looked_where(folder, row, text):
    file = folder / "train" / "walk" / "gaze.csv"
    file.write_text("frame,x,y,observer\n0,5,5,0\n")
    assert load_gazefolder(folder)[1]["fixation_x"] == [5]
    file.write_text(f"frame,x,y,observer\n0,5,5,0\n{row}\n")
    assert [(problem.where, problem.text) for problem in GazeFolder.check(folder).fatal] == [(file, text)]
    with pytest.raises(DataError, match=r"gaze\.csv"):
        load_gazefolder(folder)
    with pytest.warns(UserWarning, match="Left out of gazefolder: 1 video"):
        assert load_gazefolder(folder, skip_invalid=True)["video_id"][:] == ["ride"]


def test_tables_of_who_looked_where_that_are_none(folder):
    file = folder / "train" / "walk" / "gaze.csv"
    for content in (b"", b"frame,x,y,observer\n", b"frame,x,y\n1,1,1\n", bytes(range(256))):
        file.write_bytes(content)
        assert [problem.where for problem in GazeFolder.check(folder).fatal] == [file]
    file.unlink()
    file.mkdir()
    assert [problem.where for problem in GazeFolder.check(folder).fatal] == [file]


def test_clips_that_nobody_looks_at_are_reported(folder):
    files = sorted((folder / "train" / "walk" / "fixation").glob("*.png"))
    for fatal, blank in ((False, files[:-1]), (True, files[-1:])):
        for file in blank:
            Image.new("L", (gaze_data.WIDTH, gaze_data.HEIGHT)).save(file)
        [problem] = GazeFolder.check(folder, decode=True).problems
        assert (problem.fatal, problem.where) == (fatal, files[0].parent)


def test_maps_that_are_none_are_reported(folder):
    clip = folder / "train" / "walk"
    heat, inverted = (min((clip / part).glob("*.png")) for part in ("maps", "fixation"))
    Image.new("RGB", (gaze_data.WIDTH, gaze_data.HEIGHT), (250, 20, 20)).save(heat)
    Image.new("L", (gaze_data.WIDTH, gaze_data.HEIGHT), 255).save(inverted)
    for problem, text in zip(GazeFolder.check(folder, decode=True).fatal, ("in colour", "invert it"), strict=True):
        assert (problem.kind, text in problem.text) == ("unreadable", True)


def test_pictures_too_large_to_be_worked_on_are_not_decoded(folder):
    file = min((folder / "train" / "walk" / "images").iterdir())
    content = bytearray(file.read_bytes())
    content[16:24] = (10**6).to_bytes(4, "big") * 2
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    file.write_bytes(content)
    [problem] = GazeFolder.check(folder, decode=True).fatal
    assert (problem.kind, "pixels" in problem.text) == ("unreadable", True)


def test_a_changed_frame_rate_is_noticed(folder):
    file = folder / "train" / "walk" / "fps.txt"
    for rate in (50, 60):
        file.write_text(str(rate))
        assert load_gazefolder(folder)[1]["fps"] == rate
    file.unlink()
    assert load_gazefolder(folder)[1]["fps"] == 25


def test_the_commands_take_it(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    commands = [
        ["data", "check", "gazefolder", str(folder)],
        ["data", "show", "gazefolder", str(folder)],
        ["data", "export", "gazefolder", str(folder), "out"],
        ["evaluate", "--dataset", "gazefolder", "--data-dir", str(folder), "--baseline", "center"],
    ]
    for command in commands:
        assert cli.main(command) == 0, capsys.readouterr().err
    assert Image.open("gazefolder_train.png").width > 0
    # By default scored on what was not trained on.
    assert (tmp_path / "evaluation_gazefolder_validation" / "results.json").is_file()
