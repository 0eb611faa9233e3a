"""The command `salfom`: what it writes, and that whatever goes wrong is one line and leaves nothing behind."""

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image
from tqdm import TMonitor

from conftest import EMULATED, no_file_above, noise, run_command, write_clip, write_tone
from salfom_hf import SaliencyPredictor, cli, files
from salfom_hf.cli import predict_many
from salfom_hf.cli.common import note_emulated
from salfom_hf.errors import VideoError
from salfom_hf.inference import results as output_module
from salfom_hf.inference.profiling import STAGES
from salfom_hf.models import names as pretrained
from salfom_hf.video.drawing import overlay, side_by_side, to_gray
from salfom_hf.video.reading import probe, read_frames
from salfom_hf.video.writing import VideoWriter

SPEED = r"\d+\.\d frames per second, \d+\.\d× real time"


@pytest.fixture
def folder(tmp_path, clip, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(clip, tmp_path / "clip.mp4")
    return tmp_path


@pytest.fixture(scope="module")
def expected(model_folder, clip):
    return list(SaliencyPredictor.from_pretrained(model_folder).stream(clip))


def tree(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def sound(path):
    with av.open(str(path)) as container:
        return [bytes(packet) for packet in container.demux(audio=0) if packet.size]


def pictures(path):
    return np.stack([frame.image for frame in read_frames(path)]).astype(int)


def test_an_overlay_stands_next_to_the_video(folder, salfom, expected):
    code, said = salfom("clip.mp4")
    assert (code, tree(folder)) == (0, ["clip.mp4", "clip_overlay.mp4"])
    assert re.fullmatch(rf"clip\.mp4 -> clip_overlay\.mp4 \({SPEED}\)\n", said.out)
    assert said.err == ""  # No progress bar where there is no terminal.
    source, result = probe("clip.mp4"), probe("clip_overlay.mp4")
    assert (result.width, result.height, result.frame_rate) == (96, 64, source.frame_rate)
    assert sound("clip_overlay.mp4") == sound("clip.mp4") != []
    found = pictures("clip_overlay.mp4")
    drawn = np.stack([overlay(frame.image, frame.saliency) for frame in expected])
    assert found.shape == drawn.shape == (6, 64, 96, 3)
    # Only compression, and colour at half resolution, comes between.
    assert np.abs(found - drawn).mean() < 12
    assert np.abs(found - drawn).mean() < np.abs(pictures("clip.mp4") - drawn).mean()


def test_a_video_of_both_side_by_side(folder, salfom, expected):
    assert salfom("clip.mp4", "--format", "side-by-side", "--colormap", "gray")[0] == 0
    drawn = np.stack([side_by_side(frame.image, frame.saliency, "gray") for frame in expected])
    found = pictures("clip_side-by-side.mp4")
    assert found.shape == drawn.shape
    assert np.abs(found - drawn).mean() < 12


def test_an_npz_holds_maps_and_times(folder, salfom, expected):
    assert salfom("clip.mp4", "--format", "npz")[0] == 0
    with np.load("clip_npz.npz", allow_pickle=False) as data:
        assert sorted(data.files) == ["maps", "timestamps"]
        maps, timestamps = data["maps"], data["timestamps"]
    assert (maps.dtype, timestamps.dtype) == (np.float16, np.float64)
    np.testing.assert_allclose(timestamps, np.arange(6) / 25)
    np.testing.assert_allclose(maps, np.stack([frame.saliency for frame in expected]), atol=1e-3)


def test_maps_are_numbered_grey_pictures(folder, salfom, expected):
    assert salfom("clip.mp4", "--format", "maps")[0] == 0
    assert sorted(os.listdir("clip_maps")) == [f"000{number}.png" for number in range(1, 7)]
    for number, frame in enumerate(expected, 1):
        with Image.open(f"clip_maps/000{number}.png") as image:
            assert image.mode == "L"
            assert np.abs(np.asarray(image).astype(int) - to_gray(frame.saliency)).max() <= 1


def test_a_picture_gives_a_picture(tmp_path, salfom):
    Image.fromarray(noise(1, 48, 80)[0]).save(tmp_path / "a.jpg")
    assert salfom(tmp_path / "a.jpg", "--format", "side-by-side")[0] == 0
    with Image.open(tmp_path / "a_side-by-side.png") as image:
        assert image.size == (160, 48)
    assert tree(tmp_path) == ["a.jpg", "a_side-by-side.png"]


@pytest.mark.parametrize("here", [False, True])
def test_a_folder_of_pictures_is_one_video(tmp_path, salfom, monkeypatch, here):
    (tmp_path / "shots").mkdir()
    for number, picture in enumerate(noise(3)):
        Image.fromarray(picture).save(tmp_path / "shots" / f"{number}.png")
    monkeypatch.chdir(tmp_path / "shots")
    assert salfom("." if here else tmp_path / "shots")[0] == 0
    assert len(pictures(tmp_path / "shots_overlay.mp4")) == 3


def test_a_folder_of_videos_and_several_inputs(folder, salfom):
    (folder / "in").mkdir()
    for name in ("a.mp4", "b.mp4"):
        shutil.copy("clip.mp4", folder / "in" / name)
    (folder / "in" / "notes.txt").write_text("no video")
    (folder / "in" / "._a.mp4").write_text("a Mac's")
    assert salfom("in", "clip.mp4", "-o", "out", "--format", "npz")[0] == 0
    assert tree(folder / "out") == ["a_npz.npz", "b_npz.npz", "clip_npz.npz"]
    assert salfom("in", "--format", "npz")[0] == 0
    assert tree(folder / "in") == ["._a.mp4", "a.mp4", "a_npz.npz", "b.mp4", "b_npz.npz", "notes.txt"]


@pytest.mark.parametrize("output", ["results.v2/", "run-1.5"])
def test_folders_may_have_a_dot_in_their_name(folder, salfom, output):
    """For one input as for two."""
    shutil.copy("clip.mp4", "b.mp4")
    assert salfom("clip.mp4", "-o", output, "--format", "npz")[0] == 0
    assert salfom("b.mp4", "clip.mp4", "-o", output, "--format", "npz", "--overwrite")[0] == 0
    assert tree(folder / output) == ["b_npz.npz", "clip_npz.npz"]
    assert salfom("clip.mp4", "-o", f"maps-{output}", "--format", "maps")[0] == 0
    assert len(tree(folder / f"maps-{output}")) == 6


def test_two_inputs_never_share_an_output(folder, salfom):
    (folder / "in").mkdir()
    shutil.copy("clip.mp4", "in/clip.mp4")
    code, said = salfom("clip.mp4", "in", "-o", "out", "--format", "npz", "--overwrite")
    assert (code, tree(folder / "out")) == (2, ["clip_npz.npz"])
    assert "both be written" in said.err


def test_one_bad_file_does_not_stop_the_others(folder, salfom):
    Path("bad.mp4").write_bytes(b"no video at all" * 100)
    shutil.copy("clip.mp4", "good.mp4")
    code, said = salfom("clip.mp4", "bad.mp4", "good.mp4", "-o", "out", "--format", "npz")
    assert (code, tree(folder / "out")) == (2, ["clip_npz.npz", "good_npz.npz"])
    first, told, last = said.err.splitlines()
    assert told.startswith("salfom: Cannot read bad.mp4")
    assert [line[:12] for line in (first, last)] == ["salfom: out/"] * 2  # how large they will be


def assert_refused(code, said, words):
    assert code == 2
    assert said.err.splitlines()[-1].startswith("salfom")
    assert "Traceback" not in said.err
    assert words in said.err


@pytest.mark.parametrize(
    ("name", "make", "style", "words"),
    [
        ("bad.mp4", lambda path: path.write_text("This is no video.\n" * 50), "overlay", "bad.mp4"),
        ("bad.mp4", lambda path: path.write_bytes(Path("clip.mp4").read_bytes()[:-6000]), "maps", "bad.mp4"),
        ("bad.mp4", lambda path: path.write_bytes(b""), "npz", "bad.mp4"),
        ("bad.mp4", write_tone, "overlay", "bad.mp4"),
        ("bad.mp4", lambda path: write_clip(path, frames=2, height=2, width=2, sound=False), "maps", "bad.mp4"),
        ("bad.png", lambda path: path.write_bytes(b"\x89PNG broken"), "npz", "bad.png"),
        ("bad", Path.mkdir, "overlay", "bad"),
        ("bad.mp4", lambda path: None, "maps", "bad.mp4"),
        ("bad.mp4", os.mkfifo, "npz", "`salfom live -`"),
        ("bad.png", os.mkfifo, "overlay", "`salfom live -`"),
        ("bad.mp4", lambda path: path.symlink_to("/dev/zero"), "maps", "`salfom live -`"),
        ("bad.heic", lambda path: path.write_bytes(b"\0\0\0\x18ftypheic" * 9), "npz", "convert it to JPEG"),
    ],
)
def test_bad_inputs_are_one_line_and_leave_nothing(folder, salfom, name, make, style, words):
    make(Path(name))
    before = tree(folder)
    code, said = salfom(name, "--format", style)
    assert_refused(code, said, words)
    assert (said.err.count("\n"), name in said.err, tree(folder)) == (1, True, before)


@pytest.mark.parametrize(
    "command", ["predict bad.mp4 --debug", "--debug predict bad.mp4", "data make clip.mp4 n.csv out"]
)
def test_debug_prints_tracebacks(folder, capsys, command):
    Path("bad.mp4").write_text("no video")
    for words in (command.replace("--debug", ""), f"{command} --debug" if command.startswith("data") else command):
        assert cli.main(words.split()) == 2
        said = capsys.readouterr().err
        assert ("Traceback (most" in said) == ("--debug" in words)
        assert any(line.startswith("salfom: Cannot read") for line in said.splitlines())


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_folder(folder, salfom):
    Path("locked").mkdir(mode=0)
    assert_refused(*salfom("locked"), "permissions")


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("predict clip.mp4 --start 5", "range"),
        ("predict clip.mp4 --start 1e300", "No frame at or after 1000000000.00 s"),
        ("predict clip.mp4 --duration 0", "duration"),
        ("predict clip.mp4 -o clip.mp4/below/out.mp4", "Cannot write"),
        (f"predict clip.mp4 -o {'x' * 300}.mp4", "choose a shorter name"),
        ("predict clip.mp4 -o taken.mp4", "--overwrite"),
        ("predict clip.mp4 --device toaster", "give cpu as the device"),
        ("predict clip.mp4 --stride 0", "--stride"),
        ("predict clip.mp4 --batch-size -1", "--batch-size"),
        ("predict clip.mp4 --start -1", "--start"),
        ("predict clip.mp4 --duration inf", "--duration"),
        ("predict clip.mp4 --colormap pink", "--colormap"),
        ("predict clip.mp4 --dtype int8", "--dtype"),
        ("predict clip.mp4 --format film", "--format"),
        ("predict clip.mp4 -o out.png", "more than one frame"),
        ("predict clip.mp4 taken.mp4 -o out.npz", "folder"),
        ("predict clip.mp4 -o out.mp4 --format npz --overwrite", "out.mp4"),
        ("predict clip.mp4 -o out.npz --overwrite", "out.npz"),
        ("predict clip.mp4 -o out.txt --format heatmap --overwrite", "out.txt"),
        ("predict clip.mp4 -o out.avi --format side-by-side --overwrite", "out.avi"),
        ("predict clip.mp4 -o out.mp4 --format maps --overwrite", "out.mp4"),
        ("predict clip.mp4 -o taken.mp4 --format maps --overwrite", "taken.mp4"),
        ("convert no.pth", "Name the folder"),
        ("convert no.pth out --install", "one of the two"),
        ("convert no.pth out", "no.pth"),
        ("convert clip.mp4 out", "clip.mp4"),
        ("", "usage: salfom"),
        ("predict", "usage: salfom"),
        ("paint clip.mp4", "usage: salfom"),
    ],
)
def test_what_cannot_be_done_is_refused_and_leaves_nothing(folder, model_folder, capsys, command, words):
    Path("taken.mp4").write_text("precious")
    before = tree(folder)
    model = ["--model", model_folder] if "clip.mp4" in command and command.startswith("predict") else []
    code, said = run_command(capsys, *command.split(), *model)
    assert_refused(code, said, words)
    assert said.err.count("\n") == 1 or "usage: salfom" in said.err
    assert tree(folder) == before
    assert Path("taken.mp4").read_text() == "precious"


@pytest.mark.parametrize("model", ["no-such-model-anywhere", "salfom-large", ".", "broken"])
def test_bad_models(folder, salfom, model_folder, monkeypatch, model):
    monkeypatch.setitem(pretrained.KNOWN, "salfom-large", folder / "none")
    shutil.copytree(model_folder, "broken")
    Path("broken/model.safetensors").write_bytes(b"broken")
    before = tree(folder)
    code, said = salfom("clip.mp4", model=model)
    assert_refused(code, said, model)
    assert said.err.count("\n") == 1
    assert tree(folder) == before


@pytest.mark.parametrize(
    ("command", "dtype", "units", "told"),
    [
        ("predict clip.mp4", "bfloat16", False, [EMULATED]),
        ("live clip.mp4 -o live.mp4", "bfloat16", False, [EMULATED]),
        ("predict clip.mp4", "bfloat16", True, []),
        ("predict clip.mp4", "float32", False, []),
    ],
)
def test_one_line_where_bfloat16_is_emulated(folder, model_folder, emulates, capsys, command, dtype, units, told):
    emulates(*([] if units else ["bfloat16"]))
    options = ["--model", str(model_folder), "--device", "cpu", "--dtype", dtype]
    assert cli.main([*command.split(), *options]) == 0
    assert [line for line in capsys.readouterr().err.splitlines() if "emulates" in line] == told


def test_other_processes_do_not_repeat_it(emulates, monkeypatch, capsys):
    emulates("bfloat16", "float16")
    for rank in (0, 1, 2):
        monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
        monkeypatch.setattr(torch.distributed, "get_rank", lambda rank=rank: rank)
        note_emulated(["float32", "float16", "bfloat16"], "cpu")
        note_emulated(["bfloat16"], "meta")
    assert capsys.readouterr().err == EMULATED.replace("bfloat16", "float16 and bfloat16") + "\n"


def refused_unread(monkeypatch):
    def read(*_, **options):
        raise AssertionError("Something is read.")

    for place in ("salfom_hf.cli.predict.probe", "salfom_hf.cli.predict.load_predictor"):
        monkeypatch.setattr(place, read)


@pytest.mark.parametrize(
    ("arguments", "style"),
    [
        (["clip.mp4", "-o", "clip.mp4"], "overlay"),
        (["clip.mp4", "-o", "sub/../clip.mp4"], "heatmap"),
        (["clip.mp4", "-o", "soft.mp4"], "side-by-side"),
        (["sub/deep/clip.mp4", "-o", "sub"], "maps"),
        (["frames", "-o", "frames/2.png"], "overlay"),
        (["frames/1.png", "-o", "frames/1.png"], "overlay"),
        (["a.npz.mp4", "-o", "model"], "maps"),
    ],
)
def test_an_input_is_never_replaced(folder, salfom, model_folder, monkeypatch, arguments, style):
    for place in ("sub/deep", "frames"):
        Path(place).mkdir(parents=True)
    shutil.copy("clip.mp4", "sub/deep/clip.mp4")
    shutil.copy("clip.mp4", "a.npz.mp4")
    shutil.copytree(model_folder, "model")
    os.symlink("clip.mp4", "soft.mp4")
    for number in (1, 2):
        Image.fromarray(noise(1)[0]).save(f"frames/{number}.png")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    refused_unread(monkeypatch)
    code, said = salfom(*arguments, "--format", style, "--overwrite", model="model")
    assert_refused(code, said, "choose another output, for")
    assert said.err.count("\n") == 1
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    "command",
    [
        "data make in/a.mp4 gaze.csv in",
        "data make in . .",
        "data pseudo-label in in --teacher teacher.tflite",
        "data pseudo-label a.mp4 in --teacher in/a.mp4",
        "data show gazefolder in -o in/a.png",
        "data export gazefolder in in",
        "data export gazefolder in .",
        "convert in/a.pth in",
        "export hub in in",
        "export hub salfom in --results in/results.json",
        "export onnx in in",
        "export torch-export in in/a.pt2",
        "evaluate --dataset gazefolder --split test --data-dir in -o .",
        "evaluate --dataset gazefolder --split test --data-dir data -o in --predictions in/videos",
        "submit --data-dir in/videos -o in",
        "live in/a.mp4 -o in/a.mp4",
        "live file:in/a.mp4 -o in/a.mp4",
    ],
)
def test_no_command_replaces_an_input(tmp_path, monkeypatch, capsys, command):
    """Nothing here can be read, and nothing is."""
    monkeypatch.chdir(tmp_path)
    Path("in/videos").mkdir(parents=True)
    for name in ("a.mp4", "a.png", "a.pt2", "a.pth", "results.json", "settings.json", "videos/1.png"):
        Path("in", name).write_text("precious")
    before = tree(tmp_path)
    assert_refused(cli.main([*command.split(), "--overwrite"]), capsys.readouterr(), "choose another output, for")
    assert tree(tmp_path) == before


def test_an_output_never_lands_on_another_input(folder, salfom):
    shutil.copy("clip.mp4", "clip_overlay.mp4")
    before = Path("clip_overlay.mp4").read_bytes()
    assert_refused(*salfom("clip.mp4", "clip_overlay.mp4", "-o", ".", "--overwrite"), "clip_overlay.mp4")
    assert Path("clip_overlay.mp4").read_bytes() == before
    assert Path("clip_overlay_overlay.mp4").is_file()


def test_what_stands_among_frames_is_replaced(folder, salfom):
    """What is none of the frames is no input."""
    Path("frames").mkdir()
    Image.fromarray(noise(1)[0]).save("frames/1.png")
    for _ in range(2):
        assert salfom("frames", "-o", "frames/out.npz", "--format", "npz", "--overwrite")[0] == 0


def test_an_output_is_replaced_only_when_asked(folder, salfom):
    Path("clip_overlay.mp4").write_text("old")
    assert_refused(*salfom("clip.mp4"), "--overwrite")
    assert Path("clip_overlay.mp4").read_text() == "old"
    assert salfom("clip.mp4", "--overwrite")[0] == 0
    assert len(pictures("clip_overlay.mp4")) == 6


@pytest.fixture
def no_thread_is_left():
    before = set(threading.enumerate())
    yield
    # The progress bar's own watch lives as long as the process.
    left = set(threading.enumerate()) - before
    assert not [thread for thread in left if not isinstance(thread, TMonitor)]


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="Windows sends its signals otherwise.")
@pytest.mark.parametrize("drawn", [1, 40])
def test_ctrl_c_at_any_time_leaves_nothing(folder, salfom, monkeypatch, no_thread_is_left, drawn):
    """The signal comes while the threads that decode and write are at work."""
    write_clip("long.mp4", frames=60)
    count = 0

    def interrupting(*arguments, **options):
        nonlocal count
        count += 1
        if count == drawn:
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        return overlay(*arguments, **options)

    monkeypatch.setitem(output_module.DRAWINGS, "overlay", interrupting)
    # A shell lets what it starts in the background ignore the signal.
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        code, said = salfom("long.mp4")
    finally:
        signal.signal(signal.SIGINT, handler)
    assert (code, tree(folder)) == (130, ["clip.mp4", "long.mp4"])
    assert "stopped" in said.err
    assert drawn <= count < 60


@pytest.mark.parametrize("written", [0, 3])
def test_an_error_of_writing_is_one_line(folder, salfom, monkeypatch, no_thread_is_left, written):
    write, frames = VideoWriter.write, []

    def failing(self, *arguments):
        if len(frames) == written:
            raise VideoError("Cannot write clip_overlay.mp4 (no space)")
        frames.append(arguments)
        write(self, *arguments)

    monkeypatch.setattr(VideoWriter, "write", failing)
    assert_refused(*salfom("clip.mp4"), "no space")
    assert tree(folder) == ["clip.mp4"]


def test_a_terminal_shows_how_fast_it_is(folder, salfom, monkeypatch):
    monkeypatch.setattr(sys.stderr.__class__, "isatty", lambda _: True)
    code, said = salfom("clip.mp4")
    assert code == 0
    last = said.err.replace("\r", "\n").strip().splitlines()[-1]
    assert re.search(rf"clip\.mp4: 100%\|.*\| 6/6 \[.*, {SPEED}\]", last)


def test_a_profile_is_a_table_of_the_stages(folder, salfom):
    code, said = salfom("clip.mp4", "--profile")
    assert code == 0
    lines = said.err.splitlines()
    assert [line.split()[0] for line in lines] == ["stage", *(s for s in STAGES if s != "network"), "sum", "end"]
    times = [float(line.split()[1]) for line in lines[1:-2]]
    # Each number is rounded to hundredths of a millisecond.
    assert float(lines[-2].split()[1]) == pytest.approx(sum(times), abs=0.05)
    assert 0 < min(times) <= max(times) <= float(lines[-1].split()[3])
    assert re.search(rf"{SPEED}$", lines[-1])


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "Out of memory for clip.mp4; lower --batch-size"),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), "Unexpected error: CUDA"),
        (
            ValueError("cannot reshape"),
            "Cannot predict clip.mp4: Unexpected error: cannot reshape; run it",
        ),
        (KeyError("x"), "Unexpected error: 'x' is missing; run it again with --debug"),
    ],
)
def test_errors_say_what_they_are(folder, salfom, monkeypatch, error, words):
    def stream(*_):
        raise error
        yield

    monkeypatch.setattr(SaliencyPredictor, "stream", stream)
    assert_refused(*salfom("clip.mp4"), words)
    assert tree(folder) == ["clip.mp4"]


@pytest.mark.parametrize(
    ("options", "frames"), [(["--start", "0.08"], 4), (["--start", "0.04", "--duration", "0.08"], 2)]
)
def test_parts_of_a_video(folder, salfom, options, frames):
    assert salfom("clip.mp4", *options)[0] == 0
    assert len(pictures("clip_overlay.mp4")) == frames


def test_the_installed_command(folder, model_folder):
    command = Path(sys.executable).with_name("salfom")
    arguments = ["predict", "clip.mp4", "--model", model_folder, "--format", "npz", "--device", "cpu"]
    done = subprocess.run([command, *arguments], capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stderr.count("\n")) == (0, 1)
    assert done.stderr.startswith("salfom: clip_npz.npz takes up to 0.07 MB")
    assert re.fullmatch(rf"clip\.mp4 -> clip_npz\.npz \({SPEED}\)\n", done.stdout)
    assert tree(folder) == ["clip.mp4", "clip_npz.npz"]


def test_a_folder_is_read_again_without_its_results(folder, salfom):
    os.mkdir("clips")
    os.rename("clip.mp4", "clips/clip.mp4")
    for _ in range(2):
        code, said = salfom("clips", "--overwrite")
        assert (code, said.out.count("\n")) == (0, 1)
        assert said.out.startswith("clips/clip.mp4 -> clips/clip_overlay.mp4 ")
    assert salfom("clips", "-o", "results", "--format", "npz")[0] == 0
    assert os.listdir("results") == ["clip_npz.npz"]


def test_a_folder_of_images_stays_one_with_its_result_in_it(folder, salfom):
    os.mkdir("frames")
    for number, picture in enumerate(noise(2)):
        Image.fromarray(picture).save(f"frames/{number}.png")
    os.chdir("frames")
    assert salfom(".", "-o", ".")[0] == 0
    assert tree(folder / "frames") == ["0.png", "1.png", "frames_overlay.mp4"]
    code, said = salfom(".", "-o", ".", "--overwrite")
    assert (code, tree(folder / "frames")) == (0, ["0.png", "1.png", "frames_overlay.mp4"])
    assert "skipped frames_overlay.mp4: an earlier run" in said.err


def test_what_else_a_folder_holds_is_said(folder, salfom):
    os.mkdir("clips")
    for name in ("talk.mp4", "talk_overlay.mp4", "city_overlay.mp4", "shot.h264"):
        shutil.copy("clip.mp4", f"clips/{name}")
    media = ("a.svg", "b.psd", "d.360", "e.tod", "f.dat", "g.dav", "h")
    for name in (*media, "c.jpg", "notes.txt", "talk.MP3", "Thumbs.db", "desktop.ini", "._talk.mp4"):
        Path("clips", name).write_text("no video")
    code, said = salfom("clips", "-o", "out", "--format", "npz")
    assert (code, tree(folder / "out")) == (0, ["city_overlay_npz.npz", "shot_npz.npz", "talk_npz.npz"])
    lines = [line.partition(":")[2].partition(":")[0] for line in said.err.splitlines() if "skipped" in line]
    assert sorted(lines) == [f" skipped clips/{name}" for name in ("a.svg and 6 more", "c.jpg", "talk_overlay.mp4")]


def test_every_unknown_kind_is_tried_when_named(folder, salfom):
    os.rename("clip.mp4", "clip.unknown")
    assert salfom("clip.unknown", "-o", "out.npz", "--format", "npz")[0] == 0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 2e-3), ("bfloat16", 0.1)])
def test_predicting_on_a_gpu(tmp_path, dtype, tolerance):
    """The weights in this package on the example clip; half precision of the file is 1e-3 at most."""
    maps = []
    for device, computed_in in (("cpu", "float32"), ("cuda", dtype)):
        output = tmp_path / f"{device}.npz"
        line = ["predict", str(pretrained.EXAMPLE), "-o", str(output), "--format", "npz", "--duration", "1"]
        assert cli.main([*line, "--device", device, "--dtype", computed_in]) == 0
        with np.load(output) as data:
            maps.append(data["maps"].astype(np.float32))
    assert np.abs(maps[0] - maps[1]).max() < tolerance
    assert np.corrcoef(maps[0].ravel(), maps[1].ravel())[0, 1] > 0.999


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals.")
@pytest.mark.parametrize(
    ("number", "command"),
    [
        (signal.SIGTERM, "predict {} -o {}"),
        (getattr(signal, "SIGHUP", None), "predict {} -o {} --format npz"),
        (signal.SIGTERM, "export hub"),
    ],
)
def test_every_signal_that_ends_a_program_leaves_nothing(number, command, model_folder, clip, tmp_path, monkeypatch):
    """It comes when all is written and not yet in its place."""
    if number not in files.ENDING:
        pytest.skip("Tests were started to ignore this signal, as by nohup.")
    monkeypatch.setattr(files, "_finish_files", lambda *_: os.kill(os.getpid(), number))
    out = tmp_path / ("out.mp4" if command.endswith("-o {}") else "out.npz" if "npz" in command else "out")
    words = command.format(clip, out).split() if "{}" in command else [*command.split(), str(model_folder), str(out)]
    options = ["--model", str(model_folder)] if words[0] == "predict" else []
    before = signal.getsignal(number)
    assert cli.main([*words, *options]) == 128 + number
    assert signal.getsignal(number) == before
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such limit.")
@pytest.mark.parametrize("command", ["predict mp4", "predict npz", "export onnx", "export torch-export", "export hub"])
def test_where_no_file_can_grow_the_output_is_named(command, model_folder, clip, tmp_path, monkeypatch, capsys):
    name, kind = command.split()
    out = tmp_path / {"predict": f"out.{kind}"}.get(name, "out.pt2" if kind == "torch-export" else "out")
    words = [name, kind, model_folder, out]
    if name == "predict":
        words = [name, clip, "--model", model_folder, "-o", out, "--format", "npz" if kind == "npz" else "overlay"]
    elif kind != "hub":  # What is written is another, small network: to trace the model takes a minute.
        program = torch.export.export(torch.nn.Linear(40, 40), (torch.zeros(1, 40),))
        monkeypatch.setattr(torch.export, "export", lambda *_, **__: program)
    with no_file_above(3000):
        assert cli.main([str(word) for word in words]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("salfom: Cannot")]
    assert line.startswith(f"salfom: Cannot write {out} (File too large); files there may not be so large")
    assert os.listdir(tmp_path) == []


def parsers(parser):
    """This one and those of its subcommands, by what is typed for them."""
    found = {parser.prog: parser}
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                found |= parsers(command)
    return found


def test_help_says_defaults_and_has_examples_that_are_commands():
    found = parsers(cli.parser()) | parsers(predict_many.parser())
    for name, parser in found.items():
        _, _, examples = parser.format_help().partition("\nexample:\n")
        assert examples, name
        for line in examples.splitlines():
            if line.startswith("  salfom "):
                cli.parser().parse_args(line.split()[1:])
        for action in parser._actions:
            if action.option_strings and action.default not in (None, False, [], argparse.SUPPRESS):
                assert "default" in parser._get_formatter()._get_help_string(action), (name, action.dest)
    overview = found["salfom"].format_help()
    commands = {name.split()[1] for name in found if name.startswith("salfom ")}
    assert all(re.search(rf"^  {command} ", overview, re.M) for command in commands)
    assert "I have a video" in overview
