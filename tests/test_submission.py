"""The folder for the DHF1K server: names, sizes and values of its maps, and what a check finds in bad ones."""

import json
import shutil

import numpy as np
import pytest
from datasets import Dataset
from PIL import Image

from salfom_hf import SaliencyPredictor
from salfom_hf.data import VIDEO_FEATURES, load_dhf1k
from salfom_hf.data.samples import open_sample
from salfom_hf.evaluation import EvaluationError, Model, check_submission, write_submission


@pytest.fixture(scope="module")
def withheld(dhf1k_official):
    """Video 0701, an AVI file of 20 frames without labels."""
    return load_dhf1k(dhf1k_official, "test")


@pytest.fixture(scope="module")
def val(dhf1k_official):
    return load_dhf1k(dhf1k_official, "val")


@pytest.fixture
def model(framewise_model, processor):
    return Model("tiny", SaliencyPredictor(framewise_model, processor))


@pytest.fixture
def submission(model, val, tmp_path):
    write_submission(val, model, tmp_path / "maps")
    return tmp_path / "maps"


def tree(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.*"))


def test_every_frame_is_a_grey_picture_of_its_map(withheld, model, tmp_path):
    assert write_submission(withheld, model, tmp_path / "maps") == 1
    assert tree(tmp_path / "maps") == [f"0701/{number:04d}.png" for number in range(1, 21)]
    expected = model.predictor.predict(np.stack(list(open_sample(withheld[0]).frames())))
    for number, saliency in enumerate(expected, 1):
        with Image.open(tmp_path / "maps" / "0701" / f"{number:04d}.png") as image:
            assert (image.mode, image.size) == ("L", (96, 64))
            scaled = (saliency - saliency.min()) / (saliency.max() - saliency.min()) * 255
            assert np.abs(np.asarray(image) - scaled).max() <= 0.51
    assert check_submission(withheld, tmp_path / "maps").endswith(
        "holds 20 grey maps without fault, but 1 of 300 test videos; the server wants them all."
    )


def test_only_300_videos_are_complete(tmp_path):
    rows = [{"video_id": f"{number:04d}", "num_frames": 1} for number in range(701, 1001)]
    columns = dict.fromkeys(VIDEO_FEATURES) | {"fps": 30.0, "width": 2, "height": 1}
    dataset = Dataset.from_list([columns | row for row in rows], VIDEO_FEATURES)
    for row in rows:
        (tmp_path / row["video_id"]).mkdir()
        Image.new("L", (2, 1)).save(tmp_path / row["video_id"] / "0001.png")
    assert check_submission(dataset, tmp_path).endswith("is complete: 300 test videos, 300 grey maps.")
    shutil.rmtree(tmp_path / "1000")
    assert "but 299 of 300 test videos" in check_submission(dataset.select(range(299)), tmp_path)


def test_a_stopped_submission_goes_on(val, model, tmp_path, monkeypatch):
    asked, maps = [], model.maps

    def stopping(sample, indices):
        asked.append(sample.id)
        for index, saliency in zip(indices, maps(sample, indices), strict=True):
            if (sample.id, index) == ("0602", 7) and len(asked) == 2:
                raise KeyboardInterrupt
            yield saliency

    monkeypatch.setattr(model, "maps", stopping)
    with pytest.raises(KeyboardInterrupt):
        write_submission(val, model, tmp_path / "maps")
    assert {path.split("/")[0] for path in tree(tmp_path / "maps")} == {"0601"}
    with pytest.raises(EvaluationError, match="the folder 0602 is missing"):
        check_submission(val, tmp_path / "maps")
    assert write_submission(val, model, tmp_path / "maps") == 1
    assert asked == ["0601", "0602", "0602"]
    assert "40 grey maps without fault" in check_submission(val, tmp_path / "maps")


def test_maps_of_two_models_are_not_mixed(submission, val, framewise_model, processor):
    other = Model("other", SaliencyPredictor(framewise_model, processor, stride=5))
    before = (submission / "0602" / "0003.png").read_bytes()
    with pytest.raises(EvaluationError, match=r"other settings \(model\).*--overwrite"):
        write_submission(val, other, submission)
    assert (submission / "0602" / "0003.png").read_bytes() == before
    assert write_submission(val, other, submission, overwrite=True) == 2
    assert (submission / "0602" / "0003.png").read_bytes() != before
    assert json.loads(submission.with_name("maps.json").read_text())["methods"].keys() == {"other"}


@pytest.mark.parametrize("overwrite", [False, True])
def test_other_folders_are_left_alone(val, model, tmp_path, overwrite):
    (tmp_path / "0601").mkdir()
    (tmp_path / "0601" / "0001.png").write_bytes(b"mine")
    with pytest.raises(EvaluationError, match="not of an earlier run"):
        write_submission(val, model, tmp_path, overwrite=overwrite)
    assert (tmp_path / "0601" / "0001.png").read_bytes() == b"mine"


def test_a_finished_video_is_kept_until_its_folder_is_deleted(submission, val, model):
    spoilt = submission / "0601" / "0002.png"
    before = spoilt.read_bytes()
    spoilt.write_bytes(b"broken")
    assert write_submission(val, model, submission) == 0
    assert spoilt.read_bytes() == b"broken"
    shutil.rmtree(submission / "0601")
    assert write_submission(val, model, submission) == 1
    assert spoilt.read_bytes() == before


def save(**options):
    def change(folder):
        image = Image.new(options.get("mode", "L"), options.get("size", (96, 64)))
        image.save(folder / "0601" / "0002.png", options.get("format", "PNG"))

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda folder: (folder / "0601" / "0004.png").unlink(),
            "is not fit to be submitted (1 fault: 0601/0004.png is mis",
        ),
        (
            lambda folder: (folder / "0602").rename(folder / "602"),
            "maps is not fit to be submitted (21 faults: the folder 0602 is missing; 602/0001.png",
        ),
        (lambda folder: (folder / "notes.txt").touch(), "(1 fault: notes.txt is no map of the split): delete "),
        (lambda folder: (folder / "0601" / "0021.png").touch(), "(1 fault: 0601/0021.png is no map of the split)"),
        (save(mode="RGB"), "0601/0002.png is PNG RGB 96x64 instead of PNG L 96x64"),
        (save(size=(64, 96)), "0601/0002.png is PNG L 64x96 instead of PNG L 96x64"),
        (save(format="JPEG"), "0601/0002.png is JPEG"),
        (lambda folder: (folder / "0601" / "0002.png").write_bytes(b"broken"), "0601/0002.png cannot be read"),
    ],
)
def test_what_is_wrong_is_named(submission, val, change, words):
    assert "without fault" in check_submission(val, submission)
    change(submission)
    with pytest.raises(EvaluationError) as error:
        check_submission(val, submission)
    assert words in str(error.value)
    with pytest.raises(EvaluationError, match="no folder"):
        check_submission(val, submission / "nowhere")
