"""The network against the authors' own: same weights, same clip, same map (`tests/data/parity`).

The reference was computed in float64 by the released code from weights that a formula draws, so that none need be
stored. Where the maps differ, the values kept from inside the network show at which module the two part.
"""

import copy
import json
import math
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

from salfom_hf.export.convert import detect_kind, to_salfom
from salfom_hf.inference import cpu

DATA = Path(__file__).parent / "data" / "parity"
SEED = 2404

# Official module: ours. Convolutions are compared before their ReLU.
MODULES = {
    "encoder": "salfom.encoder.layers.23",
    **{f"transformer_{i}": f"salfom.tcfe.stages.{i - 1}" for i in (1, 2, 3)},
    **{f"conv_{i}": f"salfom.dfd.steps.{i - 1}" for i in range(1, 7)},
    "conv_t1_4": "salfom.sfd.temporal.3",
    **{f"conv_2D_{i}": f"salfom.sfd.spatial.{i - 1}" for i in (3, 6, 9)},
    "conv_t2_3": "salfom.sfd.from_dynamic_2.2",
    "conv_t3_2": "salfom.sfd.from_dynamic_4.1",
    **{f"conv_{i}": f"fusion.convolutions.{i - 7}" for i in (7, 8, 9)},
}


def draw(name, shape):
    generator = np.random.Generator(np.random.PCG64([SEED, zlib.crc32(name.encode())]))
    return generator.standard_normal(shape, dtype=np.float32)


def weight(name, shape):
    """The weight of this official name; every factor is rounded to float32 before the product."""
    value = draw(name, shape)
    if name.endswith(".weight") and len(shape) >= 2:
        value *= np.float32(math.sqrt((2 if name.startswith("conv") else 1) / math.prod(shape[1:])))
        if name == "conv_9.weight":
            value *= np.float32(0.1)
        return value
    value *= np.float32(0.1)
    if name.endswith(".weight"):
        value += np.float32(1)
    return value


@pytest.fixture(scope="module")
def entries():
    return json.loads((DATA / "official_state_dict.json").read_text())


@pytest.fixture(scope="module")
def reference():
    with np.load(DATA / "reference_seed2404.npz") as data:
        return dict(data)


@pytest.fixture(scope="module")
def converted(entries):
    state = {}
    for entry in entries:
        name, shape = entry["key"], entry["shape"]
        integer = entry["dtype"] == "int64"
        # Whatever the integer tables hold, the converter leaves them out.
        state[name] = torch.zeros(shape, dtype=torch.int64) if integer else torch.from_numpy(weight(name, shape))
    assert detect_kind(state) == "salfom"
    return to_salfom(state)


@pytest.fixture(scope="module")
def clip():
    """In our order: batch, time, channel, height, width."""
    return torch.from_numpy(draw("input", (1, 3, 16, 224, 224))).transpose(1, 2)


def test_every_official_tensor_is_used_or_known_to_be_unused(entries, converted):
    model, unused = converted
    assert len(entries) == 619
    assert len(model.state_dict()) + len(unused) == len(entries)
    integer = {entry["key"] for entry in entries if entry["dtype"] == "int64"}
    assert integer < set(unused)
    assert {name.split(".")[0] for name in set(unused) - integer} == {
        "conv_t3_3",
        "encoder",
        "final_map",
        *(f"transformer_{i}" for i in (1, 2, 3)),
    }


def test_float32_agrees_with_the_released_network(converted, clip, reference):
    model, _ = converted
    differences = {}

    def compare(name):
        def hook(module, inputs, output):
            kept = f"activation.{name}"
            assert list(output.shape) == reference[f"{kept}.shape"].tolist()
            values = output.flatten()[torch.from_numpy(reference[f"{kept}.index"])]
            difference = np.abs(values.numpy() - reference[f"{kept}.values"].ravel()).max()
            differences[name] = float(difference / reference[f"{kept}.mean_std"][1])

        return hook

    hooks = [model.get_submodule(ours).register_forward_hook(compare(name)) for name, ours in MODULES.items()]
    with torch.inference_mode():
        saliency = model(clip).saliency.numpy()
    for hook in hooks:
        hook.remove()
    assert saliency.shape == (1, 224, 224)
    difference = np.abs(saliency - reference["saliency"]).max()
    print(f"map: {difference:.1e}; inside, in standard deviations: {differences}")
    assert difference < 1e-5, f"differences inside, in standard deviations: {differences}"
    assert set(differences) == {key.split(".")[1] for key in reference if key.startswith("activation.")}
    assert max(differences.values()) < 1e-4, differences


def test_prepared_for_inference_it_agrees_too(converted, clip, reference, monkeypatch):
    model, _ = converted
    # Whatever is fastest here: this is the furthest from what PyTorch would do.
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    cpu.prepare_for_inference(model)
    model.salfom.encoder.set_attn_implementation(cpu.TILED)
    with torch.inference_mode():
        saliency = model(clip).saliency.numpy()
    difference = np.abs(saliency - reference["saliency"]).max()
    print(f"map: {difference:.1e}")
    assert difference < 1e-5


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_gpu_agrees_with_the_released_network(converted, clip, reference, dtype, monkeypatch):
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", False)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    model = copy.deepcopy(converted[0]).to("cuda", dtype)
    with torch.inference_mode():
        saliency = model(clip.to("cuda", dtype)).saliency.float().cpu().numpy()
    difference = np.abs(saliency - reference["saliency"]).max()
    correlation = np.corrcoef(saliency.ravel(), reference["saliency"].ravel())[0, 1]
    print(f"{dtype}: map {difference:.1e}, correlation {correlation:.6f}")
    assert difference < 1e-5 if dtype == torch.float32 else correlation > 0.999


@pytest.mark.skipif(
    not cpu.computes_in_hardware(torch.bfloat16),
    reason="This CPU has no bfloat16 units: emulated, the full-size network takes over ten minutes.",
)
def test_bfloat16_correlates_with_the_released_network(converted, clip, reference):
    model, _ = converted
    # Changes the model that the tests share; keep this one last.
    model.bfloat16()
    model.salfom.encoder.set_attn_implementation(cpu.TILED)
    with torch.inference_mode():
        saliency = model(clip).saliency.float().numpy()
    correlation = np.corrcoef(saliency.ravel(), reference["saliency"].ravel())[0, 1]
    print(f"correlation {correlation:.6f}")
    assert correlation > 0.999
