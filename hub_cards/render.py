"""
Fill the cards of this project's own repositories on the Hub: `python hub_cards/render.py`.

- `salfom.md`, from `salfom.json` and what `salfom evaluate` wrote (`results/`): of the shipped weights, next to them,
  where its pictures are copied to
- `dhf1k.md`, from what `salfom_hf.data` knows: `dhf1k/README.md`, a dataset repository without data
- `metric.md`: of `spaces/saliency-metrics`

Cards of models that users train or export come from `src/salfom_hf/hub/model.md`, those of exported datasets from
`dataset.md` next to it.
"""

import json
import re
import shutil
from pathlib import Path

from huggingface_hub import DatasetCardData, SpaceCardData
from safetensors import safe_open

from salfom_hf import SalFoMForVideoSaliencyPrediction
from salfom_hf.data.video_folders import DHF1K
from salfom_hf.hub.cards import METRIC_NAMES, evaluation_of, model_data, read_results, render

HERE = Path(__file__).parent
ROOT = HERE.parent
WEIGHTS = ROOT / "src" / "salfom_hf" / "weights" / "salfom"
# Of the card of the shipped weights: name next to it → where it is made.
PICTURES = {"demo.jpg": ROOT / "docs" / "demo-desktop.jpg", "failure-cases.jpg": ROOT / "docs" / "failure-cases.jpg"}
OBSERVERS = 17  # of DHF1K


def tabulated(evaluation: dict, folder: Path) -> dict:
    """An entry of `evaluations` with the rows of its table, read from files of results."""
    metrics = evaluation["metrics"]
    found = {heading: read_results(folder / path) for heading, path in evaluation["results"].items()}
    rows = []
    for name, label in evaluation["methods"].items():
        cells = []
        for results in found.values():
            (method,) = (method for method in results["methods"] if method["name"] == name)
            scores = [method["mean_over_frames"][metric] for metric in metrics]
            cells.append(" / ".join(re.sub("^0", "", f"{score:.3f}") for score in scores))
        rows.append((label, cells))
    names = " / ".join(METRIC_NAMES[metric] for metric in metrics)
    return {**evaluation, "metrics": names, "headings": list(found), "rows": rows}


def salfom_card(folder: Path = HERE) -> str:
    """The card of the shipped weights, from `salfom.json` and the results in a folder."""
    facts = json.loads((folder / "salfom.json").read_text(encoding="utf-8"))
    weights = WEIGHTS / "model.safetensors"
    with safe_open(weights, framework="pt") as file:
        kinds = {str(file.get_tensor(name).dtype) for name in file.keys()}  # noqa: SIM118
    (dtype,) = {kind.removeprefix("torch.") for kind in kinds if "float" in kind}
    # The first file of each evaluation is that of all its data; the others are parts of it.
    files = [folder / next(iter(evaluation["results"].values())) for evaluation in facts["evaluations"]]
    data = model_data(
        "salfom",
        "apache-2.0",
        results=[result for file in files for result in evaluation_of(file, "salfom")],
        datasets=["osie", "nus-saliency-in-crowd"],
    )
    definitions = read_results(files[0])["protocol"]["definitions"]
    return render(
        HERE / "salfom.md",
        data,
        definitions={METRIC_NAMES[metric]: text for metric, text in definitions.items()},
        facts=facts,
        parameters=SalFoMForVideoSaliencyPrediction.from_pretrained(WEIGHTS).num_parameters(),
        bytes=weights.stat().st_size,
        dtype=dtype,
        evaluations=[tabulated(evaluation, folder) for evaluation in facts["evaluations"]],
    )


def dhf1k_card() -> str:
    """The card of a repository that says where DHF1K is, and holds nothing of it."""
    labels = {"train": "public", "validation": "public", "test": "kept by the authors, who score maps on their server"}
    data = DatasetCardData(
        pretty_name="DHF1K (loader card: no data)",
        license="other",
        license_name="research-only",
        license_link=DHF1K.SOURCE.address,
        task_categories=["other"],
        tags=["saliency", "gaze", "eye-tracking", "video", "salfom"],
        size_categories=["1K<n<10K"],
    )
    splits = [(name, count, labels[name]) for name, count in DHF1K.OFFICIAL.items()]
    return render(
        HERE / "dhf1k.md",
        data,
        source=DHF1K.SOURCE,
        splits=splits,
        total=f"{sum(DHF1K.OFFICIAL.values()):,}",
        observers=OBSERVERS,
    )


def metric_card() -> str:
    """The card of the metric, which is the front page of its Space."""
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    data = SpaceCardData(
        title="Saliency Metrics",
        emoji="👁️",
        colorFrom="indigo",
        colorTo="yellow",
        sdk="gradio",
        sdk_version=re.search(r"^gradio==(\S+)$", pins, flags=re.M).group(1),
        python_version="3.11",
        app_file="app.py",
        pinned=False,
        license="apache-2.0",
        short_description="AUC-Judd, sAUC, NSS, CC, SIM, KLD, IG of saliency maps",
        tags=["evaluate", "metric", "saliency", "gaze-prediction"],
    )
    return render(HERE / "metric.md", data)


CARDS = {
    WEIGHTS / "README.md": salfom_card,
    HERE / "dhf1k" / "README.md": dhf1k_card,
    ROOT / "spaces" / "saliency-metrics" / "README.md": metric_card,
}


def main(root: Path = ROOT) -> None:
    """Write all cards, and the pictures of the shipped weights, into this repository or another folder."""
    for path, card in CARDS.items():
        output = root / path.relative_to(ROOT)
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(card(), encoding="utf-8")
        print(path.relative_to(ROOT))
    for name, picture in PICTURES.items():
        shutil.copyfile(picture, root / WEIGHTS.relative_to(ROOT) / name)


if __name__ == "__main__":
    main()
