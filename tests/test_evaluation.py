"""Scoring a dataset: what is scored against what, which means are taken, and that stopped runs go on."""

import csv
import itertools
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from PIL import Image

from salfom_hf.data import VIDEO_FEATURES, load_dhf1k, load_hollywood2, load_stills
from salfom_hf.data.samples import open_sample
from salfom_hf.evaluation import (
    Center,
    EvaluationError,
    Method,
    Model,
    Protocol,
    Scorer,
    SpectralResidual,
    evaluate,
    metrics,
    picture,
    report,
    table,
    write_reports,
    write_submission,
)
from salfom_hf.evaluation.scoring import opencv_blur
from salfom_hf.inference.predictor import SaliencyPredictor

FAST = Protocol(("nss", "cc"))


class Shifted(Method):
    """The density, moved to the right by some pixels; notes what it was asked for."""

    description = "density, moved"

    def __init__(self, pixels=0, name="shifted", reduce=1):
        self.pixels, self.name, self.reduce, self.asked = pixels, name, reduce, []
        self.fingerprint = f"{pixels} {reduce}"

    def maps(self, sample, indices):
        self.asked.append(sample.id)
        for index in indices:
            yield np.roll(sample.density(index), self.pixels, axis=1)[:: self.reduce, :: self.reduce]


class Interrupted(Shifted):
    """Stops the run at the second video."""

    def maps(self, sample, indices):
        if self.asked:
            raise KeyboardInterrupt
        yield from super().maps(sample, indices)


class Killed(Shifted):
    """Ends its process."""

    def maps(self, sample, indices):
        os._exit(9)


@pytest.fixture(scope="module")
def val(dhf1k_frames):
    """Two videos of 20 frames; nobody looks at frame 3 of the first one."""
    return load_dhf1k(dhf1k_frames, "val")


@pytest.fixture(scope="module")
def shots(hollywood2):
    """Videos of 20 and 5 frames; nobody looks at frame 3 of the first one."""
    return load_hollywood2(hollywood2, "train")


def cc_by_hand(row, pixels):
    """CC of every frame's density with itself moved; None for empty ones."""
    sample = open_sample(row)
    densities = [sample.density(index).astype(float) for index in range(sample.num_frames)]
    return [np.corrcoef(np.roll(d, pixels, 1).ravel(), d.ravel())[0, 1] if d.any() else None for d in densities]


def nss_by_hand(saliency, fixations):
    z = (saliency - saliency.mean()) / saliency.std(ddof=1)
    return z[fixations].mean()


def records(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.glob("videos/*/*"))


def test_both_means_and_the_frames_left_out(shots, tmp_path):
    (scores,) = evaluate(shots, [Shifted(9)], tmp_path / "out", FAST)
    expected = [[value for value in cc_by_hand(row, 9) if value is not None] for row in shots]
    assert [len(values) for values in expected] == [19, 5]
    for found, values in zip(scores.values("cc"), expected, strict=True):
        np.testing.assert_allclose(found, values, rtol=1e-6)
    over_frames, over_videos = np.mean(np.concatenate(expected)), np.mean([np.mean(values) for values in expected])
    assert abs(over_frames - over_videos) > 1e-3
    assert scores.mean_over_frames("cc") == pytest.approx(over_frames, rel=1e-6)
    assert scores.mean_over_videos("cc") == pytest.approx(over_videos, rel=1e-6)
    assert (scores.num_frames, scores.num_videos, scores.left_out) == (24, 2, {"without fixations": 1})
    assert scores.videos[0]["frames"] == [index for index in range(20) if index != 3]
    sample = open_sample(shots[1])
    expected = [nss_by_hand(np.roll(sample.density(i), 9, 1).astype(float), sample.fixations(i)) for i in range(5)]
    np.testing.assert_allclose(scores.values("nss")[1], expected, rtol=1e-6)


def test_an_empty_density_defines_no_score_but_fixations_do(dhf1k_frames, tmp_path):
    row = load_dhf1k(dhf1k_frames, "val")[1]
    Image.new("L", (96, 64)).save(tmp_path / "empty.png")
    row["maps"][5] = {"path": str(tmp_path / "empty.png"), "bytes": None}
    (scores,) = evaluate(Dataset.from_list([row], VIDEO_FEATURES), [Center()], tmp_path / "out")
    assert (scores.num_frames, scores.left_out) == (20, {})
    undefined = {metric: scores.undefined(metric) for metric in Protocol().metrics}
    assert undefined == {"auc_judd": 0, "auc_shuffled": 0, "nss": 0, "cc": 1, "sim": 1, "kldiv": 1}
    text = table([scores], Protocol(), "title", stills=False)
    assert (
        "20 of 20 frames scored, none left out; not defined by the ground truth: CC for 1, SIM for 1, KLD for 1"
        in text
    )
    write_reports(tmp_path, [scores], Protocol(), {})
    with open(tmp_path / "frames.csv", newline="") as file:
        row = list(csv.DictReader(file))[5]
    assert {name for name, cell in row.items() if not cell} == {"cc", "sim", "kldiv"}


class Flat(Shifted):
    """Of every other frame a map of one value, smaller than the frame, so that it is resized."""

    def __init__(self, pixels, value, **options):
        super().__init__(pixels, **options)
        self.value = np.float32(value)

    def maps(self, sample, indices):
        for index, saliency in zip(indices, super().maps(sample, indices), strict=True):
            yield saliency if index % 2 else np.full((7, 9), self.value)


@pytest.mark.parametrize("value", [0, 0.1])
def test_a_model_wins_nothing_by_predicting_nothing(val, tmp_path, value):
    protocol = Protocol((*Protocol().metrics, "auc_shuffled_exact"), blur=2)
    flat, full = Flat(9, value), Shifted(9, name="full")
    scores, others = evaluate(val.select([1]), [flat, full], tmp_path / "out", protocol)
    assert (scores.num_frames, scores.left_out) == (20, {})
    chance = {"auc_judd": 0.5, "auc_shuffled": 0.5, "auc_shuffled_exact": 0.5, "nss": 0, "cc": 0, "sim": 0}
    for metric, expected in chance.items():
        half = others.values(metric)[0][1::2]
        assert scores.values(metric)[0][::2].tolist() == [expected] * 10
        assert scores.mean_over_frames(metric) == pytest.approx((10 * expected + half.sum()) / 20, rel=1e-9)
        assert scores.undefined(metric) == 0
    assert scores.mean_over_frames("kldiv") > others.mean_over_frames("kldiv")
    text = table([scores], protocol, "title", stills=False)
    assert "A map that is constant or empty counts as chance: AUC 0.5, NSS, CC and SIM 0." in text


def test_a_map_that_is_not_finite_is_an_error_that_names_the_frame(val, tmp_path):
    told = r"map of shifted for frame 0 of 0602 \(counted from 0\) holds NaN"
    with pytest.raises(EvaluationError, match=told):
        evaluate(val.select([1]), [Flat(9, np.nan)], tmp_path / "scores", FAST)
    with pytest.raises(EvaluationError, match=told):
        write_submission(val.select([1]), Flat(9, np.inf), tmp_path / "out")
    assert not (tmp_path / "out" / "0602").exists()


def test_maps_are_resized_bilinearly_to_the_native_size(val, tmp_path):
    (scores,) = evaluate(val.select([1]), [Shifted(9, reduce=4)], tmp_path / "out", FAST)
    density = open_sample(val[1]).density(6)
    small = torch.from_numpy(np.roll(density, 9, 1)[::4, ::4].copy())
    native = torch.nn.functional.interpolate(small[None, None], size=density.shape, mode="bilinear")[0, 0].numpy()
    expected = np.corrcoef(native.ravel(), density.ravel())[0, 1]
    assert scores.values("cc")[0][6] == pytest.approx(expected, rel=1e-5)


def test_the_blur_is_that_of_the_fields_code():
    saliency = np.random.default_rng(0).random((9, 14))
    kernel = np.exp(-(np.arange(-5, 6) ** 2) / 8.0)
    kernel = np.outer(kernel, kernel) / kernel.sum() ** 2
    padded = np.pad(saliency, 5, mode="reflect")
    expected = np.array([[(padded[y : y + 11, x : x + 11] * kernel).sum() for x in range(14)] for y in range(9)])
    np.testing.assert_allclose(opencv_blur(saliency, 2.0), expected, rtol=1e-12)


def test_negatives_are_moved_to_the_size_of_the_frame(stills_parquet):
    """Of four stills all three others are drawn; one of them has no fixations."""
    stills = load_stills(stills_parquet, "train")
    scorer = Scorer(stills, Protocol())
    (places, times), _ = scorer.negatives(1, 0, (96, 64))
    counts = np.bincount(places, times, 96 * 64).reshape(96, 64)
    expected = np.zeros((96, 64))
    for row in (0, 2, 3):
        fixated = open_sample(stills[row]).fixations(0)
        height, width = fixated.shape
        for y, x in zip(*np.nonzero(fixated), strict=True):
            expected[int((y + 0.5) * 96 / height), int((x + 0.5) * 64 / width)] += 1
    assert expected.sum() > 15
    np.testing.assert_array_equal(counts, expected)


def test_negatives_come_from_ten_other_frames(val):
    scorer, drawn, draws = Scorer(val, Protocol(seed=3)), [], set()
    scorer._fixated = lambda *place: drawn.append(place) or ((64, 96), np.array([], int), np.array([], int))
    for index in range(20):
        drawn.clear()
        scorer.negatives(1, index, (64, 96))
        assert len(set(drawn)) == 10
        assert set(drawn) <= {(row, frame) for row in (0, 1) for frame in range(20)} - {(1, index)}
        draws.add(frozenset(drawn))
    assert len(draws) == 20


def test_shuffled_auc_is_sampled_from_these_negatives(val, tmp_path):
    protocol = Protocol(("auc_shuffled", "auc_shuffled_exact"), seed=5)
    (scores,) = evaluate(val.select([1]), [Shifted(9)], tmp_path / "out", protocol)
    sample, scorer = open_sample(val[1]), Scorer(val.select([1]), protocol)
    for index in (0, 13):
        saliency = torch.from_numpy(np.roll(sample.density(index), 9, 1).copy())
        fixated = torch.from_numpy(sample.fixations(index))
        (places, times), generator = scorer.negatives(0, index, (64, 96))
        other = torch.from_numpy(np.bincount(places, times, 64 * 96).reshape(64, 96))
        exact = metrics.auc_shuffled(saliency, fixated, other, variant="exact")
        sampled = metrics.auc_shuffled(saliency, fixated, other, generator=generator)
        assert scores.values("auc_shuffled_exact")[0][index] == pytest.approx(float(exact), abs=1e-12)
        assert scores.values("auc_shuffled")[0][index] == pytest.approx(float(sampled), abs=1e-12)
        assert abs(float(exact) - float(sampled)) < 0.2


def test_random_frames_are_reproducible(val):
    chosen = [Scorer(val, Protocol(max_frames=9, seed=seed)).chosen for seed in (0, 0, 1)]
    assert chosen[0] == chosen[1] != chosen[2]
    assert [sum(map(len, frames)) for frames in chosen] == [9] * 3
    assert Scorer(val, Protocol(max_frames=40)).chosen == [[*range(20)]] * 2


def test_several_processes_give_the_same_numbers(val, model_folder, tmp_path, reproducible, capfd):
    model = Model(str(model_folder), SaliencyPredictor.from_pretrained(model_folder))
    alone = Model(str(model_folder), model.predictor, last_frame_alone=True)
    methods, protocol = [model, alone, Center()], Protocol((*Protocol().metrics, "information_gain"))
    one = evaluate(val, methods, tmp_path / "one", protocol, prior=Center())
    capfd.readouterr()
    two = evaluate(val, methods, tmp_path / "two", protocol, prior=Center(), processes=2)
    assert "Loading" not in capfd.readouterr().err
    assert [scores.videos for scores in two] == [scores.videos for scores in one]
    assert one[0].num_frames == 39


def test_information_gain_is_over_the_prior(val, tmp_path):
    protocol = Protocol(("information_gain",))
    own, other = evaluate(val, [Center(), Shifted()], tmp_path / "out", protocol, prior=Center())
    assert own.mean_over_frames("information_gain") == pytest.approx(0, abs=1e-9)
    sample = open_sample(val[1])
    prior = next(Center().maps(sample, [0]))
    density = sample.density(7).astype(float)
    gain = np.log2(density / density.sum() + 2.0**-52) - np.log2(prior / prior.sum())
    assert other.values("information_gain")[1][7] == pytest.approx(gain[sample.fixations(7)].mean(), rel=1e-6)
    with pytest.raises(EvaluationError, match="prior"):
        evaluate(val, [Shifted()], tmp_path / "none", protocol)


def holding_files(rows):
    """The same rows with the content of all files."""
    load = lambda file: {"path": Path(file["path"]).name, "bytes": Path(file["path"]).read_bytes()}  # noqa: E731
    rows = [row | {part: [*map(load, row[part])] for part in ("frames", "maps", "fixations")} for row in rows]
    return Dataset.from_list(rows, VIDEO_FEATURES)


def test_rows_may_hold_files_instead_of_paths(val, tmp_path):
    methods = [Shifted(9), SpectralResidual()]
    expected = evaluate(val, methods, tmp_path / "paths", FAST)
    assert evaluate(holding_files(val), methods, tmp_path / "held", FAST) == expected


# Stopping and going on.


def test_a_stopped_run_goes_on_where_it_was(val, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        evaluate(val, [Interrupted()], tmp_path / "out", FAST)
    assert records(tmp_path / "out") == ["videos/shifted/000000.json"]
    again = Shifted()
    found = evaluate(val, [again], tmp_path / "out", FAST)
    assert again.asked == ["0602"]
    assert found == evaluate(val, [Shifted()], tmp_path / "new", FAST)
    assert list(tmp_path.glob("**/.salfom-*")) == []


def test_other_settings_are_refused(val, tmp_path):
    evaluate(val, [Shifted()], tmp_path / "out", FAST, about={"split": "val"})
    for change, words in (
        ({"protocol": Protocol(("nss", "cc"), blur=2.0)}, "blur"),
        ({"protocol": Protocol(("nss",))}, "metrics"),
        ({"methods": [Shifted(3)]}, "the maps of shifted"),
        ({"dataset": val.select([0])}, "videos"),
        ({"about": {"split": "train"}}, "split"),
        ({"about": {"split": "val", "more": 1}}, "more"),
    ):
        arguments = {"dataset": val, "methods": [Shifted()], "protocol": FAST, "about": {"split": "val"}, **change}
        with pytest.raises(EvaluationError, match=words) as error:
            evaluate(output=tmp_path / "out", **arguments)
        assert "--overwrite" in str(error.value)
    (scores,) = evaluate(val, [Shifted(3)], tmp_path / "out", Protocol(("cc",), blur=2.0), overwrite=True)
    assert scores == evaluate(val, [Shifted(3)], tmp_path / "new", Protocol(("cc",), blur=2.0))[0]


def test_scores_of_other_labels_are_not_taken_for_these(dhf1k_frames, tmp_path):
    """The same names and numbers of frames; where files lie, or whether rows hold them, does not matter."""

    def loaded(name):
        shutil.copytree(dhf1k_frames / "val", tmp_path / name / "val")
        return load_dhf1k(tmp_path / name, "val")

    (scores,) = evaluate(loaded("one"), [Shifted(9)], tmp_path / "out", FAST)
    for rows in (loaded("moved"), holding_files(loaded("held"))):
        again = Shifted(9)
        assert (evaluate(rows, [again], tmp_path / "out", FAST), again.asked) == ([scores], [])
    rows = loaded("other")
    density = tmp_path / "other" / "val" / "0602" / "maps" / "0011.png"
    Image.fromarray(np.asarray(Image.open(density))[::-1]).save(density)
    for changed in (rows, holding_files(rows)):
        with pytest.raises(EvaluationError, match=r"other settings \(videos\)"):
            evaluate(changed, [Shifted(9)], tmp_path / "out", FAST)


def test_a_process_that_ends_is_one_sentence(val, tmp_path):
    with pytest.raises(EvaluationError, match="A process was ended"):
        evaluate(val.select([0]), [Killed()], tmp_path / "out", FAST, processes=2)


@pytest.mark.parametrize("overwrite", [False, True])
def test_other_files_are_left_alone(val, tmp_path, overwrite):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(EvaluationError, match="not of an earlier run"):
        evaluate(val, [Shifted()], tmp_path, FAST, overwrite=overwrite)
    assert os.listdir(tmp_path) == ["thesis.txt"]


def test_what_cannot_be_scored_is_refused(dhf1k_frames, val, tmp_path):
    with pytest.raises(EvaluationError, match="salfom submit"):
        evaluate(load_dhf1k(dhf1k_frames, "test"), [Shifted()], tmp_path / "out")
    partly = val.map(lambda row: {"maps": row["maps"][: 20 if row["video_id"] == "0601" else 0]})
    with pytest.raises(EvaluationError, match="1 of 2 videos lack density or fixation maps, such as 0602"):
        evaluate(partly, [Shifted()], tmp_path / "out")
    with pytest.raises(EvaluationError, match="Two methods are called shifted"):
        evaluate(val, [Shifted(), Shifted(3)], tmp_path / "out")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "options", [{"metrics": ("auc",)}, {"metrics": ()}, {"blur": -1.0}, {"max_frames": 0}, {"seed": -1}]
)
def test_bad_protocols(options):
    with pytest.raises(EvaluationError, match="must be"):
        Protocol(**options)


def test_a_still_is_predicted_as_a_still(stills_parquet, framewise_model, processor):
    sample = open_sample(load_stills(stills_parquet, "train")[0])
    predictor = SaliencyPredictor(framewise_model, processor)
    (saliency,) = Model("tiny", predictor).maps(sample, [0])
    image = next(sample.frames())
    np.testing.assert_allclose(saliency, predictor.predict(image[None])[0], rtol=1e-6)
    # As the only frame, not as a video that shows nothing else.
    assert np.abs(saliency - predictor.predict(np.repeat(image[None], 4, axis=0))[-1]).max() > 1e-3


def test_the_last_frame_alone_has_no_memory(val, framewise_model, processor, tmp_path):
    """The map of a frame is that of a video which shows nothing else."""
    predictor = SaliencyPredictor(framewise_model, processor, stride=3)
    model, alone = Model("tiny", predictor), Model("tiny", predictor, last_frame_alone=True)
    assert alone.name == "tiny, last frame alone"
    assert alone.description.startswith("every frame by itself, as a still; of stills, the mean of the maps")
    assert alone.fingerprint != model.fingerprint
    sample, chosen = open_sample(val[1]), [0, 2, 3, 19]
    frames = list(sample.frames())
    for index, saliency in zip(chosen, alone.maps(sample, chosen), strict=True):
        np.testing.assert_allclose(saliency, predictor.predict([frames[index]])[0], rtol=1e-3, atol=1e-5)
    # With its window the model does see the other frames.
    assert np.abs(list(model.maps(sample, chosen))[-1] - saliency).max() > 0.01


# Reports.


@pytest.fixture(scope="module")
def finished(shots, tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished") / "out"
    methods = [Shifted(9), Center()]
    scores = evaluate(shots, methods, folder, FAST)
    write_reports(folder, scores, FAST, {"dataset": "hollywood2", "split": "train"})
    return folder, methods, scores


def with_error(values):
    """Mean and standard error of two values: half of what they are apart."""
    return f"{(values[0] + values[1]) / 2:.3f} ± {abs(values[0] - values[1]) / 2:.3f}"


def test_the_table_shows_methods_side_by_side(finished):
    _, _, scores = finished
    lines = table(scores, FAST, "hollywood2, split train", stills=False).splitlines()
    assert lines[0] == "hollywood2, split train"
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    assert rows[0] == ["method", "NSS ↑", "CC ↑", "frames"]
    for row, method in zip(rows[2:4], scores, strict=True):
        means = [f"{method.mean_over_frames(metric):.3f}" for metric in ("nss", "cc")]
        assert row == [method.name, *means, "24"]
    assert rows[4] == ["method", "NSS ↑", "CC ↑", "videos"]
    first, second = (np.array([values.mean() for values in method.values("cc")]) for method in scores)
    assert rows[6] == [scores[0].name, rows[6][1], with_error(first), "2"]
    assert (
        "Difference from shifted on the same videos: mean and, of 5 or more, 95 % of 10,000 bootstrap means" in lines
    )
    assert rows[8] == rows[4]
    assert rows[10:] == [["center", rows[10][1], f"{np.mean(second - first):+.3f}", "2"]]
    assert rows[10][2].startswith("-")
    assert lines[-1] == "center: 24 of 25 frames scored; left out: 1 without fixations."
    assert sum("Gaussian in the middle" in line for line in lines) == 1


def test_stills_have_one_mean(stills_parquet, tmp_path):
    scores = evaluate(load_stills(stills_parquet, "train"), [Center()], tmp_path / "out")
    text = table(scores, Protocol(), "stills", stills=True)
    assert "Mean over images" in text
    assert "videos" not in text
    for words in ("s-AUC: shuffled AUC as published (sampled", "without jitter", "ddof 1", "not blurred"):
        assert words in text


def test_of_one_video_there_is_no_error(val, tmp_path):
    protocol = Protocol(("nss", "cc"), blur=2.0, max_frames=9, seed=4)
    scores = evaluate(val.select([1]), [Shifted(9), Center()], tmp_path / "out", protocol)
    text = table(scores, protocol, "title", stills=False)
    assert not [words for words in ("±", "Difference", "s-AUC") if words in text]
    assert "sigma 2 pixels (kernel 11×11)" in text
    assert "At most 9 frames are scored, drawn at random with seed 4." in text
    assert "one frame in" not in text
    text = table(scores, Protocol(("nss", "cc"), first=20, every=5), "title", stills=False)
    assert "Of every video, one frame in 5 is scored, from frame 20 on." in text
    write_reports(tmp_path / "out", scores, protocol, {})
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["methods"][0]["standard_error"] == {"nss": None, "cc": None}


def test_results_as_json(finished):
    folder, _, scores = finished
    results = json.loads((folder / "results.json").read_text())
    assert (results["dataset"], results["split"], results["protocol"]["seed"]) == ("hollywood2", "train", 0)
    first, second = results["methods"]
    assert first["mean_over_frames"]["cc"] == scores[0].mean_over_frames("cc")
    assert first["mean_over_videos"]["nss"] == scores[0].mean_over_videos("nss")
    one, other = (values.mean() for values in scores[0].values("nss"))
    assert first["standard_error"]["nss"] == pytest.approx(abs(one - other) / 2, rel=1e-9)
    assert (first["frames"], first["videos"], first["left_out"]) == (24, 2, {"without fixations": 1})
    assert second["name"] == "center"


def test_videos_as_csv(finished):
    folder, _, scores = finished
    with open(folder / "videos.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["method"] for row in rows] == ["shifted"] * 2 + ["center"] * 2
    assert [row["video_id"] for row in rows[:2]] == [video["video_id"] for video in scores[0].videos]
    assert [(row["frames"], row["left_out"]) for row in rows[:2]] == [("19", "1"), ("5", "0")]
    assert float(rows[1]["cc"]) == pytest.approx(scores[0].values("cc")[1].mean(), rel=1e-12)


def test_frames_as_csv(finished):
    folder, _, scores = finished
    with open(folder / "frames.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    expected = [
        {"method": method.name, "video_id": video["video_id"], "frame": str(frame), "nss": str(nss), "cc": str(cc)}
        for method in scores
        for video in method.videos
        for frame, nss, cc in zip(video["frames"], *video["scores"].values(), strict=True)
    ]
    assert (rows, len(rows)) == (expected, 48)
    assert [int(row["frame"]) for row in rows[:4]] == [0, 1, 2, 4]  # Nobody looks at frame 3.


def test_enough_videos_have_an_interval():
    """Of five differences, the mean of five that are drawn from them is in the interval 95 % of the time."""
    assert report.with_interval(np.array([0.1, 0.2, 0.3, 0.4])) == "+0.250"
    mean, low, high = (float(cell.strip("[,]")) for cell in report.with_interval(np.arange(5) / 10).split())
    means = np.mean(list(itertools.product(np.arange(5) / 10, repeat=5)), axis=1)
    assert mean == 0.2
    assert (low, high) == pytest.approx(np.quantile(means, (0.025, 0.975)), abs=0.021)


def test_the_picture_shows_the_best_and_worst_frames_well_apart(val, tmp_path, monkeypatch):
    shown, strip = [], report.strip
    monkeypatch.setattr(report, "strip", lambda *arguments: shown.append(arguments[-3:]) or strip(*arguments))
    methods, dataset = [Shifted(9), Center()], val.select([1])
    scores = evaluate(dataset, methods, tmp_path / "out", FAST)
    sheet = picture(Scorer(dataset, FAST), methods, scores)
    # Six rows of pictures of 320×213: the frame, the gaze and two methods.
    assert (sheet.width > 4 * 320, sheet.height > 6 * 213) == (True, True)
    assert [rank for rank, *_ in shown] == [f"{side} {n}" for side in ("best", "worst") for n in (1, 2, 3)]
    best, worst = ([frame for rank, _, frame in shown if rank.startswith(side)] for side in ("best", "worst"))
    values = scores[0].values("nss")[0]
    assert (best[0], worst[0]) == (values.argmax(), values.argmin())
    for frames in (best, worst):
        assert np.diff(sorted(frames)).min() >= 20 / 6
    assert not set(best) & set(worst)


def test_one_frame_makes_no_picture(val, tmp_path):
    protocol, methods = Protocol(("cc",), max_frames=1), [Shifted()]
    assert picture(Scorer(val, protocol), methods, evaluate(val, methods, tmp_path / "out", protocol)) is None


def test_fixations_of_two_sizes_in_one_video(dhf1k_frames, tmp_path):
    row = load_dhf1k(dhf1k_frames, "val")[1]
    with Image.open(row["fixations"][5]["path"]) as image:
        image.resize((192, 128), Image.Resampling.NEAREST).save(tmp_path / "large.png")
    changed = {**row, "fixations": [*row["fixations"]]}
    changed["fixations"][5] = {"path": str(tmp_path / "large.png"), "bytes": None}
    before, after = (
        evaluate(Dataset.from_list([video], VIDEO_FEATURES), [Shifted(6)], tmp_path / name, FAST)[0].values("nss")[0]
        for name, video in (("before", row), ("after", changed))
    )
    np.testing.assert_array_equal(np.delete(after, 5), np.delete(before, 5))
    # The same fixations, four pixels each, on the same map, enlarged.
    assert after[5] == pytest.approx(before[5], rel=0.1)
