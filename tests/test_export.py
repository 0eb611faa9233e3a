"""Exports of every dataset: what comes back is what went in, whoever reads it, and nothing is ever half there."""

import os
from itertools import chain, zip_longest
from pathlib import Path

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest
from datasets.distributed import split_dataset_by_node
from huggingface_hub import DatasetCard

import gaze_data
from conftest import no_file_above
from salfom_hf.data import DATASETS, STILL_FEATURES, DataError, export_dataset, load, load_export
from salfom_hf.data.samples import open_sample
from salfom_hf.errors import VideoError

SOURCES = {
    "dhf1k_official": "dhf1k",
    "dhf1k_frames": "dhf1k",
    "hollywood2": "hollywood2",
    "ucf_sports": "ucf_sports",
    "stills_parquet": "stills",
    "stills_folder": "stills",
}
SHARD_SIZE = 3_000


def all_splits(name, folder):
    builder = DATASETS[name](data_dir=folder)
    builder.download_and_prepare()
    return dict(builder.as_dataset())


@pytest.fixture(scope="module", params=SOURCES)
def exported(request, tmp_path_factory):
    """Name of a dataset, its splits, and an export of it that has several shards."""
    name = SOURCES[request.param]
    splits = all_splits(name, request.getfixturevalue(request.param))
    folder = tmp_path_factory.mktemp("export") / "out"
    export_dataset(splits, folder, name, max_shard_size=SHARD_SIZE)
    return name, splits, folder


@pytest.fixture
def stills(tmp_path):
    """Eight stills, as `export_dataset` takes them."""
    return all_splits("stills", gaze_data.write_stills(tmp_path / "stills", splits={"train": 8}))


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in Path(folder).rglob("*") if path.is_file())


def stem(file):
    return file and os.path.basename(file["path"])


@pytest.mark.parametrize("streaming", [False, True])
def test_samples_come_back_frame_by_frame(exported, streaming):
    _, splits, folder = exported
    for split, rows in splits.items():
        found = load_export(folder, split, streaming=streaming)
        assert isinstance(found, datasets.IterableDataset if streaming else datasets.Dataset)
        assert found.features == rows.features
        for row, back in zip_longest(rows, found):
            assert row.keys() == back.keys()
            for column, value in row.items():
                if column in ("frames", "maps", "fixations"):
                    assert [stem(file) for file in back[column]] == [stem(file) for file in value]
                elif column in ("image", "video"):
                    assert stem(back[column]) == stem(value)
                else:
                    assert back[column] == value
            sample, again = open_sample(row), open_sample(back)
            assert again.frame_names == sample.frame_names
            assert again.has_labels == sample.has_labels
            for picture, same in zip_longest(sample.frames(), again.frames()):
                np.testing.assert_array_equal(same, picture)
            for index in range(sample.num_frames if sample.has_labels else 0):
                np.testing.assert_array_equal(again.density(index), sample.density(index))
                np.testing.assert_array_equal(again.fixations(index), sample.fixations(index))


def test_an_export_needs_nothing_of_the_dataset_it_was_made_from(tmp_path):
    source = gaze_data.write_ucf_sports(tmp_path / "ucf", frames=3)
    export_dataset(all_splits("ucf_sports", source), tmp_path / "out", "ucf_sports")
    source.rename(tmp_path / "gone")
    sample = open_sample(load_export(tmp_path / "out", "test")[0])
    expected = gaze_data.gaze_video(3, 3)[1]
    np.testing.assert_array_equal(np.stack([sample.fixations(index) for index in range(3)]), expected)


def test_datasets_alone_reads_an_export(exported):
    _, splits, folder = exported
    found = datasets.load_dataset(str(folder), streaming=True)
    assert list(found) == list(splits)
    for split, rows in splits.items():
        # A shard for each file, so that machines and workers can share them out.
        assert found[split].num_shards == len(list((folder / "data").glob(f"{split}-*")))
        assert found[split].features == rows.features
        assert len(list(found[split])) == len(rows)


def test_shards_are_not_larger_than_asked_unless_a_row_is(exported):
    _, splits, folder = exported
    counts = {}
    for path in (folder / "data").iterdir():
        split = path.name.split("-")[0]
        rows = pq.read_metadata(path).num_rows
        # Parquet ends with the names of columns.
        assert rows == 1 or path.stat().st_size < SHARD_SIZE + 10_240
        counts[split] = counts.get(split, 0) + rows
    assert counts == {split: len(rows) for split, rows in splits.items()}
    assert len(list((folder / "data").iterdir())) > len(splits)


def rows_of(splits):
    return next(iter(splits.values())).features


def test_machines_get_equal_shares(stills, tmp_path):
    export_dataset(stills, tmp_path / "out", "stills", num_shards=4)
    stream = load_export(tmp_path / "out", streaming=True)
    shares = [[row["image_id"] for row in split_dataset_by_node(stream, rank, 4)] for rank in range(4)]
    assert [len(share) for share in shares] == [2, 2, 2, 2]
    assert sorted(chain(*shares)) == sorted(stills["train"]["image_id"])
    assert files(tmp_path / "out" / "data") == [f"train-{shard:05d}-of-00004.parquet" for shard in range(4)]


@pytest.mark.parametrize(("num_shards", "expected"), [(3, [2, 3, 3]), (1, [8]), (20, [1] * 8)])
def test_shards_differ_by_one_row_at_most(stills, tmp_path, num_shards, expected):
    export_dataset(stills, tmp_path / "out", "stills", num_shards=num_shards)
    rows = [pq.read_metadata(path).num_rows for path in (tmp_path / "out" / "data").iterdir()]
    assert sorted(rows) == expected


def test_row_groups_are_small(tmp_path):
    rng = np.random.default_rng(0)
    still = {"dataset": "", "width": 1, "height": 1, "fixation_x": [], "fixation_y": [], "observer": []}
    rows = [
        {**still, "image_id": f"{index}", "image": {"path": f"{index}.png", "bytes": rng.bytes(3 << 20)}}
        for index in range(14)
    ]
    rows = datasets.Dataset.from_list(rows, features=STILL_FEATURES)
    export_dataset({"train": rows}, tmp_path / "out", "stills")
    (path,) = (tmp_path / "out" / "data").iterdir()
    metadata = pq.read_metadata(path)
    sizes = [metadata.row_group(group).total_byte_size for group in range(metadata.num_row_groups)]
    assert len(sizes) == 3
    assert max(sizes) < 20 << 20


def test_the_same_data_makes_the_same_files(exported, tmp_path):
    name, splits, folder = exported
    export_dataset(splits, tmp_path / "out", name, max_shard_size=SHARD_SIZE)
    assert files(tmp_path / "out") == files(folder)
    for file in files(folder):
        assert (tmp_path / "out" / file).read_bytes() == (folder / file).read_bytes(), file


def test_the_card_says_what_there_is_and_under_which_terms(exported):
    name, splits, folder = exported
    card = DatasetCard.load(folder / "README.md")
    (config,) = card.data.configs
    listed = {entry["split"]: files_matching(folder, entry["path"]) for entry in config["data_files"]}
    assert list(listed) == list(splits)
    assert sorted(chain(*listed.values())) == sorted(file for file in files(folder) if file.startswith("data/"))
    described = {split["name"]: split["num_examples"] for split in card.data.dataset_info["splits"]}
    assert described == {split: len(rows) for split, rows in splits.items()}
    assert all(f"| `{column}` |" in card.text for column in rows_of(splits))
    assert ("may not be redistributed" in card.text) == (name != "stills")
    assert "eep this repository private" in card.text.replace("\n", " ")


def files_matching(folder, pattern):
    return sorted(str(path.relative_to(folder)) for path in folder.glob(pattern))


@pytest.mark.parametrize("lost", ["video/002.AVI", "annotation/0002/fixation/0013.png"])
def test_a_file_that_vanishes_leaves_nothing_half_written(tmp_path, lost):
    source = gaze_data.write_dhf1k(tmp_path / "dhf1k", videos={"train": 3})
    splits = all_splits("dhf1k", source)
    (source / lost).unlink()
    with pytest.raises(VideoError, match=rf"^Cannot read .*{lost} \(.*\); .*export again\.$"):
        export_dataset(splits, tmp_path / "out", "dhf1k", max_shard_size=1)
    assert os.listdir(tmp_path) == ["dhf1k"]


def test_a_full_disk_leaves_nothing_half_written(stills, tmp_path):
    told = r"^Cannot write .*out \(.*File too large\); files there may not be so large.*\.$"
    with no_file_above(2000), pytest.raises(VideoError, match=told):
        export_dataset(stills, tmp_path / "out", "stills")
    assert os.listdir(tmp_path) == ["stills"]


def test_a_video_too_large_for_a_row(ucf_sports, tmp_path, monkeypatch):
    monkeypatch.setattr("salfom_hf.data.export.COLUMN_BYTES", 5000)
    with pytest.raises(VideoError, match=r"^The frames of the video .* are more than 2 GB"):
        export_dataset(all_splits("ucf_sports", ucf_sports), tmp_path / "out", "ucf_sports")
    assert os.listdir(tmp_path) == []


def test_only_an_earlier_export_is_replaced(stills, tmp_path):
    out = tmp_path / "out"
    export_dataset(stills, out, "stills")
    assert len(load_export(out)) == 8
    with pytest.raises(VideoError, match="exists already"):
        export_dataset(stills, out, "stills")
    half = {"train": stills["train"].select(range(3))}
    export_dataset(half, out, "stills", overwrite=True)
    assert load_export(out)["image_id"] == half["train"]["image_id"]
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "thesis.txt").write_text("years of work")
    with pytest.raises(VideoError, match="holds other files"):
        export_dataset(stills, tmp_path / "notes", "stills", overwrite=True)
    assert files(tmp_path / "notes") == ["thesis.txt"]


@pytest.mark.parametrize("streaming", [False, True])
def test_load_takes_an_export_for_the_dataset(exported, streaming):
    name, splits, folder = exported
    alias = {"validation": "val", "test": "testing"} if name != "dhf1k" else {"validation": "val"}
    for split, rows in splits.items():
        found = load(name, folder, alias.get(split, split) if name != "stills" else split, streaming=streaming)
        column = "image_id" if name == "stills" else "video_id"
        assert [row[column] for row in found] == rows[column]
    other = "stills" if name != "stills" else "dhf1k"
    with pytest.raises(DataError, match=f"is an export of {name}, not of {other}"):
        load(other, folder, "train")


def test_what_the_cache_knows_of_an_earlier_export_is_forgotten(stills, tmp_path):
    rows = stills["train"]
    for order in (range(8), range(7, -1, -1)):
        # As large as before, and described by the same card.
        again = {"train": rows.select(order)}
        export_dataset(again, tmp_path / "out", "stills", overwrite=True)
        found = load_export(tmp_path / "out")
        assert found["image_id"] == again["train"]["image_id"]
        assert found["fixation_x"] == again["train"]["fixation_x"]


def test_parts_of_a_split(exported):
    name, splits, folder = exported
    if name == "dhf1k":
        for found in (load(name, folder, "val[1:]"), load_export(folder, "val[1:]")):
            assert found["video_id"] == splits["validation"]["video_id"][1:]
    found = load_export(folder, "train[:1]")
    assert len(found) == 1
    assert open_sample(found[0]).id == open_sample(splits["train"][0]).id


@pytest.mark.parametrize("streaming", [False, True])
def test_no_such_export_or_split(stills, tmp_path, streaming):
    export_dataset(stills, tmp_path / "out", "stills")
    with pytest.raises(DataError, match="is no exported dataset"):
        load_export(tmp_path / "stills", streaming=streaming)
    with pytest.raises(DataError, match=r"There is no folder .*nowhere, and no dataset .* could be reached"):
        load_export(tmp_path / "nowhere", streaming=streaming)
    with pytest.raises(DataError, match=r"dev.*train"):
        load_export(tmp_path / "out", "dev", streaming=streaming)
