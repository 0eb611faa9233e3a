"""What the check says of folders that are damaged in the ways that downloads and extractions damage them."""

import shutil

import numpy as np
import pytest
from PIL import Image

import gaze_data
from salfom_hf.data import DATASETS, DHF1K, DataError, Stills, UCFSports, load_dhf1k, open_sample


@pytest.fixture
def official(dhf1k_official, tmp_path):
    return shutil.copytree(dhf1k_official, tmp_path / "official")


@pytest.fixture
def frames(dhf1k_frames, tmp_path):
    return shutil.copytree(dhf1k_frames, tmp_path / "frames")


def remove(folder, *names):
    for name in names:
        (folder / name).unlink()


def remove_last(folder, count):
    for part in ("maps", "fixation"):
        remove(folder / part, *(f"{number:04d}.png" for number in range(20, 20 - count, -1)))


def rename_to_three_digits(folder):
    for path in list(folder.glob("*.png")):
        path.rename(folder / f"{int(path.stem):03d}.png")


def save_image(path, height, width):
    Image.fromarray(np.zeros((height, width), np.uint8)).save(path)


def promise_frames(path, number):
    """Have the header of an AVI file count other frames than there are."""
    content = bytearray(path.read_bytes())
    # Offsets from the names of the main header and of the stream's.
    for name, offset in ((b"avih", 24), (b"strh", 40)):
        start = content.index(name) + offset
        content[start : start + 4] = number.to_bytes(4, "little")
    path.write_bytes(content)


def cut(path, size):
    path.write_bytes(path.read_bytes()[:size])


@pytest.mark.parametrize(
    ("name", "fixture", "found"),
    [
        ("dhf1k", "dhf1k_official", {"train": (2, 40, 600), "validation": (2, 40, 100), "test": (1, 20, 300)}),
        ("dhf1k", "dhf1k_frames", {"train": (2, 40, 600), "validation": (2, 40, 100), "test": (1, 20, 300)}),
        ("ucf_sports", "ucf_sports", {"train": (3, 60, 103), "test": (1, 20, 47)}),
        ("hollywood2", "hollywood2", {"train": (2, 25, 2699), "test": (1, 20, 3558)}),
    ],
)
@pytest.mark.parametrize("decode", [False, True])
def test_sound_folders_have_no_problems(name, fixture, found, decode, request):
    report = DATASETS[name].check(request.getfixturevalue(fixture), decode=decode)
    assert (report.problems, report.found) == ([], found)
    assert "0 errors, 0 warnings" in str(report)


def test_a_split_is_checked_by_itself(official):
    shutil.rmtree(official / "annotation" / "0601")
    assert DHF1K.check(official, "train").problems == []
    assert [problem.kind for problem in DHF1K.check(official, "val").fatal] == ["missing annotation"]
    assert len(load_dhf1k(official, "train")) == 2


def delete(*names):
    """A function that removes files or folders."""
    return lambda root: [
        shutil.rmtree(root / name) if (root / name).is_dir() else remove(root, name) for name in names
    ]


def become_folder(name):
    return lambda root: (remove(root, name), (root / name).mkdir())


def become_text(name):
    return lambda root: (delete(name)(root), (root / name).write_text("archive"))


ONE, OTHER = "annotation/0001", "train/0001"
# How a folder is damaged: the kind of the problem that is found, where, and what is said.
OFFICIAL = {
    "annotation of a video is missing": (delete(ONE), ("missing annotation", ONE, "does not exist")),
    "part of it is missing": (
        delete(f"{ONE}/fixation"),
        ("missing annotation", f"{ONE}/fixation", "does not exist"),
    ),
    "a video is missing": (delete("video/002.AVI"), ("missing video", "annotation/0002", "no video/002.AVI")),
    "three maps fewer than frames": (
        lambda root: remove_last(root / ONE, 3),
        ("missing maps", f"{ONE}/maps", "has 17 images, 001.AVI has 20 frames"),
    ),
    "a fixation image fewer than maps": (
        delete(f"{ONE}/fixation/0007.png"),
        ("missing maps", f"{ONE}/fixation", "1 of 20 maps lack one: 0007.png"),
    ),
    "a gap in maps, whose numbers are the only tie to frames": (
        delete(f"{ONE}/maps/0007.png", f"{ONE}/fixation/0007.png"),
        ("gap", f"{ONE}/maps", "has no 7"),
    ),
    "the first maps are missing": (
        delete(f"{ONE}/maps/0001.png", f"{ONE}/fixation/0001.png"),
        ("gap", f"{ONE}/maps", "has no 1"),
    ),
    "a video that is none": (become_text("video/001.AVI"), ("unreadable", "video/001.AVI", "001.AVI")),
    "a folder that should be a video": (
        become_folder("video/001.AVI"),
        ("folder for file", "video/001.AVI", "is a folder"),
    ),
    "an archive that was not unpacked": (become_text(ONE), ("file for folder", ONE, "is a file")),
    "two videos of one number": (
        lambda root: shutil.copy(root / "video/001.AVI", root / "video/0001.mp4"),
        ("duplicate", "video/001.AVI", "0001.mp4"),
    ),
}
FRAMES = {
    "a map fewer than frames": (
        delete(f"{OTHER}/maps/0005.png"),
        ("missing maps", f"{OTHER}/maps", "1 of 20 frames lack one: 0005.png"),
    ),
    "frames fewer than maps": (
        delete(f"{OTHER}/images/0019.png", f"{OTHER}/images/0020.png"),
        ("surplus maps", f"{OTHER}/maps", "2 without one of 18 frames: 0019.png, 0020.png"),
    ),
    "no frames": (delete(f"{OTHER}/images"), ("missing video", f"{OTHER}/images", "does not exist")),
    "maps are a file": (become_text(f"{OTHER}/maps"), ("file for folder", f"{OTHER}/maps", "is a file")),
    "a video is a file": (become_text(OTHER), ("file for folder", OTHER, "is a file")),
    "a map is a folder": (
        become_folder(f"{OTHER}/maps/0005.png"),
        ("folder for file", f"{OTHER}/maps/0005.png", "is a folder"),
    ),
    "a map is a link to nothing": (
        lambda root: (delete(f"{OTHER}/maps/0005.png")(root), (root / OTHER / "maps/0005.png").symlink_to("no.png")),
        ("unreadable", f"{OTHER}/maps/0005.png", "link to nothing"),
    ),
    "an empty folder": (
        lambda root: (delete(f"{OTHER}/maps")(root), (root / OTHER / "maps").mkdir()),
        ("empty folder", f"{OTHER}/maps", "has no images"),
    ),
    "two images of one number": (
        lambda root: shutil.copy(root / OTHER / "images/0005.png", root / OTHER / "images/005.jpg"),
        ("duplicate", f"{OTHER}/images", "same number"),
    ),
    "a first frame that is no image": (
        become_text(f"{OTHER}/images/0001.png"),
        ("unreadable", f"{OTHER}/images/0001.png", "is not an image"),
    ),
}


def expect_one_error(root, expected):
    kind, where, text = expected
    report = DHF1K.check(root)
    matching = [
        problem for problem in report.fatal if problem.kind == kind and problem.where.is_relative_to(root / where)
    ]
    assert len(matching) == 1, report
    assert text in matching[0].text
    assert where in str(report)
    return report


@pytest.mark.parametrize("damage", OFFICIAL)
def test_what_is_wrong_with_videos_is_said(official, damage):
    spoil, expected = OFFICIAL[damage]
    spoil(official)
    report = expect_one_error(official, expected)
    assert report.found["train"].items == 1
    assert "leave out 1 video with skip_invalid=True" in str(report)
    with pytest.raises(DataError, match=expected[2]):
        load_dhf1k(official, "train")


def test_missing_maps_are_to_be_restored_and_nothing_removed(official):
    remove(official / "annotation/0001/maps", "0003.png", "0007.png", "0020.png")
    report = DHF1K.check(official, "train")
    assert {problem.kind for problem in report.problems} == {"missing maps"}
    assert "3 of 20 fixations lack one: 0003.png, 0007.png, 0020.png" in str(report)
    assert "remove" not in str(report)


def test_fixations_beyond_maps_and_video_are_surplus(official):
    save_image(official / "annotation/0001/fixation/0021.png", 64, 96)
    assert [problem.kind for problem in DHF1K.check(official, "train").problems] == ["surplus maps"]


@pytest.mark.parametrize("damage", FRAMES)
def test_what_is_wrong_with_frames_is_said(frames, damage):
    spoil, expected = FRAMES[damage]
    spoil(frames)
    assert expect_one_error(frames, expected).found["train"].items == 1


def test_damaged_files_show_when_all_are_read(official, frames):
    cut(frames / "train/0001/maps/0007.png", 80)
    cut(frames / "train/0002/images/0007.png", 200)
    save_image(frames / "val/0601/fixation/0003.png", 32, 48)
    cut(official / "video/001.AVI", (official / "video/001.AVI").stat().st_size // 2)
    assert DHF1K.check(frames).problems == []
    report = DHF1K.check(frames, decode=True)
    found = {
        (problem.kind, problem.where.relative_to(frames).as_posix()): problem.text.partition(" (")[0]
        for problem in report.fatal
    }
    assert found == {
        ("unreadable", "train/0001/maps"): "1 image: 0007.png",
        ("unreadable", "train/0002/images"): "1 image: 0007.png",
        ("size", "val/0601/fixation"): "1 images are not 96×64 pixels, as the video is: 0003.png is 48×32",
    }
    # Loading does not read every file, so it cannot leave these out.
    assert "skip_invalid" not in str(report)
    assert "does not notice 3 of these errors; their videos are counted as found" in str(report)
    assert report.found["train"].items == 2
    [problem] = DHF1K.check(official, "train", decode=True).fatal
    assert (problem.kind, problem.where.name) == ("unreadable", "001.AVI")
    assert "can be decoded" in problem.text


def test_a_frame_or_two_that_only_the_header_counts_is_a_warning(official):
    pictures, *_ = gaze_data.gaze_video(1)
    gaze_data.write_avi(official / "video/001.AVI", pictures[:18])
    promise_frames(official / "video/001.AVI", 20)
    assert DHF1K.check(official).problems == []
    [problem] = DHF1K.check(official, "train", decode=True).problems
    assert (problem.kind, problem.fatal) == ("unreadable", False)
    assert problem.text == "only 18 of 20 frames can be decoded"
    assert len(list(open_sample(load_dhf1k(official, "train")[0]).frames())) == 20


@pytest.mark.parametrize("missing", [1, 2])
def test_a_map_or_two_fewer_than_frames_is_a_warning(official, missing):
    remove_last(official / "annotation/0001", missing)
    [problem] = DHF1K.check(official).problems
    assert (problem.kind, problem.fatal) == ("missing maps", False)
    with pytest.warns(UserWarning, match="20 frames"):
        row = load_dhf1k(official, "train")[0]
    assert row["num_frames"] == len(row["maps"]) == len(row["fixations"]) == 20 - missing


def test_maps_beyond_the_end_of_a_video_are_left_out(official):
    for part in ("maps", "fixation"):
        save_image(official / "annotation/0001" / part / "0021.png", 64, 96)
    with pytest.warns(UserWarning, match="has 21 images, 001.AVI has 20 frames"):
        row = load_dhf1k(official, "train")[0]
    assert row["num_frames"] == len(row["maps"]) == len(row["fixations"]) == 20
    assert row["maps"][-1]["path"].endswith("0020.png")


def test_names_of_other_lengths_are_matched_by_number(official):
    (official / "video/002.AVI").rename(official / "video/0002.avi")
    (official / "annotation/0002").rename(official / "annotation/002")
    rename_to_three_digits(official / "annotation/0001/fixation")
    assert DHF1K.check(official).problems == []
    rows = list(load_dhf1k(official, "train"))
    assert [(row["video_id"], len(row["maps"])) for row in rows] == [("0001", 20), ("0002", 20)]
    for key, name in (("maps", "{:04d}.png"), ("fixations", "{:03d}.png")):
        assert [file["path"].rsplit("/", 1)[1] for file in rows[0][key]] == [name.format(n) for n in range(1, 21)]


def test_gaps_in_frames_and_odd_files_are_warnings(frames):
    remove(frames, *(f"train/0001/{part}/0007.png" for part in ("images", "maps", "fixation")))
    (frames / "train/notes.txt").write_text("mine")
    shutil.copytree(frames / "train/0002", frames / "train/0603")
    (frames / "train/.DS_Store").write_bytes(b"")
    report = DHF1K.check(frames, "train")
    assert {(problem.kind, problem.fatal) for problem in report.problems} == {
        ("gap", False),
        ("unexpected", False),
        ("split", False),
    }
    assert report.found["train"].frames == 59


def test_long_lists_are_shortened(tmp_path):
    root = gaze_data.write_dhf1k(tmp_path / "DHF1K", "frames", {"train": 8}, frames=8)
    for number in range(1, 9):
        shutil.rmtree(root / f"train/{number:04d}/maps")
    lines = str(DHF1K.check(root)).splitlines()
    assert "8 errors, 0 warnings" in lines[0]
    assert [line.strip().split(":")[0] for line in lines[2:7]] == [f"train/{n:04d}/maps" for n in range(1, 6)]
    assert lines[7].strip() == "… and 3 more"
    assert "train: 0 of 600 videos, 0 frames" in lines[8]


@pytest.mark.parametrize("layout", ["dhf1k_official", "dhf1k_frames"])
def test_a_folder_too_high_or_too_low_is_recognised(layout, request):
    root = request.getfixturevalue(layout)
    inner = root / ("video" if layout == "dhf1k_official" else "train/0001")
    for folder in (root.parent, inner, root / "none"):
        with pytest.raises(DataError) as error:
            DHF1K.check(folder)
        assert str(error.value).endswith(f"did you mean {root}?")
        assert str(folder) in str(error.value)


def test_a_folder_of_something_else_is_refused(tmp_path, stills_folder):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(DataError, match=r"does not look like UCF-Sports, which has training/CLIP.*under testing\.$"):
        UCFSports.check(tmp_path)
    with pytest.raises(DataError, match="is a file, but DHF1K is a folder"):
        DHF1K.check(tmp_path / "notes.txt")
    with pytest.raises(DataError, match=f"did you mean {stills_folder}"):
        Stills.check(stills_folder / "train" / "images")
