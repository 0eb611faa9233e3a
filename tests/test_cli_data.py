"""`salfom data`: what it prints and writes, and that whatever goes wrong is said and leaves nothing behind."""

import shutil

import pytest
from PIL import Image

from salfom_hf import cli
from salfom_hf.cli.data import DATASET_NAMES
from salfom_hf.data import DATASETS, export_dataset, load_export, load_ucf_sports


@pytest.fixture
def mine(tmp_path, ucf_sports):
    """A UCF-Sports that the test may spoil."""
    return shutil.copytree(ucf_sports, tmp_path / "ucf")


@pytest.fixture(scope="module")
def exported(ucf_sports, tmp_path_factory):
    out = tmp_path_factory.mktemp("exported") / "out"
    export_dataset({split: load_ucf_sports(ucf_sports, split) for split in ("train", "test")}, out, "ucf_sports")
    return out


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_the_names_are_those_of_the_package():
    assert tuple(DATASETS) == DATASET_NAMES


def test_check_says_what_is_missing_or_damaged_and_fails(salfom_data, mine):
    """Only a deep check reads every image."""
    clip = mine / "training" / "Lifting-003"
    (clip / "images" / "Lifting-003_110.png").write_bytes(
        (clip / "images" / "Lifting-003_110.png").read_bytes()[:-200]
    )
    assert salfom_data("check", "ucf_sports", mine, "--quick")[0] == 0
    code, said = salfom_data("check", "ucf_sports", mine)
    assert (code, "Lifting-003_110.png" in said.out) == (2, True)
    (clip / "maps" / "Lifting-003_105.png").unlink()
    code, said = salfom_data("check", "ucf_sports", mine, "--quick")
    assert (code, "Lifting-003_105.png" in said.out) == (2, True)
    code, said = salfom_data("check", "ucf_sports", mine, "--split", "test")
    assert (code, "Found: test: 1 of 47 videos, 20 frames." in said.out) == (0, True)


def test_a_folder_of_something_else(salfom_data, tmp_path):
    (tmp_path / "notes").mkdir()
    for command in (("check", "dhf1k", "notes"), ("show", "dhf1k", "notes"), ("export", "dhf1k", "notes", "out")):
        code, said = salfom_data(*command)
        assert code == 2
        assert said.err.startswith("salfom: ")
        assert "notes" in said.err
        assert "Traceback" not in said.err
    assert names(tmp_path) == ["notes"]


def test_show_makes_a_picture_in_the_working_folder(salfom_data, tmp_path, ucf_sports):
    code, said = salfom_data("show", "ucf_sports", ucf_sports)
    assert code == 0
    assert said.out == f"{ucf_sports} -> ucf_sports_train.png\n"
    assert said.err == ""
    assert names(tmp_path) == ["ucf_sports_train.png"]
    three = Image.open("ucf_sports_train.png").height
    assert salfom_data("show", "ucf_sports", ucf_sports, "--split", "testing")[0] == 0
    one = Image.open("ucf_sports_testing.png").height
    assert three - one == pytest.approx(2 * one, rel=0.1)


def test_what_is_invalid_is_reported_and_left_out_on_demand(salfom_data, tmp_path, mine):
    (mine / "training" / "Lifting-003" / "maps" / "Lifting-003_105.png").unlink()
    report = salfom_data("check", "ucf_sports", mine, "--quick")[1].out
    assert "--skip-invalid" in report
    for command in (("show", "ucf_sports", mine), ("export", "ucf_sports", mine, "out")):
        code, said = salfom_data(*command)
        assert (code, report.splitlines()[1:3]) == (2, said.err.splitlines()[1:3])
        assert "out" not in names(tmp_path)
        # With other splits than in the command before: what is said of a table is said when it is made.
        code, said = salfom_data(
            *command, "--split", "train", *(["test"] if "out" in command else []), "--skip-invalid"
        )
        assert (code, "Left out of UCF-Sports: 1 video." in said.err) == (0, True)
    assert "train 2" in said.out
    evaluate = ["evaluate", "--dataset", "ucf_sports", "--data-dir", str(mine), "--split", "train", "--baseline",
                "center", "--metrics", "nss"]  # fmt: skip
    assert cli.main(evaluate) == 2
    assert cli.main([*evaluate, "--skip-invalid"]) == 0


def test_show_takes_names_and_numbers(salfom_data, tmp_path, ucf_sports):
    show = ("show", "ucf_sports", ucf_sports, "--video", "Lifting-003", "Diving-Side-002")
    assert salfom_data(*show, "-o", "sheets/five.png")[0] == 0
    assert salfom_data(*show, "-o", "sheets/two.jpg", "--frames", "2")[0] == 0
    five, two = Image.open("sheets/five.png"), Image.open("sheets/two.jpg")
    assert (five.format, two.format) == ("PNG", "JPEG")
    assert two.width < five.width
    assert two.height == five.height


def test_export_writes_all_splits(salfom_data, tmp_path, ucf_sports):
    code, said = salfom_data("export", "ucf_sports", ucf_sports, "out", "--max-shard-size", "1KB")
    assert code == 0
    assert said.out == f"{ucf_sports} -> out: train 3, test 1\n"
    assert said.err == ""
    assert names(tmp_path) == ["out"]
    assert len(list((tmp_path / "out" / "data").iterdir())) == 4
    assert load_export("out", "test")[0]["video_id"] == "Diving-Side-001"


def test_stills_and_some_splits_of_videos(salfom_data, tmp_path, dhf1k_official, stills_parquet):
    assert salfom_data("show", "stills", stills_parquet, "--split", "dev", "-o", "sheet.png")[0] == 0
    for split in ("val", "test"):
        show = ("show", "dhf1k", dhf1k_official, "--split", split, "-o", "sheet.png", "--overwrite")
        assert salfom_data(*show)[0] == 0
    assert salfom_data("export", "dhf1k", dhf1k_official, "out", "--split", "val", "--num-shards", "2")[0] == 0
    stream = load_export("out", "validation", streaming=True)
    assert stream.num_shards == 2
    assert [row["video_id"] for row in stream] == ["0601", "0602"]


def test_what_an_earlier_run_left_in_the_dataset_is_replaced(salfom_data, tmp_path, ucf_sports):
    """But nothing else that is there."""
    shutil.copytree(ucf_sports, tmp_path, dirs_exist_ok=True)
    before = names(tmp_path)
    for command in (("show", "ucf_sports", "."), ("export", "ucf_sports", ".", "out")):
        assert salfom_data(*command)[0] == 0
        assert "--overwrite" in salfom_data(*command)[1].err
        assert salfom_data(*command, "--overwrite")[0] == 0
    for command in (("show", "ucf_sports", ".", "-o", "training/a.png"), ("export", "ucf_sports", ".", "training")):
        (tmp_path / "training" / "a.png").write_text("mine")
        code, said = salfom_data(*command, "--overwrite")
        assert (code, "part of the input" in said.err) == (2, True)
    assert names(tmp_path) == sorted([*before, "out", "ucf_sports_train.png"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["show", "--video", "Lifting-003", "Running-1"], "There is no Running-1 in the split train"),
        (["show", "-o", "sheet.mp4"], "sheet.mp4 is not a picture"),
        (["show", "-o", "taken.png"], "taken.png exists already"),
        (["show", "--split", "dev"], "'dev'"),
        (["show", "--frames", "0"], "0 is not a whole number"),
        (["export", "out", "--max-shard-size", "large"], "large is no size"),
        (["export", "out", "--num-shards", "0"], "0 is not a whole number"),
        (["export", "out", "--num-shards", "2", "--max-shard-size", "1MB"], "not allowed with"),
        (["export", "out", "--split", "dev"], "'dev'"),
        (["export", "taken"], "taken exists already"),
    ],
)
def test_what_cannot_be_shown_or_exported(salfom_data, tmp_path, ucf_sports, arguments, message):
    (tmp_path / "taken").mkdir()
    for name in ("taken.png", "taken/mine.txt"):
        (tmp_path / name).write_bytes(b"mine")
    code, said = salfom_data(arguments[0], "ucf_sports", ucf_sports, *arguments[1:])
    assert code == 2
    assert message in said.err
    assert "Traceback" not in said.err
    assert names(tmp_path) == ["taken", "taken.png"]
    assert (tmp_path / "taken.png").read_bytes() == b"mine"


def test_an_export_is_shown_as_the_dataset_is(salfom_data, tmp_path, ucf_sports, exported):
    for path, output in ((ucf_sports, "dataset.png"), (exported, "export.png")):
        assert salfom_data("show", "ucf_sports", path, "--split", "train", "-o", output)[0] == 0
    assert (tmp_path / "dataset.png").read_bytes() == (tmp_path / "export.png").read_bytes()
    assert salfom_data("show", "ucf_sports", exported, "--video", "Golf-Swing-Back-001", "-o", "one.png")[0] == 0
    code, said = salfom_data("show", "ucf_sports", exported, "--video", "Running-1", "-o", "none.png")
    assert (code, "There is no Running-1" in said.err) == (2, True)
    code, said = salfom_data("show", "dhf1k", exported)
    assert (code, "is an export of ucf_sports" in said.err) == (2, True)


@pytest.mark.parametrize("command", [["check", "ucf_sports", "{}"], ["export", "ucf_sports", "{}", "out"]])
def test_an_export_is_neither_checked_nor_exported(salfom_data, tmp_path, exported, command):
    code, said = salfom_data(*(part.format(exported) for part in command))
    assert code == 2
    assert "is an export; give the folder of the dataset" in said.err
    assert names(tmp_path) == []
