"""Exports against the network: their graphs run by onnxruntime alone, and their programs by PyTorch alone."""

import errno
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image

from conftest import noise
from salfom_hf import SalFoMVideoProcessor, cli
from salfom_hf.export import onnx as graphs
from salfom_hf.export.onnx import export_onnx
from salfom_hf.export.onnx_runtime import GraphError

FILES = {"config.json", "video_preprocessor_config.json", "model.onnx"}
STREAM = {"encoder.onnx", "first.onnx", "next.onnx"}


def clips(batch, height=64, width=96, seed=0):
    return torch.randn(batch, 4, 3, height, width, generator=torch.Generator().manual_seed(seed))


def session(path):
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


@torch.inference_mode()
def maps_of(model, pixels):
    return model(pixels).saliency.numpy()


@pytest.fixture(scope="module")
def umt_onnx(umt_folder, tmp_path_factory):
    """The paper's kind of model, with its weights in a file of their own, as if they were large."""
    folder = tmp_path_factory.mktemp("export") / "umt"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(graphs, "LARGEST_WITHIN", 0)
        assert cli.main(["export", "onnx", str(umt_folder), str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def int8_onnx(framewise_model, processor_of_64, clip, tmp_path_factory):
    folder = tmp_path_factory.mktemp("export")
    Image.fromarray(noise(1)[0]).save(folder / "still.png")
    calibration = [clip, folder / "still.png"]
    return export_onnx(framewise_model, processor_of_64, folder / "int8", int8=True, calibration=calibration), folder


@pytest.fixture(scope="module")
def processor_of_64(model_folder):
    return SalFoMVideoProcessor.from_pretrained(model_folder)


@pytest.mark.parametrize("batch", [1, 3])
def test_a_frame_wise_model_for_windows_of_any_size(framewise_model, onnx_folder, batch):
    assert {path.name for path in onnx_folder.iterdir()} == FILES | STREAM
    run = session(onnx_folder / "model.onnx")
    for size in ((64, 96), (96, 32)):
        pixels = clips(batch, *size)
        (found,) = run.run(["saliency"], {"pixel_values_videos": pixels.numpy()})
        assert (found.shape, found.dtype) == ((batch, *size), np.float32)
        np.testing.assert_allclose(found, maps_of(framewise_model, pixels), atol=1e-4)


@pytest.mark.parametrize("size", [(64, 96), (96, 32)])
def test_graphs_for_a_stream(framewise_model, onnx_folder, size):
    """Run as the documents say, they give the maps of the windows."""
    encoder, first, following = (session(onnx_folder / name) for name in ("encoder.onnx", "first.onnx", "next.onnx"))
    frames = torch.randn(9, 3, *size, generator=torch.Generator().manual_seed(1))
    (features,) = encoder.run(None, {"pixel_values": frames.numpy()})
    history = defaultdict(list)
    for time in range(len(frames)):
        graph = following if time else first
        feeds = {"features": features[time : time + 1]}
        for value in graph.get_inputs():
            if value.name != "features":
                name, back = value.name.split(".back")
                feeds[value.name] = history[name][max(time - 1 - int(back), 0)]
        outputs = graph.run(None, feeds)
        for value, output in zip(graph.get_outputs(), outputs, strict=True):
            history[value.name].append(output)
    windows = torch.stack([frames[[max(0, time - back) for back in (3, 2, 1, 0)]] for time in range(9)])
    expected = maps_of(framewise_model, windows)
    assert np.abs(expected[1:] - expected[:-1]).max(axis=(1, 2)).min() > 1e-3
    np.testing.assert_allclose(np.concatenate(history["saliency"]), expected, atol=1e-4)


@pytest.mark.parametrize("batch", [1, 3])
def test_a_video_model_with_weights_beside_the_graph(umt_model, umt_onnx, batch):
    assert {path.name for path in umt_onnx.iterdir()} == FILES | {"model.onnx.data"}
    weights = sum(parameter.nbytes for parameter in umt_model.parameters())
    assert (umt_onnx / "model.onnx.data").stat().st_size > 0.9 * weights
    pixels = clips(batch)
    (found,) = session(umt_onnx / "model.onnx").run(None, {"pixel_values_videos": pixels.numpy()})
    np.testing.assert_allclose(found, maps_of(umt_model, pixels), atol=1e-4)


def test_a_size_on_request(umt_model, processor_of_64, tmp_path):
    export_onnx(umt_model, processor_of_64, tmp_path / "fixed", size=(32, 64))
    processor = SalFoMVideoProcessor.from_pretrained(tmp_path / "fixed")
    assert processor(noise(4), return_tensors="pt").pixel_values_videos.shape[-2:] == (32, 64)
    pixels = clips(2, 32, 64)
    (found,) = session(tmp_path / "fixed" / "model.onnx").run(None, {"pixel_values_videos": pixels.numpy()})
    np.testing.assert_allclose(found, maps_of(umt_model, pixels), atol=1e-4)
    # The processor that was given is another's.
    assert processor_of_64.keep_aspect_ratio


def test_int8(framewise_model, int8_onnx, onnx_folder):
    report, folder = int8_onnx
    assert len(report.correlations) == 64
    assert min(report.correlations) > 0.9
    pixels = clips(3)
    for name in ("model.onnx", "encoder.onnx", "next.onnx"):
        graph = onnx.load(folder / "int8" / name).graph
        dtypes = {value.name: value.data_type for value in graph.initializer}
        made = {output: node for node in graph.node for output in node.output}
        convolutions = [node for node in graph.node if node.op_type == "Conv"]
        assert convolutions
        for node in convolutions:
            weight = made[node.input[1]]
            assert weight.op_type == "DequantizeLinear"
            assert dtypes[weight.input[0]] == onnx.TensorProto.INT8
    (found,) = session(folder / "int8" / "model.onnx").run(None, {"pixel_values_videos": pixels.numpy()})
    expected = maps_of(framewise_model, pixels)
    for left, right in zip(found, expected, strict=True):
        assert np.corrcoef(left.ravel(), right.ravel())[0, 1] > 0.9
    # What is rounded is not the same.
    assert np.abs(found - expected).max() > 1e-4


def test_what_is_said_of_int8(model_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(graphs, "export_onnx", lambda *_, **__: graphs.Report({"model.onnx": 2e-6}, [0.97, 0.99]))
    assert cli.main(["export", "onnx", str(model_folder), str(tmp_path / "out"), "--int8"]) == 0
    first, second, _ = capsys.readouterr().out.splitlines()
    assert first == "model.onnx: maps differ from PyTorch's by 2.0e-06 at most before quantisation"
    assert second.endswith("0.9800 on average, 0.9700 at least")


@pytest.mark.parametrize("kind", ["framewise", "umt"])
def test_torch_export_runs_without_the_package(
    kind, framewise_model, umt_model, model_folder, umt_folder, tmp_path, capsys
):
    model, folder = {"framewise": (framewise_model, model_folder), "umt": (umt_model, umt_folder)}[kind]
    program = tmp_path / "model.pt2"
    assert cli.main(["export", "torch-export", str(folder), str(program)]) == 0
    line, last = capsys.readouterr().out.splitlines()
    assert float(line.removeprefix("model.pt2: maps differ from PyTorch's by ").removesuffix(" at most")) <= 1e-4
    assert last == f"{folder} -> {program}"
    torch.save([clips(1), clips(3)], tmp_path / "clips.pt")
    code = (
        "import sys, torch\n"
        "program = torch.export.load('model.pt2').module()\n"
        "torch.save([program(clips) for clips in torch.load('clips.pt')], 'maps.pt')\n"
        "assert not any(name.partition('.')[0] in ('salfom_hf', 'transformers') for name in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    for pixels, found in zip((clips(1), clips(3)), torch.load(tmp_path / "maps.pt"), strict=True):
        np.testing.assert_allclose(found.detach().numpy(), maps_of(model, pixels), atol=1e-4)


def test_a_full_disk_is_no_fault_of_the_model(model_folder, tmp_path, monkeypatch, capsys):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(torch.onnx, "export", full)
    output = tmp_path / "out"
    assert not failing(
        ["export", "onnx", model_folder, output], capsys, f"Cannot write {output} (No space", "free some"
    ).exists()


def failing(arguments, capsys, *words):
    """Run an export that fails, with one sentence that holds some words, and leaves nothing."""
    place = Path(arguments[3])
    assert cli.main(["export", *map(str, arguments[1:])]) == 2
    message = capsys.readouterr().err
    assert len(message.splitlines()) == 1, message
    for word in words:
        assert word in message
    return place


@pytest.mark.parametrize(("kind", "output"), [("onnx", "out"), ("torch-export", "out.pt2")])
def test_maps_that_differ_too_much_are_not_written(kind, output, umt_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(graphs, "TOLERANCE", 0.0)
    # No rounding at all would be luck; this makes sure.
    monkeypatch.setattr(graphs, "largest_difference", lambda *_: 3e-4)
    failing(["export", kind, umt_folder, tmp_path / output], capsys, "differ from PyTorch's by 3.0e-04", "nothing was")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--int8"], "leave out --int8"),
        (["--size", "60", "96"], "multiples of 16"),
        (["--calibrate", "talk.mp4"], "add --int8"),
    ],
)
def test_what_cannot_be_exported(options, words, umt_folder, tmp_path, capsys):
    failing(["export", "onnx", umt_folder, tmp_path / "out", *options], capsys, words)
    assert not list(tmp_path.iterdir())


def test_outputs_that_do_not_fit(umt_folder, model_folder, tmp_path, capsys):
    failing(["export", "torch-export", umt_folder, tmp_path / "out"], capsys, ".pt2")
    failing(["export", "onnx", tmp_path / "none", tmp_path / "out"], capsys, "Cannot load the model")
    missing = tmp_path / "missing.mp4"
    failing(["export", "onnx", model_folder, tmp_path / "out", "--int8", "--calibrate", missing], capsys, str(missing))
    assert not list(tmp_path.iterdir())
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").touch()
    failing(["export", "onnx", umt_folder, tmp_path / "out"], capsys, "exists already")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine"]


@pytest.mark.parametrize("package", ["onnx", "onnxruntime", "onnxscript"])
def test_missing_packages_are_named(package, umt_model, processor, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(GraphError, match=r'pip install -c constraints\.txt "\.\[onnx\]"'):
        export_onnx(umt_model, processor, tmp_path / "out")
    assert not list(tmp_path.iterdir())
