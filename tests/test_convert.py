"""Tests of the converter on small checkpoints that carry the names of the released ones."""

import argparse
import errno
import io
import os
import re
import shutil
import subprocess
import sys
import zipfile

import pytest
import torch
from huggingface_hub import constants

from hub_server import hub_server
from salfom_hf import SalFoMConfig, SalFoMForVideoSaliencyPrediction, SalFoMVideoProcessor, UMTConfig, UMTModel
from salfom_hf.errors import VideoError
from salfom_hf.export import convert as converter
from salfom_hf.export.convert import ConversionError, convert_checkpoint, original_name
from salfom_hf.models.modeling_umt import PRETRAINING_GRID, interpolate_positions, sinusoidal_table

SMALL = SalFoMConfig(
    encoder_config=UMTConfig(
        image_size=32, num_frames=16, hidden_size=64, intermediate_size=256, num_hidden_layers=2, num_attention_heads=1
    ),
    image_size=32,
    decoder_channels=(16, 8, 8, 8, 8, 8),
    fusion_channels=(8, 4),
    tcfe_depths=(2, 2, 2),
)
UNUSED = [
    "encoder.fc_norm.weight",
    "encoder.head.bias",
    "transformer_2.norm.weight",
    "conv_t3_3.weight",
    "final_map.bias",
    "transformer_1.layers.0.blocks.0.attn.relative_position_index",
]


SELF: dict = {"epoch": 3}  # A table that holds itself.
SELF["model"] = SELF


def salfom_state():
    torch.manual_seed(0)
    model = SalFoMForVideoSaliencyPrediction(SMALL)
    state = {original_name(name): torch.randn_like(value) for name, value in model.state_dict().items()}
    return state | {name: torch.zeros(3) for name in UNUSED}


def umt_state(width=64, depth=2, positions=3136, patch=16):
    torch.manual_seed(0)
    state = {
        "pos_embed": torch.randn(1, positions, width),
        "patch_embed.proj.weight": torch.randn(width, 3, 1, patch, patch) / 30,
        "patch_embed.proj.bias": torch.randn(width),
        "fc_norm.weight": torch.ones(width),
        "head.weight": torch.ones(400, width),
    }
    for block in range(depth):
        shapes = {"attn.qkv.weight": (3 * width, width), "attn.proj.weight": (width, width)}
        shapes |= {"mlp.fc1.weight": (4 * width, width), "mlp.fc1.bias": (4 * width,)}
        shapes |= {"mlp.fc2.weight": (width, 4 * width)}
        vectors = ("norm1.weight", "norm1.bias", "attn.q_bias", "attn.v_bias", "attn.proj.bias")
        vectors += ("norm2.weight", "norm2.bias", "mlp.fc2.bias")
        shapes |= dict.fromkeys(vectors, (width,))
        state |= {f"blocks.{block}.{name}": torch.randn(shape) / 10 for name, shape in shapes.items()}
    return state


@pytest.fixture
def small(monkeypatch):
    """Takes the small network for the paper's."""
    monkeypatch.setattr(converter, "SalFoMConfig", lambda: SMALL)


@pytest.fixture
def convert(tmp_path):
    def convert(state, **kwargs):
        torch.save(state, tmp_path / "checkpoint.pth")
        return convert_checkpoint(tmp_path / "checkpoint.pth", tmp_path / "converted", **kwargs)

    return convert


def nothing_left(folder):
    return [path.name for path in folder.iterdir()] == ["checkpoint.pth"]


@pytest.mark.parametrize(
    ("nestings", "prefix"),
    [((), ""), (("model",), "module."), (("state_dict",), ""), (("state_dict", "module", "model"), "module.module.")],
)
def test_salfom_however_nested(small, convert, nestings, prefix):
    original = salfom_state()
    state = {prefix + name: tensor for name, tensor in original.items()}
    for name in nestings:
        state = {"epoch": 3, "args": argparse.Namespace(rate=1e-4), name: state}
    report = convert(state)
    assert report.kind == "salfom"
    assert report.used == len(original) - len(UNUSED)
    assert sorted(report.unused) == sorted(prefix + name for name in UNUSED)
    assert UNUSED[0] in str(report)
    model, info = SalFoMForVideoSaliencyPrediction.from_pretrained(report.path, output_loading_info=True)
    assert not any(info.values())
    assert model.dtype == torch.float32
    for name, value in model.state_dict().items():
        assert torch.equal(value, original[original_name(name)])
    processor = SalFoMVideoProcessor.from_pretrained(report.path)
    assert processor.to_dict() == SalFoMVideoProcessor().to_dict()
    assert {file.name for file in report.path.iterdir()} == {
        "config.json",
        "model.safetensors",
        "video_preprocessor_config.json",
    }


def test_file_of_an_old_torch(small, tmp_path):
    torch.save(salfom_state(), tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert convert_checkpoint(tmp_path / "old.pth", tmp_path / "converted").kind == "salfom"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"conv_1.weight": None},
            r"checkpoint\.pth was taken for SalFoM's, but .*Missing.*steps\.0\.weight.*; take",
        ),
        ({"conv_10.weight": torch.zeros(1)}, r"Unexpected .*conv_10\.weight"),
        ({"conv_9.weight": torch.zeros(2, 4, 3, 3)}, r"size mismatch for fusion\.convolutions\.2\.weight"),
        ({"module.conv_9.weight": torch.zeros(1)}, r"conv_9\.weight twice"),
    ],
)
def test_salfom_errors(small, convert, tmp_path, change, message):
    state = salfom_state() | change
    with pytest.raises(ConversionError, match=message):
        convert({name: tensor for name, tensor in state.items() if tensor is not None})
    assert nothing_left(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([torch.zeros(1)], "no state dict"),
        ({"conv_1.weight": "text"}, "no state dict"),
        ({0: torch.zeros(1)}, "no state dict"),
        ({"vision.patch_embed.proj.weight": torch.zeros(1)}, "neither SalFoM's nor UMT's"),
        (
            {},
            r"tensors; take the whole \.pth file of SalFoM's or UMT's authors \(docs/convert\.md says where it is\)\.",
        ),
        ({"backbone.conv1.weight": torch.zeros(1)}, "neither SalFoM's nor UMT's"),
        (SELF, "no state dict"),
        ({"conv_1.weight": torch.zeros(1).expand(10**12)}, "names tensors that it does not hold"),
        ({"conv_1.weight": torch.zeros(10**12, device="meta")}, "names tensors that it does not hold"),
        ({"conv_1.weight": torch.zeros(2, 2).to_sparse()}, "names tensors that it does not hold"),
    ],
)
def test_other_content(convert, tmp_path, content, message):
    with pytest.raises(ConversionError, match=message):
        convert(content)
    assert nothing_left(tmp_path)


@pytest.mark.parametrize("content", [b"", b"no checkpoint at all", b"PK\x03\x04 torn", bytes(1000), None])
def test_not_a_checkpoint(tmp_path, content):
    file = tmp_path / "checkpoint.pth"
    torch.save(salfom_state(), file)
    file.write_bytes(file.read_bytes()[:-2000] if content is None else content)
    with pytest.raises(ConversionError, match=r"checkpoint\.pth is not a PyTorch checkpoint; take the whole \.pth"):
        convert_checkpoint(file, tmp_path / "converted")
    assert nothing_left(tmp_path)


def test_compressed_is_refused(tmp_path):
    """A small file could unpack to any size."""
    torch.save({"conv_1.weight": torch.zeros(10_000)}, tmp_path / "a.pth")
    with zipfile.ZipFile(tmp_path / "a.pth") as plain, zipfile.ZipFile(tmp_path / "b.pth", "w", 8) as compressed:
        for name in plain.namelist():
            compressed.writestr(name, plain.read(name))
    with pytest.raises(ConversionError, match=r"b\.pth is compressed"):
        convert_checkpoint(tmp_path / "b.pth", tmp_path / "converted")


@pytest.mark.parametrize("legacy", [False, True])
def test_pickle_is_refused(tmp_path, legacy):
    torch.save({"model": torch.nn.ReLU()}, tmp_path / "a.pth", _use_new_zipfile_serialization=not legacy)
    with pytest.raises(ConversionError, match=r"holds pickled Python objects.*save its state dict alone"):
        convert_checkpoint(tmp_path / "a.pth", tmp_path / "converted")


@pytest.mark.parametrize(("name", "words"), [("absent.pth", "name a file"), (".", "folder"), ("pipe", "it is a pipe")])
def test_unreadable(tmp_path, name, words):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ConversionError, match=f"Cannot read .*{words}"):
        convert_checkpoint(tmp_path / name, tmp_path / "converted")


def test_existing_folder_is_kept_unless_overwritten(small, convert):
    report = convert(salfom_state())
    before = (report.path / "model.safetensors").read_bytes()
    other = {name: tensor + 1 for name, tensor in salfom_state().items()}
    with pytest.raises(VideoError, match="exists already"):
        convert(other)
    assert (report.path / "model.safetensors").read_bytes() == before
    convert(other, overwrite=True)
    assert (report.path / "model.safetensors").read_bytes() != before


def test_nothing_is_left_of_a_failed_write(small, convert, tmp_path, monkeypatch):
    def fail(self, folder):
        raise OSError("No space left on device")

    monkeypatch.setattr(SalFoMVideoProcessor, "save_pretrained", fail)
    with pytest.raises(VideoError, match=r"Cannot write .*converted \(No space"):
        convert(salfom_state())
    assert nothing_left(tmp_path)


@pytest.mark.parametrize(
    ("width", "frames", "size"), [(768, 8, 224), (1024, 16, 224), (1024, 8, 384), (768, 16, 384), (768, 4, 224)]
)
def test_umt_variants(convert, width, frames, size):
    state = umt_state(width, depth=1, positions=frames * (size // 16) ** 2)
    report = convert({"model": {f"backbone.{name}": tensor for name, tensor in state.items()}})
    assert (report.kind, report.used) == ("umt", 16)
    assert report.unused == ["backbone.fc_norm.weight", "backbone.head.weight"]
    config = UMTConfig.from_pretrained(report.path)
    assert (config.num_frames, config.image_size, config.patch_size) == (frames, size, 16)
    assert (config.hidden_size, config.intermediate_size) == (width, 4 * width)
    assert (config.num_hidden_layers, config.num_attention_heads) == (1, width // 64)


@pytest.mark.parametrize("prefix", ["", "module.", "encoder.", "module.backbone."])
def test_umt_prefixes_and_what_pretraining_leaves(convert, prefix):
    state = umt_state(depth=3)
    extra = {"norm.weight": torch.ones(64), "clip_decoder.0.head.weight": torch.ones(1)}
    report = convert({"module": {prefix + name: tensor for name, tensor in (state | extra).items()}})
    assert len(report.unused) == 4
    model, info = UMTModel.from_pretrained(report.path, output_loading_info=True)
    assert not any(info.values())
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[original_name(name)])


def test_umt_without_position_table(convert):
    state = umt_state()
    del state["pos_embed"]
    model = UMTModel.from_pretrained(convert(state).path)
    assert model.config.grid == PRETRAINING_GRID
    table = sinusoidal_table(8 * 14 * 14, 64).unsqueeze(0)
    assert torch.equal(model.embeddings.position_embeddings, table)
    # A longer clip gets the table that a 16-frame file would have brought.
    longer = UMTConfig(hidden_size=64, intermediate_size=256, num_hidden_layers=1, num_attention_heads=1)
    expected = interpolate_positions(table, PRETRAINING_GRID, longer.grid)
    assert torch.equal(UMTModel(longer).embeddings.position_embeddings, expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pos_embed": torch.zeros(1, 1000, 64)}, r"pos_embed has the shape \[1, 1000, 64\]"),
        ({"patch_embed.proj.bias": torch.zeros(64, dtype=torch.int64)}, r"proj\.bias holds no floating-point numbers"),
        ({"pos_embed": torch.zeros(3)}, r"pos_embed has the shape \[3\]"),
        ({"patch_embed.proj.weight": torch.zeros(64, 3, 16, 16)}, "which no UMT model has"),
        ({"patch_embed.proj.weight": torch.zeros(60, 3, 1, 16, 16)}, "which no UMT model has"),
        ({"blocks.999999.norm1.weight": torch.zeros(64)}, r"was taken for UMT's, but does not fit .*layers\.2\."),
        ({f"blocks.{n}.x": torch.zeros(1) for n in range(300)}, "num_hidden_layers is 300, which no model has"),
        ({"patch_embed.proj.weight": torch.zeros(0, 3, 1, 16, 16)}, "which no UMT model has"),
        ({"patch_embed.proj.weight": torch.zeros(64, 3, 1, 0, 0)}, "which no UMT model has"),
        ({"patch_embed.proj.weight": torch.zeros(320_000, 3, 1, 1, 1)}, "hidden_size is 320000, which no model has"),
    ],
)
def test_umt_errors(convert, tmp_path, change, message):
    with pytest.raises(ConversionError, match=message):
        convert(umt_state() | change)
    assert nothing_left(tmp_path)


@pytest.mark.parametrize("positions", [8 * 14 * 14, 8 * 24 * 24])
def test_umt_folder_as_encoder_of_salfom(convert, positions):
    report = convert(umt_state(depth=1, positions=positions))
    model = SalFoMForVideoSaliencyPrediction.from_encoder_pretrained(
        report.path, num_frames=16, decoder_channels=(16, 8, 8, 8, 8, 8), tcfe_depths=(1, 1, 1)
    ).eval()
    encoder = UMTModel.from_pretrained(report.path)
    for name, value in encoder.state_dict().items():
        assert torch.equal(value, model.salfom.encoder.state_dict()[name])
    with torch.inference_mode():
        assert model(torch.randn(1, 16, 3, 32, 48)).saliency.shape == (1, 32, 48)


# What the Hub answers about a repository: status, and the header that says why; and what a user is to read.
ANSWERS = {
    "gated": (403, "GatedRepo", "access to it is restricted; ask for it at http"),
    "private": (401, "RepoNotFound", "no such repository that you may read; check the name"),
    "bad-token": (401, "", "log in with `hf auth login`"),
    "lost": (404, "EntryNotFound", "it has no such file; choose one of http"),
    "confused": (500, "", "the Hub says: "),
}


CONVERT = """
import sys, time
time.sleep = lambda _: None  # The Hub is asked again at once, not later.
from salfom_hf import cli
for number, name in enumerate(sys.argv[1:]):
    print(cli.main(["convert", name, f"out{number}"]))
"""


def converted(names, folder, address):
    environment = {"HF_HOME": str(folder / "home"), "HF_ENDPOINT": address, "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1"}
    environment = {**os.environ, "HF_HUB_OFFLINE": "0", **environment}
    command = [sys.executable, "-c", CONVERT, *names]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def test_weights_of_umt_are_downloaded(tmp_path, monkeypatch):
    buffer = io.BytesIO()
    torch.save(umt_state(), buffer)

    def answer(path):
        if path == f"/OpenGVLab/UMT/resolve/main/{converter.ENCODER}":
            return 200, "", buffer.getvalue()
        return *ANSWERS.get(path.split("/")[2], (404, ""))[:2], b""

    names = ["OpenGVLab/UMT", f"OpenGVLab/UMT/{converter.ENCODER}", *(f"org/{name}/a.pth" for name in ANSWERS)]
    with hub_server(answer) as address:
        done = converted(names, tmp_path, address)
    assert re.findall(r"^\d$", done.stdout, re.M) == ["0", "0", *"2" * len(ANSWERS)]
    for folder in ("out0", "out1"):
        saved = UMTModel.from_pretrained(tmp_path / folder).embeddings.position_embeddings
        assert torch.equal(saved, umt_state()["pos_embed"])
    lines = [line for line in done.stderr.splitlines() if line.startswith("salfom: ")]
    for line, (name, (*_, words)) in zip(lines, ANSWERS.items(), strict=True):
        assert f"org/{name}" in line
        assert words in line
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home", "out0", "out1"]
    # What has been downloaded serves when the Hub is gone; what has not is one sentence.
    for folder in ("out0", "out1"):
        shutil.rmtree(tmp_path / folder)
    done = converted(["OpenGVLab/UMT", "org/none/b.pth"], tmp_path, "http://127.0.0.1:9")
    assert re.findall(r"^\d$", done.stdout, re.M) == ["0", "2"]
    (line,) = (line for line in done.stderr.splitlines() if line.startswith("salfom: "))
    assert "no file org/none/b.pth on this machine" in line
    assert "the Hub cannot be reached" in line
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "home" / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    convert_checkpoint("OpenGVLab/UMT", tmp_path / "out2")
    with pytest.raises(ConversionError, match=r"no file org/none/b\.pth on this .* HF_HUB_OFFLINE; unset it"):
        convert_checkpoint("org/none/b.pth", tmp_path / "out3")


@pytest.mark.parametrize("name", ["folder/missing.pth", "./a/b/missing.txt", "/a/b/missing.pth"])
def test_other_names_are_not_asked_for(name, tmp_path, monkeypatch):
    monkeypatch.setattr(converter, "hf_hub_download", lambda *_: pytest.fail("asked"))
    with pytest.raises(ConversionError, match=re.escape(f"Cannot read {name}")):
        convert_checkpoint(name, tmp_path / "out")


def test_a_full_disk_is_named(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(converter, "hf_hub_download", full)
    with pytest.raises(ConversionError, match=r"no space is left in .*hub; free some space"):
        convert_checkpoint("OpenGVLab/UMT", tmp_path / "out")


def test_an_encoder_is_not_installed_as_the_papers_model(tmp_path, monkeypatch):
    monkeypatch.setattr(converter, "installed", lambda _: tmp_path / "salfom-large")
    torch.save(umt_state(), tmp_path / "checkpoint.pth")
    with pytest.raises(ConversionError, match="no SalFoM model; name a folder"):
        convert_checkpoint(tmp_path / "checkpoint.pth", tmp_path / "salfom-large")
