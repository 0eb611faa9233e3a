"""The gaze datasets as rows: against what was written to disk, by every way of loading them."""

import importlib
import os
import shutil
import sys
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets.distributed import split_dataset_by_node
from PIL import Image

import gaze_data
from salfom_hf import cli
from salfom_hf.data import (
    DHF1K,
    STILL_FEATURES,
    VIDEO_FEATURES,
    DataError,
    Stills,
    hold_out,
    load,
    load_dhf1k,
    load_export,
    load_hollywood2,
    load_stills,
    load_ucf_sports,
)

# The last still of each split has no fixations, and loading says so.
no_fixations = pytest.mark.filterwarnings("ignore:(?s)Stills in .*no fixations")


def pixels(files):
    return np.stack([np.asarray(Image.open(file["path"])) for file in files])


def expected_maps(number, split_first):
    _, fixations, densities = gaze_data.gaze_video(number, empty=(gaze_data.EMPTY_FRAME,) if split_first else ())
    return densities, fixations.astype(np.uint8) * 255


@pytest.mark.parametrize("layout", ["dhf1k_official", "dhf1k_frames"])
@pytest.mark.parametrize(("split", "numbers"), [("train", [1, 2]), ("val", [601, 602]), ("validation", [601, 602])])
def test_dhf1k_gives_labelled_videos(layout, split, numbers, request):
    root = request.getfixturevalue(layout)
    dataset = load_dhf1k(root, split)
    assert dataset.features == VIDEO_FEATURES
    assert dataset["video_id"][:] == [f"{number:04d}" for number in numbers]
    for row, number in zip(dataset, numbers, strict=True):
        assert (row["num_frames"], row["fps"], row["width"], row["height"]) == (20, 30.0, 96, 64)
        densities, fixations = expected_maps(number, number == numbers[0])
        np.testing.assert_array_equal(pixels(row["maps"]), densities)
        np.testing.assert_array_equal(pixels(row["fixations"]), fixations)
        if layout == "dhf1k_official":
            assert (row["video"]["path"], row["frames"]) == (str(root / f"video/{number:03d}.AVI"), [])
        else:
            assert row["video"] is None
            np.testing.assert_array_equal(pixels(row["frames"]), gaze_data.gaze_video(number)[0])


@pytest.mark.parametrize("layout", ["official", "frames"])
def test_the_test_split_has_no_labels_whatever_lies_next_to_it(layout, tmp_path):
    root = gaze_data.write_dhf1k(tmp_path, layout, {"train": 1, "test": 2}, frames=8)
    labels = ("annotation/0001", "annotation/0701") if layout == "official" else ("train/0001", "test/0701")
    for part in ("maps", "fixation"):
        shutil.copytree(root / labels[0] / part, root / labels[1] / part)
    rows = list(load_dhf1k(root, "test"))
    assert [(row["video_id"], row["num_frames"], row["maps"], row["fixations"]) for row in rows] == [
        ("0701", 8, [], []),
        ("0702", 8, [], []),
    ]


@pytest.mark.parametrize(
    ("loader", "fixture", "official", "short", "fps"),
    [
        (load_ucf_sports, "ucf_sports", "training", "train", 10),
        (load_ucf_sports, "ucf_sports", "testing", "test", 10),
        (load_hollywood2, "hollywood2", "training", "train", 24),
        (load_hollywood2, "hollywood2", "testing", "test", 24),
    ],
)
def test_clips_in_folders(loader, fixture, official, short, fps, request):
    root = request.getfixturevalue(fixture)
    dataset = loader(root, short)
    assert list(dataset) == list(loader(root, official))
    clips = [folder.relative_to(root).as_posix() for folder in sorted(root.glob("*/*"))]
    assert dataset["video_id"][:] == [clip.split("/")[1] for clip in clips if clip.startswith(official)]
    for row in dataset:
        frames = pixels(row["maps"])
        assert (row["fps"], row["video"]) == (fps, None)
        assert (row["num_frames"], row["height"], row["width"]) == frames.shape
        for key in ("frames", "maps", "fixations"):
            stems = [Path(file["path"]).stem for file in row[key]]
            assert stems == [f"{row['video_id']}_{number}" for number in range(98, 98 + row["num_frames"])]
        assert [Path(file["path"]).suffix for file in row["frames"]][:3] == [".png", ".jpg", ".png"]


@no_fixations
@pytest.mark.parametrize(
    ("name", "fixture", "split"),
    [
        ("dhf1k", "dhf1k_official", "train"),
        ("dhf1k", "dhf1k_frames", "test"),
        ("ucf_sports", "ucf_sports", "train"),
        ("stills", "stills_parquet", "train"),
        ("stills", "stills_folder", "train"),
    ],
)
def test_streams_have_the_same_rows(name, fixture, split, request):
    root = request.getfixturevalue(fixture)
    rows = list(load(name, root, split))
    stream = load(name, root, split, streaming=True)
    assert isinstance(stream, datasets.IterableDataset)
    assert list(stream) == rows
    shares = [list(split_dataset_by_node(stream, rank, 2)) for rank in range(2)]
    ids = [row.get("video_id", row.get("image_id")) for share in shares for row in share]
    assert sorted(ids) == sorted(row.get("video_id", row.get("image_id")) for row in rows)


def test_parts_and_sums_of_splits(dhf1k_official):
    assert load_dhf1k(dhf1k_official, "train[:50%]")["video_id"][:] == ["0001"]
    assert load_dhf1k(dhf1k_official, "val[1:] + train")["video_id"][:] == ["0602", "0001", "0002"]
    assert load_dhf1k(dhf1k_official, datasets.Split.VALIDATION).num_rows == 2


def test_nothing_is_decoded(tmp_path):
    root = gaze_data.write_dhf1k(tmp_path, "frames", {"train": 1}, frames=6)
    whole = load_dhf1k(root)[0]
    for path in root.glob("train/0001/*/*.png"):
        # The header of the first frame is all that is needed.
        path.write_bytes(path.read_bytes()[:60] if path.parts[-2:] == ("images", "0001.png") else b"")
    assert load_dhf1k(root)[0] == whole


def test_the_cache_is_used_and_follows_the_files(dhf1k_official, tmp_path, monkeypatch):
    root = shutil.copytree(dhf1k_official, tmp_path / "here")
    folder = root / "annotation" / "0001"
    before = list(load_dhf1k(root))
    with monkeypatch.context() as patch:
        patch.setattr(DHF1K, "examine_all", None)
        assert list(load_dhf1k(root)) == before
    for part in ("maps", "fixation"):
        (folder / part / "0020.png").rename(tmp_path / f"{part}.png")
    with pytest.warns(UserWarning, match="19 images"):
        assert load_dhf1k(root)[0]["num_frames"] == 19
    for part in ("maps", "fixation"):
        (tmp_path / f"{part}.png").rename(folder / part / "0020.png")
    assert list(load_dhf1k(root)) == before
    gaze_data.write_avi(root / "video" / "001.AVI", gaze_data.gaze_video(1, 20, 48, 112)[0])
    assert (load_dhf1k(root)[0]["width"], load_dhf1k(root)[0]["height"]) == (112, 48)
    moved = root.rename(tmp_path / "there")
    assert load_dhf1k(moved)[0]["video"]["path"] == str(moved / "video" / "001.AVI")
    monkeypatch.chdir(tmp_path)
    assert load_dhf1k("there")[0]["video"]["path"] == str(moved / "video" / "001.AVI")


def test_errors_leave_nothing_in_the_cache_and_can_be_skipped(dhf1k_official, tmp_path):
    root = shutil.copytree(dhf1k_official, tmp_path / "DHF1K")
    (root / "video" / "001.AVI").write_bytes(b"none")
    cache = tmp_path / "cache"
    for streaming in (False, True):
        with pytest.raises(DataError, match=r"Error: Cannot be read \(1\)"):
            load_dhf1k(root, streaming=streaming, cache_dir=cache)
    assert not list(cache.rglob("*.arrow"))
    for streaming in (False, True):
        with pytest.warns(UserWarning, match="Left out of DHF1K: 1 video"):
            rows = load_dhf1k(root, streaming=streaming, skip_invalid=True, cache_dir=cache)
        assert [row["video_id"] for row in rows] == ["0002"]
    shutil.copy(dhf1k_official / "video" / "001.AVI", root / "video" / "001.AVI")
    assert len(load_dhf1k(root, skip_invalid=True, cache_dir=cache)) == 2
    # Written over, an image leaves the times of its folder alone.
    root = gaze_data.write_ucf_sports(tmp_path / "ucf", frames=4)
    first = root / "training" / "Lifting-003" / "images" / "Lifting-003_98.png"
    sound = first.read_bytes()
    first.write_bytes(b"none")
    with pytest.warns(UserWarning, match="Left out"):
        assert len(load_ucf_sports(root, skip_invalid=True)) == 2
    first.write_bytes(sound)
    assert len(load_ucf_sports(root, skip_invalid=True)) == 3


def test_a_split_that_is_not_there(tmp_path, stills_parquet, ucf_sports):
    root = gaze_data.write_dhf1k(tmp_path, videos={"train": 1}, frames=4)
    with pytest.raises(DataError, match="no split 'trian', but train and validation and test"):
        load_dhf1k(root, "trian")
    with pytest.raises(DataError, match="no videos to load for DHF1K's validation split"):
        load_dhf1k(root, "val")
    with pytest.raises(DataError, match="is no split"):
        load_dhf1k(root, "train[")
    with pytest.raises(DataError, match="no split 'test', but dev and train"):
        load_stills(stills_parquet, "test")
    with pytest.raises(DataError, match=r"UCF-Sports has no split 'validation', but train and test; hold_out"):
        load_ucf_sports(ucf_sports, "validation")
    with pytest.raises(DataError, match="choose one of dhf1k, hollywood2"):
        load("dhf2k", root)


def expected_stills(split, count):
    for row in gaze_data.gaze_stills(split, count):
        height, width = row.pop("picture").shape[:2]
        yield {**row, "height": height, "width": width}


def same_stills(rows, expected):
    for row, wanted in zip(rows, expected, strict=True):
        assert {key: row[key] for key in wanted if not key.startswith("fixation")} == {
            key: value for key, value in wanted.items() if not key.startswith("fixation")
        }
        for key in ("fixation_x", "fixation_y"):
            np.testing.assert_allclose(row[key], wanted[key], rtol=1e-6)


@no_fixations
@pytest.mark.parametrize("layout", ["parquet", "folder"])
@pytest.mark.parametrize(("split", "count"), [("train", 4), ("dev", 2)])
def test_stills(layout, split, count, request):
    root = request.getfixturevalue(f"stills_{layout}")
    dataset = load_stills(root, split)
    assert dataset.features == STILL_FEATURES
    same_stills(dataset, expected_stills(split, count))
    assert set(dataset["dataset"]) == {"discs" if layout == "parquet" else split}
    assert [file["bytes"] is None for file in dataset["image"]] == [layout == "folder"] * count
    if layout == "folder":
        assert dataset[0]["image"]["path"] == str(root / split / "images" / f"{split}_1.png")


@no_fixations
def test_one_table_or_folder_of_stills_by_itself(stills_parquet, stills_folder):
    for single in (stills_parquet / "dev.parquet", stills_folder / "dev"):
        same_stills(load_stills(single), expected_stills("dev", 2))
        same_stills(load_stills(single, "dev"), expected_stills("dev", 2))


@no_fixations
def test_a_table_in_parts_without_the_columns_that_may_be_missing(stills_parquet, tmp_path):
    table = pq.read_table(stills_parquet / "train.parquet").select(["image", "fixation_x", "fixation_y"])
    pq.write_table(table.slice(0, 2), tmp_path / "train-00000-of-00002.parquet")
    pq.write_table(table.slice(2), tmp_path / "train-00001-of-00002.parquet", row_group_size=1)
    expected = [{**row, "observer": []} for row in expected_stills("train", 4)]
    same_stills(load_stills(tmp_path), expected)
    assert load_stills(tmp_path, streaming=True).num_shards == 3


def problem_texts(root, decode=False):
    return [(problem.kind, problem.fatal, problem.text) for problem in Stills.check(root, decode=decode).problems]


def test_images_of_a_split_are_there_once_and_all(tmp_path):
    root = gaze_data.write_stills(tmp_path, splits={"train": 3})
    gaze_data.write_stills(root, "folder", splits={"train": 3})
    (problem,) = [problem for problem in Stills.check(root).problems if problem.fatal]
    assert (problem.kind, problem.text) == ("duplicate", "has the images of the split train, and so has train.parquet")
    assert Stills.check(root).found["train"].items == 3
    shutil.rmtree(root / "train")
    (root / "train.parquet").rename(root / "train-00001-of-00002.parquet")
    assert problem_texts(root)[0] == (
        "missing part", True, "is one of 2 parts of the split train, of which 1 are there"
    )  # fmt: skip


def test_problems_of_tables_of_stills(tmp_path):
    root = gaze_data.write_stills(tmp_path, splits={"train": 3})
    file = root / "train.parquet"
    table = pq.read_table(file)
    pq.write_table(table.drop_columns(["fixation_y"]), file)
    assert problem_texts(root) == [("columns", True, "has no column fixation_y")]
    pq.write_table(table.slice(0, 0), file)
    assert problem_texts(root) == [("columns", True, "has no rows")]
    rows = table.to_pylist()
    rows[1]["fixation_y"].pop()
    pq.write_table(pa.Table.from_pylist(rows), file)
    assert problem_texts(root) == [
        ("fixations", True, "'train_2.jpg' has 12 x, 11 y, 12 observers"),
        ("fixations", False, "1 have no fixations, such as 'train_3.png'"),
    ]
    rows = table.to_pylist()
    rows[1]["image"]["bytes"] = rows[1]["image"]["bytes"][:-300]
    pq.write_table(pa.Table.from_pylist(rows), file)
    [damaged] = [text for kind, fatal, text in problem_texts(root, decode=True) if fatal]
    assert damaged.startswith("'train_2.jpg'")
    for content in (b"", b"none", os.urandom(3000), (whole := file.read_bytes())[: len(whole) // 2]):
        file.write_bytes(content)
        assert problem_texts(root)[0][0] == "unreadable"


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"fixation_x": float("nan")}, "1 fixation whose x or y is no number, such as (nan, 29.11)"),
        ({"fixation_x": None}, "1 fixation whose x or y is no number, such as (nan, 29.11)"),
        ({"fixation_x": -1.0}, "1 fixation outside of its 64×96 pixels, such as (-1, 29.11)"),
        ({"observer": None}, "fixations whose observer is missing"),
        ({"observer": 2**40}, "observers that are no numbers of 32 bits"),
        ({"width": 10**6}, "an image of 64×96, not 1000000×96 pixels"),
        ({"width": 0}, "not 0×96 pixels"),
        ({"image": None}, "neither bytes nor a path"),
        ({"image": {"bytes": b"", "path": "a.png"}}, "it is no image"),
        ({"image": {"bytes": None, "path": "none.png"}}, "No such file"),
        ({"image": {"bytes": None, "path": "."}}, "directory"),
        ({"image": {"bytes": None, "path": "a\0b"}}, "null"),
        ({"image": {"bytes": None, "path": "../secret.png"}}, "leads out of the folder"),
        ({"image": {"bytes": None, "path": "{}/secret.png"}}, "leads out of the folder"),
        ({"image": {"bytes": None, "path": "link.png"}}, "leads out of the folder"),
        ({"image_id": "../../x"}, "an image_id that can be no name of a file"),
        ({"image_id": "x" * 10**6}, "an image_id that can be no name of a file"),
        ({"image_id": "train_1.png"}, "is in train.parquet already"),
    ],
)
def test_rows_of_stills_that_cannot_be_used(tmp_path, change, text):
    """Neither checking nor loading nor exporting ends otherwise than with the report."""
    root = gaze_data.write_stills(tmp_path / "stills", splits={"train": 3})
    Image.new("RGB", (64, 96)).save(tmp_path / "secret.png")
    (root / "link.png").symlink_to(tmp_path / "secret.png")
    rows = pq.read_table(root / "train.parquet").to_pylist()
    for name, value in change.items():
        if name in ("fixation_x", "observer"):
            rows[1][name][2] = value
        else:
            rows[1][name] = value
    if rows[1]["image"] and rows[1]["image"]["path"]:
        rows[1]["image"]["path"] = rows[1]["image"]["path"].format(tmp_path)
    pq.write_table(pa.Table.from_pylist(rows), root / "train.parquet")
    [found] = [found for _, fatal, found in problem_texts(root, decode=True) if fatal]
    assert text in found
    assert len(found) < 400
    assert cli.main(["data", "export", "stills", str(root), str(tmp_path / "out")]) == 2
    assert not (tmp_path / "out").exists()
    with pytest.warns(UserWarning, match="Left out of Stills: 1 image"):
        assert load_stills(root, skip_invalid=True)["image_id"][:] == ["train_1.png", "train_3.png"]


def test_a_row_is_reported_with_all_its_faults(tmp_path):
    file = gaze_data.write_stills(tmp_path, splits={"train": 3}) / "train.parquet"
    rows = pq.read_table(file).to_pylist()
    rows[1].update(image=None, fixation_x=[float("nan"), -1.0], fixation_y=[1.0, 2.0], observer=[None, 1])
    pq.write_table(pa.Table.from_pylist(rows), file)
    [found] = [found for _, fatal, found in problem_texts(tmp_path) if fatal]
    for fault in (
        "cannot be read",
        "1 fixation whose x or y",
        "1 fixation outside of its 64×96",
        "observer is missing",
    ):
        assert fault in found


@no_fixations
def test_paths_in_a_table_lead_from_its_folder(tmp_path, monkeypatch):
    root = gaze_data.write_stills(tmp_path / "stills", splits={"train": 2})
    rows = pq.read_table(root / "train.parquet").to_pylist()
    for row in rows:
        (root / row["image_id"]).write_bytes(row["image"]["bytes"])
        row["image"]["bytes"] = None
    pq.write_table(pa.Table.from_pylist(rows), root / "train.parquet")
    monkeypatch.chdir(tmp_path)
    paths = [Path(image["path"]) for image in load_stills("stills")["image"]]
    assert paths == [root.resolve() / row["image_id"] for row in rows]
    assert cli.main(["data", "export", "stills", "stills", "out"]) == 0
    assert [image["bytes"] for image in load_export("out")["image"]] == [path.read_bytes() for path in paths]


def test_problems_of_folders_of_stills(tmp_path):
    root = gaze_data.write_stills(tmp_path, "folder", {"train": 3})
    table = root / "train" / "fixations.csv"
    text = table.read_text()
    line = len(text.splitlines()) + 1
    size = "96×64"
    for row, expected in (
        ("none.png,1,1,0", ("missing image", f"'none.png' does not exist there, but has fixations: line {line}")),
        ("../x.png,1,1,0", ("missing image", f"'../x.png' does not exist there, but has fixations: line {line}")),
        ("train_1.png,left,1,0", ("fixations", f"1 fixation whose x or y is no number, such as line {line}")),
        ("train_1.png,1,,0", ("fixations", f"1 fixation whose x or y is no number, such as line {line}")),
        ("train_1.png,1,nan,0", ("fixations", f"1 fixation whose x or y is no number, such as line {line}")),
        ("train_1.png,-1,5,0", ("fixations", f"1 fixation outside of its {size} pixels, such as line {line}")),
        ("train_1.png,1,1e30,0", ("fixations", f"1 fixation outside of its {size} pixels, such as line {line}")),
        ("\ntrain_1.png,1,1,", ("fixations", "fixations whose observer is missing")),
        ("train_1.png,1,1", ("columns", f"1 row with more or fewer cells than line 1: line {line}")),
        (
            "train_1.png,nan,1,0\n" * 7000,
            ("fixations", f"7,000 fixations whose x or y is no number, such as lines {line}, "),
        ),
        ("train_1.png,1,1," + "9" * 200_000, ("unreadable", "field larger than field limit")),
    ):
        table.write_text(f"{text}{row}\n")
        [(kind, message)] = [(kind, message) for kind, fatal, message in problem_texts(root) if fatal]
        assert kind == expected[0]
        assert expected[1] in message
        assert len(message) < 400
    assert "fixations.csv: " in str(Stills.check(root))
    for content, message in (
        (text.replace("image,x", "file,x"), "has no column image, but file, x, y, observer"),
        ("image,x,y\n", "has no rows"),
        ("", "has no column x, but is empty"),
    ):
        table.write_text(content)
        assert problem_texts(root) == [("columns", True, message)]
    table.write_bytes(os.urandom(3000))
    assert [kind for kind, fatal, _ in problem_texts(root) if fatal] == ["unreadable"]
    table.write_text(text + text.splitlines()[1])
    assert ("duplicate", False, "1 row repeated") in problem_texts(root)
    table.write_text(text)
    (root / "train" / "images" / "link.png").symlink_to(table)
    assert ["leads out of the folder" in text for _, fatal, text in problem_texts(root) if fatal] == [True]
    (root / "train" / "images" / "link.png").unlink()
    image = root / "train" / "images" / "train_2.jpg"
    image.write_bytes(image.read_bytes()[:-200])
    assert [kind for kind, fatal, _ in problem_texts(root) if fatal] == []
    assert [kind for kind, fatal, _ in problem_texts(root, decode=True) if fatal] == ["unreadable"]
    image.write_bytes(b"none")
    with pytest.warns(UserWarning, match="Left out of Stills: 1 image"):
        assert load_stills(root, skip_invalid=True)["image_id"][:] == ["train_1.png", "train_3.png"]


@no_fixations
@pytest.mark.parametrize("layout", ["parquet", "folder"])
def test_observers_may_have_names(layout, tmp_path):
    """Numbered as they first appear in the file, whichever image that is."""
    root = gaze_data.write_stills(tmp_path, layout, {"train": 3})
    names = {0: "zoe", 1: "NA", 2: "7"}
    if layout == "folder":
        table = root / "train" / "fixations.csv"
        head, *rows = table.read_text().splitlines()
        rows = [f"{row[:-1]}{names[int(row[-1])]}" for row in rows]
        # The second image's rows come first and last.
        rows = [*rows[20:], *rows[:20]]
        table.write_text("\n".join([head, *rows]))
        expected = [[1] * 4 + [2] * 4 + [0] * 4, [0] * 4 + [1] * 4 + [2] * 4, []]
    else:
        file = root / "train.parquet"
        rows = pq.read_table(file).to_pylist()
        for row in rows:
            row["observer"] = [names[number] for number in row["observer"]]
        rows[0]["observer"].reverse()
        pq.write_table(pa.Table.from_pylist(rows), file, row_group_size=1)
        expected = [[0] * 4 + [1] * 4 + [2] * 4, [2] * 4 + [1] * 4 + [0] * 4, []]
    for streaming in (False, True):
        assert [row["observer"] for row in load_stills(root, streaming=streaming)] == expected


def videos(*names):
    return datasets.Dataset.from_dict({"video_id": names})


def test_held_out_videos_are_the_same_in_any_order():
    names = [f"{number:04d}" for number in range(1, 101)]
    train, validation = hold_out(videos(*names), 0.1, seed=3)
    assert (len(train), len(validation)) == (90, 10)
    assert sorted([*train["video_id"], *validation["video_id"]]) == names
    assert list(train["video_id"]) == sorted(train["video_id"])
    turned = hold_out(videos(*reversed(names)), 0.1, seed=3)[1]
    assert set(turned["video_id"]) == set(validation["video_id"])
    assert set(hold_out(videos(*names), 0.1, seed=4)[1]["video_id"]) != set(validation["video_id"])


def test_shots_of_one_clip_are_held_out_together():
    names = [f"actioncliptrain{clip:05d}_{shot}" for clip in range(1, 21) for shot in range(1, 4)]
    train, validation = hold_out(videos(*names), 0.2)
    assert len(validation) == 12
    assert {name[:-2] for name in train["video_id"]}.isdisjoint({name[:-2] for name in validation["video_id"]})


@no_fixations
def test_something_is_always_held_out_and_kept(stills_parquet):
    assert [len(part) for part in hold_out(load_stills(stills_parquet, "dev"), 0.01)] == [1, 1]
    assert [len(part) for part in hold_out(videos("a", "b", "c"), 0.99)] == [1, 2]
    with pytest.raises(ValueError, match="two or more"):
        hold_out(videos("a"), 0.5)
    with pytest.raises(ValueError, match="between 0 and 1, not 1"):
        hold_out(videos("a", "b"), 1)


def test_without_datasets_installed_one_sentence_says_what_to_install(monkeypatch):
    for name in [name for name in sys.modules if name.startswith("salfom_hf.data")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ImportError, match=r'pip install -c constraints\.txt "\.\[data\]"$'):
        importlib.import_module("salfom_hf.data")
