"""Small videos, small gaze datasets and a small random model for the tests."""

import os
import shutil
from contextlib import contextmanager
from functools import partial

# Of tests and of what they start. Tiny networks are slower on more threads, which wait for each other by computing.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # Else, those without a network ask again and again.

import av
import numpy as np
import pytest
import torch
from filelock import FileLock
from transformers import AutoModel

import gaze_data
from numbered_video import make_video
from salfom_hf import (
    EfficientNetLiteConfig,
    SalFoMConfig,
    SalFoMForVideoSaliencyPrediction,
    SalFoMVideoProcessor,
    UMTConfig,
    cli,
)
from salfom_hf.inference import cpu
from salfom_hf.inference.auto import register

register()  # With the shipped weights as the pipeline's default, before a test gives their name to another model.

EMULATED = "salfom: this CPU emulates bfloat16, which is slow; float32 is faster here."

DECODER = {
    "num_frames": 4,
    "image_size": (64, 96),
    "decoder_channels": (8, 8, 8, 8, 8, 8),
    "fusion_channels": (8, 8),
    "tcfe_depths": (1, 1, 1),
    "tcfe_num_heads": (2, 2, 2),
}


def noise(frames, height=64, width=96, seed=0):
    """One shot of smooth noise that differs from frame to frame, uint8 `(frames, height, width, 3)`."""
    coarse = np.random.default_rng(seed).integers(0, 256, (frames, height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8)
    coarse = coarse // 3 + coarse[:1] // 3 * 2  # Else, there would be a cut at every frame.
    return np.ascontiguousarray(coarse.repeat(8, axis=1).repeat(8, axis=2)[:, :height, :width])


def write_clip(path, frames=6, rate=25, height=64, width=96, sound=True):
    """A video file of `noise`, with a tone as long as itself."""
    options = {"preset": "ultrafast", "crf": "10"}
    tone = "aac" if sound else None
    pictures = list(noise(frames, height, width))
    return make_video(path, range(frames), rate, pictures=pictures, tone=tone, codec_options=options)


@contextmanager
def no_file_above(size):
    """Inside, no file grows beyond so many bytes: as on a full disk, but for any user."""
    import resource  # Windows has none.

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def write_tone(path):
    """A video file that holds sound alone."""
    with av.open(str(path), "w") as output:
        tone = output.add_stream("aac", rate=48000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 48000
        output.mux([*tone.encode(frame), *tone.encode(None)])


def run_command(capture, *arguments):
    """Exit code of `salfom`, and what it said."""
    capture.readouterr()
    try:
        code = cli.main([*map(str, arguments)])
    except SystemExit as stop:
        code = stop.code
    return code, capture.readouterr()


def tiny_model(encoder, **options):
    torch.manual_seed(0)
    model = SalFoMForVideoSaliencyPrediction(SalFoMConfig(encoder_config=encoder, **{**DECODER, **options})).eval()
    with torch.no_grad():
        for weight in model.parameters():
            # Fresh weights take every clip for a still; these do not.
            if weight.ndim > 1:
                weight.add_(torch.randn_like(weight) * weight.std().nan_to_num())
        # Logits of about one: neither blind nor so steep that rounding shows.
        logits = model(torch.randn(1, 4, 3, 64, 96)).logits
        model.fusion.convolutions[-1].weight.div_(logits.std())
    return model


@pytest.fixture(scope="session")
def framewise_model():
    encoder = EfficientNetLiteConfig(stem_channels=8, stage_channels=(8,) * 7, stage_depths=(1,) * 7)
    return tiny_model(encoder, decoder_hidden_size=8, output_stride=4, center_prior=True)


@pytest.fixture(scope="session")
def umt_model():
    encoder = UMTConfig(
        image_size=(64, 96),
        num_frames=4,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
    )
    return tiny_model(encoder, output_stride=2)


@pytest.fixture
def processor():
    return SalFoMVideoProcessor(size={"height": 64, "width": 96}, num_frames=4)


@pytest.fixture(scope="session")
def model_folder(framewise_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / "tiny"
    framewise_model.save_pretrained(folder)
    SalFoMVideoProcessor(
        size={"height": 64, "width": 64}, num_frames=4, keep_aspect_ratio=True, size_divisor=32
    ).save_pretrained(folder)
    return folder


@pytest.fixture
def salfom(model_folder, capsys):
    """The command `salfom predict` with a tiny model: its exit code, and what it said."""

    def run(*arguments, model=model_folder):
        return run_command(capsys, "predict", "--model", model, "--device", "cpu", *arguments)

    return run


@pytest.fixture(scope="session")
def umt_folder(umt_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("umt") / "tiny"
    umt_model.save_pretrained(folder)
    SalFoMVideoProcessor(size={"height": 64, "width": 96}, num_frames=4).save_pretrained(folder)
    return folder


def exported_once(kind, model, name, factory):
    """An export that is not to be changed. Made by one of the workers for all, for it takes a while."""
    base = factory.getbasetemp()
    output = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name
    with FileLock(f"{output}.lock"):
        if not output.exists():
            assert cli.main(["export", kind, str(model), str(output)]) == 0
    return output


@pytest.fixture(scope="session")
def onnx_folder(model_folder, tmp_path_factory):
    """The same model as an ONNX graph."""
    return exported_once("onnx", model_folder, "onnx", tmp_path_factory)


@pytest.fixture(scope="session")
def program_file(model_folder, tmp_path_factory):
    """The same model as a program of `torch.export`."""
    return exported_once("torch-export", model_folder, "model.pt2", tmp_path_factory)


@pytest.fixture
def ready_exports(onnx_folder, program_file, monkeypatch):
    """Has every export write what is in these two."""
    monkeypatch.setattr(torch.export, "export", lambda *_, **__: None)
    monkeypatch.setattr(torch.export, "save", lambda _, file: file.write(program_file.read_bytes()))
    monkeypatch.setattr(torch.onnx, "export", lambda _, f, **__: shutil.copy(onnx_folder / f.name, f))


@pytest.fixture(scope="session")
def encoders(tmp_path_factory):
    """A folder with a tiny encoder of every type."""
    from test_encoders import CONFIGS

    folder = tmp_path_factory.mktemp("encoders")
    torch.manual_seed(0)
    for name, config in CONFIGS.items():
        AutoModel.from_config(config()).save_pretrained(folder / name)
    return folder


@pytest.fixture(scope="session")
def clip(tmp_path_factory):
    """A video file of 6 frames of 64×96 at 25 per second, with sound."""
    return write_clip(tmp_path_factory.mktemp("clip") / "clip.mp4")


@pytest.fixture(scope="session")
def dhf1k_official(tmp_path_factory):
    """DHF1K as published: videos 1, 2, 601, 602, 701 as AVI files, each of 20 frames of 64×96 at 30 per second."""
    return gaze_data.write_dhf1k(tmp_path_factory.mktemp("official") / "DHF1K")


@pytest.fixture(scope="session")
def dhf1k_frames(tmp_path_factory):
    """The same videos as folders of frames."""
    return gaze_data.write_dhf1k(tmp_path_factory.mktemp("frames") / "DHF1K", layout="frames")


@pytest.fixture(scope="session")
def ucf_sports(tmp_path_factory):
    return gaze_data.write_ucf_sports(tmp_path_factory.mktemp("ucf") / "ucf_sports")


@pytest.fixture(scope="session")
def hollywood2(tmp_path_factory):
    return gaze_data.write_hollywood2(tmp_path_factory.mktemp("hollywood") / "hollywood2")


@pytest.fixture(scope="session")
def stills_parquet(tmp_path_factory):
    return gaze_data.write_stills(tmp_path_factory.mktemp("stills") / "parquet")


@pytest.fixture(scope="session")
def stills_folder(tmp_path_factory):
    return gaze_data.write_stills(tmp_path_factory.mktemp("stills") / "folder", layout="folder")


@pytest.fixture(scope="session", autouse=True)
def datasets_cache(tmp_path_factory):
    """Tables that the tests build go here, not to the user's own cache."""
    folder = tmp_path_factory.mktemp("datasets")
    with pytest.MonkeyPatch.context() as patch:
        # The variable for processes that tests start; the module reads it only once.
        patch.setenv("HF_DATASETS_CACHE", str(folder))
        patch.setattr("datasets.config.HF_DATASETS_CACHE", folder)
        yield folder


@pytest.fixture
def emulates(monkeypatch):
    """Has this CPU compute all dtypes in hardware but those of these names."""

    def have(*names):
        monkeypatch.setattr(cpu, "computes_in_hardware", lambda dtype: str(dtype)[6:] not in names)

    return have


@pytest.fixture
def set_threads():
    """`torch.set_num_threads`, until the test ends."""
    threads = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(threads)


@pytest.fixture
def reproducible(set_threads):
    """One seed, and one thread: tiny networks are slower on more."""
    set_threads(1)
    torch.manual_seed(0)


@pytest.fixture
def encoded(monkeypatch):
    """How many frames each call of an encoder on a CPU gets, in a list that grows."""
    from salfom_hf.inference.encoder_graph import FrameEncoder

    sizes, call = [], FrameEncoder.__call__
    monkeypatch.setattr(FrameEncoder, "__call__", lambda self, pixels: sizes.append(len(pixels)) or call(self, pixels))
    return sizes


@pytest.fixture
def salfom_data(tmp_path, monkeypatch, capsys):
    """Runs `salfom data` in an empty folder: its exit code, and what it printed."""
    monkeypatch.chdir(tmp_path)
    return partial(run_command, capsys, "data")
