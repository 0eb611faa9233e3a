"""Many videos by several processes: what is written, by whom, and what is left when one of them fails."""

import io
import os
import pickle
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from PIL import Image

from conftest import EMULATED, noise, write_clip
from salfom_hf import SaliencyPredictor, predict
from salfom_hf.cli.predict_many import STOPPED
from salfom_hf.data import export_dataset, load, load_export, open_sample
from salfom_hf.evaluation.saliency_column import SaliencyColumn
from salfom_hf.files import ENDING, atomic_output
from salfom_hf.video.drawing import to_gray

# Names alone would be the same in two of the subfolders.
VIDEOS = {"a/x.mp4": 5, "a/deep/er/x.mp4": 6, "b/x.mp4": 7, "y.mkv": 8}
OUTPUTS = ["a/deep/er/x_npz.npz", "a/x_npz.npz", "b/x_npz.npz", "y_npz.npz"]


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    folder = tmp_path_factory.mktemp("originals")
    for name, frames in VIDEOS.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_clip(folder / name, frames, sound=False)
    return folder


@pytest.fixture
def clips(originals, tmp_path):
    for name in VIDEOS:
        (tmp_path / "clips" / name).parent.mkdir(parents=True, exist_ok=True)
        os.link(originals / name, tmp_path / "clips" / name)
    return tmp_path / "clips"


@pytest.fixture
def many(model_folder, capsys):
    """The command in this process: code, and what it said."""

    def run(*arguments):
        capsys.readouterr()
        code = predict.main(["--model", str(model_folder), "--format", "npz", "--device", "cpu", *map(str, arguments)])
        return code, capsys.readouterr()

    before = {number: signal.getsignal(number) for number in ENDING}
    yield run
    for number, handler in before.items():
        signal.signal(number, handler)


def launch(*arguments, processes=2, **options):
    """Two processes that share this machine's CPU, in a group of their own."""
    launcher = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch"]
    launcher += ["--multi_gpu", "--num_processes", str(processes), "--main_process_port", "0"]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    return subprocess.Popen(
        [*launcher, "-m", "salfom_hf.predict", *map(str, arguments)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        **options,
    )


def tree(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir())


def maps_of(path):
    with np.load(path) as archive:
        return archive["maps"]


def test_two_processes_do_every_video_once(clips, model_folder, tmp_path):
    (clips / "a" / "bad.mp4").write_text("no video")
    process = launch(clips, tmp_path / "out", "--model", model_folder, "--format", "npz")
    out, err = process.communicate(timeout=600)
    assert process.returncode != 0
    assert tree(tmp_path / "out") == OUTPUTS
    predictor = SaliencyPredictor.from_pretrained(model_folder)
    for name, output in zip(sorted(VIDEOS), OUTPUTS, strict=True):
        expected = predictor.predict(clips / name)
        assert len(expected) == VIDEOS[name]
        np.testing.assert_allclose(maps_of(tmp_path / "out" / output), expected, atol=1e-3)
        assert out.count(f"{clips / name} -> {tmp_path / 'out' / output}\n") == 1
    assert "26 frames in " in out
    assert "salfom: 1 failed:\n  Cannot read " in err
    assert str(clips / "a" / "bad.mp4") in err
    # Those of the launcher itself aside.
    assert 'File "' not in err.partition("1 failed:")[0]


def test_lines_of_processes_do_not_mix(clips, model_folder, tmp_path):
    """As launchers start Python, unbuffered: each line is one write, here one packet."""
    (clips / "a" / "bad.mp4").write_text("no video")
    read, write = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    command = [sys.executable, "-u", "-m", "salfom_hf.predict", clips, tmp_path / "out", "--model", model_folder]
    with read, write:
        assert subprocess.run([*command, "--format", "npz"], stdout=write, stderr=write).returncode == 2
        read.setblocking(False)
        packets = []
        with suppress(BlockingIOError):
            while True:
                packets.append(read.recv(65536).decode())
    said = [packet for packet in packets if " -> " in packet or packet.startswith("salfom: Cannot read")]
    assert len(said) == len(VIDEOS) + 1
    assert all(packet.endswith("\n") for packet in said), packets


def children(process):
    return [child for child in psutil.Process(process.pid).children(recursive=True) if "salfom_hf.predict" in
            " ".join(child.cmdline())]  # fmt: skip


def test_a_stopped_run_goes_on(many, model_folder, tmp_path):
    """Stopped as a whole, then one of the processes killed, at work on another one of its videos."""
    (tmp_path / "clips").mkdir()
    videos = [write_clip(tmp_path / "clips" / f"{name}.mp4", 120, sound=False) for name in range(8)]
    out, done = tmp_path / "out", {}
    for number in (signal.SIGTERM, signal.SIGKILL):
        process = launch(tmp_path / "clips", out, "--model", model_folder, "--format", "npz")
        end = time.monotonic() + 600
        while len(list(out.glob("*.npz"))) <= len(done) or not list(out.glob(".salfom-*/*")):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < end
            time.sleep(0.02)
        (process if number == signal.SIGTERM else children(process)[-1]).send_signal(number)
        said = process.communicate(timeout=300)
        assert process.returncode != 0
        for name, written in done.items():
            assert (out / name).stat().st_mtime_ns == written
        done = {path.name: path.stat().st_mtime_ns for path in out.glob("*.npz")}
        assert 0 < len(done) < len(videos)
        if number == signal.SIGTERM:
            assert tree(out) == sorted(done)
            assert said[1].count(f"salfom: {STOPPED}") == 1

    code, said = many(tmp_path / "clips", out)
    assert (code, said.err) == (0, "")
    assert f"{len(done)} of 8 outputs exist already and are kept" in said.out
    assert said.out.count(" -> ") == 8 - len(done)
    assert tree(out) == [f"{name}_npz.npz" for name in range(8)]
    for name, written in done.items():
        assert (out / name).stat().st_mtime_ns == written
    expected = SaliencyPredictor.from_pretrained(model_folder).predict(videos[0])
    for path in out.iterdir():
        np.testing.assert_allclose(maps_of(path), expected, atol=1e-3)


def test_done_is_done(clips, many, tmp_path):
    """What a process leaves that is killed goes, and what another one is writing stays."""
    out = tmp_path / "out"
    assert many(clips, out)[0] == 0
    assert tree(out) == OUTPUTS
    written = {path: (out / path).stat().st_mtime_ns for path in OUTPUTS}
    # As a process leaves it that is killed when its output is in place.
    (out / "a" / ".salfom-left" / "new").mkdir(parents=True)
    with atomic_output(out / "other.txt") as path:
        path.write_text("new")
        code, said = many(clips, out)
    assert not (out / "a" / ".salfom-left").exists()
    assert (out / "other.txt").read_text() == "new"
    assert (code, said.out) == (0, "4 of 4 outputs exist already and are kept; --overwrite makes them again.\n")
    assert {path: (out / path).stat().st_mtime_ns for path in OUTPUTS} == written
    assert many(clips, out, "--overwrite")[0] == 0
    assert all((out / path).stat().st_mtime_ns > before for path, before in written.items())


def test_outputs_within_the_folder_are_no_inputs(clips, many):
    """Nor are pictures of maps, unfinished outputs, or hidden files; a folder of pictures is a video."""
    for number, picture in enumerate(noise(3)):
        (clips / "shots").mkdir(exist_ok=True)
        Image.fromarray(picture).save(clips / "shots" / f"{number}.png")
    (clips / "b" / "._x.mp4").write_text("a Mac's")
    for _ in range(2):
        code, said = many(clips, clips / "out", "--format", "maps")
        assert (code, said.err) == (0, "")
        assert len(tree(clips / "out")) == sum(VIDEOS.values()) + 3
    assert many(clips, clips / "out2", "--format", "overlay")[0] == 0
    assert len(tree(clips / "out2")) == len(VIDEOS) + 1
    # Nor are those in other folders within.
    assert many(clips, clips.parent / "other", "--format", "maps")[0] == 0
    assert {path.name for path in (clips.parent / "other").iterdir()} == {"a", "b", "shots_maps", "y_maps"}
    assert len(tree(clips.parent / "other")) == sum(VIDEOS.values()) + 3


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_a_list(clips, many, tmp_path, encoding):
    (tmp_path / "lists").mkdir()
    os.link(clips / "y.mkv", tmp_path / "lists" / "y.mkv")
    lines = ["# mine", "", "y.mkv", "./y.mkv ", "../clips/a/x.mp4", str(clips / "b"), "gone.mp4"]
    (tmp_path / "lists" / "videos.txt").write_text(
        ("\ufeff" if encoding == "utf-8" else "") + "\r\n".join(lines), encoding=encoding
    )
    out = tmp_path / "out"
    code, said = many(tmp_path / "lists" / "videos.txt", out)
    elsewhere = clips.relative_to("/")
    assert tree(out) == sorted(["y_npz.npz", f"{elsewhere}/a/x_npz.npz", f"{elsewhere}/b/x_npz.npz"])
    assert code == 2
    assert f"1 failed:\n  There is no file or folder {tmp_path / 'lists' / 'gone.mp4'}" in said.err


def test_only_results_of_earlier_runs_are_skipped(clips, many, tmp_path):
    """Told by what they are called after; a folder that is named itself never."""
    assert many(clips / "b", clips / "b", "--format", "maps")[0] == 0
    assert many(clips / "b", clips / "b", "--format", "overlay")[0] == 0
    os.link(clips / "y.mkv", clips / "y_heatmap.mkv")
    os.link(clips / "y.mkv", clips / "mine_overlay.mkv")
    (clips / "city_maps").mkdir()
    Image.fromarray(noise(1)[0]).save(clips / "city_maps" / "0001.png")
    code, said = many(clips, tmp_path / "out")
    assert code == 0
    assert re.findall(r"skipped (\S+)( and \d more)?: an earlier run", said.err) == [
        (str(clips / "y_heatmap.mkv"), " and 2 more")
    ]
    assert tree(tmp_path / "out") == sorted([*OUTPUTS, "city_maps_npz.npz", "mine_overlay_npz.npz"])
    assert many(clips / "b" / "x_maps", tmp_path / "named")[0] == 0
    assert tree(tmp_path / "named") == ["x_maps_npz.npz"]


def test_one_video_and_its_part(clips, many, tmp_path, emulates):
    emulates("bfloat16")
    code, said = many(clips / "a" / "x.mp4", f"{tmp_path}/out.v2/", "--duration", "0.12", "--dtype", "bfloat16")
    assert (code, said.err.count(EMULATED)) == (0, 1)
    assert tree(tmp_path / "out.v2") == ["x_npz.npz"]
    assert len(maps_of(tmp_path / "out.v2" / "x_npz.npz")) == 3
    assert many(clips / "a" / "x.mp4", tmp_path / "one", "--format", "overlay", "--at", "0.1")[0] == 0
    assert tree(tmp_path / "one") == ["x_overlay.png"]  # Of one moment.


@pytest.mark.parametrize(
    ("given", "output", "said"),
    [
        ("none", "out", "There is no list, folder or video"),
        ("empty", "out", "names no videos and no images"),
        ("binary.txt", "out", "Cannot read the list"),
        ("pipe", "out", "`salfom live -`"),
        ("clips", "out.mp4", "The outputs go to a folder"),
        ("clips", "binary.txt", "The outputs go to a folder"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(given, output, said, clips, many, tmp_path):
    (tmp_path / "empty").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x81")
    code, heard = many(tmp_path / given, tmp_path / output)
    assert (code, heard.err.count("\n"), heard.out) == (2, 1, "")
    assert said in heard.err
    assert not (tmp_path / "out").exists()


def test_no_input_is_replaced(clips, many, tmp_path):
    """Neither another video nor, with its folder, the list; an earlier output is an input only where it is named."""
    earlier, named = clips / "a" / "x_overlay.mp4", clips / "y_maps" / "list.txt"
    shutil.copy(clips / "y.mkv", earlier)
    assert many(clips, clips, "--format", "overlay", "--overwrite")[0] == 0
    before = earlier.read_bytes()
    (clips / "list.txt").write_text("a/x_overlay.mp4\na/x.mp4\n")
    code, said = many(clips / "list.txt", clips, "--format", "overlay", "--overwrite")
    assert code == 2
    assert f"{earlier} exists already; choose another output, for the input {earlier} would be lost." in said.err
    assert earlier.read_bytes() == before
    named.parent.mkdir()
    named.write_text("y.mkv")
    shutil.copy(clips / "y.mkv", named.parent)
    code, said = many(named, clips, "--format", "maps", "--overwrite")
    assert (code, named.is_file()) == (2, True)
    assert f"{named.parent} exists already; choose another output, for the input" in said.err


def test_two_videos_never_share_an_output(clips, many, tmp_path):
    os.link(clips / "a" / "x.mp4", clips / "y.mp4")
    code, said = many(clips, tmp_path / "out")
    assert code == 2
    assert tree(tmp_path / "out") == OUTPUTS
    assert f"{clips / 'y.mkv'} and {clips / 'y.mp4'} would both be written to" in said.err


# Maps as a column.


@pytest.fixture(scope="module")
def shards(ucf_sports, tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards") / "ucf"
    dataset = load("ucf_sports", ucf_sports, "train")
    export_dataset({"train": dataset}, folder, "ucf_sports", num_shards=2)
    return folder


@pytest.mark.parametrize("num_proc", [None, 2])
def test_maps_as_a_column_of_an_export(shards, model_folder, num_proc):
    dataset, column = load_export(shards, "train"), SaliencyColumn(model_folder)
    found = dataset.map(column, features=column.features(dataset.features), num_proc=num_proc, writer_batch_size=1)
    assert found.remove_columns("saliency").features == dataset.features
    predictor = SaliencyPredictor.from_pretrained(model_folder)
    for row, before in zip(found, dataset, strict=True):
        sample = open_sample(before)
        # Read as any other map of the dataset.
        again = open_sample({**row, "maps": row["saliency"]})
        assert [Path(file["path"]).stem for file in row["saliency"]] == sample.frame_names
        for index, frame in enumerate(predictor.stream(sample.frames())):
            assert np.abs(again.density(index) * 255 - to_gray(frame.saliency)).max() < 1.01
    assert len(found) == 3


def test_a_column_of_a_stream_and_of_stills(shards, stills_parquet, model_folder, set_threads):
    set_threads(2)
    column = pickle.loads(pickle.dumps(SaliencyColumn(model_folder)))
    stream = load_export(shards, "train", streaming=True)
    row = next(iter(stream.map(column, features=column.features(stream.features))))
    assert len(row["saliency"]) == row["num_frames"]
    assert torch.get_num_threads() == 2
    stills = load("stills", stills_parquet, "train")
    found = stills.map(column, features=column.features(stills.features), writer_batch_size=1)
    predictor = SaliencyPredictor.from_pretrained(model_folder)
    for row in found:
        (frame,) = predictor.stream(open_sample(row).frames())
        with Image.open(io.BytesIO(row["saliency"][0]["bytes"])) as image:
            assert np.abs(np.asarray(image).astype(int) - to_gray(frame.saliency)).max() <= 1
