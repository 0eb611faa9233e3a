"""Exports against the network: their graphs run by onnxruntime alone, and their programs by PyTorch alone."""

import errno
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from conftest import noise
from salfom_hf import SalFoMVideoProcessor, cli
from salfom_hf.export import onnx as graphs
from salfom_hf.export.onnx import export
from salfom_hf.export.onnx_runtime import GraphError

FILES = {"config.json", "video_preprocessor_config.json", "model.onnx"}


def clips(batch, height=64, width=96):
    return torch.randn(batch, 4, 3, height, width, generator=torch.Generator().manual_seed(0))


def graph_maps(folder, pixels):
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    return session.run(["saliency"], {"pixel_values_videos": pixels.numpy()})[0]


@torch.inference_mode()
def maps_of(model, pixels):
    return model(pixels).saliency.numpy()


@pytest.mark.parametrize(("batch", "size"), [(1, (64, 96)), (3, (96, 32))])
def test_a_frame_wise_model_for_windows_of_any_size(framewise_model, onnx_folder, batch, size):
    assert {path.name for path in onnx_folder.iterdir()} == FILES
    pixels = clips(batch, *size)
    found = graph_maps(onnx_folder, pixels)
    assert (found.shape, found.dtype) == ((batch, *size), np.float32)
    np.testing.assert_allclose(found, maps_of(framewise_model, pixels), atol=1e-4)


def test_a_size_on_request_and_weights_next_to_the_graph(umt_model, model_folder, tmp_path, monkeypatch):
    """The paper's kind of model, with its weights in a file of their own, as if they were large."""
    monkeypatch.setattr(graphs, "LARGEST_WITHIN", 0)
    folder, processor = tmp_path / "umt", SalFoMVideoProcessor.from_pretrained(model_folder)
    export("onnx", umt_model, processor, folder, size=(32, 64))
    assert {path.name for path in folder.iterdir()} == FILES | {"model.onnx.data"}
    weights = sum(parameter.nbytes for parameter in umt_model.parameters())
    assert (folder / "model.onnx.data").stat().st_size > 0.9 * weights
    for batch in (1, 3):
        pixels = clips(batch, 32, 64)
        np.testing.assert_allclose(graph_maps(folder, pixels), maps_of(umt_model, pixels), atol=1e-4)
    own = SalFoMVideoProcessor.from_pretrained(folder)
    assert own(noise(4), return_tensors="pt").pixel_values_videos.shape[-2:] == (32, 64)
    assert processor.keep_aspect_ratio  # The one that was given is another's.


def test_torch_export_runs_without_the_package(framewise_model, umt_model, umt_folder, program_file, tmp_path, capsys):
    program = tmp_path / "umt.pt2"
    assert cli.main(["export", "torch-export", str(umt_folder), str(program)]) == 0
    line, last = capsys.readouterr().out.splitlines()
    assert float(line.removeprefix("umt.pt2: maps differ from PyTorch's by ").removesuffix(" at most")) <= 1e-4
    assert last == f"{umt_folder} -> {program}"
    torch.save([clips(1), clips(3)], tmp_path / "clips.pt")
    code = (
        "import sys, torch\n"
        "clips, programs = torch.load('clips.pt'), [torch.export.load(file).module() for file in sys.argv[1:]]\n"
        "torch.save([program(clip) for program in programs for clip in clips], 'maps.pt')\n"
        "assert not any(name.partition('.')[0] in ('salfom_hf', 'transformers') for name in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, program_file, program], cwd=tmp_path, check=True)
    expected = [maps_of(model, clips(batch)) for model in (framewise_model, umt_model) for batch in (1, 3)]
    for maps, found in zip(expected, torch.load(tmp_path / "maps.pt"), strict=True):
        np.testing.assert_allclose(found.detach().numpy(), maps, atol=1e-4)


def failing(arguments, capsys, *words):
    """Run an export that fails, with one sentence that holds some words."""
    assert cli.main(["export", *map(str, arguments)]) == 2
    message = capsys.readouterr().err
    assert len(message.splitlines()) == 1, message
    for word in words:
        assert word in message


def test_a_full_disk_is_no_fault_of_the_model(model_folder, tmp_path, monkeypatch, capsys):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(torch.export, "export", full)
    output = tmp_path / "out"
    failing(["onnx", model_folder, output], capsys, "No space left", "free some")
    assert not output.exists()


@pytest.mark.parametrize(("kind", "output"), [("onnx", "out"), ("torch-export", "out.pt2")])
def test_maps_that_differ_too_much_are_not_written(
    kind, output, ready_exports, model_folder, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(graphs, "TOLERANCE", -1.0)  # No rounding at all would be luck.
    failing([kind, model_folder, tmp_path / output], capsys, "differ from PyTorch's by", "nothing was written")
    assert not list(tmp_path.iterdir())


def test_outputs_and_sizes_that_do_not_fit(umt_folder, tmp_path, capsys):
    failing(["onnx", umt_folder, tmp_path / "out", "--size", "60", "96"], capsys, "multiples of 16")
    failing(["torch-export", umt_folder, tmp_path / "out"], capsys, ".pt2")
    failing(["onnx", tmp_path / "none", tmp_path / "out"], capsys, "Cannot load the model")
    assert not list(tmp_path.iterdir())
    Path(tmp_path, "out").mkdir()
    Path(tmp_path, "out", "mine").touch()
    failing(["onnx", umt_folder, tmp_path / "out"], capsys, "exists already")
    assert [path.name for path in Path(tmp_path, "out").iterdir()] == ["mine"]


def test_a_missing_package_is_named(umt_model, processor, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(GraphError, match=r'pip install -c constraints\.txt "\.\[onnx\]"'):
        export("onnx", umt_model, processor, tmp_path / "out")
    assert not list(tmp_path.iterdir())
