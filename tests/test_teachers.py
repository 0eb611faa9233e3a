import pytest
import torch

from salfom_hf import SalFoMForVideoSaliencyPrediction, SalFoMVideoProcessor
from salfom_hf.training.config import ConfigError
from salfom_hf.training.teachers import Teachers

CPU = torch.device("cpu")


@pytest.fixture
def own(model_folder):
    return SalFoMVideoProcessor.from_pretrained(model_folder)


@pytest.fixture
def other_folder(model_folder, own, tmp_path):
    """A teacher with other weights."""
    model = SalFoMForVideoSaliencyPrediction.from_pretrained(model_folder)
    torch.manual_seed(1)
    with torch.no_grad():
        for weight in model.fusion.parameters():
            weight.add_(torch.randn_like(weight) * weight.std())
    model.save_pretrained(tmp_path / "other")
    own.save_pretrained(tmp_path / "other")
    return tmp_path / "other"


def saliency(folder, clips):
    model = SalFoMForVideoSaliencyPrediction.from_pretrained(folder).eval()
    with torch.no_grad():
        maps = model(clips).saliency
    return maps / maps.sum((1, 2), keepdim=True)


def test_labels_are_gaze_and_the_mean_of_the_teachers(model_folder, other_folder, own):
    clips, density = torch.randn(2, 1, 3, 64, 96), torch.rand(2, 64, 96)
    labels = Teachers([model_folder, other_folder], own, CPU, torch.float32).labels(clips, density, 0.25, mirror=True)
    taught = saliency(model_folder, clips.flip(-1)).flip(-1) + saliency(other_folder, clips)
    expected = 0.75 * density / density.sum((1, 2), keepdim=True) + 0.25 * taught / 2
    torch.testing.assert_close(labels, expected, atol=1e-8, rtol=1e-3)
    assert not labels.requires_grad
    # Each sees what the other saw before.
    swapped = Teachers([model_folder, other_folder], own, CPU, torch.float32).labels(
        clips, density, 0.25, mirror=False
    )
    assert (labels - swapped).abs().max() > 1e-6


def test_teachers_that_cannot_teach(model_folder, own, tmp_path):
    with pytest.raises(ConfigError, match="The teacher 'nowhere' is no SalFoM model"):
        Teachers(["nowhere"], own, CPU, torch.float32)
    own.image_mean = [0.1, 0.2, 0.3]
    with pytest.raises(ConfigError, match="pixels of another normalisation"):
        Teachers([str(model_folder)], own, CPU, torch.float32)
