"""`salfom benchmark` and the scripts beside it: what their tables and files say, and that every way is the network."""

import copy
import importlib.util
import itertools
import json
import os
import re
import shlex
import statistics
import threading
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from accelerate.state import AcceleratorState
from torch import nn
from torch.nn import functional as F
from transformers.image_utils import SizeDict

from conftest import EMULATED
from salfom_hf import SalFoMVideoProcessor, cli
from salfom_hf.cli.benchmark import profile
from salfom_hf.inference import benchmarking, cpu
from salfom_hf.inference.cpu import PackedConvolution
from salfom_hf.models import names as pretrained
from salfom_hf.video.reading import read_frames

SCRIPTS = Path(__file__).parents[1] / "benchmarks"
RATE = 1e12

pytestmark = pytest.mark.usefixtures("reproducible")


@pytest.fixture(autouse=True)
def quick(monkeypatch, set_threads):
    """One call a turn, nothing measured of the machine, and no number of threads for later tests."""
    monkeypatch.setattr(benchmarking, "TURN", 1e-9)
    monkeypatch.setattr(benchmarking, "fastest_product", lambda device, dtype: RATE)
    monkeypatch.setattr(cpu, "measure", lambda dtype, threads: ("onednn", "tiled_blas"))


@pytest.fixture
def benchmark(capsys):
    def run(*arguments):
        capsys.readouterr()
        code = cli.main(["benchmark", "--device", "cpu", "--rounds", "3", *map(str, arguments)])
        return code, capsys.readouterr()

    return run


def script(name):
    spec = importlib.util.spec_from_file_location(name, SCRIPTS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    # A process for each number would take the tests longer than all the rest.
    module.in_own_process = alone
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


@pytest.mark.parametrize("kind", ["model_folder", "umt_folder"])
def test_the_table_and_the_file_say_the_same(kind, benchmark, request, tmp_path):
    folder, output = request.getfixturevalue(kind), tmp_path / "out" / "found.json"
    code, said = benchmark("--model", folder, "--batch-size", 1, 3, "--size", 64, 64, "--threads", 1, "-o", output)
    assert code == 0, said.err
    report = json.loads(output.read_text(encoding="utf-8"))
    rows = report["rows"]
    assert [(row["way"], row["dtype"], row["batch"]) for row in rows] == [
        ("reference", "float32", 1),
        *((way, "float32", batch) for way in ("windows", "predictor") for batch in (1, 3)),
        *((way, "bfloat16", batch) for way in ("windows", "predictor") for batch in (1, 3)),
    ]
    header, printed = cells_of(said.out)
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


@pytest.mark.parametrize("kind", ["framewise_model", "umt_model"])
def test_every_way_gives_the_maps_of_the_windows(kind, request):
    model = copy.deepcopy(request.getfixturevalue(kind))
    frames = torch.randn(6, 3, 64, 96)
    clips = torch.stack([frames[begin : begin + 4] for begin in range(3)])
    with torch.inference_mode():
        expected = model(clips).saliency
    assert expected.std() > 0.01
    for way in benchmarking.ways_of(model, frames, [torch.float32], [1, 3]):
        torch.testing.assert_close(next(way.calls), expected[: way.batch_size], atol=1e-5, rtol=0, msg=str(way))


def test_only_the_reference_attends_eagerly(umt_model, monkeypatch):
    fused, calls = F.scaled_dot_product_attention, []
    monkeypatch.setattr(
        F, "scaled_dot_product_attention", lambda *args, **kwargs: calls.append(0) or fused(*args, **kwargs)
    )
    counts = {}
    for way in benchmarking.ways_of(copy.deepcopy(umt_model), torch.randn(4, 3, 64, 96), [torch.float32], [1]):
        calls.clear()
        next(way.calls)
        counts[way.name] = len(calls)
    assert counts["reference"] == 0
    assert counts["windows"] == 1  # The encoder has one layer.


def test_the_example_is_prepared_as_a_predictor_would():
    processor = SalFoMVideoProcessor(num_frames=4)
    found = benchmarking.example_frames(processor, (64, 96), 152)
    image = next(read_frames(benchmarking.EXAMPLE)).image
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None]
    expected = processor.prepare_frames(pixels, size=SizeDict(height=64, width=96))
    torch.testing.assert_close(found[:1], expected)
    assert found.shape == (152, 3, 64, 96)
    torch.testing.assert_close(found[150:], found[:2])  # It has 150 frames.


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
def test_a_stream_encodes_each_frame_once_and_that_is_what_counts(framewise_model, monkeypatch, set_threads, threads):
    set_threads(threads)  # With two, the encoder has a thread of its own.

    def counted():
        ways = benchmarking.ways_of(framewise_model, torch.randn(5, 3, 64, 96), [torch.float32], [2])
        benchmarking.benchmark("tiny", ways, torch.device("cpu"), rounds=1)
        return {way.name: way.operations for way in ways}

    found = counted()
    per_frame = products_of(framewise_model.salfom.encoder, torch.randn(1, 3, 64, 96))
    assert found["windows"] == found["reference"] > 4 * per_frame
    assert per_frame < found["predictor"] < found["windows"] - 2 * per_frame
    # Convolutions in oneDNN's layout count as those that PyTorch's counter knows.
    monkeypatch.setattr(PackedConvolution, "__call__", PackedConvolution.plain)
    assert counted() == found


def test_the_next_turn_begins_when_what_goes_on_has_ended():
    ended = threading.Event()

    def work(seconds):
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            pass
        ended.set()

    for seconds, limit in ((0.3, 60), (1.0, 0.1)):
        ended.clear()
        thread = threading.Thread(target=work, args=[seconds])
        thread.start()
        benchmarking.let_settle(limit)
        assert ended.is_set() == (seconds < limit)  # But it does not wait forever.
        thread.join()


def test_what_the_predictor_chose_is_told(benchmark, umt_folder, model_folder, tmp_path):
    choice = {"linear layers": "onednn", "attention": "tiled_blas"}
    for folder, expected in ((umt_folder, {"float32": choice}), (model_folder, {})):
        report = tmp_path / f"{folder.parent.name}.json"
        code, said = benchmark("--model", folder, "--dtype", "float32", "-o", report)
        assert code == 0
        assert json.loads(report.read_text())["chosen by the predictor"] == expected
        assert ("linear layers by onednn, attention by tiled_blas" in said.out) == bool(expected)


def test_operations_of_the_papers_model():
    # 3.1 TFLOP, of which 1.89 in the encoder's linear layers and 0.97 in its attention.
    config = benchmarking.SalFoMConfig()
    tokens, width = 16 * 14 * 14, 1024
    encoder = 24 * (2 * 12 * tokens * width**2 + 4 * tokens**2 * width)
    assert encoder < benchmarking.window_operations(config, (224, 224)) < 1.1 * encoder


def test_random_weights_need_no_installed_model(benchmark, umt_model, monkeypatch, tmp_path):
    monkeypatch.setitem(pretrained.KNOWN, "salfom-large", tmp_path / "missing")
    code, said = benchmark("--model", "salfom-large")
    assert code == 2
    assert re.fullmatch("salfom: .*salfom convert .*--random-weights.*\n", said.err)
    monkeypatch.setattr(benchmarking, "SalFoMConfig", lambda: umt_model.config)
    code, said = benchmark("--model", "salfom-large", "--random-weights", "--dtype", "float32")
    assert code == 0, said.err
    assert "salfom-large with random weights" in said.out
    before = torch.get_rng_state()
    model = benchmarking.random_model("salfom-large")
    assert torch.equal(torch.get_rng_state(), before)
    logits = model(torch.randn(1, 4, 3, 64, 96)).logits
    assert 0.5 < logits.std() < 2


def test_memory_holds_the_weights_and_what_a_call_takes():
    taken = benchmarking.working_memory(torch.device("cpu"), lambda: torch.ones(64, 2**20))
    if benchmarking.memory_status("VmRSS") is None:
        assert taken is None
    else:
        assert 255 < taken < 300


def test_the_fastest_product_counts(monkeypatch):
    monkeypatch.undo()
    seconds = iter([4, 3, 4, 4, 2, 4])
    monkeypatch.setattr(benchmarking, "timed", lambda function, device: next(seconds))
    rate = benchmarking.fastest_product(torch.device("cpu"), torch.float32)
    assert rate == 3136 * 1024 * 4096


def test_a_gpu_without_a_number_is_the_one_in_use(monkeypatch):
    chosen = []
    # Below what checks its argument, for builds without CUDA too.
    monkeypatch.setattr(torch._C, "_cuda_setDevice", chosen.append, raising=False)
    before = torch.backends.cudnn.allow_tf32
    try:
        benchmarking.use_gpu(torch.device("cuda"))
        assert chosen == []
        benchmarking.use_gpu(torch.device("cuda:1"))
        assert chosen == [1]
        assert not torch.backends.cudnn.allow_tf32
    finally:
        torch.backends.cudnn.allow_tf32 = before


def test_compiled_windows_are_one_way_more(benchmark, model_folder, monkeypatch):
    modes = []
    monkeypatch.setattr(torch, "compile", lambda network, mode, dynamic: modes.append((mode, dynamic)) or network)
    code, said = benchmark("--model", model_folder, "--dtype", "bfloat16", "--compile")
    assert (code, modes) == (0, [("reduce-overhead", False)]), said.err
    assert [row[1] for row in cells_of(said.out)[1]] == ["reference", "windows", "predictor", "compiled"]

    def broken(network, **options):
        raise torch._dynamo.exc.TorchDynamoException("no compiler")

    monkeypatch.setattr(torch, "compile", broken)
    code, said = benchmark("--model", model_folder, "--compile")
    assert (code, said.err) == (2, "salfom: torch.compile does not work on this machine; leave out --compile.\n")


def test_one_line_where_bfloat16_is_emulated(benchmark, model_folder, emulates):
    emulates("bfloat16")
    options = ["--model", model_folder, "--size", 64, 64, "--rounds", 1]
    assert EMULATED in benchmark(*options, "--dtype", "bfloat16")[1].err.splitlines()
    assert EMULATED not in benchmark(*options)[1].err.splitlines()  # Both are compared there.


def test_the_profile_names_operations(benchmark, model_folder):
    code, said = benchmark("--model", model_folder, "--dtype", "float32", "--profile")
    assert code == 0
    assert "convolution" in said.out.partition("predictor, float32, batch 1\n")[2]


def test_the_profile_sees_what_other_threads_do():
    def calls():
        while True:
            thread = threading.Thread(target=lambda: torch.ones(300, 300) @ torch.ones(300, 300))
            thread.start()
            thread.join()
            yield

    assert "aten::mm" in profile(SimpleNamespace(calls=calls()), torch.device("cpu"))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--size", "100", "96"], "32 divides, not 100x96"),
        (["--device", "cuda:99"], "--device cpu"),
        (["--model", "nowhere/at-all"], "Cannot load the model"),
        (["--model", "nowhere/at-all", "--random-weights"], "Cannot load the model"),
        (["-o", "taken.json"], "taken.json exists already"),
    ],
)
def test_errors_are_one_line(arguments, said, benchmark, model_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("taken.json").write_text("mine")
    code, printed = benchmark("--model", model_folder, "--dtype", "float32", *arguments)
    assert (code, printed.out) == (2, "")
    assert said in printed.err
    assert printed.err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["taken.json"]
    assert Path("taken.json").read_text() == "mine"


def test_own_processes_have_memory_of_their_own():
    assert benchmarking.in_own_process(os.getpid) != os.getpid()


def test_cost_over_length_resolution_and_windows(model_folder, tmp_path, capsys):
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


def test_straight_lines():
    linear_cost = script("linear_cost")
    rows = [{"across": x, "seconds": 3 * x + 2} for x in (1, 2, 4)]
    assert linear_cost.line_through(rows) == pytest.approx((3, 2, 0), abs=1e-9)
    bent = [{"across": x, "seconds": y} for x, y in ((0, 0), (1, 0), (2, 3))]
    # Least squares by hand: slope 1.5, intercept −0.5; the point in the middle lies 1 below.
    assert linear_cost.line_through(bent) == pytest.approx((1.5, -0.5, 1 / 3))


def test_training_steps_side_by_side(umt_folder, tmp_path, capsys):
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


def test_steps_that_do_not_fit_are_dashes(capsys):
    training_step = script("training_step")
    training_step.in_own_process = lambda function, *arguments: None
    training_step.main(["--device", "cpu", "--dtype", "float32"])
    said = capsys.readouterr().out
    assert all(row[-2:] == ["–", "–"] for row in cells_of(said)[1])
    assert "could take 20 GiB" in said


# What makes the page's commands quick, added to each, by program.
QUICK = {
    "salfom": ["--device", "cpu", "--rounds", "1", "--size", "64", "96"],
    "strides": ["--frames", "8", "--rounds", "1"],
    "linear_cost": shlex.split("--lengths 4 6 9 --sizes 64x32 96x64 128x64 --strides 2 3 4 --rounds 1"),
    "training_step": shlex.split("--model salfom --device cpu --steps 1 --memory 0"),
    "streaming": shlex.split("--size 64 96 --threads 1 --repeats 2"),
    "end_to_end": shlex.split("--size 96 64 --rate 10 --seconds 1 --rounds 1 --threads 1"),
    "startup": ["--runs", "1"],
    "onnx_runtime": shlex.split("--threads 1 --repeats 2"),
    "many_videos": ["--rounds", "1"],
}


def test_commands_of_the_page(model_folder, umt_folder, onnx_folder, ucf_sports, tmp_path, monkeypatch, capsys):
    """Each as it stands there, but on a CPU, with tiny models and data, and no processes of their own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(SCRIPTS)
    monkeypatch.setitem(pretrained.KNOWN, "salfom", model_folder)
    monkeypatch.setattr(torch, "compile", lambda network, mode, dynamic: network)
    page = (SCRIPTS.parent / "docs" / "performance.md").read_text(encoding="utf-8")
    lines = "".join(re.findall(r"```bash\n(.*?)```", page, flags=re.S)).splitlines()
    places = {"salfom-large": umt_folder, "UCF-Sports": ucf_sports}
    places |= {"salfom-onnx": onnx_folder, "salfom-int8": onnx_folder}
    # Emulated, bfloat16 would take most of the time.
    in_float32 = [] if cpu.computes_in_hardware(torch.bfloat16) else ["--dtype", "float32"]
    for line in lines:
        program, *words = [str(places.get(word, word)) for word in shlex.split(line)]
        capsys.readouterr()
        if program == "salfom":
            assert cli.main([*words, *QUICK["salfom"], *in_float32]) == 0, f"{line}\n{capsys.readouterr().err}"
        else:
            module = script(Path(words.pop(0)).stem)
            # It would hold for all other tests.
            monkeypatch.setattr(module, "keep_freed_memory", lambda: None, raising=False)
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
    page = pages["performance.md"]
    assert {path.name for path in (docs / "measured").glob("*.json")} <= set(names)
    (tmp_path / "measured").mkdir()
    (tmp_path / "measured" / names[0]).write_text('{"command": "salfom benchmark", "markdown": "| a |\\n| - |"}')
    found = make_performance.filled(page, tmp_path / "measured")
    assert f"<!-- measured: {names[0]} -->\n```bash\nsalfom benchmark\n```\n\n| a |\n| - |\n<!-- end -->" in found
    assert make_performance.filled(found, tmp_path / "measured") == found


def test_many_videos_times_a_command_that_runs(model_folder, clip, tmp_path):
    """By one process; tests/test_predict_many.py has several."""
    many_videos = script("many_videos")
    for name in ("a.mp4", "b.mp4"):
        (tmp_path / name).symlink_to(clip)
    args = many_videos.arguments().parse_args(["--model", str(model_folder)])
    found = many_videos.measure(1, tmp_path, args)
    assert found["frames_per_second"] > 0
    assert found["seconds"] > 0


def test_many_videos_compares_medians(clip, tmp_path, monkeypatch, capsys):
    many_videos = script("many_videos")
    rates = {1: iter([10, 30, 20]), 2: iter([36, 39, 90])}
    videos = []

    def measure(processes, folder, args):
        videos.append(len(os.listdir(folder)))
        return {"frames_per_second": next(rates[processes]), "seconds": 1}

    monkeypatch.setattr(many_videos, "measure", measure)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1})
    output = tmp_path / "found.json"
    many_videos.main(["--video", str(clip), "--videos", "3", "--rounds", "3", "-o", str(output)])
    assert videos == [3] * 6
    assert "1.95 times as many" in capsys.readouterr().out
    assert json.loads(output.read_text(encoding="utf-8"))["ratio"] == 39 / 20


def test_startup_runs_what_it_names(monkeypatch, capsys, model_folder, tmp_path):
    """In this process: starting one for each would take the tests longer."""
    startup = script("startup")
    monkeypatch.setitem(pretrained.KNOWN, "salfom", model_folder)

    def measured(arguments):
        if arguments[0] == "-c":
            exec(arguments[1], {})
        elif "--help" in arguments or "--version" in arguments:
            with pytest.raises(SystemExit, match=r"^0$"):
                cli.main(arguments[2:])
        else:
            assert arguments[:2] == startup.SALFOM
            assert cli.main(arguments[2:]) == 0
        capsys.readouterr()
        return 1.25, 2.5

    monkeypatch.setattr(startup, "measured", measured)
    output = tmp_path / "found.json"
    startup.main(["--runs", "1", "-o", str(output)])
    told = capsys.readouterr().out
    assert re.search(r"\| `salfom predict, first map` +\| +1.2 \| +2.5 \|\n$", told)
    assert json.loads(output.read_text(encoding="utf-8"))["markdown"] == told.rstrip("\n")


def test_startup_measures_a_process():
    cpu, wall = script("startup").measured(("-c", "sum(range(10**6))"))
    assert 0 < cpu < wall + 1


def test_onnx_runtime_compares_its_maps(model_folder, onnx_folder, tmp_path, monkeypatch, capsys):
    pytest.importorskip("onnxruntime")
    onnx_runtime = script("onnx_runtime")
    # It would hold for all other tests.
    monkeypatch.setattr(onnx_runtime, "keep_freed_memory", lambda: None)
    output = tmp_path / "found.json"
    words = f"--model {model_folder} --onnx {onnx_folder} --threads 1 --repeats 2 -o {output}"
    onnx_runtime.main(words.split())
    rows = json.loads(output.read_text(encoding="utf-8"))["rows"]
    assert [row["way"] for row in rows] == ["PyTorch float32", "PyTorch bfloat16", str(onnx_folder)]
    assert rows[0]["least correlation"] == pytest.approx(1)
    assert rows[2]["least correlation"] > 0.9999
    assert "ms per map" in capsys.readouterr().out


def test_streaming_compares_stages(model_folder, tmp_path, monkeypatch, capsys):
    streaming = script("streaming")
    monkeypatch.setattr(streaming, "keep_freed_memory", lambda: None)
    output = tmp_path / "found.json"
    words = f"--model {model_folder} --size 64 96 --threads 1 --repeats 3 -o {output}"
    streaming.main(words.split())
    told = capsys.readouterr().out
    report = json.loads(output.read_text(encoding="utf-8"))
    assert report["markdown"] == told.rstrip("\n")
    rows = report["rows"]
    assert [(row["dtype"], row["stage"]) for row in rows] == list(
        itertools.product(("float32", "bfloat16"), streaming.STAGES)
    )
    for row in rows:
        assert row["ratio"] == pytest.approx(row["window, ms"] / row["streaming, ms"])
    total, parts = rows[4], rows[:4]
    assert total["streaming, ms"] == pytest.approx(sum(row["streaming, ms"] for row in parts))
    (difference,) = re.findall(r"float32: the maps differ by (\S+) at most", told)
    assert float(difference) < 1e-5


def test_end_to_end_runs_both_ways_and_all_stages(model_folder, tmp_path, capsys, monkeypatch):
    end_to_end = script("end_to_end")
    monkeypatch.setattr(end_to_end, "keep_freed_memory", lambda: None)
    output = tmp_path / "found.json"
    size = ["--size", "96", "64", "--rate", "10", "--seconds", "1.2"]
    end_to_end.main(["--model", str(model_folder), *size, "--rounds", "2", "--threads", "1", "-o", str(output)])
    report = json.loads(output.read_text(encoding="utf-8"))
    assert report["markdown"] == capsys.readouterr().out.rstrip("\n")
    rows = report["rows"]
    assert [(row["dtype"], row[""]) for row in rows] == list(
        itertools.product(("float32", "bfloat16"), ("one after the other", "at once"))
    )
    for row in rows:
        assert len(row["rounds"]) == 2
        assert min(row["rounds"]) <= row["frames per second"] <= max(row["rounds"])
        stages = [row[name] for name in ("decode", "preprocess", "encoder", "branches", "fusion", "overlay", "encode")]
        if row[""] == "one after the other":  # Stages cannot take longer than all.
            assert 0 < sum(stages) <= row["passed"]
