import pytest
import torch

from salfom_hf import SalFoMForVideoSaliencyPrediction, SalFoMVideoProcessor
from salfom_hf.training.config import ConfigError
from salfom_hf.training.teachers import Teachers, pasted

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
    weight, teachers = torch.tensor([0.25, 1.0]), [model_folder, other_folder]
    labels = Teachers(teachers, own, CPU, torch.float32).labels(clips, density, weight, mirror=True)
    taught = saliency(model_folder, clips.flip(-1)).flip(-1) + saliency(other_folder, clips)
    gaze = density / density.sum((1, 2), keepdim=True)
    expected = torch.stack([0.75 * gaze[0] + 0.25 * taught[0] / 2, taught[1] / 2])
    torch.testing.assert_close(labels, expected, atol=1e-8, rtol=1e-3)
    assert not labels.requires_grad
    # Each sees what the other saw before.
    swapped = Teachers(teachers, own, CPU, torch.float32).labels(clips, density, weight, mirror=False)
    assert (labels - swapped).abs().max() > 1e-6


def test_rectangles_of_others():
    number = torch.arange(4.0)
    clips, fixations = number.view(4, 1, 1, 1, 1).expand(4, 1, 3, 40, 60), number.view(4, 1, 1).expand(4, 40, 60)
    areas, corners = [], set()
    for _ in range(50):
        new, looked = pasted(clips, fixations, 3)
        assert torch.equal(new[:, 0, 0], looked)
        assert torch.equal(new[3], clips[3])
        there = new[:3, 0, 0] != number[:3].view(3, 1, 1)
        assert all(torch.equal(new[i, 0, 0][there[i]].unique(), number[i - 1 : i or None]) for i in range(3))
        rows, columns = there[0].any(1).nonzero(), there[0].any(0).nonzero()
        assert there[0].sum() == len(rows) * len(columns) == (rows[-1] - rows[0] + 1) * (columns[-1] - columns[0] + 1)
        areas.append(there[0].float().mean().item())
        corners.add((rows[0].item(), columns[0].item()))
    assert 0.24 < min(areas) < 0.35 < 0.65 < max(areas) < 0.76
    assert len(corners) > 20


def test_teachers_that_cannot_teach(model_folder, own, tmp_path):
    with pytest.raises(ConfigError, match=r"A teacher cannot be used\. Cannot load the model 'nowhere'"):
        Teachers(["nowhere"], own, CPU, torch.float32)
    own.image_mean = [0.1, 0.2, 0.3]
    with pytest.raises(ConfigError, match="pixels of another normalisation"):
        Teachers([str(model_folder)], own, CPU, torch.float32)
