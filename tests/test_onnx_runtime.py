"""`--runtime onnx` against PyTorch: the same maps, the same commands."""

import json
import shutil

import numpy as np
import onnx
import pytest
import torch

from conftest import noise
from salfom_hf import SaliencyPredictor, cli
from salfom_hf.evaluation import Model
from salfom_hf.export.onnx_runtime import GraphError, OnnxPredictor

VIDEO = noise(11)


@pytest.mark.parametrize(("stride", "batch_size"), [(1, 1), (1, 4), (3, 2)])
def test_maps_are_those_of_pytorch(onnx_folder, model_folder, stride, batch_size):
    expected = SaliencyPredictor.from_pretrained(model_folder, stride=stride).predict(VIDEO)
    found = OnnxPredictor.from_pretrained(onnx_folder / "model.onnx", stride=stride, batch_size=batch_size).predict(
        VIDEO
    )
    assert (found.shape, found.dtype) == (expected.shape, np.float32)
    assert np.abs(expected[1:] - expected[:-1]).max(axis=(1, 2)).min() > 1e-4
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_stills_and_clips(onnx_folder, model_folder):
    torch_predictor = SaliencyPredictor.from_pretrained(model_folder)
    predictor = OnnxPredictor.from_pretrained(onnx_folder)
    np.testing.assert_allclose(predictor.predict(VIDEO[:1]), torch_predictor.predict(VIDEO[:1]), atol=1e-4)
    clips = torch.randn(2, 4, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        for length in (1, 4):
            expected = torch_predictor.model(clips[:, :length]).saliency
            torch.testing.assert_close(predictor.model(clips[:, :length]).saliency, expected, atol=1e-4, rtol=0)


def test_a_video_on_the_command_line(onnx_folder, model_folder, clip, tmp_path, capsys):
    for runtime, model in (("torch", model_folder), ("onnx", onnx_folder)):
        output = tmp_path / f"{runtime}.npz"
        options = ["--runtime", runtime, "--model", str(model), "--format", "npz", "-o", str(output)]
        assert cli.main(["predict", str(clip), *options]) == 0, capsys.readouterr().err
    maps = [np.load(tmp_path / f"{runtime}.npz")["maps"] for runtime in ("torch", "onnx")]
    assert maps[0].shape == (6, 64, 96)
    np.testing.assert_allclose(maps[1].astype(float), maps[0].astype(float), atol=1e-3)


def test_scores_are_those_of_pytorch(onnx_folder, model_folder, stills_parquet, tmp_path):
    means = []
    for runtime, model, processes in (("torch", model_folder, 1), ("onnx", onnx_folder, 2)):
        options = ["--runtime", runtime, "--model", model, "--processes", processes, "-o", tmp_path / runtime]
        arguments = ["--dataset", "stills", "--data-dir", stills_parquet, "--metrics", "nss", "cc", *options]
        assert cli.main(["evaluate", *map(str, arguments)]) == 0
        results = json.loads((tmp_path / runtime / "results.json").read_text())
        assert results["options"]["runtime"] == runtime
        means.append(results["methods"][0]["mean_over_frames"])
    assert means[1] == pytest.approx(means[0], abs=2e-3)


def test_other_graphs_are_other_models(onnx_folder, tmp_path):
    changed = tmp_path / "changed"
    shutil.copytree(onnx_folder, changed)
    same = Model("a", OnnxPredictor.from_pretrained(changed)).fingerprint
    assert same == Model("b", OnnxPredictor.from_pretrained(onnx_folder)).fingerprint
    graph = onnx.load(changed / "model.onnx")
    graph.producer_name = "another"
    onnx.save(graph, changed / "model.onnx")
    assert same != Model("a", OnnxPredictor.from_pretrained(changed)).fingerprint


def refused(capsys, *arguments):
    assert cli.main([str(argument) for argument in arguments]) == 2
    message = capsys.readouterr().err
    assert len(message.splitlines()) == 1, message
    return message


def test_what_cannot_be_run(onnx_folder, model_folder, clip, tmp_path, capsys):
    predict = ["predict", clip, "--runtime", "onnx", "-o", tmp_path / "out.mp4", "--model"]
    assert "no ONNX model at" in refused(capsys, *predict, model_folder)
    assert "--dtype" in refused(capsys, *predict, onnx_folder, "--dtype", "bfloat16")
    assert "--device" in refused(capsys, *predict, onnx_folder, "--device", "cuda")
    broken = tmp_path / "broken"
    shutil.copytree(onnx_folder, broken)
    (broken / "video_preprocessor_config.json").unlink()
    assert "processor" in refused(capsys, *predict, broken)
    (broken / "model.onnx").write_bytes((broken / "model.onnx").read_bytes()[:1000])
    assert str(broken / "model.onnx") in refused(capsys, *predict, broken)
    (broken / "config.json").write_text('{"model_type": ')
    assert "is not a valid JSON file" in refused(capsys, *predict, broken)
    (broken / "config.json").unlink()
    assert "config.json" in refused(capsys, *predict, broken / "model.onnx")
    assert not (tmp_path / "out.mp4").exists()


def test_frames_of_another_size_are_refused(onnx_folder):
    predictor = OnnxPredictor.from_pretrained(onnx_folder / "model.onnx")
    with pytest.raises(GraphError, match=r"model\.onnx cannot be run on this input"):
        predictor.model(torch.zeros(1, 4, 1, 64, 96))
