"""What gives maps to score, against formulas written out here and files made by hand."""

import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from salfom_hf import SaliencyPredictor
from salfom_hf.data import load_dhf1k, load_stills, load_ucf_sports
from salfom_hf.data.samples import open_sample
from salfom_hf.evaluation import Center, EvaluationError, InterObserver, Model, Predictions
from salfom_hf.evaluation.baselines import spectral_residual


@pytest.fixture(scope="module")
def training(ucf_sports):
    return load_ucf_sports(ucf_sports, "train")


@pytest.fixture(scope="module")
def testing(ucf_sports):
    return load_ucf_sports(ucf_sports, "test")


@pytest.fixture
def video(testing):
    return open_sample(testing[0])


@pytest.fixture
def predictions(tmp_path, testing, video):
    """A folder with one map per frame; frame n is grey n at the top left."""
    folder = tmp_path / "maps" / video.id
    folder.mkdir(parents=True)
    for number, name in enumerate(video.frame_names):
        image = np.full((8, 12), 100, np.uint8)
        image[0, 0] = number
        Image.fromarray(image).save(folder / f"{name}.png")
    return tmp_path / "maps"


def corners(method, sample, indices):
    return [round(float(saliency[0, 0]) * 255) for saliency in method.maps(sample, indices)]


def density_of_points(points, height, width, sigma):
    """The sum of a Gaussian around every point's pixel, by its formula."""
    rows, columns = np.mgrid[:height, :width]
    total = np.zeros((height, width))
    for y, x in points:
        total += np.exp(-((rows - int(y)) ** 2 + (columns - int(x)) ** 2) / (2 * sigma**2))
    return total / total.sum()


def test_the_centre_is_a_gaussian_of_each_side(video):
    (saliency,) = Center().maps(video, [5])
    height, width = video.size
    assert saliency.shape == (height, width)
    rows, columns = np.mgrid[:height, :width]
    y, x = (rows - (height - 1) / 2) / height, (columns - (width - 1) / 2) / width
    np.testing.assert_allclose(saliency, np.exp(-(y**2 + x**2) / (2 * 0.22**2)), rtol=1e-9)


def test_the_centre_is_fitted_to_the_fixations_of_stills(stills_parquet):
    stills = load_stills(stills_parquet, "train")
    center = Center.fitted(stills, "train")
    points = [
        (y / row["height"] * center.prior.shape[0], x / row["width"] * 512)
        for row in stills
        for y, x in zip(row["fixation_y"], row["fixation_x"], strict=True)
    ]
    assert len(points) == 36
    expected = density_of_points(points, *center.prior.shape, 24)
    inside = (slice(100, -100), slice(100, -100))  # A kernel cut off by the border has a sum of its own.
    correlation = np.corrcoef(center.prior[inside].ravel(), expected[inside].ravel())[0, 1]
    assert correlation > 0.99999
    # One more fixation is spread evenly, so that no place is impossible.
    least = 1 / (len(points) + 1) / center.prior.size
    assert least * 0.9 < center.prior.min() < least * 1.3
    assert "train" in center.description
    (saliency,) = center.maps(open_sample(stills[1]), [0])
    assert saliency.shape == (96, 64)


def test_the_centre_is_fitted_to_the_fixations_of_videos(training, testing):
    center = Center.fitted(training, "train")
    points = []
    for row in training:
        sample = open_sample(row)
        for index in range(sample.num_frames):
            y, x = np.nonzero(sample.fixations(index))
            points += list(zip((y + 0.5) / sample.size[0], (x + 0.5) / sample.size[1], strict=True))
    assert len({Center().fingerprint, center.fingerprint, Center.fitted(testing, "train").fingerprint}) == 3
    height, width = center.prior.shape
    assert width == 512
    assert height == round(512 * 64 / 96)
    expected = density_of_points([(y * height, x * width) for y, x in points], height, width, 24)
    assert np.corrcoef(center.prior.ravel(), expected.ravel())[0, 1] > 0.999


def test_spectral_residual_by_its_formula():
    image = np.random.default_rng(3).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    grey = image @ np.array([0.299, 0.587, 0.114])
    spectrum = np.fft.fft2(grey)
    log_amplitude = np.log(np.abs(spectrum))
    steps = [(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1)]
    residual = log_amplitude - sum(np.roll(log_amplitude, step, (0, 1)) for step in steps) / 9
    power = np.abs(np.fft.ifft2(np.exp(residual) * np.exp(1j * np.angle(spectrum)))) ** 2
    kernel = np.exp(-(np.arange(-12, 13) ** 2) / 18.0)
    kernel /= kernel.sum()
    expected = np.pad(power, 12, mode="symmetric")
    for axis in (0, 1):
        expected = np.apply_along_axis(np.convolve, axis, expected, kernel, "valid")
    np.testing.assert_allclose(spectral_residual(image), expected, rtol=1e-6)


def test_observers_predict_the_others(stills_parquet):
    sample = open_sample(load_stills(stills_parquet, "train")[0])
    (saliency,) = InterObserver().maps(sample, [0])
    ((scored, fixations, density),) = InterObserver().rounds(sample, 0, saliency)
    assert scored is saliency

    def pixels(observers):
        chosen = np.isin(sample.observer, observers)
        return {(int(y), int(x)) for y, x in zip(sample.y[chosen], sample.x[chosen], strict=True)}

    assert set(zip(*np.nonzero(fixations), strict=True)) == pixels([1])
    height, width = sample.size
    sigma = 24 * width / 512
    for found, observers in ((saliency, [0, 2]), (density, [1])):
        expected = density_of_points(pixels(observers), height, width, sigma)
        found = found - found.min()  # One more observer looks anywhere.
        np.testing.assert_allclose(found / found.sum(), expected, atol=3e-6)


def watched(observers, frames=3):
    """A video of three frames on each of which every observer looks at a place of their own."""
    gaze = [(frame, 10.5 + 8 * who, 7.5 + frame, who) for frame in range(frames) for who in observers]
    columns = zip(("fixation_frame", "fixation_x", "fixation_y", "observer"), zip(*gaze, strict=True), strict=True)
    row = {"video_id": "v", "num_frames": frames, "fps": 25.0, "height": 48, "width": 96, "video": None, "frames": []}
    return open_sample({**row, "maps": [], "fixations": [], **{name: list(values) for name, values in columns}})


@pytest.mark.parametrize(("one", "people"), [(False, 10), (True, 4), (True, 10), (True, 11)])
def test_observers_of_videos_predict_the_others(one, people):
    sample, method, splits = watched(range(people)), InterObserver(one), []
    for index, first in enumerate(method.maps(sample, range(3))):
        splits.append([])
        for saliency, fixations, density in method.rounds(sample, index, first):
            predicted = {(column - 10) // 8 for row, column in np.argwhere(fixations) if row == 7 + index}
            assert len(predicted) == fixations.sum() == (1 if one else 5)
            others = sorted(set(range(people)) - predicted)
            sigma = 30 / np.sqrt(8 * np.log(2)) * 96 / 640
            for found, observers in ((saliency, others), (density, sorted(predicted))):
                expected = density_of_points([(7 + index, 10 + 8 * who) for who in observers], 48, 96, sigma)
                assert found.min() > 0 or found is density  # No place is impossible.
                found = found - found.min()
                np.testing.assert_allclose(found / found.sum(), expected, atol=1e-4 if others == [0] else 3e-5)
            splits[-1].append(tuple(predicted))
        # Each in turn, or 10 of them.
        assert len(set(splits[-1])) == len(splits[-1]) == (min(people, 10) if one else 1)
    if people >= 10:
        assert len(set(map(tuple, splits))) > 1  # Every frame has its own.


def test_one_observer_alone_has_no_bound():
    for method in (InterObserver(), InterObserver(one=True)):
        (saliency,) = method.maps(watched([7]), [0])
        ((_, fixations, _),) = method.rounds(watched([7]), 0, saliency)
        assert not fixations.any()  # So that the frame is left out.
        assert np.isfinite(saliency).all()


def test_the_centre_of_the_other_videos(training):
    both = training.select([0, 1])
    center = Center.fitted(both, "train", left_out=True)
    for row in (0, 1):
        (found,) = center.maps(open_sample(both[row]), [0])
        other = Center.fitted(both.select([1 - row]), "train")
        np.testing.assert_allclose(found, next(other.maps(open_sample(both[row]), [0])), rtol=1e-6)


@pytest.mark.parametrize(("stride", "indices"), [(1, [0, 9, 10, 19]), (1, [12]), (3, [1, 2, 13]), (3, [18])])
def test_a_model_gives_the_maps_of_some_frames(framewise_model, processor, video, stride, indices):
    predictor = SaliencyPredictor(framewise_model, processor, stride)
    expected = predictor.predict(np.stack(list(video.frames())))[indices]
    found = np.stack(list(Model("tiny", predictor).maps(video, indices)))
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_model_reads_no_more_frames_than_its_windows_need(framewise_model, processor, video, monkeypatch):
    read = []
    frames = video.frames

    def noted(first, stop):
        read.extend(range(first, stop))
        return frames(first, stop)

    monkeypatch.setattr(video, "frames", noted)
    list(Model("tiny", SaliencyPredictor(framewise_model, processor)).maps(video, [4, 17]))
    assert read == [1, 2, 3, 4, 14, 15, 16, 17]


def test_a_model_goes_to_another_process_by_its_name(model_folder, video):
    predictor = SaliencyPredictor.from_pretrained(model_folder, dtype=torch.bfloat16, stride=2, batch_size=3)
    model = Model(str(model_folder), predictor)
    data = pickle.dumps(model)
    assert len(data) < 1000  # Not the weights.
    copy = pickle.loads(data)
    assert (copy.predictor.stride, copy.predictor.batch_size) == (2, 3)
    for one, other in zip(model.maps(video, [3, 4]), copy.maps(video, [3, 4]), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_models_fingerprint_tells_weights_and_options(model_folder):
    def fingerprint(change=0.0, **options):
        predictor = SaliencyPredictor.from_pretrained(model_folder, **options)
        with torch.no_grad():
            next(predictor.model.parameters()).add_(change)
        return Model("tiny", predictor).fingerprint

    assert fingerprint() == fingerprint(batch_size=9)
    assert len({fingerprint(), fingerprint(0.01), fingerprint(stride=2), fingerprint(dtype=torch.bfloat16)}) == 4


# Maps made by others.


def test_maps_are_read_by_the_names_of_frames(predictions, testing, video):
    method = Predictions(predictions)
    method.check(testing)
    assert corners(method, video, [0, 3, 19]) == [0, 3, 19]


def test_maps_may_be_of_several_kinds(predictions, testing, video):
    first, second, third = (predictions / video.id / f"{name}.png" for name in video.frame_names[:3])
    exact = np.arange(6, dtype=np.float64).reshape(2, 3) / 7
    first.unlink()
    np.save(first.with_suffix(".npy"), exact)
    Image.fromarray(np.uint16([[0, 65535], [257 * 9, 1]])).save(second)
    Image.fromarray(np.full((4, 4, 3), 51, np.uint8)).save(third)
    method = Predictions(predictions)
    method.check(testing)
    maps = list(method.maps(video, [0, 1, 2]))
    np.testing.assert_allclose(maps[0], exact, rtol=1e-6)
    np.testing.assert_allclose(maps[1], [[0, 1], [9 / 255, 1 / 65535]], rtol=1e-6)
    np.testing.assert_allclose(maps[2], 0.2, rtol=1e-6)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_maps_of_a_video_may_be_one_archive(tmp_path, testing, video, save):
    # Two more than there are labels: the video may end after them.
    maps = np.random.default_rng(0).random((video.num_frames + 2, 5, 7)).astype(np.float16)
    save(tmp_path / f"{video.id}.npz", maps=maps, timestamps=np.zeros(3))
    method = Predictions(tmp_path)
    method.check(testing)
    found = np.stack(list(method.maps(video, [2, 3, 19])))
    np.testing.assert_array_equal(found, maps[[2, 3, 19]])


@pytest.mark.parametrize("end", ["_npz.npz", ".npz", "_maps", ""])
@pytest.mark.parametrize("name", ["0601", "601"])
def test_maps_may_have_the_id_of_a_video_or_the_name_of_its_file(tmp_path, dhf1k_official, name, end):
    dataset = load_dhf1k(dhf1k_official, "val").select([0])
    if end.endswith(".npz"):
        np.savez(tmp_path / f"{name}{end}", maps=np.arange(20.0).repeat(4).reshape(20, 2, 2) / 255)
    else:
        folder = tmp_path / f"{name}{end}"
        folder.mkdir()
        digits = 4 if end else len(name)  # Some write numbers of three digits.
        for number in range(20):
            Image.fromarray(np.full((2, 2), number, np.uint8)).save(folder / f"{number + 1:0{digits}d}.png")
    method = Predictions(tmp_path)
    method.check(dataset)
    assert corners(method, open_sample(dataset[0]), [0, 11]) == [0, 11]


def test_maps_of_stills_have_the_names_of_images(tmp_path, stills_parquet):
    dataset = load_stills(stills_parquet, "dev")
    Image.fromarray(np.full((2, 2), 1, np.uint8)).save(tmp_path / "dev_1.png")
    Image.fromarray(np.full((2, 2), 2, np.uint8)).save(tmp_path / "dev_2.jpg.png")
    method = Predictions(tmp_path)
    method.check(dataset)
    assert [corners(method, open_sample(row), [0]) for row in dataset] == [[1], [2]]
    for file in tmp_path.iterdir():
        file.unlink()
    (tmp_path / "dev_1_maps").mkdir()
    Image.fromarray(np.full((2, 2), 3, np.uint8)).save(tmp_path / "dev_1_maps" / "0001.png")
    np.savez(tmp_path / "dev_2_npz.npz", maps=np.full((1, 2, 2), 4 / 255))
    method.check(dataset)
    assert [corners(method, open_sample(row), [0]) for row in dataset] == [[3], [4]]


def test_missing_maps_are_counted(predictions, testing, video):
    for name in video.frame_names[4:6]:
        (predictions / video.id / f"{name}.png").unlink()
    with pytest.raises(EvaluationError, match=r"^2 of 20 predictions are missing") as error:
        Predictions(predictions).check(testing)
    assert f"{video.id}/{video.frame_names[4]}.png" in str(error.value)
    with pytest.raises(EvaluationError, match="nowhere"):
        Predictions(predictions / "nowhere")


@pytest.mark.parametrize(
    ("case", "message"),
    [
        (
            "before",
            r"2 maps that are of no frame of Diving-Side-001, such as Diving-Side-001_97.png; its 20 frames begin",
        ),
        ("more", r"3 maps that are of no frame of Diving-Side-001, such as Diving-Side-001_118.png"),
        ("archive", r"holds maps of Diving-Side-001 twice, Diving-Side-001.npz and Diving-Side-001/.*_98.png"),
        ("suffix", r"holds maps of Diving-Side-001 twice, Diving-Side-001/.*_98.png and Diving-Side-001/.*_98.npy"),
    ],
)
def test_maps_that_may_be_of_other_frames_are_refused(predictions, testing, video, case, message):
    folder = predictions / video.id
    for name in ("._Diving-Side-001_98.png", "overlay_1.png", "notes.txt", "Diving-Side-001_119.png"):
        (folder / name).write_bytes(b"of no matter")
    Predictions(predictions).check(testing)
    if case == "archive":
        np.savez(predictions / f"{video.id}.npz", maps=np.zeros((20, 2, 2)))
    for number in {"before": [97], "more": [118, 120]}.get(case, []):
        (folder / f"{video.id}_{number}.png").write_bytes(b"one more")
    if case == "suffix":
        np.save(folder / f"{video.id}_98.npy", np.zeros((2, 2)))
    with pytest.raises(EvaluationError, match=message):
        Predictions(predictions).check(testing)


def test_one_map_is_not_taken_for_two_stills(tmp_path, stills_parquet):
    dataset = load_stills(stills_parquet, "dev").map(
        lambda row, index: {"image_id": f"a.{('jpg', 'png')[index]}"}, True
    )
    Image.fromarray(np.full((2, 2), 1, np.uint8)).save(tmp_path / "a.png")
    with pytest.raises(EvaluationError, match=r"a.png is the map of both a.jpg and a.png; .* such as a.png.png"):
        Predictions(tmp_path).check(dataset)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (np.uint8([[[0, 0, 255], [255, 0, 0]]]), "it is in colour; write the map itself, in grey"),
        (np.zeros((96, 64), np.uint8), r"transpose them to \(height, width\)"),
    ],
)
def test_maps_that_would_be_taken_for_others_are_refused(predictions, video, content, message):
    Image.fromarray(content).save(predictions / video.id / f"{video.frame_names[0]}.png")
    with pytest.raises(EvaluationError, match=message):
        list(Predictions(predictions).maps(video, [0]))


def test_changed_maps_have_another_fingerprint(predictions, video):
    before = Predictions(predictions).fingerprint
    assert Predictions(predictions).fingerprint == before
    (predictions / video.id / f"{video.frame_names[0]}.png").write_bytes(b"something else")
    assert Predictions(predictions).fingerprint != before


@pytest.mark.parametrize("case", ["number", "more", "dimensions", "name", "damaged"])
def test_damaged_archives_are_named(tmp_path, video, case):
    file = tmp_path / f"{video.id}.npz"
    shape = {"number": (19, 4, 5), "more": (23, 4, 5), "dimensions": (20, 20)}.get(case, (20, 4, 5))
    np.savez(file, **{"other" if case == "name" else "maps": np.zeros(shape)})
    if case == "damaged":
        file.write_bytes(file.read_bytes()[:-60])
    with pytest.raises(EvaluationError, match="npz"):
        list(Predictions(tmp_path).maps(video, [0, 19]))
