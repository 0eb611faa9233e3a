"""The commands `salfom evaluate` and `submit`: what they print and write; errors are one line."""

import csv
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from conftest import no_file_above
from salfom_hf import cli
from salfom_hf.data import export_dataset, load, load_stills, make_gazefolder
from salfom_hf.data.samples import open_sample
from salfom_hf.evaluation import Center


@pytest.fixture
def salfom(model_folder, capsys, tmp_path, monkeypatch):
    """Runs a command in an empty folder: exit code, lines printed, lines of errors."""
    monkeypatch.chdir(tmp_path)
    # On a busy machine there would be lines of progress.
    monkeypatch.setattr("salfom_hf.evaluation.running.SECONDS", 1000)

    def run(line, model=True):
        capsys.readouterr()
        try:
            code = cli.main(f"{line} --device cpu {f'--model {model_folder}' if model else ''}".split())
        except SystemExit as stop:
            code = stop.code
        said = capsys.readouterr()
        return code, said.out.splitlines(), said.err.splitlines()

    return run


@pytest.fixture
def evaluate(salfom, dhf1k_frames):
    """Runs `salfom evaluate` on two videos."""

    def run(options, model=False):
        return salfom(f"evaluate --dataset dhf1k --data-dir {dhf1k_frames} {options}", model)

    return run


def rows(lines):
    """The cells of the first table."""
    first = next(index for index, line in enumerate(lines) if line.startswith("| method"))
    table = []
    for line in lines[first:]:
        if not line.startswith("|"):
            break
        table.append([cell.strip() for cell in line.strip("|").split("|")])
    return [table[0], *table[2:]]


def table_of(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def refused(result, words):
    code, out, err = result
    assert (code, out) == (2, [])
    assert len(err) == 1
    assert words in err[0]


def test_models_and_baselines_in_one_table(evaluate, model_folder):
    options = "--baseline center --baseline spectral-residual -o out"
    code, out, err = evaluate(options, model=True)
    assert (code, err) == (0, [])
    assert out[0] == "dhf1k, split val: 2 videos; densities of gaze: maps of the dataset, blurred as it was made"
    table = rows(out)
    assert table[0] == ["method", "AUC-J ↑", "s-AUC ↑", "NSS ↑", "CC ↑", "SIM ↑", "KLD ↓", "IG ↑", "frames"]
    assert [row[0] for row in table[1:]] == [str(model_folder), "center", "spectral-residual"]
    assert {row[-1] for row in table[1:]} == {"39"}
    assert any(line.startswith("center: density of the fixations of the split train (up to 20 frames") for line in out)
    assert "center: 39 of 40 frames scored; left out: 1 without fixations." in out
    # The disc that people look at stands out.
    assert float(table[3][3]) > 1
    assert {path.name for path in Path("out").iterdir()} == {
        *("frames.csv", "frames.png", "results.json", "settings.json", "videos", "videos.csv")
    }
    assert out[-1] == "out holds results.json, videos.csv, frames.csv, frames.png."
    assert not [line for line in out if "a single video" in line]
    results = json.loads(Path("out/results.json").read_text())
    assert results["options"]["stride"] == 1
    assert [f"{method['mean_over_frames']['nss']:.3f}" for method in results["methods"]] == [
        row[3] for row in table[1:]
    ]
    with Image.open("out/frames.png") as sheet:
        assert sheet.width == 5 * 328 + 8
    assert evaluate(options, model=True)[1] == out


def test_without_a_training_split_the_centre_is_a_gaussian_or_of_the_other_videos(salfom, ucf_sports, tmp_path):
    (tmp_path / "data").mkdir()
    os.symlink(ucf_sports / "testing", tmp_path / "data" / "testing")
    options = "--dataset ucf_sports --baseline center --metrics nss"
    code, out, _ = salfom(f"evaluate {options} --data-dir data", model=False)
    assert code == 0
    assert any(line.startswith("center: Gaussian in the middle, sigma 0.22 of each side (") for line in out)
    assert [row[0] for row in rows(out)] == ["method", "center"]
    assert Path("evaluation_ucf_sports_test/results.json").is_file()
    code, out, _ = salfom(f"evaluate {options} information_gain --data-dir {ucf_sports} --split train", model=False)
    assert any("density of the other videos' fixations (" in line for line in out)
    (gain,) = (line for line in out if line.startswith("IG: "))
    assert gain.endswith("; of 3 alone, center and the gain over it say little.")


@pytest.mark.parametrize("single", ["table", "folder", "export"])
def test_the_only_split_is_scored_and_named(salfom, stills_parquet, stills_folder, single):
    if single == "export":
        export_dataset({"train": load_stills(stills_parquet, "train")}, "out", "stills")
    place = {"table": stills_parquet / "train.parquet", "folder": stills_folder / "train", "export": "out"}[single]
    options = "--dataset stills --baseline center --metrics nss"
    code, out, _ = salfom(f"evaluate {options} --data-dir {place}", model=False)
    blurred = "fixations, blurred with a Gaussian of sigma 24 pixels of an image 512 wide"
    assert (code, out[0]) == (0, f"stills, split train: 4 images; densities of gaze: {blurred}")
    # A single table is the split "train" as well, and the center is not fitted to the images that it is scored on.
    assert any("density of the other images' fixations (" in line for line in out)
    assert json.loads(Path("evaluation_stills_train/results.json").read_text())["split"] == "train"
    _, out, _ = salfom(f"evaluate {options} --data-dir {stills_folder} --max-frames 1 --seed 4", model=False)
    # Of several splits the usual one.
    assert out[0] == f"stills, split dev: 2 images; densities of gaze: {blurred}"
    assert "At most 1 images are scored, drawn at random with seed 4." in out


def test_methods_of_earlier_runs_are_reported_too(evaluate):
    _, first, _ = evaluate("--baseline center --metrics cc nss -o out")
    picture = Path("out/frames.png").read_bytes()
    code, second, _ = evaluate("--baseline spectral-residual --metrics cc nss -o out")
    assert code == 0
    assert [row[0] for row in rows(second)] == ["method", "spectral-residual", "center"]
    assert rows(second)[2] == rows(first)[1]
    assert next(line for line in first if line.startswith("center: ")) in second
    results = json.loads(Path("out/results.json").read_text())
    assert [method["name"] for method in results["methods"]] == ["spectral-residual", "center"]
    assert Path("out/videos.csv").read_text().count("center,") == 2
    assert Path("out/frames.png").read_bytes() != picture
    next(Path("out/videos/center").iterdir()).unlink()
    assert len(rows(evaluate("--baseline spectral-residual --metrics cc nss -o out")[1])) == 2


def test_stills(salfom, stills_parquet):
    options = "--baseline center --baseline inter-observer --metrics nss information_gain"
    code, out, err = salfom(f"evaluate --dataset stills --data-dir {stills_parquet} {options}")
    assert code == 0
    assert len(rows(out)) == 4
    assert rows(out)[2][2] == "0.000"  # The center's gain over itself.
    assert "center: 1 of 2 images scored; left out: 1 without fixations." in out
    noted = next(line for line in out if line.startswith("inter-observer: "))
    assert noted.endswith("has 3, fewer than 10: this is no bound, and one-observer is the better one.")
    assert all(line.startswith("salfom: ") or "no fixations" in line or not line.startswith("Trace") for line in err)


def test_maps_of_others(evaluate, dhf1k_frames):
    maps = Path("perfect")
    for video in ("0601", "0602"):
        (maps / video).mkdir(parents=True)
        for file in (dhf1k_frames / "val" / video / "maps").iterdir():
            with Image.open(file) as image:
                # Of one video without zeros in front, as much other code names them.
                name = file.name if video == "0601" else f"{int(file.stem)}.png"
                image.resize((48, 32)).save(maps / video / name)
    options = "--predictions perfect --metrics cc nss"
    code, out, _ = evaluate(f"{options} --blur 2")
    assert code == 0
    assert rows(out)[1][0] == "perfect"
    assert float(rows(out)[1][1]) > 0.95
    refused(evaluate(options), "(blur); choose another --output or pass --overwrite")
    assert evaluate(f"{options} --overwrite")[0] == 0
    (maps / "0602" / "5.png").rename(maps / "0602" / "0.png")
    refused(evaluate(options), "such as 0.png; its 20 frames begin with 0001: name each map")
    (maps / "0602" / "0.png").unlink()
    refused(evaluate(options), "1 of 40 predictions are missing")


def perfect_maps(dhf1k, frames):
    """A folder with the densities of these frames, by number from 0, of two videos."""
    for video, chosen in zip(("0601", "0602"), frames, strict=True):
        Path("perfect", video).mkdir(parents=True, exist_ok=True)
        for frame in chosen:
            name = f"{video}/{frame + 1:04d}.png"
            Path("perfect", name).write_bytes((dhf1k / "val" / video / "maps" / Path(name).name).read_bytes())


def test_partial_predictions_are_scored_and_reported_as_such(evaluate, dhf1k_frames):
    perfect_maps(dhf1k_frames, [range(5), ()])
    options = "--predictions perfect --metrics cc --baseline center -o out"
    refused(evaluate(options), "or score those there are with --partial")
    Path("none").mkdir()
    refused(evaluate("--partial --predictions none"), "40 of 40 predictions are missing")
    code, out, _ = evaluate(f"{options} --partial")
    assert code == 0
    # Nobody looks at frame 3.
    assert rows(out)[1] == ["perfect (5 of 40 predicted)", "1.000", "4"]
    assert rows(out)[2][::2] == ["center", "39"]
    assert "perfect: 4 of 40 frames scored; left out: 1 without fixations, 35 without a prediction." in out
    own, center = json.loads(Path("out/results.json").read_text())["methods"]
    assert own["partial"] == {"frames": 5, "of_frames": 40, "videos": 1, "of_videos": 2}
    assert center["partial"] is None
    assert [row["without_prediction"] for row in table_of("out/videos.csv")] == ["15", "20", "0", "0"]
    # The difference is on the same four frames, of which there is a single video: no interval.
    difference = rows(out[out.index("Difference from perfect on the same videos: mean and, of 5 or more, 95 % of "
                                    "10,000 bootstrap means"):])[1]  # fmt: skip
    of_center = json.loads(Path("out/videos/center/000000.json").read_text())[0]["scores"]["cc"]
    assert difference == ["center", f"{np.mean(of_center[:4]) - 1:+.3f}", "1"]


def test_the_picture_shows_frames_that_partial_predictions_lack(evaluate, dhf1k_frames):
    perfect_maps(dhf1k_frames, [range(20), range(20)])
    shutil.copytree("perfect/0601", "part/0601")
    code, out, _ = evaluate("--predictions perfect --predictions part --partial --metrics cc -o out")
    assert (code, [row[0] for row in rows(out)[1:]]) == (0, ["perfect", "part (20 of 40 predicted)"])
    assert Path("out/frames.png").is_file()


@pytest.fixture
def watched(tmp_path, clip):
    """A video at four of whose frames so many observers look, all near its middle."""
    (tmp_path / "videos").mkdir()
    shutil.copy(clip, tmp_path / "videos" / "walk.mp4")

    def make(people):
        places = np.random.default_rng(0).normal((48, 32), 3, (4, people, 2))
        rows = [f"walk,{frame},{x},{y},p{who}" for frame in range(4) for who, (x, y) in enumerate(places[frame])]
        (tmp_path / "gaze.csv").write_text("\n".join(["video,frame,x,y,observer", *rows]))
        make_gazefolder(tmp_path / "videos", tmp_path / "gaze.csv", tmp_path / "gaze")
        return "evaluate --dataset gazefolder --data-dir gaze -o out"

    return make


def test_one_observer_is_the_mean_over_all_that_are_left_out(salfom, watched):
    code, out, _ = salfom(f"{watched(3)} --baseline one-observer --metrics nss cc auc_judd", model=False)
    assert code == 0
    described = "each in turn, or 10 drawn for every frame that has more, of whose scores the mean."
    assert next(line for line in out if line.startswith("one-observer: ")).endswith(described)
    sample = open_sample(load("gazefolder", "gaze", "train")[0])
    scored = table_of("out/frames.csv")
    assert [int(row["frame"]) for row in scored] == [0, 1, 2, 3]
    y, x = np.mgrid[: sample.size[0], : sample.size[1]]
    sigma = 30 / np.sqrt(8 * np.log(2)) * sample.size[1] / 640
    for row in scored:
        places = np.floor([(y, x) for frame, x, y, _ in sample.gaze if frame == int(row["frame"])]).astype(int)
        blobs = [np.exp(-((y - at[0]) ** 2 + (x - at[1]) ** 2) / (2 * sigma**2)) for at in places]
        each = []
        for own, (at, blob) in enumerate(zip(places, blobs, strict=True)):
            density = sum(blobs[:own] + blobs[own + 1 :])
            density = density / density.sum() + 1 / (2 * density.size)
            value = density[tuple(at)]
            nss = (value - density.mean()) / density.std(ddof=1)
            area = 1 - ((density >= value).sum() - 1) / (density.size - 1) / 2
            each.append((nss, np.corrcoef(density.ravel(), blob.ravel())[0, 1], area))
        found = [float(row[metric]) for metric in ("nss", "cc", "auc_judd")]
        assert found == pytest.approx(np.mean(each, axis=0), abs=2e-3)


def test_of_a_single_video_shuffled_auc_says_little(salfom, watched):
    line = watched(2)
    noted = "Of a single video, s-AUC draws its negatives from that video, too, so it says little."
    for metrics, there in (("auc_shuffled nss", True), ("nss", False)):
        code, out, _ = salfom(f"{line} --baseline center --metrics {metrics} --overwrite", model=False)
        assert (code, noted in out) == (0, there)


def test_an_archive_may_be_partial(evaluate):
    Path("maps").mkdir()
    np.savez("maps/0602.npz", maps=np.random.default_rng(0).random((7, 4, 6)))
    few = "the video has 20 frames; write one map (height, width) per frame, or score those there are with --partial."
    refused(evaluate("--predictions maps --metrics cc"), few)
    code, out, _ = evaluate("--predictions maps --metrics cc --partial")
    assert (code, rows(out)[1][::2]) == (0, ["maps (7 of 40 predicted)", "7"])
    refused(evaluate("--predictions maps --metrics cc"), few)


def test_complete_maps_are_the_same_with_partial(evaluate, dhf1k_frames):
    perfect_maps(dhf1k_frames, [range(20), range(20)])
    code, out, _ = evaluate("--predictions perfect --metrics cc")
    assert code == 0
    assert "perfect: maps read from this folder." in out
    assert evaluate("--predictions perfect --metrics cc --partial")[:2] == (0, out)


def test_progress_is_told_where_there_is_no_terminal(evaluate, monkeypatch):
    monkeypatch.setattr("salfom_hf.evaluation.running.SECONDS", 0)
    code, _, err = evaluate("--metrics cc --baseline center")
    assert code == 0
    assert any(line.startswith("salfom: 17 of 40 frames scored, ") for line in err)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("0005.png", b"no picture", "0602/0005.png"),
        ("0005.npy", np.full((4, 4), np.nan), "0602/0005.npy holds NaN or infinity"),
        ("0005.npy", np.zeros((3, 4, 4)), "0602/0005.npy must hold one map (height, width), not the shape (3, 4, 4)"),
        ("0005.npy", np.zeros((0, 4)), "0602/0005.npy must hold one map"),
        ("0005.npy", np.zeros((4, 4), complex), "0602/0005.npy (it holds complex128 instead of real numbers)"),
        (
            "0005.npy",
            np.eye(4) - 0.5,
            "0602: saliency holds negative values; give it as non-negative numbers, on any scale (frame 4, 0005).",
        ),
    ],
)
def test_predictions_that_are_no_maps_are_named(evaluate, dhf1k_frames, name, content, words):
    perfect_maps(dhf1k_frames, [range(20), [frame for frame in range(20) if frame != 4]])
    if isinstance(content, bytes):
        Path("perfect/0602", name).write_bytes(content)
    else:
        np.save(f"perfect/0602/{name}", content)
    refused(evaluate("--predictions perfect --metrics kldiv"), words)


def test_damaged_results_are_named(evaluate):
    options = "--baseline center --metrics cc -o out"
    assert evaluate(options)[0] == 0
    kept = Path("out/videos/center/000001.json")
    for content in ("[", '[{"a": 1}]', "[3]"):
        kept.write_text(content)
        refused(evaluate(options), f"{kept} is damaged; delete it")
    kept.unlink()
    assert evaluate(options)[0] == 0
    Path("out/settings.json").write_text('{"methods": 3}')
    refused(evaluate(options), "out/settings.json is not of an earlier run")


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such limit.")
@pytest.mark.parametrize(("size", "name"), [(100, "settings.json"), (3000, "frames.png")])
def test_where_no_file_can_grow_the_output_is_named(evaluate, size, name):
    options = "--baseline center --metrics cc -o out"
    assert evaluate(options)[0] == 0  # The dataset's table is on the disk from now on.
    shutil.rmtree("out")
    with no_file_above(size):
        code, _, err = evaluate(options)
    assert code == 2
    assert err[-1].startswith(f"salfom: Cannot write out/{name} (File too large)")
    assert not list(Path("out").rglob(".salfom-*"))


@pytest.mark.parametrize("output_format", ["maps", "npz"])
@pytest.mark.parametrize("kind", ["dhf1k", "stills"])
def test_what_predict_writes_is_scored(salfom, dhf1k_official, stills_folder, model_folder, kind, output_format):
    if kind == "dhf1k":
        folder, split = dhf1k_official, "val"
        inputs = f"{folder}/video/601.AVI {folder}/video/602.AVI"
    else:
        folder, split = stills_folder, "train"
        inputs = " ".join(map(str, sorted((folder / split / "images").iterdir())))
    assert salfom(f"predict {inputs} --format {output_format} -o maps")[0] == 0
    where = f"--dataset {kind} --data-dir {folder} --split {split}"
    code, out, _ = salfom(f"evaluate {where} --predictions maps --metrics nss cc")
    assert code == 0
    own, read = rows(out)[1:]
    assert (own[0], read[0]) == (str(model_folder), "maps")
    # In 8 or 16 bits per pixel.
    means = [[float(cell.split(" ± ")[0]) for cell in row[1:]] for row in (own, read)]
    assert means[1] == pytest.approx(means[0], abs=0.02)


def test_the_last_frame_alone_stands_next_to_the_window(evaluate, model_folder):
    code, out, err = evaluate("--metrics nss cc --last-frame-alone", model=True)
    assert (code, err) == (0, [])
    _, window, alone = rows(out)
    assert (window[0], alone[0]) == (str(model_folder), f"{model_folder}, last frame alone")
    assert window[1:3] != alone[1:3]
    described = f"{model_folder}, last frame alone: every frame by itself, as a still; of stills, the mean of the maps"
    assert any(line.startswith(described) for line in out)


def test_a_stopped_run_says_that_it_can_go_on(evaluate, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(Center, "maps", stop)
    code, _, err = evaluate("--baseline center")
    assert code == 130
    assert err == ["salfom: stopped; finished videos are kept: run the same command again to go on."]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--split test", "salfom submit"),
        ("--baseline inter-observer", "inter-observer needs to know who"),
        ("--metrics auc", "metrics must be some of auc_judd"),
        ("--first 20 --baseline center", "No video has a frame 20"),
        ("--predictions nowhere", "no folder nowhere"),
        ("--model nowhere", "Cannot load the model 'nowhere'"),
        ("--split nonsense", "nonsense"),
        ("--data-dir nowhere", "nowhere"),
        ("--partial", "name their folder with --predictions"),
        ("--last-frame-alone --baseline center", "--last-frame-alone needs a --model"),
        ("--last-frame-alone --dataset stills --data-dir {stills}", "A still is its last frame; leave out"),
        ("--blur -1", "--blur"),
        ("--blur wide", "--blur"),
        ("--seed -1", "--seed"),
        ("--processes 0", "--processes"),
        ("--max-frames 0", "--max-frames"),
        ("--dataset salicon", "--dataset"),
        ("--baseline middle", "--baseline"),
    ],
)
def test_what_cannot_be_scored_is_one_line(evaluate, stills_parquet, options, words):
    code, out, err = evaluate(options.format(stills=stills_parquet))
    assert (code, out, os.listdir()) == (2, [], [])
    assert words in err[-1]
    # Stills, of which one has no fixations, come with a report.
    assert len([line for line in err if line.startswith("salfom") and "1 warning" not in line]) == 1


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="children are found in /proc")
def test_a_killed_run_leaves_no_processes_and_goes_on(salfom, dhf1k_frames, model_folder, tmp_path):
    """Killed as a batch system kills: the parent alone, without warning."""
    line = f"evaluate --dataset dhf1k --data-dir {dhf1k_frames} --metrics nss -o out"
    options = f"--model {model_folder} --processes 2".split()
    command = [Path(sys.executable).with_name("salfom"), *line.split(), *options]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    scored = tmp_path / "out" / "videos"
    wait_for(lambda: list(scored.glob("*/*.json")) or process.poll() is not None)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    process.kill()
    process.wait()
    assert len(children) >= 2
    wait_for(lambda: not any(is_running(child) for child in children))
    kept = {file: file.stat().st_mtime_ns for file in scored.glob("*/*.json")}
    assert kept
    code, out, _ = salfom(line)
    assert code == 0
    assert f"{model_folder}: 39 of 40 frames scored; left out: 1 without fixations." in out
    assert {file: file.stat().st_mtime_ns for file in kept} == kept


def is_running(pid):
    try:
        # Where nobody waits for orphans, they stay as zombies.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_for(condition):
    deadline = time.monotonic() + 100
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_running_out_of_memory_is_one_line(evaluate, monkeypatch):
    def stream(*_, **__):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr("salfom_hf.inference.predictor.SaliencyPredictor.stream", stream)
    refused(evaluate("", model=True), "Out of memory")
    assert not list(Path().glob("**/*.png"))


def test_a_submission_is_written_and_checked(salfom, dhf1k_official):
    line = f"submit --data-dir {dhf1k_official}"
    code, out, err = salfom(line)
    said = "submission holds 20 grey maps without fault, but 1 of 300 test videos; the server wants them all."
    assert (code, out, err) == (0, [said], [])
    with Image.open("submission/0701/0020.png") as image:
        assert (image.mode, image.size, np.asarray(image).max()) == ("L", (96, 64), 255)
    assert salfom(line)[1] == out
    assert salfom(f"{line} --check submission", model=False)[1] == out
    Path("submission/0701/0007.png").unlink()
    refused(salfom(line), "submission is not fit to be submitted (1 fault: 0701/0007.png is missing): delete")
    shutil.rmtree("submission/0701")
    assert salfom(line)[:2] == (0, out)
    refused(salfom(f"{line} --stride 3"), "pass --overwrite")
    assert salfom(f"{line} --overwrite")[1] == out
