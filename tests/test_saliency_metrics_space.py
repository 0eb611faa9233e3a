"""The metric Space: the `evaluate` metric, its page and its card."""

import importlib.util
import math
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from huggingface_hub import SpaceCard
from PIL import Image

import salfom_hf
from salfom_hf import metrics

ROOT = Path(__file__).parents[1]
SPACE = ROOT / "spaces" / "saliency-metrics"


def module(name):
    specification = importlib.util.spec_from_file_location(f"saliency_metrics_{name}", SPACE / f"{name}.py")
    loaded = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(loaded)
    return loaded


@pytest.fixture
def metric(tmp_path):
    pytest.importorskip("evaluate")
    return module("saliency-metrics").SaliencyMetrics(cache_dir=str(tmp_path))


@pytest.fixture(scope="module")
def app():
    pytest.importorskip("gradio")
    return module("app")


@pytest.fixture
def maps():
    """Three frames of two sizes; nobody looked at the second."""
    generator = np.random.default_rng(0)
    sizes = [(12, 16), (12, 16), (9, 7)]
    predictions = [generator.random(size, dtype=np.float32) for size in sizes]
    densities = [generator.random(size, dtype=np.float32) for size in sizes]
    fixations = [generator.random(size) > 0.9 for size in sizes]
    densities[1][:] = 0
    fixations[1][:] = False
    return predictions, densities, fixations


def test_the_cards_example_loads_offline_and_prints_what_the_card_says(tmp_path):
    pytest.importorskip("evaluate")
    card = (SPACE / "README.md").read_text(encoding="utf-8")
    code, printed = re.search(r"```python\n(.*?)```\n+```text\n(.*?)```", card, re.DOTALL).groups()
    # A process of its own: whether the Hub may be asked, and where modules are kept, is read at import.
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert result.stdout == printed, result.stderr


def test_scores_are_those_of_the_package(metric, maps):
    predictions, densities, fixations = maps
    result = metric.compute(predictions=predictions, densities=densities, fixations=fixations)
    names = ["auc_judd", "nss", "cc", "sim", "kldiv"]
    assert list(result["per_map"]) == names
    for name in names:
        targets = fixations if name in ("auc_judd", "nss") else densities
        expected = [
            getattr(metrics, name)(torch.from_numpy(saliency), torch.from_numpy(target)).item()
            for saliency, target in zip(predictions, targets, strict=True)
        ]
        assert result["per_map"][name] == pytest.approx(expected, abs=1e-12, nan_ok=True)
        assert result["undefined"][name] == 1
        assert result[name] == pytest.approx((expected[0] + expected[2]) / 2, abs=1e-12)


def test_the_metrics_that_need_more(metric, maps):
    predictions, _, fixations = maps
    predictions, fixations = predictions[:2], fixations[:2]
    generator = np.random.default_rng(1)
    other, prior = generator.poisson(1, (2, 12, 16)), generator.random((12, 16))
    names = ["auc_shuffled", "auc_shuffled_exact", "information_gain"]
    arguments = {"predictions": predictions, "fixations": fixations, "other": list(other), "prior": prior}
    result = metric.compute(metrics=names, **arguments)
    saliency, fixated = torch.from_numpy(predictions[0]), torch.from_numpy(fixations[0])
    seeded = torch.Generator().manual_seed(0)
    shuffled = metrics.auc_shuffled(saliency, fixated, torch.from_numpy(other[0]), generator=seeded).item()
    exact = metrics.auc_shuffled(saliency, fixated, torch.from_numpy(other[0]), variant="exact").item()
    gain = metrics.information_gain(saliency, fixated, torch.from_numpy(prior)).item()
    assert result["auc_shuffled"] == pytest.approx(shuffled, abs=1e-12)
    assert result["auc_shuffled_exact"] == pytest.approx(exact, abs=1e-12)
    assert result["information_gain"] == pytest.approx(gain, abs=1e-12)
    assert result["undefined"] == dict.fromkeys(names, 1)
    assert set(metric.compute(**arguments)["per_map"]) == {"auc_judd", "nss", *names}
    assert metric.compute(metrics=names, seed=1, **arguments)["auc_shuffled"] != result["auc_shuffled"]


def test_maps_added_in_parts(metric, maps):
    predictions, densities, _ = maps
    expected = metric.compute(predictions=predictions, densities=densities)
    assert list(expected["per_map"]) == ["cc", "sim", "kldiv"]
    metric.add(prediction=predictions[0], density=densities[0])
    metric.add_batch(predictions=predictions[1:], densities=densities[1:])
    np.testing.assert_equal(metric.compute(), expected)
    only_fixations = metric.compute(predictions=torch.rand(2, 4, 5), fixations=torch.eye(5)[:4].expand(2, 4, 5))
    assert list(only_fixations["per_map"]) == ["auc_judd", "nss"]


def test_a_constant_prediction_counts_and_a_frame_without_fixations_does_not(metric, maps):
    predictions, densities, fixations = maps
    densities[1][0, 0] = 1
    constants = [np.full(map.shape, value, np.float32) for map, value in zip(predictions, (0, 0.3, 0.3), strict=True)]
    result = metric.compute(predictions=constants, densities=densities, fixations=fixations)
    for name, chance in {"auc_judd": 0.5, "nss": 0, "cc": 0, "sim": 0}.items():
        np.testing.assert_array_equal(result["per_map"][name], [chance, math.nan, chance])
        assert (result[name], result["undefined"][name]) == (chance, 1)
    assert result["undefined"]["kldiv"] == 1
    nowhere = metric.compute(predictions=predictions[1:2], fixations=fixations[1:2])
    assert (math.isnan(nowhere["nss"]), nowhere["undefined"]["nss"]) == (True, 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "nothing to compare with"),
        ({"predictions": None}, "no predictions"),
        ({"densities": slice(0, 2)}, "3 predictions but 2 densities"),
        ({"fixations": slice(3), "metrics": ["judd"]}, "no metric 'judd'"),
        ({"fixations": slice(3), "metrics": ["cc"]}, "cc needs densities"),
        ({"fixations": slice(3), "metrics": ["auc_shuffled"]}, "auc_shuffled needs other"),
        ({"fixations": slice(3), "other": [np.ones((12, 16))]}, "3 predictions but 1 other"),
        (
            {"predictions": [np.full((12, 16), np.nan)] * 3, "densities": slice(3)},
            "cc of map 0: saliency holds values",
        ),
        ({"fixations": slice(None, None, -1)}, r"fixations has the shape \(9, 7\), but saliency has \(12, 16\)"),
    ],
)
def test_bad_arguments(metric, maps, arguments, message):
    given = dict(zip(("predictions", "densities", "fixations"), maps, strict=True))
    chosen = {name: given[name][value] if isinstance(value, slice) else value for name, value in arguments.items()}
    if chosen.get("predictions", 0) is None:
        chosen["densities"] = given["densities"]
    with pytest.raises(ValueError, match=message):
        metric.compute(**({"predictions": given["predictions"]} | chosen))


def test_batches_with_and_without_fixations_do_not_mix(metric, maps):
    predictions, densities, fixations = maps
    metric.add_batch(predictions=predictions, densities=densities, fixations=fixations)
    metric.add_batch(predictions=predictions, densities=densities)
    with pytest.raises(ValueError, match="Some batches came with fixations"):
        metric.compute()


def test_card():
    card = SpaceCard.load(SPACE / "README.md").data.to_dict()
    assert {"title", "emoji", "colorFrom", "colorTo"} <= set(card)
    assert (card["sdk"], card["license"]) == ("gradio", "apache-2.0")
    assert {"evaluate", "metric"} <= set(card["tags"])
    assert (SPACE / card["app_file"]).is_file()
    assert f"gradio=={card['sdk_version']}\n" in (ROOT / "constraints.txt").read_text(encoding="utf-8")
    assert len(card["short_description"]) <= 60  # The Hub refuses longer ones.


def test_page_scores_the_example(app):
    for quality in ("good", "center"):
        images = app.example(quality)
        prediction, density, fixations = (torch.from_numpy(np.array(image)) for image in images)
        table = {name: value for name, value, _ in app.rows(*images)}
        assert table == {
            "AUC-Judd": f"{metrics.auc_judd(prediction, fixations).item():.4f}",
            "NSS": f"{metrics.nss(prediction, fixations).item():.4f}",
            "CC": f"{metrics.cc(prediction, density).item():.4f}",
            "SIM": f"{metrics.sim(prediction, density).item():.4f}",
            "KLD": f"{metrics.kldiv(prediction, density).item():.4f}",
        }
        assert (float(table["CC"]) > 0.9) == (quality == "good")


def test_page_takes_either_ground_truth(app):
    prediction, density, fixations = app.example("good")
    rows = app.rows(prediction, density, fixations)
    assert app.rows(prediction.convert("RGB"), density, None) == rows[2:]
    # Saved as JPEG, a fixation map has dark pixels where nobody looked.
    noisy = Image.fromarray(np.maximum(np.array(fixations), 3))
    assert app.rows(prediction, None, noisy) == app.rows(prediction, None, fixations) == rows[:2]
    empty = Image.new("L", prediction.size)
    assert all(value.startswith("undefined") for _, value, _ in app.rows(prediction, empty, empty))
    # Nothing is a prediction like any other.
    assert [value for _, value, _ in app.rows(empty, density, fixations)][:4] == ["0.5000", *["0.0000"] * 3]


def test_page_says_what_is_wrong(app):
    from gradio import Error

    prediction, density, fixations = app.example("good")
    for given, words in (
        ((None, density, fixations), "Give the predicted map"),
        ((prediction, None, None), "nothing to compare with"),
        ((prediction.resize((160, 90)), density, None), "prediction has 160×90 pixels, but the density has 320×180"),
    ):
        with pytest.raises(Error, match=words):
            app.rows(*given)


def test_page_scores_one_request_at_a_time(app):
    scoring = [function for function in app.demo.fns.values() if function.fn is app.score]
    assert len(scoring) == 3
    assert {(function.concurrency_id, function.concurrency_limit) for function in scoring} == {("score", 1)}
    assert not app.demo.analytics_enabled


# The page, over HTTP.


@pytest.fixture
def served(tmp_path, monkeypatch):
    """The module of the page, its address, a client, and its folder of uploads and results."""
    pytest.importorskip("gradio")
    from gradio_client import Client

    cache = tmp_path / "cache"
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(cache))
    app = module("app")
    _, url, _ = app.serve(app.demo, app.MAX_BYTES, prevent_thread_lock=True, server_name="127.0.0.1")
    try:
        client = Client(url, verbose=False, download_files=tmp_path / "downloads")
        yield SimpleNamespace(app=app, url=url, client=client, cache=cache)
    finally:
        app.demo.close()


def test_page_scores_uploads_and_deletes_them(served, tmp_path):
    from gradio_client import handle_file

    # As people have them: grey, colours, half transparent.
    images = served.app.example("good")
    for image, name, mode in zip(images, ("a.png", "b.jpg", "c.png"), ("L", "RGB", "RGBA"), strict=True):
        image.convert(mode).save(tmp_path / name)
    given = [handle_file(tmp_path / name) for name in ("a.png", "b.jpg", "c.png")]
    table = served.client.predict(*given, api_name="/score")
    expected = served.app.rows(images[0], Image.open(tmp_path / "b.jpg"), images[2])
    assert table["data"] == expected
    assert {path.name for path in served.cache.rglob("*.*")} >= {"a.png", "b.jpg", "c.png"}
    assert served.app.demo.delete_cache == (600, 3600)
    served.app.demo.close()
    assert not [path for path in served.cache.rglob("*") if path.is_file()]


def test_page_refuses_bad_pictures_in_one_sentence(served, tmp_path):
    from gradio_client import handle_file
    from gradio_client.exceptions import AppError

    prediction, density, _ = served.app.example("good")
    prediction.save(tmp_path / "good.png")
    (tmp_path / "text.png").write_text("This is no picture.\n" * 50)
    density.save(tmp_path / "cut.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:-2000])
    Image.new("1", (16_384, 16_384)).save(tmp_path / "bomb.png")
    Image.new("1", (4096, 4096)).save(tmp_path / "large.png")
    for name, words in (
        ("text.png", "holds no picture"),
        ("cut.png", "cut off"),
        ("bomb.png", "too many pixels; upload at most 8 megapixels"),
        ("large.png", "4096×4096 pixels; upload at most 8 megapixels"),
    ):
        with pytest.raises(AppError) as error:
            served.client.predict(
                handle_file(tmp_path / "good.png"), handle_file(tmp_path / name), None, api_name="/score"
            )
        assert re.fullmatch(rf"[^\n]*{name}[^\n]*{words}[^\n]*[.]", str(error.value))
        assert str(tmp_path) not in str(error.value)


def test_page_fetches_no_addresses_and_has_bounds(served):
    import httpx
    from gradio_client import handle_file
    from gradio_client.exceptions import AppError

    address = "https://huggingface.co/a.png"
    with pytest.raises(AppError, match="upload the file itself"):
        served.client.predict(handle_file(address), None, None, api_name="/score")
    api = f"{served.url}gradio_api"
    assert httpx.get(f"{api}/file={address}").status_code == 403
    assert httpx.post(f"{api}/process_recording").status_code == 403
    for size in (served.app.MAX_BYTES + 1, served.app.MAX_BYTES + 2**21):
        files = {"files": ("big.png", bytes(size))}
        assert httpx.post(f"{api}/upload", files=files, timeout=300).status_code == 413
    assert served.app.demo._queue.max_size == 64


# The documents.


def test_the_recipe_for_publishing():
    document = (ROOT / "docs" / "demo.md").read_text(encoding="utf-8")
    requirements = (SPACE / "requirements.txt").read_text(encoding="utf-8")
    (lines,) = re.findall(r"```text\n(--extra-index-url .*?)```", document, flags=re.DOTALL)
    address = re.search(r"salfom-hf\[demo\] @ (\S+)", lines)[1]
    assert lines == requirements.replace("salfom-hf[demo]", f"salfom-hf[demo] @ {address}")
    assert address == (
        "https://huggingface.co/spaces/org/saliency-metrics/resolve/main/"
        f"salfom_hf-{salfom_hf.__version__}-py3-none-any.whl"
    )


def test_the_documents_state_the_bounds(app):
    document = " ".join((ROOT / "docs" / "security.md").read_text(encoding="utf-8").split())
    assert f"{app.MAX_BYTES >> 20} MB, {app.MAX_PIXELS // 10**6} megapixels" in document
