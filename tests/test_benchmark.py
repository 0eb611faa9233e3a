"""`salfom benchmark` and the scripts in benchmarks/: what they print and write, and that every way is the network."""

import copy
import importlib
import importlib.util
import json
import re
import shlex
import statistics
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from accelerate.state import AcceleratorState
from torch import nn
from torch.nn import functional as F

from conftest import EMULATED
from salfom_hf import SalFoMConfig, cli
from salfom_hf.inference import benchmarking, cpu
from salfom_hf.models import names as pretrained

SCRIPTS = Path(__file__).parents[1] / "benchmarks"
RATE = 1e12

pytestmark = pytest.mark.usefixtures("reproducible")


@pytest.fixture(autouse=True)
def quick(monkeypatch, set_threads):
    """One call a turn, and no number of threads or allocator for later tests."""
    monkeypatch.syspath_prepend(SCRIPTS)
    monkeypatch.setattr(benchmarking, "TURN", 1e-9)
    monkeypatch.setattr(cpu, "keep_freed_memory", lambda: None)


@pytest.fixture
def benchmark(capsys):
    def run(*arguments):
        capsys.readouterr()
        code = cli.main(["benchmark", "--device", "cpu", "--rounds", "1", *map(str, arguments)])
        return code, capsys.readouterr()

    return run


@pytest.fixture
def script(monkeypatch):
    """A benchmark as a module, with nothing that would hold for later tests."""

    def load(name):
        module = importlib.import_module(name)
        # A process for each number would take the tests longer than all the rest.
        monkeypatch.setattr(module, "in_own_process", alone, raising=False)
        monkeypatch.setattr(module, "keep_freed_memory", lambda: None, raising=False)
        return module

    return load


@pytest.fixture
def ways(script, monkeypatch):
    module = script("ways")
    monkeypatch.setattr(module, "TURN", 1e-9)
    monkeypatch.setattr(module, "REST", 0)
    monkeypatch.setattr(module, "fastest_product", lambda device, dtype: RATE)
    return module


def alone(function, *arguments):
    """What a function gives in this process, as if nothing had used accelerate before."""
    try:
        return function(*arguments)
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)


def cells_of(text):
    """Columns and rows of the markdown table in a text."""
    lines = [line.strip("| ").split("|") for line in text.splitlines() if line.startswith("|")]
    header, _, *rows = [[cell.strip() for cell in line] for line in lines]
    return header, rows


# The command.


@pytest.mark.parametrize("kind", ["model_folder", "umt_folder"])
def test_the_command_compares_dtypes_and_batch_sizes(kind, benchmark, request, monkeypatch):
    folder = request.getfixturevalue(kind)
    monkeypatch.setattr(benchmarking, "maps_per_second", lambda predictors, rounds: [10, 60, 50, 20])
    code, said = benchmark("--model", folder, "--batch-size", 1, 3, "--size", 64, 96, "--threads", 1)
    assert code == 0, said.err
    header, rows = cells_of(said.out)
    assert header == ["dtype", "batch", "ms per map", "maps per second", "times real time"]
    assert rows == [
        ["float32", "1", "100.0", "10", "0.33"],
        ["float32", "3", "16.7", "60", "2"],
        ["bfloat16", "1", "20.0", "50", "1.7"],
        ["bfloat16", "3", "50.0", "20", "0.67"],
    ]
    first, *_, last = said.out.splitlines()
    assert first.startswith(f"{folder}, windows of 4 frames of 64×96; cpu, 1 threads, PyTorch {torch.__version__}")
    assert last.startswith("Fastest: --dtype float32 --batch-size 3, 60 maps per second, 2 times as fast as")


def test_speed_is_the_median_of_turns_without_what_was_computed_ahead(monkeypatch):
    monkeypatch.setattr(benchmarking, "TURN", 3)
    now = SimpleNamespace(time=0.0)
    monkeypatch.setattr(time, "perf_counter", lambda: now.time)

    class Predictor:
        def __init__(self, batch_size, seconds):
            self.batch_size, self.seconds = batch_size, iter(seconds)

        def stream(self, images):
            for _, seconds in zip(images, self.seconds, strict=False):
                now.time += seconds
                yield

    slow = Predictor(1, [0, 3, 0, 1, 1, 1, 0, 5])
    quick = Predictor(2, [0, 0, 1, 1, 1, 1] * 3)
    assert benchmarking.maps_per_second([slow, quick], 3) == [1 / 3, 1]


def test_random_weights_need_no_installed_model(benchmark, umt_model, monkeypatch, tmp_path):
    monkeypatch.setitem(pretrained.KNOWN, "salfom-large", tmp_path / "missing")
    code, said = benchmark("--model", "salfom-large")
    assert code == 2
    assert re.fullmatch("salfom: .*salfom convert .*\n", said.err)
    monkeypatch.setattr(benchmarking, "SalFoMConfig", lambda: copy.deepcopy(umt_model.config))
    before = torch.get_rng_state()
    code, said = benchmark("--model", "salfom-large", "--random-weights", "--dtype", "float32")
    assert code == 0, said.err
    assert "salfom-large with random weights" in said.out
    assert torch.equal(torch.get_rng_state(), before)


def test_one_line_where_bfloat16_is_emulated(benchmark, model_folder, emulates):
    emulates("bfloat16")
    code, said = benchmark("--model", model_folder, "--size", 64, 64)
    assert (code, said.err.splitlines().count(EMULATED)) == (0, 1)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--size", "100", "96"], "32 divides, not 100x96"),
        (["--device", "cuda:99"], "give cpu as the device"),
        (["--model", "nowhere/at-all"], "Cannot load the model"),
        (["--model", "nowhere/at-all", "--random-weights"], "Cannot load the model"),
        (["--compile"], "leave it out"),
    ],
)
def test_errors_are_one_line(arguments, said, benchmark, model_folder):
    code, printed = benchmark("--model", model_folder, "--dtype", "float32", *arguments)
    assert (code, printed.out) == (2, "")
    assert said in printed.err
    assert printed.err.count("\n") == 1


# The ways to compute.


@pytest.mark.parametrize("kind", ["model_folder", "umt_folder"])
def test_the_table_and_the_file_say_the_same(kind, ways, request, tmp_path, capsys):
    folder, output = request.getfixturevalue(kind), tmp_path / "out" / "found.json"
    options = ["--batch-size", "1", "3", "--size", "64", "64", "--threads", "1", "--rounds", "3", "--profile"]
    ways.main(["--model", str(folder), *options, "-o", str(output)])
    told = capsys.readouterr().out
    report = json.loads(output.read_text(encoding="utf-8"))
    rows = report["rows"]
    assert [(row["way"], row["dtype"], row["batch"]) for row in rows] == [
        ("reference", "float32", 1),
        *((way, "float32", batch) for way in ("windows", "predictor") for batch in (1, 3)),
        *((way, "bfloat16", batch) for way in ("windows", "predictor") for batch in (1, 3)),
    ]
    header, printed = cells_of(told)
    assert cells_of(report["markdown"]) == (header, printed)
    assert header == ["model", "way", "device", "dtype", "batch", "ms per map", "maps per second", "ratio",
                      "of the peak", "memory", "difference", "correlation"]  # fmt: skip
    first = rows[0]
    assert (first["ratio"], first["difference"]) == (1, 0)
    assert first["correlation"] == pytest.approx(1)
    for row, cells in zip(rows, printed, strict=True):
        assert len(row["seconds"]) == 3
        assert row["ms per map"] == pytest.approx(1000 * statistics.median(row["seconds"]) / row["batch"])
        assert row["maps per second"] == pytest.approx(1000 / row["ms per map"])
        assert row["ratio"] == pytest.approx(first["ms per map"] / row["ms per map"])
        assert (cells[0], cells[2]) == (str(folder), "cpu")
        assert cells[5:8] == [f"{row['ms per map']:.1f}", f"{row['maps per second']:.3g}", f"{row['ratio']:.2f}"]
        exact = row["dtype"] == "float32"
        assert row["difference"] < (1e-5 if exact else 0.1)
        assert row["correlation"] > (0.999999 if exact else 0.99)
        if row["way"] != "predictor":
            done = report["operations per window"] * row["maps per second"]
            assert row["of the peak"] == pytest.approx(done / RATE)
    assert (report["threads"], report["size"], report["weights"]) == (1, [64, 64], "its weights")
    assert report["torch"] == torch.__version__
    assert report["machine"]
    assert "aten::" in told.partition("predictor, float32, batch 1\n")[2]


@pytest.mark.parametrize("kind", ["framewise_model", "umt_model"])
def test_every_way_gives_the_maps_of_the_windows(kind, ways, request, monkeypatch):
    fused, calls, modes = F.scaled_dot_product_attention, [], []
    monkeypatch.setattr(
        F, "scaled_dot_product_attention", lambda *args, **kwargs: calls.append(0) or fused(*args, **kwargs)
    )
    monkeypatch.setattr(torch, "compile", lambda network, mode, dynamic: modes.append((mode, dynamic)) or network)
    model = copy.deepcopy(request.getfixturevalue(kind))
    frames = torch.randn(6, 3, 64, 96)
    clips = torch.stack([frames[begin : begin + 4] for begin in range(3)])
    with torch.inference_mode():
        expected = model(clips).saliency
    assert expected.std() > 0.01
    attended = {}
    for way in ways.ways_of(model, frames, ["float32"], [1, 3], "default"):
        calls.clear()
        torch.testing.assert_close(next(way.calls), expected[: way.batch_size], atol=1e-5, rtol=0, msg=str(way))
        attended[way.name] = len(calls)
    assert list(attended) == ["reference", "windows", "predictor", "compiled"]
    assert modes == [("default", False)]
    # Only the reference attends eagerly; the encoder of the paper's kind has one layer.
    assert (attended["reference"], attended["windows"]) == (0, 1 if kind == "umt_model" else 0)


def products_of(module, inputs):
    """Multiplications and additions in the convolutions of a network, by the formula."""
    counted = []

    def count(layer, _, output):
        counted.append(2 * output.numel() * layer.weight[0].numel())

    hooks = [part.register_forward_hook(count) for part in module.modules() if isinstance(part, nn.Conv2d)]
    with torch.inference_mode():
        module(inputs)
    for hook in hooks:
        hook.remove()
    return sum(counted)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_stream_encodes_each_frame_once_and_that_is_what_counts(framewise_model, ways, set_threads, threads):
    set_threads(threads)  # With two, the encoder has a thread of its own.

    found = ways.ways_of(framewise_model, torch.randn(5, 3, 64, 96), ["float32"], [2])
    found = {way.name: way.operations for way in found}
    per_frame = products_of(framewise_model.salfom.encoder, torch.randn(1, 3, 64, 96))
    assert found["windows"] == found["reference"] > 4 * per_frame
    assert per_frame < found["predictor"] < found["windows"] - 2 * per_frame


def test_operations_of_the_papers_model(ways):
    # 3.1 TFLOP, of which 1.89 in the encoder's linear layers and 0.97 in its attention.
    with torch.device("meta"):
        model = ways.SalFoMForVideoSaliencyPrediction(SalFoMConfig())
    tokens, width = 16 * 14 * 14, 1024
    encoder = 24 * (2 * 12 * tokens * width**2 + 4 * tokens**2 * width)
    assert encoder < ways.window_operations(model, torch.empty(1, 16, 3, 224, 224)) < 1.1 * encoder


# Other scripts.


def test_cost_over_length_resolution_and_windows(script, model_folder, tmp_path, capsys):
    linear_cost = script("linear_cost")
    linear_cost.main(
        ["--model", str(model_folder), "--lengths", "4", "6", "9", "--sizes", "64x32", "96x64", "128x64",
         "--strides", "2", "3", "4", "--rounds", "2", "-o", str(tmp_path / "cost.json"),
         "--plot", str(tmp_path / "cost.svg")]
    )  # fmt: skip
    report = json.loads((tmp_path / "cost.json").read_text(encoding="utf-8"))
    assert [(row["varied"], row["across"]) for row in report["rows"]] == [
        ("length", 4), ("length", 6), ("length", 9),
        ("resolution", 0.002048), ("resolution", 0.006144), ("resolution", 0.008192),
        # Of 9 frames: 0, 2, …, 8; 0, 3, 6 and the last one; 0, 4, 8.
        ("windows", 5), ("windows", 4), ("windows", 3),
    ]  # fmt: skip
    for row in report["rows"]:
        assert row["seconds"] == pytest.approx(statistics.mean(run[0] for run in row["runs"]))  # The median of two.
        assert row["from"] <= row["seconds"] <= row["to"]
    header, rows = cells_of(capsys.readouterr().out)
    assert (header[5], len(rows)) == ("seconds", 9)
    drawn = ElementTree.parse(tmp_path / "cost.svg").getroot()
    circles = drawn.findall("{http://www.w3.org/2000/svg}circle")
    assert len(circles) == 18
    *_, width, height = map(float, drawn.get("viewBox").split())
    assert all(0 < float(dot.get("cx")) < width and 0 < float(dot.get("cy")) < height for dot in circles)


def test_training_steps_side_by_side(script, umt_folder, tmp_path, capsys):
    training_step = script("training_step")
    training_step.main(
        ["--model", str(umt_folder), "--device", "cpu", "--dtype", "float32", "--batch-size", "2", "--steps", "3",
         "--memory", "0", "-o", str(tmp_path / "step.json")]
    )  # fmt: skip
    rows = json.loads((tmp_path / "step.json").read_text(encoding="utf-8"))["rows"]
    assert [row["gradient checkpointing"] for row in rows] == ["no", "yes"]
    for row in rows:
        assert row["samples per second"] == pytest.approx(2 / statistics.median(row["seconds"]))
        assert len(row["seconds"]) == 3
        assert row["peak memory, GiB"] > 0
    assert len(cells_of(capsys.readouterr().out)[1]) == 2


# What makes the page's commands quick, added to each, by program.
QUICK = {
    "salfom": shlex.split("--device cpu --rounds 1 --size 64 96 --threads 1"),
    "ways": shlex.split("--device cpu --rounds 1 --size 64 96 --threads 1 --batch-size 1 2"),
    "strides": ["--frames", "8", "--rounds", "1"],
    "linear_cost": shlex.split("--lengths 4 6 9 --sizes 64x32 96x64 128x64 --strides 2 3 4 --rounds 1"),
    "training_step": shlex.split("--model salfom --device cpu --steps 1 --memory 0"),
    "streaming": shlex.split("--size 64 96 --threads 1 --repeats 2"),
    "end_to_end": shlex.split("--size 96 64 --rate 10 --seconds 1 --rounds 1 --threads 1"),
    "startup": ["--runs", "1"],
    "onnx_runtime": shlex.split("--threads 1 --frames 2 --rounds 1"),
    "many_videos": ["--rounds", "1"],
    "engines": ["--repeats", "1"],
}


def test_commands_of_the_pages(
    script, ways, model_folder, umt_folder, onnx_folder, ucf_sports, tmp_path, monkeypatch, capsys
):
    """
    The first of each script and model as it stands there, but on a CPU, with tiny models and data, and no processes of
    their own. That the options of all exist is in tests/test_docs.py.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(pretrained.KNOWN, "salfom", model_folder)
    monkeypatch.setattr(torch, "compile", lambda network, mode, dynamic: network)
    docs = SCRIPTS.parent / "docs"
    pages = "".join((docs / name).read_text(encoding="utf-8") for name in ("performance.md", "benchmarks.md"))
    lines = "".join(re.findall(r"```bash\n(.*?)```", pages, flags=re.S)).splitlines()
    places = {"salfom-large": umt_folder, "UCF-Sports": ucf_sports, "salfom-onnx": onnx_folder}
    # Emulated, bfloat16 would take most of the time.
    in_float32 = [] if cpu.computes_in_hardware(torch.bfloat16) else ["--dtype", "float32"]
    for line in {(line.split()[1], "salfom-large" in line): line for line in reversed(lines)}.values():
        program, *words = [str(places.get(word, word)) for word in shlex.split(line)]
        capsys.readouterr()
        if program == "salfom":
            assert cli.main([*words, *QUICK["salfom"], *in_float32]) == 0, f"{line}\n{capsys.readouterr().err}"
        else:
            module = script(Path(words.pop(0)).stem)
            if module.__name__ == "startup":
                module.measured = lambda arguments: (1.0, 2.0)
            if module.__name__ == "many_videos":
                module.measure = lambda *_: {"frames_per_second": 1.0, "seconds": 2.0}
            takes_several = module.__name__ in ("training_step", "streaming", "end_to_end")
            module.main([*words, *QUICK[module.__name__], *(in_float32 if takes_several else [])])
        assert cells_of(capsys.readouterr().out)[1], line


def test_the_page_holds_what_was_measured(tmp_path):
    docs = SCRIPTS.parent / "docs"
    spec = importlib.util.spec_from_file_location("make_performance", docs / "make_performance.py")
    make_performance = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make_performance)
    pages = {path.name: path.read_text(encoding="utf-8") for path in docs.glob("*.md")}
    for name, page in pages.items():
        assert make_performance.filled(page, docs / "measured") == page, f"{name}: run python docs/make_performance.py"
    names = re.findall(r"<!-- measured: (\S+) -->", "".join(pages.values()))
    page = pages["benchmarks.md"]
    assert {path.name for path in (docs / "measured").glob("*.json")} <= set(names)
    name = re.findall(r"<!-- measured: (\S+) -->", page)[0]
    (tmp_path / "measured").mkdir()
    (tmp_path / "measured" / name).write_text('{"command": "salfom benchmark", "markdown": "| a |\\n| - |"}')
    found = make_performance.filled(page, tmp_path / "measured")
    assert f"<!-- measured: {name} -->\n```bash\nsalfom benchmark\n```\n\n| a |\n| - |\n<!-- end -->" in found
    assert make_performance.filled(found, tmp_path / "measured") == found


def test_many_videos_times_a_command_that_runs(script, model_folder, clip, tmp_path):
    """By one process; tests/test_predict_many.py has several."""
    many_videos = script("many_videos")
    for name in ("a.mp4", "b.mp4"):
        (tmp_path / name).symlink_to(clip)
    args = many_videos.arguments().parse_args(["--model", str(model_folder)])
    found = many_videos.measure(1, tmp_path, args)
    assert found["frames_per_second"] > 0
    assert found["seconds"] > 0
