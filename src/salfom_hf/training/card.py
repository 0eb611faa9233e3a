"""What stands next to a trained model: its scores and a card, filled from what was really run."""

import datetime
import json
import math
import platform
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import yaml

from ..hub.cards import TEMPLATES, UNNAMED, measured, model_data, page_of, render
from .config import MOTION
from .model import LITE0

if TYPE_CHECKING:
    from .loop import Trainer

# What is known to be under Apache-2.0. Other encoders and models have licences of their own, some non-commercial.
FREE_STARTS = ("salfom", LITE0)
PACKAGES = ("salfom-hf", "torch", "transformers", "accelerate", "datasets")


def write_report(folder: Path, trainer: "Trainer", scores: dict[str, float]) -> None:
    """Write `metrics.json` and `README.md`, the model card, into a model's folder; `scores` chose the model."""
    config, progress, accelerator = trainer.config, trainer.progress, trainer.accelerator
    kind = accelerator.device.type
    chip = torch.cuda.get_device_name(accelerator.device) if kind == "cuda" else platform.machine() or "CPU"
    facts = {
        "step": progress.step,
        "epoch": progress.epoch + 1,
        # JSON has no NaN.
        "validation": {name: None if math.isnan(score) else score for name, score in scores.items()},
        "training_clips": len(trainer.dataset),
        "parameters": trainer.num_parameters,
        "clips_per_step": trainer.clips_per_step,
        "hardware": f"{accelerator.num_processes} × {kind} ({chip})",
        "precision": accelerator.mixed_precision,
        "date": datetime.date.today().isoformat(),
        "versions": {name: version(name) for name in PACKAGES},
    }
    (folder / "metrics.json").write_text(json.dumps(facts, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    start = config.model or config.encoder
    licence = "apache-2.0" if start in FREE_STARTS else None
    names = {source.partition(":")[0] for source in config.train}
    datasets = sorted({"stills" if name == MOTION else name for name in names})
    held = f"{config.hold_out:.0%} of "
    validation = [f"{held}{source}, held out" if source in config.train else source for source in config.validated]
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
    # Folders of the machine that trained are nobody's business.
    start = start if data.base_model else Path(start).name
    settings = {key: value for key, value in vars(config).items() if key not in ("data_dir", "output_dir")}
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
        **{**facts, "validation": ", ".join(validation)},
        scores=scores,
        total_steps=trainer.total_steps,
        metric=config.metric,
    )
    (folder / "README.md").write_text(text, encoding="utf-8")
