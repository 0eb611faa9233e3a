"""`salfom data`: what it prints and writes, and that whatever goes wrong is said and leaves nothing behind."""

import shutil

import pytest
from PIL import Image

from conftest import run_command
from salfom_hf import cli
from salfom_hf.cli.data import DATASET_NAMES
from salfom_hf.data import DATASETS, export_dataset, load_export, load_ucf_sports


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def salfom(folder, capsys):
    def run(*arguments):
        return run_command(capsys, "data", *arguments)

    return run


@pytest.fixture
def mine(folder, ucf_sports):
    """A UCF-Sports that the test may spoil."""
    return shutil.copytree(ucf_sports, folder / "ucf")


@pytest.fixture(scope="module")
def exported(ucf_sports, tmp_path_factory):
    out = tmp_path_factory.mktemp("exported") / "out"
    export_dataset({split: load_ucf_sports(ucf_sports, split) for split in ("train", "test")}, out, "ucf_sports")
    return out


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_the_names_are_those_of_the_package():
    assert tuple(DATASETS) == DATASET_NAMES


def test_check_says_what_is_missing_or_damaged_and_fails(salfom, mine):
    """Only a deep check reads every image."""
    clip = mine / "training" / "Lifting-003"
    (clip / "images" / "Lifting-003_110.png").write_bytes(
        (clip / "images" / "Lifting-003_110.png").read_bytes()[:-200]
    )
    assert salfom("check", "ucf_sports", mine, "--quick")[0] == 0
    code, said = salfom("check", "ucf_sports", mine)
    assert (code, "Lifting-003_110.png" in said.out) == (2, True)
    (clip / "maps" / "Lifting-003_105.png").unlink()
    code, said = salfom("check", "ucf_sports", mine, "--quick")
    assert (code, "Lifting-003_105.png" in said.out) == (2, True)
    code, said = salfom("check", "ucf_sports", mine, "--split", "test")
    assert (code, "Found: test: 1 of 47 videos, 20 frames." in said.out) == (0, True)


def test_a_folder_of_something_else(salfom, folder):
    (folder / "notes").mkdir()
    for command in (("check", "dhf1k", "notes"), ("show", "dhf1k", "notes"), ("export", "dhf1k", "notes", "out")):
        code, said = salfom(*command)
        assert code == 2
        assert said.err.startswith("salfom: ")
        assert "notes" in said.err
        assert "Traceback" not in said.err
    assert names(folder) == ["notes"]


def test_show_makes_a_picture_in_the_working_folder(salfom, folder, ucf_sports):
    code, said = salfom("show", "ucf_sports", ucf_sports)
    assert code == 0
    assert said.out == f"{ucf_sports} -> ucf_sports_train.png\n"
    assert said.err == ""
    assert names(folder) == ["ucf_sports_train.png"]
    three = Image.open("ucf_sports_train.png").height
    assert salfom("show", "ucf_sports", ucf_sports, "--split", "testing")[0] == 0
    one = Image.open("ucf_sports_testing.png").height
    assert three - one == pytest.approx(2 * one, rel=0.1)


def test_what_is_invalid_is_left_out_on_demand(salfom, mine):
    (mine / "training" / "Lifting-003" / "maps" / "Lifting-003_105.png").unlink()
    assert "--skip-invalid" in salfom("check", "ucf_sports", mine, "--quick")[1].out
    for command in (("show", "ucf_sports", mine), ("export", "ucf_sports", mine, "out")):
        assert salfom(*command)[0] == 2
        # With other splits than in the command before: what is said of a table is said when it is made.
        code, said = salfom(*command, "--split", "train", *(["test"] if "out" in command else []), "--skip-invalid")
        assert (code, "Left out of UCF-Sports: 1 video." in said.err) == (0, True)
    assert "train 2" in said.out
    evaluate = ["evaluate", "--dataset", "ucf_sports", "--data-dir", str(mine), "--split", "train", "--baseline",
                "center", "--metrics", "nss"]  # fmt: skip
    assert cli.main(evaluate) == 2
    assert cli.main([*evaluate, "--skip-invalid"]) == 0


def test_show_takes_names_and_numbers(salfom, folder, ucf_sports):
    show = ("show", "ucf_sports", ucf_sports, "--video", "Lifting-003", "Diving-Side-002")
    assert salfom(*show, "-o", "sheets/five.png")[0] == 0
    assert salfom(*show, "-o", "sheets/two.jpg", "--frames", "2")[0] == 0
    five, two = Image.open("sheets/five.png"), Image.open("sheets/two.jpg")
    assert (five.format, two.format) == ("PNG", "JPEG")
    assert two.width < five.width
    assert two.height == five.height


def test_export_writes_all_splits(salfom, folder, ucf_sports):
    code, said = salfom("export", "ucf_sports", ucf_sports, "out", "--max-shard-size", "1KB")
    assert code == 0
    assert said.out == f"{ucf_sports} -> out: train 3, test 1\n"
    assert said.err == ""
    assert names(folder) == ["out"]
    assert len(list((folder / "out" / "data").iterdir())) == 4
    assert load_export("out", "test")[0]["video_id"] == "Diving-Side-001"


def test_stills_and_some_splits_of_videos(salfom, folder, dhf1k_official, stills_parquet):
    assert salfom("show", "stills", stills_parquet, "--split", "dev", "-o", "sheet.png")[0] == 0
    for split in ("val", "test"):
        show = ("show", "dhf1k", dhf1k_official, "--split", split, "-o", "sheet.png", "--overwrite")
        assert salfom(*show)[0] == 0
    assert salfom("export", "dhf1k", dhf1k_official, "out", "--split", "val", "--num-shards", "2")[0] == 0
    stream = load_export("out", "validation", streaming=True)
    assert stream.num_shards == 2
    assert [row["video_id"] for row in stream] == ["0601", "0602"]


def test_what_an_earlier_run_left_in_the_dataset_is_replaced(salfom, folder, ucf_sports):
    """But nothing else that is there."""
    shutil.copytree(ucf_sports, folder, dirs_exist_ok=True)
    before = names(folder)
    for command in (("show", "ucf_sports", "."), ("export", "ucf_sports", ".", "out")):
        assert salfom(*command)[0] == 0
        assert "--overwrite" in salfom(*command)[1].err
        assert salfom(*command, "--overwrite")[0] == 0
    for command in (("show", "ucf_sports", ".", "-o", "training/a.png"), ("export", "ucf_sports", ".", "training")):
        (folder / "training" / "a.png").write_text("mine")
        code, said = salfom(*command, "--overwrite")
        assert (code, "part of the input" in said.err) == (2, True)
    assert names(folder) == sorted([*before, "out", "ucf_sports_train.png"])


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
def test_what_cannot_be_shown_or_exported(salfom, folder, ucf_sports, arguments, message):
    (folder / "taken").mkdir()
    for name in ("taken.png", "taken/mine.txt"):
        (folder / name).write_bytes(b"mine")
    code, said = salfom(arguments[0], "ucf_sports", ucf_sports, *arguments[1:])
    assert code == 2
    assert message in said.err
    assert "Traceback" not in said.err
    assert names(folder) == ["taken", "taken.png"]
    assert (folder / "taken.png").read_bytes() == b"mine"


def test_a_broken_dataset_is_not_exported_but_reported(salfom, folder, mine):
    for number in (103, 104):
        (mine / "training" / "Lifting-003" / "maps" / f"Lifting-003_{number}.png").unlink()
    code, said = salfom("export", "ucf_sports", mine, "out")
    assert code == 2
    # The report, as check prints it, rather than a line of it.
    assert len(said.err.splitlines()) > 3
    assert "Lifting-003" in said.err
    assert names(folder) == ["ucf"]


def test_an_export_is_shown_as_the_dataset_is(salfom, folder, ucf_sports, exported):
    for path, output in ((ucf_sports, "dataset.png"), (exported, "export.png")):
        assert salfom("show", "ucf_sports", path, "--split", "train", "-o", output)[0] == 0
    assert (folder / "dataset.png").read_bytes() == (folder / "export.png").read_bytes()
    assert salfom("show", "ucf_sports", exported, "--video", "Golf-Swing-Back-001", "-o", "one.png")[0] == 0
    code, said = salfom("show", "ucf_sports", exported, "--video", "Running-1", "-o", "none.png")
    assert (code, "There is no Running-1" in said.err) == (2, True)
    code, said = salfom("show", "dhf1k", exported)
    assert (code, "is an export of ucf_sports" in said.err) == (2, True)


@pytest.mark.parametrize("command", [["check", "ucf_sports", "{}"], ["export", "ucf_sports", "{}", "out"]])
def test_an_export_is_neither_checked_nor_exported(salfom, folder, exported, command):
    code, said = salfom(*(part.format(exported) for part in command))
    assert code == 2
    assert "is an export; give the folder of the dataset" in said.err
    assert names(folder) == []
