"""Errors told apart: why a model cannot be loaded, whether memory ran out, what to do about the file system."""

import errno
import json
import os
import re
import shutil
import subprocess
import sys

import av
import numpy as np
import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file
from transformers import logging

from hub_server import hub_server
from salfom_hf import cli, pipeline
from salfom_hf.errors import MapError, advice_for, is_out_of_memory
from salfom_hf.inference.predictor import SaliencyPredictor
from salfom_hf.models.loading import LoadError, loading
from salfom_hf.models.modeling_salfom import SalFoMForVideoSaliencyPrediction

# What the Hub answers about a repository: status and the header that says why; and what a user is to read.
ANSWERS = {
    "gated": (401, "GatedRepo", "restricted (401); ask for access at http"),
    "not-yet-allowed": (403, "GatedRepo", "run `hf auth login`"),
    "private": (401, "RepoNotFound", "no model on the Hub that you may read (401); check the name (one of those, "),
    "gone": (404, "RepoNotFound", "no model on the Hub that you may read (404)"),
    "bad-token": (401, "", "the Hub refuses access to it (401); run `hf auth login`"),
    "forbidden": (403, "", "the Hub refuses access to it (403)"),
    "confused": (400, "", "the Hub answered with the error 400"),
    "without-config": (404, "EntryNotFound", "there is no config.json in it"),
    "bert": (200, "", "it is of the type bert, not salfom"),
}


def answer(path):
    status, code, _ = ANSWERS[path.split("/")[2]]
    return status, code, b'{"model_type": "bert"}' if status == 200 else b""


LOAD = """
import sys, time
time.sleep = lambda _: None  # The Hub is asked again at once, not later.
from salfom_hf.models.loading import LoadError, loading
from salfom_hf.models.modeling_salfom import SalFoMForVideoSaliencyPrediction
for name in sys.argv[1:]:
    try:
        with loading(name):
            SalFoMForVideoSaliencyPrediction.from_pretrained(name)
    except LoadError as error:
        print(error)
"""


def load(names, folder, address):
    environment = {"HF_HOME": str(folder), "HF_ENDPOINT": address, "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1"}
    environment = {**os.environ, "HF_HUB_OFFLINE": "0", **environment}
    done = subprocess.run([sys.executable, "-c", LOAD, *names], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_what_the_hub_answers_is_told(tmp_path, monkeypatch):
    with hub_server(answer) as address:
        lines = load([f"org/{name}" for name in ANSWERS], tmp_path, address)
    for line, (name, (*_, words)) in zip(lines, ANSWERS.items(), strict=True):
        assert line.startswith(f"Cannot load the model 'org/{name}': ")
        assert words in line
    (unreachable,) = load(["org/any"], tmp_path, address)
    assert "the Hub cannot be reached (" in unreachable
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    for name in ("org/any", "wrong"):
        with pytest.raises(LoadError) as told, loading(name):
            SalFoMForVideoSaliencyPrediction.from_pretrained(name)
        assert "it is none of salfom, salfom-large, no folder" in str(told.value)
        assert "a local folder with a model, or ORG/NAME on the Hub" in str(told.value)
        assert str(told.value).endswith("unset HF_HUB_OFFLINE.")


PROCESSOR = "video_preprocessor_config.json"


def changed(file="config.json", **values):
    def change(folder):
        path = folder / file
        path.write_text(json.dumps({**json.loads(path.read_text()), **values}))

    return change


def weights(change):
    """Change the tensors in the file of weights, a dictionary by their names."""

    def change_file(folder):
        state = load_file(folder / "model.safetensors")
        save_file(change(state), folder / "model.safetensors", {"format": "pt"})

    return change_file


def written(text, file="config.json"):
    return lambda folder: (folder / file).write_text(text)


def renamed(state):
    return {f"other.{name}": value for name, value in state.items()}


FILLED = "fusion.convolutions.0.weight"


def filled(value):
    return lambda state: {**state, FILLED: torch.full_like(state[FILLED], value)}


INDEX, PART = "model.safetensors.index.json", "model-00001-of-00003.safetensors"


def sharded(change):
    """Change one of the files that the weights are spread over."""

    def change_file(folder):
        SalFoMForVideoSaliencyPrediction.from_pretrained(folder).save_pretrained(folder, max_shard_size="50KB")
        (folder / "model.safetensors").unlink(missing_ok=True)
        change(min(folder.glob("model-*")))

    return change_file


def not_numbers(part):
    state = load_file(part).items()
    save_file({key: value * float("nan") if value.is_floating_point() else value for key, value in state}, part)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda folder: (folder / "config.json").unlink(), "there is no config.json in it"),
        (written("{"), "config.json is not a valid JSON file (Expecting"),
        *((written(text), "its config.json is empty or no configuration") for text in ("{}", "[]", "[1]")),
        (written("[" * 100_000), "check its config.json"),
        (changed(model_type="videomae"), "it is of the type videomae, not salfom"),
        (changed(num_frames="x"), "(num_frames has a value of a wrong type); correct it."),
        (changed(encoder_config={"model_type": "of-tomorrow"}), "does not know models of the type 'of-tomorrow'"),
        (changed(output_stride=3), "cannot be used (output_stride must be 1, 2 or 4, not 3); correct it."),
        (written("[]", PROCESSOR), f"cannot be used as it is; check its {PROCESSOR}, or"),
        (changed(decoder_channels=[16] * 6), "its model.safetensors does not fit its config.json (of another shape"),
        (lambda folder: (folder / "model.safetensors").unlink(), "its weights are missing"),
        (lambda folder: os.truncate(folder / "model.safetensors", 999), "is damaged or incomplete"),
        (sharded(os.remove), f"its {PART} is missing"),
        (sharded(lambda part: os.truncate(part, 999)), f"its {PART} is damaged or incomplete"),
        (sharded(not_numbers), f"in its {PART}, "),
        (sharded(lambda part: save_file({}, part)), f"its {INDEX} does not fit its config.json (it "),
        (sharded(lambda part: (part.parent / INDEX).write_text("[]")), f"{INDEX} is damaged"),
        (weights(renamed), "its model.safetensors does not fit its config.json (it lacks center_prior.log_density, c"),
        (weights(lambda state: {**state, "x": torch.ones(1)}), "(the model has no use for its x)"),
        (weights(filled(float("nan"))), f"in its model.safetensors, {FILLED} holds values that are"),
        (weights(filled(float("inf"))), f"in its model.safetensors, {FILLED} holds values that are"),
        (changed(decoder_channels=[4096] * 6), "its model.safetensors does not fit its config.json (there are only "),
        (changed(tcfe_depths=[100_000] * 3), "tcfe_depths is [100000, 100000, 100000], which no model has"),
        (changed(num_frames=2**40), "num_frames is 1099511627776, which no model has (1 to 256)"),
        (changed(encoder_config={"model_type": "umt", "patch_size": 0}), "patch_size is 0, which no model has"),
        (changed(encoder_config={"model_type": "videomae", "image_size": 9984}), "make more than 65536 patches"),
        (changed(PROCESSOR, size={"height": 10**6, "width": 10}), "in 1…4096, of at most"),
        (changed(PROCESSOR, size={"height": 4096, "width": 4096}), "at most 4,194,304 pixels"),
        (changed(PROCESSOR, image_std=[0, 0, 0]), "image_std must be above 0"),
        (changed(PROCESSOR, image_std="x"), "image_std must be one number or three"),
        (changed(PROCESSOR, image_mean=[float("nan")] * 3), "image_mean must be one number or three"),
        (changed(PROCESSOR, image_mean=[0.5, 0.5]), "image_mean must be one number or three"),
        (changed(PROCESSOR, num_frames=10**9), "num_frames must be a number below 4097"),
        (changed(PROCESSOR, keep_aspect_ratio="no"), "must be true or false, not 'no'"),
        (changed(PROCESSOR, do_center_crop=True), f"leave do_center_crop out; check its {PROCESSOR}."),
    ],
)
def test_what_is_wrong_with_a_folder_is_told(model_folder, tmp_path, damage, words):
    folder = tmp_path / "model"
    shutil.copytree(model_folder, folder)
    damage(folder)
    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    with pytest.raises(LoadError) as told, loading(folder):
        SaliencyPredictor.from_pretrained(folder)
    with pytest.raises(LoadError) as alike:  # The name comes without "loading", too.
        SaliencyPredictor.from_pretrained(folder)
    assert str(alike.value) == str(told.value)
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before
    assert str(told.value).startswith(f"Cannot load the model '{folder}': ")
    assert words in str(told.value)
    assert "\n" not in str(told.value)
    assert not re.search(r"\w+Error\b", str(told.value))  # The names of Python's errors are for programmers.


@pytest.mark.parametrize("damage", [renamed, filled(float("nan"))])
def test_weights_that_do_not_fit_end_every_way_of_using_them(model_folder, clip, tmp_path, damage, capsys):
    folder = tmp_path / "model"
    shutil.copytree(model_folder, folder)
    weights(damage)(folder)
    out = tmp_path / "out.mp4"
    for command in (["predict", clip, "-o", out], ["export", "onnx", folder, out], ["export", "hub", folder, out]):
        options = ["--model", folder] if command[0] == "predict" else []
        assert cli.main([str(word) for word in [*command, *options]]) == 2
        told = capsys.readouterr().err
        assert told.startswith(f"salfom: Cannot load the model '{folder}': ")
        assert "model.safetensors" in told
        assert told.count("\n") == 1
        assert not out.exists()
    for name in (folder, str(folder)):
        with pytest.raises(LoadError, match=r"model\.safetensors"):
            pipeline("video-saliency-prediction", model=name)
    # Whoever asks for the report gets it, and the model.
    _, report = SalFoMForVideoSaliencyPrediction.from_pretrained(folder, output_loading_info=True)
    assert bool(report["missing_keys"]) == (damage is renamed)


def test_maps_that_are_not_finite_are_no_result(model_folder, clip):
    predictor = SaliencyPredictor.from_pretrained(model_folder)
    with torch.no_grad():
        predictor.model.center_prior.log_density.fill_(float("nan"))
    words = rf"^The model '{re.escape(str(model_folder))}' gives values that are not numbers for .* s of {clip}; "
    with pytest.raises(MapError, match=words):
        predictor.predict(clip)


@pytest.mark.parametrize(
    "options", [{"size_divisor": 7}, {"keep_aspect_ratio": False, "size": {"height": 65, "width": 64}}]
)
def test_frames_that_do_not_fit_the_network_are_one_sentence(model_folder, clip, tmp_path, options, capsys):
    folder = tmp_path / "model"
    shutil.copytree(model_folder, folder)
    changed(PROCESSOR, **options)(folder)
    out = tmp_path / "out.mp4"
    assert cli.main(["predict", str(clip), "-o", str(out), "--model", str(folder)]) == 2
    told = capsys.readouterr().err
    assert told.startswith(f"salfom: The processor of the model '{folder}' makes frames of ")
    assert "pixels, and its network needs sides that 32 divides; correct size and size_divisor in its" in told
    assert told.count("\n") == 1
    assert not out.exists()


def error_of(function):
    with pytest.raises(Exception) as raised:  # noqa: PT011
        function()
    return raised.value


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (error_of(lambda: np.empty(2**55, np.float64)), True),
        (error_of(lambda: torch.empty(2**55)), True),
        (error_of(lambda: av.error.err_check(-errno.ENOMEM)), True),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:117] data. DefaultCPUAllocator: not enough memory"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (Exception("[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Failed to allocate memory for requested"), True),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), True),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), False),
        (RuntimeError("invalid memory format option ChannelsLast"), False),
        (OSError(errno.ENOENT, "No such file", "out of memory.mp4"), False),
    ],
)
def test_out_of_memory_is_told_from_other_errors(error, expected):
    assert is_out_of_memory(error) is expected


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), "free some space"),
        (error_of(lambda: av.error.err_check(-errno.ENOSPC)), "free some space"),
        (RuntimeError("I/O error: No space left on device (os error 28)"), "free some space"),
        (OSError(errno.EDQUOT, os.strerror(errno.EDQUOT)), "free some space"),
        (OSError(errno.EROFS, os.strerror(errno.EROFS)), "nothing can be written there"),
        (OSError(errno.EACCES, os.strerror(errno.EACCES)), "check the permissions"),
        (error_of(lambda: os.stat("x" * 300)), "choose a shorter name"),
        (OSError(errno.EINVAL, os.strerror(errno.EINVAL)), "something else"),
        (ValueError("anything"), "something else"),
    ],
)
def test_advice_fits_the_error(error, words):
    assert words in advice_for(error, "something else")


WITHOUT_PACKAGES = """
import runpy, sys
for package, program in (("accelerate", "predict"), ("accelerate", "train"), ("datasets", "train")):
    sys.modules[package] = None
    try:
        runpy.run_module(f"salfom_hf.{program}", run_name="__main__")
    except SystemExit as ended:  # With a sentence, which Python prints, and the exit code 1.
        print(ended.code, file=sys.stderr)
    del sys.modules[package]
sys.modules["datasets"] = None
from salfom_hf import cli
for line in (
    "data check dhf1k nowhere",
    "evaluate --dataset dhf1k --data-dir nowhere --baseline center",
    "submit --data-dir nowhere -o out",
):
    assert cli.main(line.split()) == 2
"""


def test_what_lacks_its_packages_says_how_to_get_them():
    done = subprocess.run([sys.executable, "-c", WITHOUT_PACKAGES], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    whats = ["Predicting many videos", "Training", "Training", *["Reading gaze datasets"] * 3]
    for line, what in zip(done.stderr.splitlines(), whats, strict=True):
        assert line.startswith(f"salfom: {what} needs more packages: in a clone")
        assert line.endswith('pip install -c constraints.txt ".[{}]"'.format("data" if "data" in what else "train"))


def test_an_empty_path_is_not_the_current_folder(capsys):
    with pytest.raises(SystemExit):
        cli.main(["predict", ""])
    assert "an empty path names nothing" in capsys.readouterr().err
