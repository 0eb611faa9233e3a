"""Every command and every piece of Python in the documents does what it says, on small data in the real layouts."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from huggingface_hub import ModelCard

from salfom_hf import SaliencyPredictor, cli
from salfom_hf.data import make_gazefolder
from salfom_hf.hub import publish

DOCS = Path(__file__).parents[1] / "docs"


def blocks(name, language):
    return re.findall(rf"```{language}\n(.*?)```", (DOCS / name).read_text(encoding="utf-8"), flags=re.S)


def commands(name):
    return [line for block in blocks(name, "bash") for line in block.splitlines() if line.startswith("salfom ")]


@pytest.fixture
def mine(tmp_path, clip):
    """Two videos, a table with a row for each of their six frames, and what is made of them."""
    folder = tmp_path / "mine"
    (folder / "videos").mkdir(parents=True)
    for name in ("walk", "ride"):
        shutil.copy(clip, folder / "videos" / f"{name}.mp4")
    rows = [
        f"{name}.mp4,{time},30.5,20,anna\n"
        for name in ("walk", "ride")
        for time in (0.016, 0.05, 0.1, 0.13, 0.17, 0.21)
    ]
    (folder / "gaze.csv").write_text(f"video,time,x,y,observer\n{''.join(rows)}")
    make_gazefolder(folder / "videos", folder / "gaze.csv", folder / "made", validation=0.2)
    return folder


@pytest.fixture
def places(tmp_path, dhf1k_official, ucf_sports, stills_parquet, mine, model_folder, monkeypatch):
    """What stands for the names in the documents."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    videos = [dhf1k_official / "video" / f"{number}.AVI" for number in (601, 602)]
    predictions = tmp_path / "predictions"
    for video in videos:
        shutil.copytree(dhf1k_official / "annotation" / f"0{video.stem}" / "maps", predictions / f"{video.stem}_maps")
    return {
        # What the command before has made, for every command is tested by itself.
        "gazefolder /data/mine/dataset": f"gazefolder {mine / 'made'}",
        "/data/mine": mine,
        "/data/DHF1K/video/{601..700}.AVI": " ".join([*map(str, videos), "--model", str(model_folder)]),
        "--predictions predictions": f"--predictions {predictions}",
        "/data/DHF1K": dhf1k_official,
        "/data/UCF-Sports": ucf_sports,
        "/data/stills": stills_parquet,
        "salfom-large": model_folder,
        "--model salfom ": f"--model {model_folder} ",
    }


def with_places(text, places):
    for name, place in places.items():
        text = text.replace(name, str(place))
    return text


@pytest.mark.parametrize("command", commands("datasets.md") + commands("score.md"))
def test_commands(command, places, capsys):
    assert cli.main(shlex.split(with_places(command, places))[1:]) == 0, capsys.readouterr().err


def test_python_of_the_datasets_page(places):
    namespace = {}
    for block in blocks("datasets.md", "python"):
        exec(with_places(block, places), namespace)
    assert namespace["frame"].shape[:2] == namespace["density"].shape == namespace["fixations"].shape
    assert tuple(namespace["batch"]["pixel_values_videos"].shape[1:]) == (16, 3, 288, 384)


def run_as_told(line, places):
    """Run a line of the fine-tuning page; training takes two steps on small clips."""
    words = shlex.split(with_places(line, places))
    if words[0] == "salfom":
        return cli.main(words[1:])
    assert words[:4] == ["accelerate", "launch", "-m", "salfom_hf.train"]
    short = ["--max-steps", "2", "--size", "64", "96", "--num-workers", "0"]
    # The one beside this Python, which need not be the first on the PATH.
    launch = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch", "--cpu"]
    return subprocess.run([*launch, *words[2:], *short], check=False).returncode


def test_fine_tuning_page(places, capfd):
    """From the first line to the last, each on what those before it left."""
    for line in "".join(blocks("fine-tune.md", "bash")).splitlines():
        assert run_as_told(line, places) == 0, f"{line}\n{capfd.readouterr().err}"
    for block in blocks("fine-tune.md", "python"):
        exec(block.replace("(288, 384)", "(64, 96)"), {})
    for folder in ("run/model", "trainer-run/model"):
        assert SaliencyPredictor.from_pretrained(folder).model.config.num_frames == 16
    assert Path("walk_saliency.mp4").is_file()


def test_publishing_page(places, mine, monkeypatch, capfd):
    """From the first line to the last, each on what those before it left; the Hub notes what it is sent."""
    sent = []
    hub = SimpleNamespace(
        create_repo=lambda name, **options: sent.append((name, options)),
        repo_info=lambda name: SimpleNamespace(private=True),
        upload_folder=lambda folder_path, **options: sent.append({path.name for path in Path(folder_path).iterdir()}),
    )
    monkeypatch.setattr(publish, "HfApi", lambda: hub)
    shutil.copytree(places["salfom-large"], "run/model")
    shutil.copytree(mine / "made", "mine")
    for video in ("walk.mp4", "ride.mp4"):
        shutil.copy(mine / "videos" / video, video)
    for line in "".join(blocks("publish.md", "bash")).splitlines():
        words = shlex.split(line)
        if words[0] == "salfom":
            assert cli.main(words[1:]) == 0, f"{line}\n{capfd.readouterr().err}"
        else:
            # Of the repository, whose cards stay as they are.
            assert (DOCS.parent / words[1]).is_file()
    (name, options), files = sent
    assert (name, options["private"]) == ("org/name", True)
    assert files == {path.name for path in Path("hub-folder").iterdir()}
    assert ModelCard.load("hub-folder/README.md").data.eval_results
    namespace = {}
    for block in blocks("publish.md", "python"):
        exec(block, namespace)
    assert namespace["result"]["timestamps"][0] == pytest.approx(0.04)
    assert namespace["again"](mine / "videos" / "walk.mp4")["maps"].shape == (6, 64, 96)
    assert namespace["saliency"].shape[0] == 1
