"""What stands next to a trained model: its scores and a card, filled from what was really run."""

import datetime
import json
import math
import platform
from importlib.metadata import version
from pathlib import Path

import torch
import yaml
from accelerate import Accelerator

from ..hub.cards import TEMPLATES, UNNAMED, measured, model_data, page_of, render
from .config import MOTION, TrainingConfig
from .model import LITE0

# What is known to be under Apache-2.0. Other encoders and models have licences of their own, some non-commercial.
FREE_STARTS = ("salfom", LITE0)
PACKAGES = ("salfom-hf", "torch", "transformers", "accelerate", "datasets")


def write_report(
    folder: Path,
    config: TrainingConfig,
    accelerator: Accelerator,
    scores: dict[str, float],
    counts: dict[str, int],
    total_steps: int,
) -> None:
    """
    Write `metrics.json` and `README.md`, the model card, into a model's folder; `scores` chose the model. `counts`:
    step, epoch (from 1), training_clips, parameters and clips_per_step.
    """
    kind = accelerator.device.type
    chip = torch.cuda.get_device_name(accelerator.device) if kind == "cuda" else platform.machine() or "CPU"
    facts = counts | {
        "hardware": f"{accelerator.num_processes} × {kind} ({chip})",
        "precision": accelerator.mixed_precision,
        "date": datetime.date.today().isoformat(),
        "versions": {name: version(name) for name in PACKAGES},
    }
    # JSON has no NaN.
    validation = {name: None if math.isnan(score) else score for name, score in scores.items()}
    written = json.dumps(facts | {"validation": validation}, indent=2, ensure_ascii=False)
    (folder / "metrics.json").write_text(written + "\n", encoding="utf-8")
    start = config.model or config.encoder
    licence = "apache-2.0" if start in FREE_STARTS else None
    names = {source.partition(":")[0] for source in config.train}
    datasets = sorted({"stills" if name == MOTION else name for name in names})
    held = f"{config.hold_out:.0%} of "
    name = config.push_to_hub or Path(config.output_dir).resolve().name
    dataset, _, split = config.validated[0].partition(":")
    data = model_data(
        name,
        licence,
        tags=datasets,
        results=measured(
            {name: score for name, score in scores.items() if name not in ("loss", "clips") and "/" not in name},
            dataset,
            split if config.validation else f"{held}{split}, held out",
            "validation during training, at the size of the clips",
            page_of(config.push_to_hub) if config.push_to_hub else None,
        ),
        # Only a name on the Hub is a link; a folder of this machine would be a broken one.
        base_model=start if "/" in start and not Path(start).exists() else None,
        datasets=datasets,
    )
    # Folders of the machine that trained are nobody's business, nor is whether the run was stopped meanwhile.
    start = start if data.base_model else Path(start).name
    settings = {key: value for key, value in vars(config).items() if key not in ("data_dir", "output_dir", "resume")}
    settings["model" if config.model else "encoder"] = start
    text = render(
        TEMPLATES / "model.md",
        data,
        name=name,
        location=config.push_to_hub or UNNAMED,
        start=start,
        from_model=bool(config.model),
        licence=licence,
        training=", ".join(config.train),
        settings=yaml.safe_dump(settings, sort_keys=False, allow_unicode=True).strip(),
        validation=", ".join(f"{held}{part}, held out" if part in config.train else part for part in config.validated),
        scores=scores,
        total_steps=total_steps,
        metric=config.metric,
        **facts,
    )
    (folder / "README.md").write_text(text, encoding="utf-8")
