"""What stands beside a trained model: its scores and a card, filled from what was really run."""

import datetime
import json
import math
import platform
from importlib.metadata import version
from pathlib import Path

import torch
import yaml
from huggingface_hub import ModelCard, ModelCardData

from .model import LITE0

TEMPLATE = Path(__file__).parent / "card.md"
# What is known to be under Apache-2.0. Other encoders and models have licences of their own, some non-commercial.
FREE_STARTS = ("salfom", LITE0)
PACKAGES = ("salfom-hf", "torch", "transformers", "accelerate", "datasets")


def hardware(accelerator) -> str:
    device = accelerator.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine() or "CPU"
    return f"{accelerator.num_processes} × {device.type} ({name})"


def write_report(folder: Path, trainer, scores: dict[str, float]) -> None:
    """
    Write `metrics.json` and `README.md`, the model card, into a model's folder.

    Args:
        trainer: the [`Trainer`] whose model it is.
        scores: of the validation that chose the model.
    """
    config, progress = trainer.config, trainer.progress
    facts = {
        "step": progress.step,
        "epoch": progress.epoch + 1,
        # JSON has no NaN.
        "validation": {name: None if math.isnan(score) else score for name, score in scores.items()},
        "training_clips": len(trainer.dataset),
        "parameters": trainer.num_parameters,
        "clips_per_step": config.batch_size * config.gradient_accumulation_steps * trainer.accelerator.num_processes,
        "hardware": hardware(trainer.accelerator),
        "precision": trainer.accelerator.mixed_precision,
        "date": datetime.date.today().isoformat(),
        "versions": {name: version(name) for name in PACKAGES},
    }
    (folder / "metrics.json").write_text(json.dumps(facts, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    start = config.model or config.encoder
    licence = "apache-2.0" if start in FREE_STARTS else None
    datasets = sorted({source.partition(":")[0] for source in config.train})
    data = ModelCardData(
        library_name="transformers",
        license=licence,
        tags=["salfom", "video-saliency-prediction", "gaze", *datasets],
        # Only a name on the Hub is a link; a folder of this machine would be a broken one.
        base_model=start if "/" in start and not Path(start).exists() else None,
        metrics=[name for name in scores if name not in ("loss", "clips")],
    )
    # Folders of the machine that trained are nobody's business.
    start = start if data.base_model else Path(start).name
    values = {name: value for name, value in vars(config).items() if name not in ("data_dir", "output_dir")}
    values["model" if config.model else "encoder"] = start
    card = ModelCard.from_template(
        data,
        template_path=str(TEMPLATE),
        name=config.push_to_hub or Path(config.output_dir).resolve().name,
        location=config.push_to_hub or "path/to/this/folder",
        start=start,
        from_model=bool(config.model),
        licence=licence,
        training=", ".join(config.train),
        validation=", ".join(config.validation) or f"{config.hold_out:.0%} of the training videos, held out",
        settings=yaml.safe_dump(values, sort_keys=False, allow_unicode=True).strip(),
        **{key: value for key, value in facts.items() if key != "validation"},
        scores=scores,
        total_steps=trainer.total_steps,
        metric=config.metric,
    )
    card.save(folder / "README.md")


__all__ = ["write_report"]
