import copy
import dataclasses
import errno
import json
import math
import shutil
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock, create_autospec

import numpy as np
import pyarrow as pa
import pytest
import torch
import yaml
from accelerate.state import AcceleratorState, GradientState
from huggingface_hub import HfApi
from PIL import Image
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import AutoModel

import gaze_data
from conftest import no_file_above
from salfom_hf import SalFoMForVideoSaliencyPrediction, SalFoMVideoProcessor, SaliencyPredictor, metrics, train
from salfom_hf.data import ClipDataset, load
from salfom_hf.hub import publish
from salfom_hf.models.names import KNOWN
from salfom_hf.training import loop
from salfom_hf.training.config import preset_names, read_settings
from salfom_hf.training.fingerprints import files_fingerprint, fingerprints, model_fingerprint
from salfom_hf.training.log import read_log
from training_data import arguments

pytestmark = pytest.mark.usefixtures("reproducible", "alone")


@pytest.fixture
def alone(monkeypatch):
    """accelerate keeps the settings of its first start for as long as the process lives."""
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    monkeypatch.delenv("RANK", raising=False)
    yield
    AcceleratorState._reset_state(True)
    GradientState._reset_state()


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    videos = {"train": 4, "val": 3, "test": 1}
    return gaze_data.write_dhf1k(tmp_path_factory.mktemp("data") / "DHF1K", "frames", videos, frames=8)


@pytest.fixture
def start(data, encoders, tmp_path):
    """Do a short run with a tiny network; gives the exit code and the run's folder."""

    def do(*options, preset="light", folder="run", **settings):
        encoder = {} if "model" in settings else {"encoder": encoders / "efficientnet_lite"}
        settings = {**encoder, "epochs": 1, "trackers": [], "pictures": 0, **settings}
        decoder = settings.pop("decoder", False if "model" in settings else None)
        where = settings.pop("data", data)
        # Another test may have left a state with other settings.
        AcceleratorState._reset_state(True)
        GradientState._reset_state()
        code = train.main(arguments(preset, where, tmp_path / folder, *options, decoder=decoder, **settings))
        return code, tmp_path / folder

    return do


@pytest.fixture
def run(start):
    """Do a run to its end; gives its folder."""

    def do(*options, **settings):
        code, folder = start(*options, **settings)
        assert code == 0
        return folder

    return do


@pytest.fixture
def failing(start, capsys):
    """Do a run that fails; gives what it says then."""

    def do(*options, **settings):
        capsys.readouterr()
        assert start(*options, **settings)[0] == 2
        return capsys.readouterr().err

    return do


def checkpoints(folder):
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


def weights(folder):
    return load_file(folder / "model.safetensors")


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def losses(folder):
    return [entry["loss"] for entry in read_log(folder) if "loss" in entry]


# --- Presets ---

# The small encoder that stands in for the one that a preset names.
STANDS_IN = {"umt-large": "umt", "efficientnet-lite0": "efficientnet_lite"}


# Those of other encoders are `dhf1k` with them, and tests/test_training_parts.py has a decoder on every encoder.
@pytest.mark.parametrize("name", [name for name in preset_names() if not name.startswith("ablation-encoder")])
def test_every_preset_takes_steps(run, encoders, model_folder, tmp_path, dhf1k_frames, ucf_sports, name):
    preset = read_settings(name)
    # Shots of two films, so that one can be held out.
    shots = {f"training/actioncliptrain0000{film}_1": (8, 64, 96) for film in (1, 2)}
    hollywood2 = gaze_data.write_clips(tmp_path / "hollywood2", shots)
    start = {"model": model_folder}
    if "encoder" in preset:
        start = {"encoder": encoders / STANDS_IN[preset["encoder"]]}
        start["decoder"] = {"num_frames": preset.get("model_config", {}).get("num_frames", 4)}
    mine = gaze_data.write_clips(tmp_path / "mine", {f"{part}/walk": (8, 64, 96) for part in ("train", "validation")})
    stills = gaze_data.write_stills(tmp_path / "stills", splits={"train": 8, "scene_train": 4, "dev": 4})
    folders = {"dhf1k": dhf1k_frames, "ucf_sports": ucf_sports, "hollywood2": hollywood2, "stills": stills}
    folders["gazefolder"] = mine
    options = [f"{dataset}={folder}" for dataset, folder in folders.items()]
    settings = {"size": [64, 64], "max_steps": 1, "batch_size": 1, "validation_spacing": 20}
    folder = run(preset=name, data_dir=options, **settings, **start)
    assert np.isfinite(losses(folder)).tolist() == [True]
    model = SalFoMForVideoSaliencyPrediction.from_pretrained(folder / "model")
    for key, value in preset.get("model_config", {}).items():
        if key.startswith("use_") or key == "num_frames":
            assert getattr(model.config, key) == value
    if preset.get("mixed_precision"):
        assert json.loads((folder / "model" / "metrics.json").read_text())["precision"] == preset["mixed_precision"]


# --- What a run is for ---


def test_light_preset_learns(run):
    settings = {"size": [64, 96], "warmup_steps": 5, "learning_rate": 3e-3, "evaluate_every": 4}
    folder = run(epochs=32, clips_per_video=2, batch_size=4, **settings)
    loss = losses(folder)
    assert np.mean(loss[-5:]) < np.mean(loss[:5]) - 0.2
    cc = [entry["validation/cc"] for entry in read_log(folder) if "validation/cc" in entry]
    assert cc[-1] > cc[0] + 0.1


def test_what_a_run_leaves(run, data, capsys):
    folder = run(epochs=2, trackers=["tensorboard"], pictures=2, log_every=2, save_every=3, seed=3)
    settings = yaml.safe_load((folder / "config.yaml").read_text())
    assert (settings["seed"], settings["resume"]) == (3, False)
    assert settings.keys() == {field.name for field in dataclasses.fields(train.TrainingConfig)}
    out = capsys.readouterr().out
    assert f"The best model is in {folder / 'model'}." in out
    assert "Next to it: checkpoints (to go on from with --resume), pictures (of validation clips), trackers (" in out
    # One line an interval, of two epochs of four steps.
    assert [entry["step"] for entry in read_log(folder)] == [2, 4, 4, 6, 8, 8]
    assert [entry["epoch"] for entry in read_log(folder)] == [1, 1, 1, 2, 2, 2]
    assert out.count("step 6: loss") == 1
    assert all(entry["clips_per_second"] > 0 and entry["memory_gb"] > 0.01 for entry in read_log(folder)[::3])
    assert checkpoints(folder) == ["checkpoint-6", "checkpoint-8"]

    events = EventAccumulator(
        str(next((folder / "trackers" / "salfom").glob("*tfevents*")).parent), {"images": 0}
    ).Reload()
    logged = [event.value for event in events.Scalars("loss")]
    assert logged == pytest.approx([entry["loss"] for entry in read_log(folder) if "loss" in entry])
    assert len(events.Scalars("validation/cc")) == 2
    assert (events.Images("validation")[0].width, events.Images("validation")[0].height) == (3 * 64, 2 * 32)

    pictures = sorted((folder / "pictures").iterdir())
    assert [path.name for path in pictures] == ["step-000004.png", "step-000008.png"]
    picture = np.array(Image.open(pictures[0]))
    assert picture.shape == (2 * 32, 3 * 64, 3)
    # The first clip's last frame, as it was.
    frame = Image.open(data / "val" / "0601" / "images" / "0008.png").resize((64, 32), Image.Resampling.BILINEAR)
    assert np.abs(picture[:32, :64].astype(int) - np.array(frame).astype(int)).mean() < 1.5

    best = max(read_log(folder), key=lambda entry: entry.get("validation/cc", -2))
    facts = json.loads((folder / "model" / "metrics.json").read_text())
    assert facts["step"] == best["step"]
    assert facts["validation"]["cc"] == best["validation/cc"]
    assert f"| cc | {best['validation/cc']:.4f} |" in (folder / "model" / "README.md").read_text()
    video = np.zeros((3, 40, 50, 3), np.uint8)
    assert SaliencyPredictor.from_pretrained(folder / "model").predict(video).shape == (3, 40, 50)


def test_validation_is_the_mean_over_clips(run, data):
    """Against the package's metrics on the saved model, clip by clip."""
    folder = run(validation_spacing=4, batch_size=2)
    model = SalFoMForVideoSaliencyPrediction.from_pretrained(folder / "model").eval()
    processor = SalFoMVideoProcessor.from_pretrained(folder / "model")
    clips = ClipDataset(
        load("dhf1k", data, "validation"), processor, num_frames=2, sampling="regular", spacing=4, size=(32, 64)
    )
    scores = []
    for clip in clips:
        if clip["fixations"].any():
            with torch.no_grad():
                saliency = model(clip["pixel_values_videos"][None]).saliency
            scores.append([metrics.cc(saliency[0], clip["labels"]), metrics.nss(saliency[0], clip["fixations"])])
    # Two a video, but for the one frame that nobody looks at.
    assert len(scores) == 5
    logged = next(entry for entry in read_log(folder) if "validation/cc" in entry)
    assert logged["validation/clips"] == 5
    assert (logged["validation/cc"], logged["validation/nss"]) == pytest.approx(np.mean(scores, axis=0), rel=1e-4)


# --- Clips of several shapes ---


@pytest.fixture
def mixed(run, data, tmp_path):
    """Do a run on clips of three shapes: videos, wide stills and tall ones."""
    stills = gaze_data.write_stills(tmp_path / "stills", splits={"train": 8, "dev": 4})
    sources = {"train": ["stills:train", "dhf1k:train"], "weights": [2, 1], "validation": "stills:dev"}
    folders = [f"stills={stills}", f"dhf1k={data}"]

    def do(*options, **settings):
        settings = {**sources, "warmup_steps": 0, "max_grad_norm": 0.5, **settings}
        return run(*options, data_dir=folders, size=[], decoder={"image_size": [32, 64]}, **settings)

    return do


def test_clips_of_several_shapes_in_a_step(mixed):
    """Each counts as if it were by itself, in training and in validation."""
    whole = mixed(batch_size=3, folder="whole", pictures=4)
    single = mixed(batch_size=1, gradient_accumulation_steps=3, folder="single")
    assert losses(whole) == pytest.approx(losses(single), rel=1e-4)
    assert len(losses(whole)) == 4
    validations = [next(entry for entry in read_log(folder) if "validation/cc" in entry) for folder in (whole, single)]
    assert validations[0] == pytest.approx(validations[1], rel=1e-3)
    assert validations[0]["validation/clips"] == 3
    processor = SalFoMVideoProcessor.from_pretrained(whole / "model")
    assert [processor.target_size(*size) for size in ((64, 96), (96, 64))] == [(32, 64), (64, 32)]
    # A wide still above a tall one, which is black at the side.
    picture = np.array(Image.open(next((whole / "pictures").iterdir())))
    assert picture.shape == (2 * (32 + 64), 3 * 64, 3)
    assert picture[:, : 3 * 32].any(axis=2).mean() > 0.9
    assert picture[:32, 3 * 32 :].any()
    assert not picture[32:96, 3 * 32 :].any()


def test_only_stills_train_the_encoder(mixed, monkeypatch):
    """Against the gradients of the stills alone and of all clips, computed one by one."""
    seen, loss, finish = [], loop.Trainer.loss, loop.Trainer.finish_step

    def noting(trainer, batches):
        seen.append((copy.deepcopy(trainer.network), batches))
        return loss(trainer, batches)

    def comparing(trainer, value):
        network, batches = seen[-1]
        count = sum(len(batch["labels"]) for batch in batches)
        assert {batch["pixel_values_videos"].shape[1] for batch in batches} == {1, 2}
        gradients = {}
        for what in ("stills", "all"):
            network.zero_grad()
            for batch in batches:
                for clip, density in zip(batch["pixel_values_videos"], batch["labels"], strict=True):
                    if what == "all" or len(clip) == 1:
                        (network(clip[None], labels=density[None]).loss / count).backward()
            gradients[what] = {name: p.grad for name, p in network.named_parameters()}
        for name, parameter in trainer.network.named_parameters():
            expected = gradients["stills" if name.startswith("salfom.encoder.") else "all"][name]
            torch.testing.assert_close(parameter.grad, expected, atol=1e-5, rtol=1e-3, msg=name)
        differ = [
            not torch.equal(gradients["stills"][n], gradients["all"][n]) for n in gradients["all"] if "stem.0" in n
        ]
        assert all(differ)
        finish(trainer, value)

    monkeypatch.setattr(loop.Trainer, "loss", noting)
    monkeypatch.setattr(loop.Trainer, "finish_step", comparing)
    mixed("--encoder-from-stills", batch_size=6, max_steps=2)
    assert len(seen) == 2


# --- Which data ---


def test_what_is_wrong_is_said_in_a_sentence(run, failing):
    for settings, message in (
        ({"train": "dhf2k:train"}, "no dataset 'dhf2k'; did you mean dhf1k?"),
        ({"data_dir": "stills=nowhere"}, "--data-dir dhf1k=FOLDER"),
        ({"data_dir": "/nowhere"}, "/nowhere"),
        ({"train": "dhf1k:train[:1]", "validation": [], "hold_out": 0.5}, "name a validation split"),
        ({"batch_size": 5}, "4 clips an epoch are fewer than the 5 of one step"),
        ({"validation": "dhf1k:validation[:0]"}, "'dhf1k:validation[:0]' cannot be loaded"),
        ({"trackers": "aim"}, "tracker aim is not installed"),
        ({"mixed_precision": "fp16"}, "fp16 needs a GPU"),
        ({"encoder": "nowhere"}, "Cannot load the model 'nowhere': it is none of"),
        ({"lora_rank": 2}, "linear layers"),
    ):
        error = failing(**settings)
        assert error.startswith("salfom: ")
        assert message in error
    # With what was wrong corrected, the same command runs: nothing is in its way.
    run()


def test_nobody_looks_at_the_validation_clips(failing, tmp_path):
    data = gaze_data.write_dhf1k(tmp_path / "D", "frames", {"train": 2, "val": 1}, frames=gaze_data.EMPTY_FRAME + 1)
    assert "None of the 1 validation clips has fixations" in failing(data=data, epochs=2)


# --- Going on ---


def test_resuming_where_an_epoch_ended(run):
    """The checkpoint of an epoch's last step, written before the validation that was not finished."""
    expected = run(epochs=2, folder="expected", keep_checkpoints=5)
    folder = run(epochs=2, keep_checkpoints=5)
    shutil.rmtree(folder / "checkpoints" / "checkpoint-8")
    progress = folder / "checkpoints" / "checkpoint-4" / "progress.json"
    progress.write_text(
        json.dumps({**json.loads(progress.read_text()), "epoch": 0, "batch": 4, "best": None, "best_step": 0})
    )
    run("--resume", epochs=2, keep_checkpoints=5)
    assert (folder / "model" / "model.safetensors").read_bytes() == (
        expected / "model" / "model.safetensors"
    ).read_bytes()
    assert [entry["step"] for entry in read_log(folder)] == [entry["step"] for entry in read_log(expected)]


def test_a_run_is_not_overwritten(run, failing):
    folder = run()
    assert "holds a run already" in failing()
    assert "begun with other settings (batch_size, seed)" in failing("--resume", batch_size=2, seed=1)
    assert checkpoints(folder) == ["checkpoint-4"]
    # What does not change the result may change; a finished run is left as it is.
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.suffix != ".yaml"}
    run("--resume", log_every=3, keep_checkpoints=1)
    assert {path: path.read_bytes() for path in before} == before


def test_resuming_on_changed_data(run, failing, data, stills_parquet, tmp_path):
    """Data may move, copied by any means; what changes is noticed wherever it comes from."""
    places = [shutil.copytree(source, tmp_path / source.name) for source in (data, stills_parquet)]
    settings = {"train": ["dhf1k:train", "stills:train"], "validation": "dhf1k:validation", "max_steps": 1}

    def folders():
        return [f"dhf1k={places[0]}", f"stills={places[1]}"]

    folder = run(data_dir=folders(), **settings)
    for place in places:
        shutil.copytree(place, tmp_path / "moved" / place.name, copy_function=shutil.copyfile)
        shutil.rmtree(place)
    places = videos, stills = [tmp_path / "moved" / place.name for place in places]
    run("--resume", data_dir=folders(), **settings)
    file = min((videos / "val" / "0601" / "maps").iterdir())
    for change, named in (
        (lambda: file.write_bytes(file.read_bytes()[:-1] + b"!"), "dhf1k:validation"),  # As large as before.
        (lambda: shutil.rmtree(videos / "train" / "0001"), "dhf1k:train, dhf1k:validation"),
        (lambda: shutil.copy(stills / "dev.parquet", stills / "train.parquet"), "dhf1k:train, stills:train, dhf1k:v"),
    ):
        change()
        said = failing("--resume", data_dir=folders(), **settings)
        assert f"{folder} was begun with other data ({named}" in said
    # Runs of earlier versions have no note of their data.
    (folder / "data.json").unlink()
    run("--resume", data_dir=folders(), **settings)


@pytest.mark.parametrize("within", [False, True])
def test_of_many_files_every_size_counts_and_of_large_ones_both_ends(tmp_path, within):
    small, large = b"map", bytes(300_000)

    def state(*contents):
        files = [{"path": str(tmp_path / f"{number}.png"), "bytes": None} for number in range(len(contents))]
        for file, content in zip(files, contents, strict=True):
            if within:
                file["bytes"] = content
            else:
                Path(file["path"]).write_bytes(content)
        return files_fingerprint(pa.array(files, pa.struct({"path": pa.string(), "bytes": pa.binary()})))

    begun, ended = b"!" + large[1:], large[:-1] + b"!"
    found = [state(large, *[small] * 39), state(begun, *[small] * 39), state(ended, *[small] * 39)]
    # Of every third file some content is read.
    found += [state(large, *[small] * number, b"other", *[small] * (38 - number)) for number in range(0, 39, 5)]
    assert len(set(map(repr, found))) == len(found)
    assert repr(state(large, *[small] * 39)) == repr(found[0])


def test_a_model_is_noted_by_any_name(tmp_path, monkeypatch):
    """As `from_pretrained` finds it: no folder of that name without a model."""
    monkeypatch.chdir(tmp_path)
    for name in ("salfom", "empty"):
        Path(name).mkdir()
    for name, noted in (("salfom", {"salfom": model_fingerprint(KNOWN["salfom"])}), ("empty", {})):
        assert fingerprints(SimpleNamespace(train=[], validated=[], model=name)) == noted


@pytest.mark.parametrize("read", ["model", "data_dir", "run/model", "run/checkpoints/data", "run/config.yaml"])
def test_a_run_replaces_nothing_that_it_reads(failing, model_folder, data, tmp_path, read):
    folder = tmp_path / "run"
    settings = {"model": model_folder, "size": [64, 64]}
    if read == "run/config.yaml":
        folder.mkdir()
        (folder / "config.yaml").write_text("base: light  # mine\n")
        settings["preset"] = str(folder / "config.yaml")
    elif read == "data_dir":
        settings["data"] = shutil.copytree(data, folder)
    elif read.endswith("data"):
        settings["data"] = shutil.copytree(data, tmp_path / read)
    else:
        settings["model"] = shutil.copytree(model_folder, folder if read == "model" else tmp_path / read)
    before = contents(folder)
    assert str(folder) in failing(**settings)
    assert contents(folder) == before


def test_checkpoints_that_cannot_be_gone_on_from(run, failing):
    folder = run()
    checkpoint = folder / "checkpoints" / "checkpoint-4"
    for file in ("model.safetensors", "optimizer.bin", "progress.json", "average.safetensors"):
        whole = (checkpoint / file).read_bytes()
        (checkpoint / file).write_bytes(whole[: len(whole) // 2])
        assert f"Cannot go on from {checkpoint}" in failing("--resume")
        (checkpoint / file).write_bytes(whole)
    progress = json.loads((checkpoint / "progress.json").read_text())
    (checkpoint / "progress.json").write_text(json.dumps({**progress, "processes": 2}))
    assert "of 2 processes, and these are 1" in failing("--resume")


# --- When something fails ---


def test_loss_that_is_no_number(failing, tmp_path, monkeypatch):
    """The step after the first epoch's: its checkpoint and its model stay."""
    calls, real = [], loop.saliency_loss

    def broken(*args, **kwargs):
        calls.append(1)
        return real(*args, **kwargs) * (math.nan if len(calls) > 5 else 1)

    monkeypatch.setattr(loop, "saliency_loss", broken)
    error, folder = failing(epochs=3), tmp_path / "run"
    assert "not a finite number after step 5" in error
    assert f"{folder / 'checkpoints' / 'checkpoint-4'} is the last good checkpoint" in error
    assert checkpoints(folder) == ["checkpoint-4"]
    assert all(value.isfinite().all() for value in weights(folder / "checkpoints" / "checkpoint-4").values())
    assert all(value.isfinite().all() for value in weights(folder / "model").values())


def test_rate_that_breaks_the_weights(failing):
    error = failing(epochs=3, learning_rate=1e30, max_grad_norm=0, warmup_steps=0, ema_decay=0)
    assert "is not a finite number after step 1; there is no good checkpoint yet" in error
    assert "Traceback" not in error


def test_full_disk(run, failing):
    """A limit on the size of files makes the writers fail as a full disk does."""
    folder = run(epochs=1, save_every=2)
    before = contents(folder / "checkpoints" / "checkpoint-2")
    last = (folder / "checkpoints" / "checkpoint-4" / "model.safetensors").read_bytes()
    size = (folder / "model" / "model.safetensors").stat().st_size
    shutil.rmtree(folder / "checkpoints" / "checkpoint-4")
    with no_file_above(size // 2):
        error = failing("--resume", epochs=1, save_every=2)
    assert f"Cannot write {folder / 'checkpoints' / 'checkpoint-4'}" in error
    assert f"go on from {folder / 'checkpoints' / 'checkpoint-2'} with --resume" in error
    assert "free some space" not in error
    assert contents(folder / "checkpoints") == before
    # With room again, it goes on.
    run("--resume", epochs=1, save_every=2)
    assert (folder / "checkpoints" / "checkpoint-4" / "model.safetensors").read_bytes() == last


@pytest.mark.parametrize(
    ("room", "cached", "trackers", "words"),
    [
        (100, False, [], "Cannot write or read a file of the run ([Errno 27] File too large); "),
        (100, True, [], "Cannot write {}/config.yaml (File too large); "),
        (3000, True, [], "Cannot write {}/log.jsonl (File too large); "),
        (3000, True, ["tensorboard"], "A tracker cannot write to {}/trackers (File too large); "),
    ],
)
def test_full_disk_before_the_first_checkpoint(run, failing, tmp_path, room, cached, trackers, words):
    """Nothing but a sentence, also while `datasets` fills its cache with data that it has not seen before."""
    data = gaze_data.write_dhf1k(tmp_path / "D", "frames", {"train": 4, "val": 1}, frames=8)
    if cached:
        load("dhf1k", data, "train"), load("dhf1k", data, "validation")
    settings = {"data": data, "epochs": 6, "evaluate_every": 9, "trackers": trackers}
    with no_file_above(room):
        error, folder = failing(**settings), tmp_path / "run"
    assert error.startswith(f"salfom: {words.format(folder)}")
    assert error.count("\n") == 1
    assert all(path.is_file() or any(path.iterdir()) for path in folder.glob("*"))
    run(**settings)


@pytest.mark.parametrize("fails", [False, True])
def test_push_to_hub(start, monkeypatch, capsys, fails):
    pushed = []

    def upload(**options):
        pushed.append({file.name for file in Path(options["folder_path"]).iterdir()})
        if fails:
            raise OSError("no route to host")

    api = create_autospec(HfApi, instance=True)
    api.create_repo.side_effect = lambda name, **options: pushed.append((name, options))
    api.repo_info.return_value = SimpleNamespace(private=True)
    api.upload_folder.side_effect = upload
    monkeypatch.setattr(publish, "HfApi", lambda: api)
    code, folder = start("--push-to-hub", "org/name", "--private")
    assert pushed[0] == ("org/name", {"private": True, "exist_ok": True})
    assert {"README.md", "model.safetensors", "modeling_salfom.py"} <= pushed[1]
    assert code == (2 if fails else 0)
    output = capsys.readouterr()
    if fails:
        assert f"Could not send {folder / 'model'} to org/name" in output.err
    else:
        assert "https://huggingface.co/org/name" in output.out
    assert (folder / "model" / "model.safetensors").is_file()


# --- Choices of the loop ---


def scores_of(values):
    """Validations that give these scores, one after the other."""
    left = iter(values)
    return lambda *args: dict.fromkeys(("loss", "cc", "sim", "nss", "auc_judd", "kldiv", "clips"), next(left))


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (torch.OutOfMemoryError("CUDA out of memory."), "Out of memory; lower --batch-size"),
        (OSError(errno.ENOSPC, "No space left on device"), "its checkpoints are kept: free some space"),
        (RuntimeError("Connection closed by peer"), "Another process of this run has ended"),
    ],
)
def test_errors_of_a_step_are_said_in_a_sentence(failing, monkeypatch, error, said):
    monkeypatch.setattr(loop, "saliency_loss", Mock(side_effect=error))
    output = failing()
    assert output.startswith("salfom: ")
    assert said in output


@pytest.mark.parametrize(
    ("values", "settings", "best"),
    [
        ([0.2, 0.3], {"metric": "cc"}, 8),
        ([0.2, 0.3], {"metric": "kldiv"}, 4),
        ([math.nan, 0.1], {}, 8),
        ([0.1, 0.3, 0.2, math.nan, 0.25, 0.9], {"patience": 3}, 8),
    ],
)
def test_the_best_is_kept(run, monkeypatch, capsys, values, settings, best):
    monkeypatch.setattr(loop, "validate", scores_of(values))
    settings["epochs"] = len(values)
    folder = run(**settings)
    assert json.loads((folder / "model" / "metrics.json").read_text())["step"] == best
    stopped = "patience" in settings
    assert ("No better cc for 3 validations" in capsys.readouterr().out) == stopped
    assert read_log(folder)[-1]["step"] == (20 if stopped else 4 * len(values))
    # It has ended: resuming changes nothing.
    before = contents(folder)
    run("--resume", **settings)
    assert contents(folder) == before


def test_a_start_that_nothing_betters_is_kept(run, model_folder, monkeypatch):
    monkeypatch.setattr(loop, "validate", scores_of([0.5, 0.3, 0.2]))
    folder = run(model=model_folder, epochs=2, ema_decay=0)
    assert next(entry["step"] for entry in read_log(folder) if "validation/cc" in entry) == 0
    assert json.loads((folder / "model" / "metrics.json").read_text())["step"] == 0
    before, after = weights(model_folder), weights(folder / "model")
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_what_is_saved_is_the_mean_with_the_start_and_training_goes_on_from_what_it_learned(
    run, model_folder, monkeypatch
):
    monkeypatch.setattr(loop, "validate", scores_of([0.1, 0.2]))
    folder = run(model=model_folder, ema_decay=0, warmup_steps=0, learning_rate=1e-2, average_with_start=0.25)
    before, saved, learned = (
        weights(place) for place in (model_folder, folder / "model", folder / "checkpoints" / "checkpoint-4")
    )
    assert any(not torch.equal(before[name], tensor) for name, tensor in learned.items())
    for name, tensor in saved.items():
        if tensor.is_floating_point():
            torch.testing.assert_close(tensor, 0.25 * before[name] + 0.75 * learned[name], atol=1e-6, rtol=0)


def test_max_steps_ends_within_an_epoch_with_a_validation(run):
    rates = {"warmup_steps": 4, "schedule": "constant", "learning_rate": 1e-3, "encoder_learning_rate": 1e-4}
    folder = run(epochs=9, max_steps=6, evaluate_every=5, **rates)
    *steps, validation = read_log(folder)
    assert [entry["step"] for entry in steps] == [1, 2, 3, 4, 5, 6]
    assert (validation["step"], "loss" in validation) == (6, False)
    assert checkpoints(folder)[-1] == "checkpoint-6"
    for entry, factor in zip(steps, (0.25, 0.5, 0.75, 1, 1, 1), strict=True):
        assert entry["rate/decoder"] == pytest.approx(factor * 1e-3)
        assert entry["rate/encoder"] == pytest.approx(factor * 1e-4)


def test_encoder_rests_at_first(run, encoders, monkeypatch):
    """Without stochastic depth; batch norms never learn, and all else trains after a validation."""
    seen, loss = [], loop.Trainer.loss

    def noting(trainer, batch):
        network = trainer.network
        norms = [m.training for m in network.modules() if isinstance(m, torch.nn.BatchNorm2d)]
        assert norms
        seen.append((network.fusion.training, network.salfom.encoder.training, any(norms)))
        return loss(trainer, batch)

    monkeypatch.setattr(loop.Trainer, "loss", noting)
    settings = {"encoder_learning_rate": 1e-2, "ema_decay": 0, "warmup_steps": 0, "keep_checkpoints": 5}
    folder = run(epochs=2, frozen_encoder_epochs=1, **settings)
    assert seen == [(True, False, False)] * 4 + [(True, True, False)] * 4
    original = AutoModel.from_pretrained(encoders / "efficientnet_lite").state_dict()

    def changed(step):
        now = weights(folder / "checkpoints" / f"checkpoint-{step}")
        learned = [key for key in original if "running" not in key and "num_batches" not in key]
        return [key for key in learned if not torch.equal(now[f"salfom.encoder.{key}"], original[key])]

    assert not changed(4)
    assert len(changed(8)) > len(original) / 4


def test_the_average_is_what_is_saved_and_the_weights_are_what_goes_on(run):
    folder = run(learning_rate=1e-2, warmup_steps=0)
    last = folder / "checkpoints" / "checkpoint-4"
    saved = load_file(last / "average.safetensors")
    averages = [saved[str(index)] for index in range(len(saved))]
    model = SalFoMForVideoSaliencyPrediction.from_pretrained(folder / "model")
    raw = weights(last)
    named = dict(model.named_parameters())
    assert len(named) == len(averages)
    for (name, parameter), average in zip(named.items(), averages, strict=True):
        assert torch.equal(parameter, average), name
    assert any(not torch.equal(parameter, raw[name]) for name, parameter in named.items())


def test_lora_run_leaves_an_ordinary_model(run, encoders):
    pytest.importorskip("peft")
    settings = {"lora_rank": 2, "encoder_learning_rate": 1e-2, "frozen_encoder_epochs": 1, "epochs": 2}
    folder = run(encoder=encoders / "dinov2", decoder={"num_frames": 4}, **settings)
    model, report = SalFoMForVideoSaliencyPrediction.from_pretrained(folder / "model", output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    original = AutoModel.from_pretrained(encoders / "dinov2").state_dict()
    now = model.salfom.encoder.state_dict()
    changed = [key for key in original if "mask_token" not in key and not torch.equal(now[key], original[key])]
    assert changed
    assert all(original[key].ndim == 2 for key in changed)
    parameters = json.loads((folder / "model" / "metrics.json").read_text())["parameters"]
    assert parameters == model.num_parameters()


def test_precision_in_training_and_in_the_file(run):
    whole = run(folder="whole")
    rounded = run(folder="rounded", mixed_precision="bf16")
    assert losses(rounded) != losses(whole)
    assert losses(rounded) == pytest.approx(losses(whole), rel=0.1)
    # The weights stay whole.
    assert {value.dtype for value in weights(rounded / "model").values()} <= {torch.float32, torch.int64}
    half = run(folder="half", save_dtype="float16")
    stored = weights(half / "model")
    for key, value in weights(whole / "model").items():
        expected = value.half() if value.is_floating_point() else value
        assert torch.equal(stored[key], expected), key
    model = SalFoMForVideoSaliencyPrediction.from_pretrained(half / "model")
    assert {value.dtype for value in model.parameters()} == {torch.float32}


def test_loss_terms(run):
    plain = run(folder="plain", max_steps=1)
    more = run(folder="more", max_steps=1, kl_weight=0, cc_weight=0, sim_weight=1, nss_weight=0.5)
    # KL − CC is above −1, and −SIM − NSS / 2 below 1.
    assert losses(more)[0] < min(1, losses(plain)[0])


def test_worker_processes_change_nothing(run):
    alone = run(folder="alone", epochs=2)
    helped = run(folder="helped", epochs=2, num_workers=2)
    assert losses(helped) == losses(alone)
    assert (helped / "model" / "model.safetensors").read_bytes() == (
        alone / "model" / "model.safetensors"
    ).read_bytes()


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_compiled(run, monkeypatch):
    """Traced whole; what is made of the trace is slow, and torch's own business."""
    compiled, real = [], torch.compile

    def traced(model, *args, **kwargs):
        compiled.append(model)
        return real(model, *args, **{**kwargs, "backend": "eager"})

    monkeypatch.setattr(torch, "compile", traced)
    only = {"use_tcfe": False, "use_sfd": False}
    plain = run(folder="plain", max_steps=1, decoder=only)
    folder = run("--compile", folder="compiled", max_steps=1, decoder=only)
    assert compiled
    assert losses(folder) == pytest.approx(losses(plain), rel=1e-3)
    SalFoMForVideoSaliencyPrediction.from_pretrained(folder / "model")
