"""Folders for the Hub: what is in them, who can load them, what is sent, and the cards."""

import hashlib
import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import venv
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import create_autospec

import numpy as np
import pytest
import torch
import transformers
from huggingface_hub import DatasetCard, EvalResult, HfApi, ModelCard, SpaceCard
from huggingface_hub.errors import (
    HfHubHTTPError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RemoteEntryNotFoundError,
)
from huggingface_hub.utils import filter_repo_objects
from packaging.requirements import Requirement
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModel, AutoModelForImageToImage, AutoProcessor
from transformers.models.auto.video_processing_auto import AutoVideoProcessor

import salfom_hf
from conftest import noise
from salfom_hf import SalFoMForVideoSaliencyPrediction, SaliencyPredictor, cli
from salfom_hf.hub import publish
from salfom_hf.hub.remote_code import code_for
from salfom_hf.models import names as pretrained

CARDS = Path(__file__).parents[1] / "hub_cards"
# Of the Hub's tasks those that a card here may name; it warns of others.
HUB_TASKS = {"video-classification", "video-to-video", "other"}
HUB_LICENCES = {"apache-2.0", "mit", "cc-by-4.0", "other"}


def check_metadata(card):
    """What the Hub asks of a model's metadata, offline."""
    data = ModelCard(str(card)).data  # Fails for a model-index that is none.
    fields = data.to_dict()
    assert data.pipeline_tag in HUB_TASKS
    assert data.license is None or data.license in HUB_LICENCES
    assert data.library_name == "transformers"
    assert {"video-saliency-prediction", "salfom"} <= set(data.tags)
    assert all(isinstance(tag, str) and len(tag) < 50 for tag in data.tags)
    for name in [fields.get("base_model"), *(fields.get("datasets") or [])]:
        assert name is None or re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name), name
    for result in data.eval_results or []:
        assert np.isfinite(result.metric_value)
        assert result.dataset_name
        assert result.dataset_split
        # Where a model is not on the Hub yet, there is no page that could be the source.
        assert (result.source_name is None) == (result.source_url is None)
        assert re.match(
            r"https://huggingface\.co/[\w-]+/[\w-]+$", result.source_url or "https://huggingface.co/org/name"
        )
    for example in fields.get("widget", []):
        assert example["src"]
    return data


def installed_closure(*names):
    """The distributions that these need, as `pip install` would bring them."""
    found, waiting = {}, list(names)
    while waiting:
        name = re.sub(r"[-_.]+", "-", waiting.pop()).lower()
        if name in found:
            continue
        found[name] = metadata.distribution(name)
        for text in found[name].requires or []:
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                waiting.append(requirement.name)
    return found


@pytest.fixture(scope="session")
def clean_python(tmp_path_factory):
    """Python of an environment of PyTorch, transformers, Pillow, PyAV and what they need, linked to the files here."""
    folder = tmp_path_factory.mktemp("clean")
    venv.create(folder, with_pip=False, symlinks=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    for distribution in installed_closure("torch", "transformers", "pillow", "av").values():
        for top in {file.parts[0] for file in distribution.files if file.parts[0] not in ("..", "__pycache__")}:
            if not (packages / top).exists():
                (packages / top).symlink_to(distribution.locate_file(top))
    return folder / "bin" / "python"


@pytest.fixture(scope="session")
def exported(model_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported") / "tiny-model"
    publish.export(model_folder, folder, "org/tiny-model")
    return folder


WITHOUT_THE_PACKAGE = """
import importlib.util, json, sys
# Nor does what ships need other models of transformers.
for name in ("efficientnet", "timesformer", "videomae", "vivit", "vjepa2"):
    sys.modules[f"transformers.models.{name}.modeling_{name}"] = None
import numpy as np, torch, transformers
from transformers import AutoConfig, AutoModel, AutoModelForImageToImage, AutoProcessor, pipeline
from transformers.models.auto.video_processing_auto import AutoVideoProcessor

folder, clip, home = sys.argv[1:]
facts = {"found": [name for name in ("salfom_hf", "accelerate", "datasets", "gradio", "torchvision")
                   if importlib.util.find_spec(name)]}
try:
    AutoConfig.from_pretrained(folder)
except ValueError as error:
    facts["untrusted"] = str(error)
trusted = {"trust_remote_code": True}
maps = {}
# The folder, and the same on the Hub (in its cache): transformers collects the code in two ways.
for name in (folder, "org/tiny-model"):
    config = AutoConfig.from_pretrained(name, **trusted)
    base = AutoModel.from_pretrained(name, **trusted)
    model = AutoModelForImageToImage.from_pretrained(name, **trusted)
    processors = [kind.from_pretrained(name, **trusted) for kind in (AutoProcessor, AutoVideoProcessor)]
    facts[name] = [type(found).__name__ for found in (config, base, model, *processors)]
    inputs = processors[0](clip, return_tensors="pt")
    with torch.no_grad():
        maps[f"model of {name}"] = model(**inputs).saliency.numpy()
    pipe = pipeline("video-saliency-prediction", model=name, device="cpu", **trusted)
    maps[f"pipeline of {name}"] = pipe(clip)["maps"]
inferred = pipeline(model=folder, device="cpu", **trusted)
inferred.save_pretrained(f"{home}/saved")
maps["pipeline saved again"] = pipeline(model=f"{home}/saved", device="cpu", **trusted)(clip)["maps"]
facts["modules"] = sorted({type(found).__module__.split(".")[0] for found in (model, pipe, inferred)})
np.savez(f"{home}/maps.npz", **{name.replace("/", " "): array for name, array in maps.items()})
json.dump(facts, open(f"{home}/facts.json", "w"))
"""


def test_transformers_alone_loads_the_folder_and_computes_the_same(
    clean_python, exported, model_folder, clip, tmp_path
):
    # As a download from the Hub leaves it.
    cache = tmp_path / "hub" / "models--org--tiny-model"
    commit = "0123456789abcdef0123456789abcdef01234567"
    shutil.copytree(exported, cache / "snapshots" / commit)
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text(commit)
    environment = {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PATH": os.environ["PATH"]}
    command = [clean_python, "-I", "-c", WITHOUT_THE_PACKAGE, exported, clip, tmp_path]
    output = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert output.returncode == 0, output.stderr
    facts = json.loads((tmp_path / "facts.json").read_text())
    assert facts["found"] == []
    models = ["SalFoMModel", "SalFoMForVideoSaliencyPrediction"]
    classes = ["SalFoMConfig", *models, "SalFoMVideoProcessor", "SalFoMVideoProcessor"]
    assert facts[str(exported)] == facts["org/tiny-model"] == classes
    assert facts["modules"] == ["transformers_modules"]
    assert "trust_remote_code=True" in facts["untrusted"]
    predictor = SaliencyPredictor.from_pretrained(model_folder)
    maps = predictor.predict(clip)
    with torch.no_grad():
        last = predictor.model(**predictor.processor(clip, return_tensors="pt")).saliency.numpy()
    with np.load(tmp_path / "maps.npz") as found:
        assert len(found) == 5
        for name, array in found.items():
            np.testing.assert_allclose(array, last if name.startswith("model") else maps, atol=1e-5, err_msg=name)
    # What was saved there loads here, without trust.
    saved = salfom_hf.pipeline(model=tmp_path / "saved", device="cpu")
    np.testing.assert_allclose(saved(clip)["maps"], maps, atol=1e-5)


def test_weights_are_sent_as_they_are_stored(tmp_path):
    shipped = Path(salfom_hf.__file__).parent / "weights" / "salfom" / "model.safetensors"
    assert cli.main(["export", "hub", "salfom", str(tmp_path / "out")]) == 0
    file = tmp_path / "out" / "model.safetensors"
    assert abs(file.stat().st_size - shipped.stat().st_size) < 10_000
    before, after = load_file(shipped), load_file(file)
    assert before.keys() == after.keys()
    assert all(value.dtype == after[name].dtype and torch.equal(value, after[name]) for name, value in before.items())
    assert SalFoMForVideoSaliencyPrediction.from_pretrained(tmp_path / "out").dtype == torch.float32
    # For all who may read the other files, too.
    assert file.stat().st_mode == (tmp_path / "out" / "config.json").stat().st_mode


def test_with_the_package_no_trust_is_needed(exported, model_folder, tmp_path):
    kinds = (AutoConfig, AutoModelForImageToImage, AutoModel, AutoProcessor, AutoVideoProcessor)
    found = [kind.from_pretrained(exported) for kind in kinds]
    assert all(type(part).__module__.startswith("salfom_hf.") for part in found)
    pipe = transformers.pipeline("video-saliency-prediction", model=str(exported), device="cpu")
    assert isinstance(pipe, salfom_hf.VideoSaliencyPipeline)
    weights = SalFoMForVideoSaliencyPrediction.from_pretrained(model_folder).state_dict()
    assert all(torch.equal(weight, weights[name]) for name, weight in found[1].state_dict().items())
    # A model that is saved again has no code next to it, and does not claim to.
    found[1].save_pretrained(tmp_path)
    assert not {"auto_map", "custom_pipelines"} & set(json.loads((tmp_path / "config.json").read_text()))


def test_the_folder(exported):
    names = {file.name for file in exported.iterdir()}
    assert {"README.md", "config.json", "model.safetensors", "video_preprocessor_config.json"} <= names
    assert all(file.is_file() for file in exported.iterdir())
    assert len(names) == 8  # The shipped model has two pictures, too.
    for file in exported.glob("*.py"):
        text = file.read_text(encoding="utf-8")
        assert not re.search(r"^\s*(from|import) salfom_hf|takes_names", text, flags=re.M)
        for module in re.findall(r"^\s*from \.(\w*) import", text, flags=re.M):
            assert f"{module}.py" in names, f"{file.name} imports {module}"
        # Modules that become one file have no names in common.
        lines = set(re.findall(r"^(?:def |class )?\w+(?:\(|:| =).*$", text, flags=re.M))
        defined = [re.match(r"(?:def |class )?(\w+)", line)[1] for line in lines]
        assert len(set(defined)) == len(defined), file.name
        # transformers follows no other kind of relative import.
        assert not re.search(r"^\s*from (\.\.|\. )", text, flags=re.M)
    card = ModelCard.load(exported / "README.md")
    data = check_metadata(card)
    assert 'pipeline("video-saliency-prediction", model="org/tiny-model", trust_remote_code=True)' in card.text
    assert "path/to/this/folder" not in card.text
    assert "arxiv.org/abs/2404.03097" in card.text
    assert "moradi2024salfom" in card.text
    # Nobody told what it was trained on.
    assert data.license is None
    assert "is not known" in card.text
    (example,) = data.to_dict()["widget"]
    assert (exported / example["src"]).is_file()


@pytest.mark.parametrize(("encoder", "own"), [("umt", "modeling_umt.py"), ("dinov2", None)])
def test_code_of_the_encoder_that_a_model_has(encoder, own):
    names = [name for name in code_for(encoder) if name.startswith("modeling_")]
    assert sorted(names) == sorted(filter(None, ["modeling_salfom.py", own]))


def test_large_weights_are_sharded(model_folder, exported, tmp_path):
    publish.export(model_folder, tmp_path / "out", max_shard_size="20KB")
    written = {file.name for folder in (exported, tmp_path) for file in folder.rglob("*.safetensors*")}
    assert len(written) > 3
    # All that this package ever writes is among what the next push replaces.
    assert written == set(filter_repo_objects(written, allow_patterns=list(publish.OLD_WEIGHTS)))
    loaded = SalFoMForVideoSaliencyPrediction.from_pretrained(tmp_path / "out").state_dict()
    expected = SalFoMForVideoSaliencyPrediction.from_pretrained(model_folder).state_dict()
    assert loaded.keys() == expected.keys()
    assert all(torch.equal(weight, expected[name]) for name, weight in loaded.items())


@pytest.fixture
def own_card(model_folder, tmp_path):
    """A model with a card, a picture and scores."""
    folder = tmp_path / "mine"
    shutil.copytree(model_folder, folder)
    (folder / "README.md").write_text(
        "---\nlicense: mit\ntags: [owls]\n---\n# Owls\n\nTrained on owls.\n\n"
        '![failures](bad.jpg)\n\n`from_pretrained("path/to/this/folder")`\n',
        encoding="utf-8",
    )
    (folder / "bad.jpg").write_bytes(b"a picture")
    results = {
        "package": "salfom-hf",
        "version": "0.1.0",
        "dataset": "ucf_sports",
        "split": "test",
        "protocol": {"maps": "not blurred", "definitions": {"nss": "NSS with ddof 1", "cc": "Pearson's correlation"}},
        "methods": [
            {"name": str(folder), "mean_over_frames": {"nss": 2.34567, "cc": None}},
            {"name": "center", "mean_over_frames": {"nss": 1.0, "cc": 0.2}},
        ],
    }
    (tmp_path / "results.json").write_text(json.dumps(results))
    return folder


def test_a_card_is_kept_and_completed(own_card, tmp_path, capsys):
    arguments = ["export", "hub", own_card, tmp_path / "out", "--repo-id", "org/owls"]
    assert cli.main([*map(str, arguments), "--results", str(tmp_path / "results.json")]) == 0
    assert capsys.readouterr().out == f"{own_card} -> {tmp_path / 'out'}\n"
    card = ModelCard.load(tmp_path / "out" / "README.md")
    data = check_metadata(card)
    assert (data.license, "owls" in data.tags) == ("mit", True)
    assert "Trained on owls." in card.text
    assert 'from_pretrained("org/owls")' in card.text
    assert (tmp_path / "out" / "bad.jpg").read_bytes() == b"a picture"
    (result,) = data.eval_results
    assert isinstance(result, EvalResult)
    assert (result.dataset_type, result.dataset_split, result.metric_type) == ("ucf_sports", "test", "nss")
    assert (result.metric_value, result.metric_name) == (2.3457, "NSS")
    assert "salfom evaluate (salfom-hf 0.1.0)" in result.source_name


@pytest.mark.parametrize(
    ("protocol", "told"),
    [
        ({"first": 0, "every": 1, "max_frames": None}, "7 videos"),
        ({"first": 20, "every": 5, "max_frames": None}, "7 videos, one frame in 5 from 20 on"),
        ({"first": 0, "every": 1, "max_frames": 50_000}, "7 videos, 50,000 at random"),
    ],
)
def test_a_card_says_which_frames_were_scored(own_card, tmp_path, protocol, told):
    results = json.loads((tmp_path / "results.json").read_text())
    results["protocol"] |= protocol
    results["methods"][0]["videos"] = 7
    (tmp_path / "results.json").write_text(json.dumps(results))
    publish.export(own_card, tmp_path / "out", results=[tmp_path / "results.json"])
    (result,) = check_metadata(ModelCard.load(tmp_path / "out" / "README.md")).eval_results
    assert result.dataset_name == f"UCF-Sports eye movements ({told})"


@pytest.mark.parametrize(
    ("own", "repo_id", "expected"),
    [("owls", None, "owls"), (None, None, "second"), ("owls", "org/birds", "org/birds")],
)
def test_the_name_and_the_newest_scores_of_a_model(own_card, tmp_path, own, repo_id, expected):
    """Its name on the Hub; before it has one, its card's, else its folder's. What was measured before is replaced."""
    results = tmp_path / "results.json"
    if own is not None:
        publish.export(own_card, tmp_path / own, results=[results])
        shutil.copy(tmp_path / own / "README.md", own_card)
    results.write_text(results.read_text().replace("2.34567", "2.5"))
    publish.export(own_card, tmp_path / "second", repo_id, [results])
    card = ModelCard.load(tmp_path / "second" / "README.md")
    assert card.data.model_name == expected
    assert f'from_pretrained("{repo_id or "path/to/this/folder"}")' in card.text
    (result,) = check_metadata(card).eval_results
    assert (result.metric_value, result.source_url) == (2.5, repo_id and "https://huggingface.co/org/birds")
    (own_card / "README.md").unlink()
    publish.export(own_card, tmp_path / "eagles")
    card = ModelCard.load(tmp_path / "eagles" / "README.md")
    assert card.text.strip().startswith("# eagles\n")
    assert 'from_pretrained("path/to/this/folder")' in card.text


def test_what_a_card_shows_goes_with_it(own_card, tmp_path):
    """Pictures from next to it, also in folders, and nothing else."""
    (own_card / "assets").mkdir()
    for name in ("assets/a plot.PNG", "unseen.jpg"):
        (own_card / name).write_bytes(name.encode())
    (tmp_path / "private.png").write_bytes(b"private")
    with (own_card / "README.md").open("a") as file:
        file.write(
            '<img width="9" src="assets/a%20plot.PNG"> ![](../private.png) ![](https://a.org/b.png) ![](no.png)\n'
        )
    publish.export(own_card, tmp_path / "out")
    found = {str(file.relative_to(tmp_path / "out")) for file in (tmp_path / "out").rglob("*.[pPj]*[gG]")}
    assert found == {"bad.jpg", "assets/a plot.PNG"}
    assert (tmp_path / "out" / "assets" / "a plot.PNG").read_bytes() == b"assets/a plot.PNG"


# --- Cards of this project's own repositories ---


@pytest.fixture(scope="module")
def cards():
    spec = importlib.util.spec_from_file_location("render", CARDS / "render.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def measured(model_folder, stills_parquet, ucf_sports, tmp_path, monkeypatch):
    """The facts of the shipped weights, with what `salfom evaluate` says of a tiny model on tiny data."""
    monkeypatch.setitem(pretrained.KNOWN, "salfom", model_folder)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "results").mkdir()
    shutil.copy(CARDS / "salfom.json", tmp_path)
    facts = json.loads((CARDS / "salfom.json").read_text(encoding="utf-8"))
    for evaluation, data in zip(facts["evaluations"], (stills_parquet, ucf_sports), strict=True):
        words = shlex.split(evaluation["command"])[1:]
        words[words.index("--data-dir") + 1] = str(data)
        words += ["-o", f"of-{data.name}", "--metrics", *evaluation["metrics"]]
        assert cli.main(words) == 0
        for path in evaluation["results"].values():
            shutil.copy(f"of-{data.name}/results.json", path)
    return tmp_path


def test_card_of_the_shipped_weights(cards, measured):
    card = ModelCard(cards.salfom_card(measured))
    data = check_metadata(card)
    # What the Hub would like to know of a model. It has no base model: the text says why.
    fields = data.to_dict()
    assert fields["license"] == "apache-2.0"
    assert fields["datasets"] == ["osie", "nus-saliency-in-crowd"]
    assert (fields["library_name"], fields["pipeline_tag"]) == ("transformers", "video-to-video")
    assert {"saliency", "gaze"} <= set(fields["tags"])
    assert set(fields["metrics"]) == {"nss", "cc", "sim", "auc_judd"}
    assert fields["model-index"][0]["name"] == "salfom"
    assert "base_model" not in fields
    assert "names no `base_model`" in card.text
    _, opening = re.split(r"^# .*$", card.text, maxsplit=1, flags=re.M)
    assert opening.strip().startswith("These are **not** the weights of the [SalFoM paper]")
    for said in ("MIT", "CC-BY-4.0", "Apache-2.0", "OSIE", "moradi2024salfom", "seed", "adults", "## Bias", "half of"):
        assert said in card.text, said
    # The table and the metadata say what was measured.
    results = json.loads((measured / "results" / "stills.json").read_text(encoding="utf-8"))
    scores = {method["name"]: method["mean_over_frames"] for method in results["methods"]}
    found = {(r.dataset_type, r.metric_type): r.metric_value for r in data.eval_results}
    assert set(found) == {
        *(("stills", metric) for metric in ("nss", "cc", "sim", "auc_judd")),
        ("ucf_sports", "nss"),
        ("ucf_sports", "cc"),
    }
    assert found["stills", "nss"] == pytest.approx(scores["salfom"]["nss"], abs=1e-4)
    for label, name in (("centre prior", "center"), ("**these weights**", "salfom"), ("half of", "inter-observer")):
        row = next(line for line in card.text.splitlines() if line.startswith(f"| {label}"))
        numbers = [float(cell) for cell in row.split("|")[2].split("/")]
        expected = [scores[name][metric] for metric in ("nss", "cc", "sim", "auc_judd")]
        assert numbers == pytest.approx(expected, abs=6e-4)
    # Short names in the metadata, and in the text what they stand for.
    definitions = results["protocol"]["definitions"]
    names = {r.metric_type: r.metric_name for r in data.eval_results}
    assert names == {"nss": "NSS", "cc": "CC", "sim": "SIM", "auc_judd": "AUC-Judd"}
    assert all(f"\n- {name}: {definitions[metric]}\n" in card.text for metric, name in names.items())
    # Files of the machine that measured are nobody's business.
    assert str(measured) not in card.content


def test_the_card_that_ships_is_of_the_weights_that_ship(cards):
    facts = json.loads((CARDS / "salfom.json").read_text(encoding="utf-8"))
    if not all((CARDS / path).is_file() for e in facts["evaluations"] for path in e["results"].values()):
        pytest.skip("hub_cards/results lacks scores of the shipped weights; run the commands in hub_cards/salfom.json")
    weights = hashlib.sha256((cards.WEIGHTS / "model.safetensors").read_bytes()).hexdigest()
    assert facts["weights_sha256"] == weights, "New weights: measure them, and update hub_cards/salfom.json."
    shipped = (cards.WEIGHTS / "README.md").read_text(encoding="utf-8")
    assert shipped == cards.salfom_card(), "Run python hub_cards/render.py."


def test_card_of_the_shipped_weights_on_the_hub(cards, measured, model_folder, tmp_path):
    """There it also has a page that is the source of its scores, and an example."""
    folder = tmp_path / "weights"
    shutil.copytree(model_folder, folder)
    (folder / "README.md").write_text(cards.salfom_card(measured), encoding="utf-8")
    for name in cards.PICTURES:
        (folder / name).write_bytes(b"a picture")
    publish.export(folder, tmp_path / "out", "org/salfom")
    fields = check_metadata(ModelCard.load(tmp_path / "out" / "README.md")).to_dict()
    (index,) = fields["model-index"]
    assert index["name"] == "org/salfom"
    assert len(index["results"]) == 2
    assert all(result["source"]["url"] == "https://huggingface.co/org/salfom" for result in index["results"])
    shown = {example["src"] for example in fields["widget"]} | set(cards.PICTURES)
    assert shown <= {file.name for file in (tmp_path / "out").iterdir()}


def test_stills_in_transformers_as_the_card_shows_are_those_of_the_predictor(cards, tmp_path):
    text = (cards.WEIGHTS / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, flags=re.S)
    (code,) = (block for block in blocks if "post_process_saliency" in block)
    image = Image.fromarray(noise(1)[0])
    image.save(tmp_path / "picture.png")
    code = code.replace("path/to/this/folder", str(cards.WEIGHTS)).replace(
        "picture.jpg", str(tmp_path / "picture.png")
    )
    namespace = {}
    exec(code, namespace)
    expected = SaliencyPredictor.from_pretrained("salfom").predict(image)[0]
    np.testing.assert_allclose(namespace["saliency"].numpy(), expected, atol=1e-5)


def test_the_cards_here_are_what_is_rendered(cards):
    for path, card in cards.CARDS.items():
        if path.parent != cards.WEIGHTS:
            assert path.read_text(encoding="utf-8") == card(), "Run python hub_cards/render.py."
    linked = re.findall(r"!\[[^]]+\]\((\S+)\)", (cards.WEIGHTS / "README.md").read_text(encoding="utf-8"))
    assert sorted(linked) == sorted(cards.PICTURES)
    for name, picture in cards.PICTURES.items():
        assert (cards.WEIGHTS / name).read_bytes() == picture.read_bytes(), "Run python hub_cards/render.py."


def test_cards_of_dhf1k_and_of_the_metric(cards):
    card = SpaceCard(cards.metric_card())
    assert (card.data.sdk, card.data.license) == ("gradio", "apache-2.0")
    assert "{{" not in card.content
    card = DatasetCard(cards.dhf1k_card())
    fields = card.data.to_dict()
    assert (fields["license"], fields["license_name"]) == ("other", "research-only")
    assert fields["license_link"].startswith("https://")
    assert re.fullmatch(r"n<1K|1K<n<10K|10K<n<100K", fields["size_categories"][0])
    assert "holds no videos" in card.text
    assert "may not be passed on" in card.text
    for row in ("| train | 600 |", "| validation | 100 |", "| test | 300 |"):
        assert row in card.text


def test_what_the_card_of_dhf1k_shows_works(cards, dhf1k_official, capsys):
    """Its commands and its Python, on two of the videos."""
    text = cards.dhf1k_card().replace("/data/DHF1K", str(dhf1k_official))
    (command,) = re.findall(r"```bash\n(.*?)\n```", text, flags=re.S)
    assert cli.main(shlex.split(command)[1:]) == 0, capsys.readouterr().err
    (code,) = re.findall(r"```python\n(.*?)```", text, flags=re.S)
    namespace = {}
    exec(code, namespace)
    assert namespace["density"].shape == namespace["fixations"].shape == namespace["frame"].shape[:2]


# --- Sending ---


class Hub:
    """
    Stands in for `HfApi`, whose methods refuse what the real ones would, and notes what is asked of it.

    Args:
        error: of every upload and download.
        public: whether the repository exists and is public.
        folder: what `hf_hub_download` finds.
    """

    def __init__(self, error=None, public=False, folder=None):
        self.calls, self.files, self.error, self.public, self.folder = [], {}, error, public, folder
        self.api = create_autospec(HfApi, instance=True)
        for name in ("create_repo", "repo_info", "upload_folder", "hf_hub_download"):
            getattr(self.api, name).side_effect = getattr(self, name)

    def __call__(self):
        return self.api

    def create_repo(self, name, **options):
        self.calls.append(("create_repo", name, options))
        self.private = options["private"] and not self.public

    def repo_info(self, name):
        return SimpleNamespace(private=self.private)

    def upload_folder(self, *, folder_path, **options):
        self.calls.append(("upload_folder", options.pop("repo_id"), options))
        if self.error:
            raise self.error
        self.files = {file.name: file.read_bytes() for file in Path(folder_path).iterdir()}

    def hf_hub_download(self, name, filename):
        self.calls.append(("hf_hub_download", name, filename))
        if self.error:
            raise self.error
        if not (self.folder / filename).is_file():
            raise RemoteEntryNotFoundError("404", response=SimpleNamespace(headers={}, request=None))
        return str(self.folder / filename)


def contents(folder):
    return {str(file): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.mark.parametrize("private", [False, True])
def test_push(own_card, exported, monkeypatch, capsys, private):
    hub, before = Hub(), contents(own_card)
    monkeypatch.setattr(publish, "HfApi", hub)
    assert cli.main(["push", str(own_card), "--repo-id", "org/owls", *(["--private"] if private else [])]) == 0
    assert capsys.readouterr().out == "https://huggingface.co/org/owls\n"
    (create, *created), (upload, uploaded, options) = hub.calls
    assert (create, upload) == ("create_repo", "upload_folder")
    assert created == ["org/owls", {"private": private, "exist_ok": True}]
    assert uploaded == "org/owls"
    # A file of weights from before would be loaded in place of shards. What others have put there stays.
    sharded = {"model-00001-of-00002.safetensors", "model.safetensors.index.json"}
    others = {
        "scripts/prepare.py",
        "train.py",
        "onnx/model.safetensors",
        "adapter.safetensors",
        "old/model-1.safetensors",
    }
    old = {"model.safetensors", *sharded, *others}
    assert others == old - set(filter_repo_objects(old, allow_patterns=options["delete_patterns"]))
    assert hub.files.keys() == {file.name for file in exported.iterdir()} | {"bad.jpg"}
    assert b'from_pretrained("org/owls")' in hub.files["README.md"]
    assert contents(own_card) == before


@pytest.fixture
def on_the_hub(own_card, monkeypatch):
    """The model with a card as `org/owls` on a Hub, where also transformers finds it."""
    hub = Hub(folder=own_card)
    monkeypatch.setattr(publish, "HfApi", hub)
    monkeypatch.setattr("salfom_hf.models.loading.resolve", lambda _: own_card)
    for kind in (SalFoMForVideoSaliencyPrediction, publish.SalFoMVideoProcessor):
        load = kind.from_pretrained
        monkeypatch.setattr(kind, "from_pretrained", lambda name, load=load: load(own_card))
    return hub


def test_a_model_of_the_hub_keeps_its_card(on_the_hub, own_card, tmp_path):
    publish.export("org/owls", tmp_path / "out", "me/owls")
    card = ModelCard.load(tmp_path / "out" / "README.md")
    assert card.data.license == "mit"
    assert "Trained on owls." in card.text
    assert "is not known" not in card.text
    assert (tmp_path / "out" / "bad.jpg").read_bytes() == b"a picture"
    assert [call[1:] for call in on_the_hub.calls] == [("org/owls", "README.md"), ("org/owls", "bad.jpg")]
    (own_card / "README.md").unlink()  # Without a card, it gets one.
    assert cli.main(["push", "org/owls", "--repo-id", "me/owls"]) == 0
    assert b"is not known" in on_the_hub.files["README.md"]


def test_a_card_that_cannot_be_fetched_is_not_replaced(on_the_hub, tmp_path, capsys):
    on_the_hub.error = OSError("no route\nto host")
    assert cli.main(["export", "hub", "org/owls", str(tmp_path / "out")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "Cannot fetch README.md of org/owls from the Hub (no route to host)" in line
    assert not (tmp_path / "out").exists()


def test_a_public_repository_is_not_sent_what_should_be_private(own_card, monkeypatch, capsys):
    hub = Hub(public=True)
    monkeypatch.setattr(publish, "HfApi", hub)
    assert cli.main(["push", str(own_card), "--repo-id", "org/owls", "--private"]) == 2
    assert "org/owls is public already and nothing was sent" in capsys.readouterr().err
    assert [call for call, *_ in hub.calls] == ["create_repo"]


def refusal(status):
    response = SimpleNamespace(headers={}, request=None, status_code=status)
    return HfHubHTTPError(f"Client error '{status}' for url …", response=response)


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (OSError("no route\nto host"), "the Hub cannot be reached; check the network"),
        (OfflineModeIsEnabled("offline mode is enabled"), "unset it"),
        (LocalTokenNotFoundError("no token"), "log in with `hf auth login`"),
        (refusal(401), "log in with `hf auth login`"),
        (refusal(403), "this login may not write to org/owls"),
        (refusal(500), "the Hub says: Client error '500'"),
        (RuntimeError("of the library\nthat speaks HTTP"), "the Hub says: of the library that speaks HTTP"),
    ],
)
def test_a_failed_push_says_how_to_try_again(own_card, monkeypatch, capsys, tmp_path, error, advice):
    before = contents(tmp_path)
    monkeypatch.setattr(publish, "HfApi", Hub(error))
    assert cli.main(["push", str(own_card), "--repo-id", "org/owls", "--private"]) == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert said.endswith("and try again with `salfom push` and the same options.")
    assert advice in said
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["push", "nowhere", "--repo-id", "org/owls"], "Cannot load the model 'nowhere'"),
        (["push", "{mine}", "--repo-id", "no/such/name"], "'no/such/name' is no name of a repository"),
        (["export", "hub", "{mine}", "{mine}"], "exists already; choose another output"),
        (
            ["export", "hub", "{mine}", "out", "--results", "{mine}/config.json"],
            "no results.json of `salfom evaluate`",
        ),
        (["export", "hub", "{mine}", "out", "--max-shard-size", "much"], "Cannot write out"),
        (["export", "hub", "salfom", "out", "--results", "{mine}/../results.json"], "no scores of 'salfom', only of"),
        (["export", "hub", "{mine}", "out", "--results", "pipe"], "pipe is no results.json"),
        (["export", "hub", "broken", "out"], "Cannot read the card broken/README.md"),
    ],
)
def test_mistakes_are_one_sentence(own_card, monkeypatch, tmp_path, capsys, arguments, said):
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe")
    shutil.copytree(own_card, "broken")
    Path("broken/README.md").write_text("---\ntags: [owls\n---\n")
    monkeypatch.setattr(publish, "HfApi", Hub(AssertionError("asked")))
    before = contents(tmp_path)
    assert cli.main([word.format(mine=own_card) for word in arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line
    assert contents(tmp_path) == before
