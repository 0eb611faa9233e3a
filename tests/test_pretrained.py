"""Names of models, and the weights that come with the package."""

import json
import socket
from pathlib import Path

import pytest
import torch
import transformers
from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
from transformers import AutoConfig, AutoModel, AutoModelForImageToImage, AutoProcessor
from transformers.models.auto.video_processing_auto import AutoVideoProcessor

import salfom_hf
from salfom_hf import (
    SalFoMConfig,
    SalFoMForVideoSaliencyPrediction,
    SalFoMModel,
    SalFoMVideoProcessor,
    SaliencyPredictor,
)
from salfom_hf.models import names

SHIPPED = Path(salfom_hf.__file__).parent / "weights" / "salfom"


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("The network was used.")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.mark.parametrize("name", ["salfom", "salfom-large"])
def test_a_local_folder_with_a_model_wins_over_a_known_name(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).mkdir()
    for kind in ("salfom", "videomae"):
        (tmp_path / name / "config.json").write_text(json.dumps({"model_type": kind}))
        assert names.resolve(name) == name


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"maps.npz": "{}", "video_preprocessor_config.json": "{}"},
        *({"config.json": text} for text in ("", "[]", '{"model_type": "bert"}')),
    ],
)
def test_a_folder_without_a_model_does_not_hide_a_known_name(files, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "salfom").mkdir()
    for file, text in files.items():
        (tmp_path / "salfom" / file).write_text(text)
    assert Path(names.resolve("salfom")) == Path(names.resolve(Path("salfom"))) == SHIPPED
    assert SalFoMConfig.from_pretrained("salfom").center_prior
    # What an installation left behind that did not end well.
    monkeypatch.setitem(names.KNOWN, "salfom-large", tmp_path / "salfom")
    with pytest.raises(FileNotFoundError, match="--install"):
        names.resolve("salfom-large")


@pytest.mark.parametrize("name", ["someone/model", "salfom-huge", "SALFOM", None, Path("models/mine")])
def test_other_names_are_left_alone(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert names.resolve(name) is name


@pytest.mark.parametrize(
    "loader",
    [SalFoMConfig, SalFoMForVideoSaliencyPrediction, SalFoMVideoProcessor, SaliencyPredictor, AutoConfig, AutoModel,
     AutoProcessor, AutoVideoProcessor],
)  # fmt: skip
def test_the_large_model_says_how_to_get_it(loader, model_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(names.KNOWN, "salfom-large", tmp_path / "none")
    with pytest.raises(FileNotFoundError, match="salfom convert CHECKPOINT --install"):
        loader.from_pretrained("salfom-large")
    monkeypatch.setitem(names.KNOWN, "salfom-large", model_folder)  # As if it were installed.
    loader.from_pretrained("salfom-large")


def test_everything_loads_by_name_without_network(no_network, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = SalFoMConfig.from_pretrained("salfom")
    processor = SalFoMVideoProcessor.from_pretrained("salfom")
    assert (config.model_type, processor.num_frames) == ("salfom", config.num_frames)
    height, width = config.image_height_width  # Frames of other shapes have about as many pixels.
    assert processor.prepare_frames(torch.zeros(1, 3, 2 * height, 2 * width)).shape[-2:] == (height, width)
    model = SalFoMForVideoSaliencyPrediction.from_pretrained("salfom")
    predictor = SaliencyPredictor.from_pretrained("salfom", dtype=torch.bfloat16, stride=2, batch_size=3)
    assert (predictor.stride, predictor.batch_size, predictor.model.dtype) == (2, 3, torch.bfloat16)
    assert predictor.processor.to_dict() == processor.to_dict()
    base = SalFoMModel.from_pretrained("salfom")
    of_model = model.salfom.state_dict()
    assert base.state_dict().keys() == of_model.keys()
    assert all(torch.equal(tensor, of_model[name]) for name, tensor in base.state_dict().items())


def test_auto_classes_load_by_name_without_network(no_network, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "salfom").mkdir()
    kinds = (AutoConfig, AutoModel, AutoModelForImageToImage, AutoProcessor, AutoVideoProcessor)
    found = [kind.from_pretrained("salfom") for kind in kinds]
    expected = [SalFoMConfig, SalFoMModel, SalFoMForVideoSaliencyPrediction, *[SalFoMVideoProcessor] * 2]
    assert [type(part) for part in found] == expected
    assert "video-saliency-prediction" in transformers.pipelines.get_supported_tasks()
    weights = found[2].state_dict()
    for make, name in (
        (transformers.pipeline, {"model": "salfom"}),
        (transformers.pipeline, {}),
        (salfom_hf.pipeline, {}),
    ):
        pipe = make("video-saliency-prediction", device="cpu", **name)
        assert isinstance(pipe, salfom_hf.VideoSaliencyPipeline)
        assert pipe.model.dtype == torch.float32
        assert all(torch.equal(weight, weights[name]) for name, weight in pipe.model.state_dict().items())
    monkeypatch.setitem(names.KNOWN, "salfom-large", tmp_path / "none")
    with pytest.raises(FileNotFoundError, match="--install"):
        transformers.pipeline("video-saliency-prediction", model="salfom-large")


@pytest.mark.parametrize("hub", [False, True])
def test_loading_is_silent_and_leaves_the_settings(hub, capfd, monkeypatch):
    monkeypatch.setattr(transformers.logging, "_tqdm_active", True)
    (enable_progress_bars if hub else disable_progress_bars)()
    for kind in (SalFoMForVideoSaliencyPrediction, SalFoMModel, AutoModel, SaliencyPredictor):
        kind.from_pretrained("salfom")
    transformers.pipeline("video-saliency-prediction", model="salfom", device="cpu")
    assert "Loading weights" not in capfd.readouterr().err
    assert transformers.logging.is_progress_bar_enabled()
    assert are_progress_bars_disabled() != hub
    enable_progress_bars()
