"""
Every command and every piece of Python in the documents does what it says, on small data in the real layouts.

Commands in blocks of plain text, which take hours or GPUs or install something, are checked for what they name.
"""

import importlib.util
import json
import os
import re
import shlex
import shutil
from importlib.metadata import metadata
from pathlib import Path
from unittest.mock import create_autospec

import av
import numpy as np
import pytest
import torch
import transformers
from accelerate.commands.launch import launch_command_parser
from accelerate.state import AcceleratorState, GradientState
from huggingface_hub import HfApi, ModelCard
from packaging.requirements import Requirement
from PIL import Image
from torch.distributed.run import get_args_parser

import gaze_data
import salfom_hf
import test_convert
import test_hub
from salfom_hf import SalFoMConfig, SaliencyPredictor, cli, predict, train
from salfom_hf.cli.train import parse as training_config
from salfom_hf.cli.train import parser as training_parser
from salfom_hf.data import DATASETS, make_gazefolder
from salfom_hf.data.export import export_dataset
from salfom_hf.export import convert
from salfom_hf.hub import publish
from salfom_hf.inference.auto import register
from salfom_hf.inference.pipeline_salfom import TASK
from salfom_hf.models import names as pretrained
from salfom_hf.models.encoders import ENCODERS

DOCS = Path(__file__).parents[1] / "docs"
PAGES = sorted([*DOCS.glob("*.md"), *(DOCS.parent / name for name in ("README.md", "CONTRIBUTING.md"))])


def blocks(name, language):
    """Of a page in `docs`, given by its name, or of any other, by its path."""
    return re.findall(rf"```{language}\n(.*?)```", (DOCS / name).read_text(encoding="utf-8"), flags=re.S)


def holds(name, language):
    """What a page has to be run: the lines of its commands, or else its blocks."""
    found = blocks(name, language)
    return [line for block in found for line in block.splitlines()] if language == "bash" else found


def commands(name):
    return [line for line in holds(name, "bash") if not line.startswith("python benchmarks/")]


@pytest.fixture
def mine(tmp_path, clip):
    """Two videos, a table with a row for each of their six frames, and what is made of them."""
    folder = tmp_path / "mine"
    (folder / "videos").mkdir(parents=True)
    for name in ("walk", "ride"):
        shutil.copy(clip, folder / "videos" / f"{name}.mp4")
    rows = [
        f"{name}.mp4,{time},30.5,20,anna\n"
        for name in ("walk", "ride")
        for time in (0.016, 0.05, 0.1, 0.13, 0.17, 0.21)
    ]
    (folder / "gaze.csv").write_text(f"video,time,x,y,observer\n{''.join(rows)}")
    make_gazefolder(folder / "videos", folder / "gaze.csv", folder / "made", validation=0.2)
    return folder


@pytest.fixture
def places(tmp_path, dhf1k_official, ucf_sports, stills_parquet, mine, model_folder, monkeypatch):
    """What stands for the names in the documents."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    videos = [dhf1k_official / "video" / f"{number}.AVI" for number in (601, 602)]
    predictions = tmp_path / "predictions"
    for video in videos:
        shutil.copytree(dhf1k_official / "annotation" / f"0{video.stem}" / "maps", predictions / f"{video.stem}_maps")
    return {
        # What the command before has made, for every command is tested by itself.
        "gazefolder /data/mine/dataset": f"gazefolder {mine / 'made'}",
        "/data/mine": mine,
        "/data/DHF1K/video/{601..700}.AVI": " ".join([*map(str, videos), "--model", str(model_folder)]),
        "--predictions predictions": f"--predictions {predictions}",
        "/data/DHF1K": dhf1k_official,
        "/data/UCF-Sports": ucf_sports,
        "/data/stills": stills_parquet,
        "salfom-large": model_folder,
        "--model salfom ": f"--model {model_folder} ",
    }


def with_places(text, places):
    for name, place in places.items():
        text = text.replace(name, str(place))
    return text


@pytest.mark.parametrize("command", commands("datasets.md") + commands("score.md"))
def test_commands(command, places):
    if "--teacher" in command:
        # Skipped where the package that runs the teacher is missing.
        pytest.importorskip("test_data_pseudo_labels").write_teacher(Path("center.tflite"))
    run_line(command, places)


def test_python_of_the_scores_page():
    saliency, fixations, others = torch.rand(3, 2, 8, 12, generator=torch.Generator().manual_seed(0))
    namespace = {"saliency": saliency, "fixations": fixations > 0.8, "other_fixations": others > 0.8}
    (block,) = holds("score.md", "python")
    exec(block, namespace)
    # It shows nothing, so what is called is called once more: one number per map.
    calls = re.findall(r"^metrics\..*$", block, flags=re.M)
    assert [eval(call, namespace).shape for call in calls] == [(2,)] * 3


def test_the_scores_page_holds_what_the_shipped_weights_got():
    """The table for which the card of these weights has the numbers, too."""
    path = DOCS.parent / "hub_cards" / "results" / "ucf_sports.json"
    scores = {method["name"]: method for method in json.loads(path.read_text(encoding="utf-8"))["methods"]}
    table = (DOCS / "score.md").read_text(encoding="utf-8")
    for name in ("salfom", "center"):
        (row,) = re.findall(rf"^\| {name} +\|(.*)\|$", table, flags=re.M)
        means = scores[name]["mean_over_frames"]
        metrics = ("auc_judd", "auc_shuffled", "nss", "cc", "sim", "kldiv")
        assert [cell.strip() for cell in row.split("|")[:6]] == [f"{means[metric]:.3f}" for metric in metrics]


def test_python_of_the_datasets_page(places):
    namespace = run_python("datasets.md", places)
    assert namespace["frame"].shape[:2] == namespace["density"].shape == namespace["fixations"].shape
    # Of the last pass over a mixture: clips and stills, each in batches of their own.
    shapes = {tuple(batch["pixel_values_videos"].shape[1:]) for batch in namespace["batches"]}
    assert shapes <= {(16, 3, 288, 384), (1, 3, 288, 384)}


def run_line(line, places=None):
    """Run a command of a page in this process; training takes two steps on small clips."""
    words = shlex.split(with_places(line, places or {}), comments=True)
    while "=" in words[0]:  # Variables of the environment: the Hub is out of reach in tests anyway.
        words.pop(0)
    if words[0] == "salfom":
        code = cli.main(words[1:])
    else:
        assert words[:3] == ["accelerate", "launch", "-m"]
        small = ["--max-steps", "2", "--size", "64", "96", "--num-workers", "0"]
        forget_accelerate()
        code = train.main([*words[4:], *small]) if words[3] == "salfom_hf.train" else predict.main(words[4:])
        forget_accelerate()
    assert code == 0, line


def run_commands(name, places=None):
    """Every line of a page in turn, each on what those before it left."""
    for line in holds(name, "bash"):
        run_line(line, places)


def run_python(name, places=None, first=0):
    """Every block of a page in turn, in one program; one that begins with the name of a file becomes that file."""
    namespace = {}
    for block in holds(name, "python")[first:]:
        code = with_places(block, places or {})
        if found := re.match(r"# (\w+\.py)\n", code):
            Path(found[1]).write_text(code, encoding="utf-8")
        else:
            exec(code, namespace)
    return namespace


def forget_accelerate():
    """It keeps the settings of its first start for as long as the process lives."""
    AcceleratorState._reset_state(True)
    GradientState._reset_state()


def test_fine_tuning_page(places, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    run_commands("fine-tune.md", places)
    run_python("fine-tune.md", {"(288, 384)": "(64, 96)"})
    forget_accelerate()
    for folder in ("run/model", "trainer-run/model"):
        assert SaliencyPredictor.from_pretrained(folder).model.config.num_frames == 16
    assert Path("walk_saliency.mp4").is_file()
    test_hub.check_metadata(ModelCard.load("run/model/README.md"))
    for settings in holds("fine-tune.md", "yaml"):
        Path("own.yaml").write_text(settings, encoding="utf-8")
        config = training_config(["own.yaml", "--data-dir", "mine"])
        assert (config.model, config.learning_rate, config.nss_weight) == ("salfom", 3e-5, 0.1)


def loaded(script):
    """A script as a module."""
    spec = importlib.util.spec_from_file_location(script.stem, script)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_publishing_page(places, mine, monkeypatch):
    """From the first line to the last, each on what those before it left; the Hub notes what it is sent."""
    hub = test_hub.Hub()
    monkeypatch.setattr(publish, "HfApi", hub)
    shutil.copytree(places["salfom-large"], "run/model")
    shutil.copytree(mine / "made", "mine")
    for video in ("walk.mp4", "ride.mp4"):
        shutil.copy(mine / "videos" / video, video)
    for line in holds("publish.md", "bash"):
        if not line.startswith("python "):
            run_line(line)
            continue
        # Into a folder of its own: the cards of the repository stay as they are.
        script = loaded(DOCS.parent / line.split()[1])
        script.main(Path("cards"))
    for path in script.CARDS:
        card = Path("cards", path.relative_to(DOCS.parent)).read_text(encoding="utf-8")
        # Of the shipped weights' card, which changes with them, tests/test_hub.py says more.
        assert "weights" in path.parts or card == path.read_text(encoding="utf-8")
    (_, name, options), _ = hub.calls
    assert (name, options["private"]) == ("org/name", True)
    assert hub.files.keys() == {path.name for path in Path("hub-folder").iterdir()}
    assert ModelCard.load("hub-folder/README.md").data.eval_results
    monkeypatch.setitem(pretrained.KNOWN, "salfom", Path("run/model").resolve())
    default = {"model": (str(pretrained.KNOWN["salfom"]), "main")}
    register()
    monkeypatch.setitem(transformers.pipelines.SUPPORTED_TASKS[TASK], "default", default)
    namespace = run_python("publish.md")
    assert namespace["result"]["timestamps"][0] == pytest.approx(0.04)
    assert namespace["again"](mine / "videos" / "walk.mp4")["maps"].shape == (6, 64, 96)
    assert namespace["saliency"].shape[0] == 1


@pytest.fixture
def small(tmp_path, clip, model_folder, monkeypatch):
    """An empty folder with a video of six frames, and a tiny model under the name of the shipped one."""
    monkeypatch.setitem(pretrained.KNOWN, "salfom", model_folder)
    (tmp_path / "small").mkdir()
    monkeypatch.chdir(tmp_path / "small")
    shutil.copy(clip, "talk.mp4")
    return Path.cwd()


def frames_in(video):
    with av.open(str(video)) as container:
        return sum(1 for _ in container.decode(video=0))


def test_quick_start(small, monkeypatch, capsys):
    pytest.importorskip("gradio")
    served = []
    monkeypatch.setattr("salfom_hf.demo.launch", lambda page, **options: served.append(options))
    Image.new("RGB", (96, 64)).save("picture.jpg")
    places = {"src/salfom_hf/assets/example.mp4": "talk.mp4", "docs/overlay.jpg": "picture.jpg"}
    run_commands("quick-start.md", places)
    assert frames_in("saliency.mp4") == 6
    (options,) = served
    assert options == {"server_name": "127.0.0.1", "server_port": None}
    namespace = run_python("quick-start.md", places)
    assert namespace["maps"].shape == (6, 64, 96)
    assert namespace["saliency"].shape == (64, 96)
    assert "The highest value is in frame" in capsys.readouterr().out
    for place in places:
        assert (DOCS.parent / place).is_file()


def test_readme(small):
    """What it shows first; its two commands that set up everything are run by `.ci/run`."""
    shutil.copy("talk.mp4", "my.mp4")
    install, predict, *set_up = holds("../README.md", "bash")
    assert [line.split(" && ")[0] for line in (install, *set_up)] == ["python3 -m venv .venv"] * 3
    assert cli.main(shlex.split(predict, comments=True)[1:]) == 0
    assert frames_in("my_overlay.mp4") == 6
    assert run_python("../README.md")["maps"].shape == (6, 64, 96)


def test_demo_page(small, monkeypatch):
    """The command, and a Space on a Hub that notes what it is sent; the programming interface is tested elsewhere."""
    pytest.importorskip("gradio")
    served, hub = [], create_autospec(HfApi, instance=True)
    monkeypatch.setattr("salfom_hf.demo.launch", lambda page, **options: served.append(options["server_port"]))
    monkeypatch.setattr("huggingface_hub.HfApi", lambda: hub)
    run_commands("demo.md")
    assert served == [None]  # Gradio takes the first that is free.
    # As `pip wheel` calls it.
    wheel = f"salfom_hf-{salfom_hf.__version__}-py3-none-any.whl"
    Path("dist").mkdir()
    Path("dist", wheel).write_bytes(b"a wheel")
    run_python("demo.md", first=1)
    hub.create_repo.assert_called_once_with("org/salfom-demo", repo_type="space", space_sdk="gradio", exist_ok=True)
    folder = DOCS.parent / hub.upload_folder.call_args.kwargs["folder_path"]
    assert {"app.py", "README.md"} <= set(os.listdir(folder))
    sent = {call.kwargs["path_in_repo"]: call.kwargs["path_or_fileobj"] for call in hub.upload_file.call_args_list}
    assert Path(sent[wheel]).read_bytes() == b"a wheel"
    requirement = Requirement(sent["requirements.txt"].decode().strip())
    assert (requirement.name, requirement.extras) == ("salfom-hf", {"demo"})
    assert requirement.url == f"https://huggingface.co/spaces/org/salfom-demo/resolve/main/{wheel}"


def plain_commands():
    """Those in blocks of plain text, of all pages, and all that measure; also those that read from another one."""
    return [
        pytest.param(part, id=f"{page.name}: {part[:40]}")
        for page in PAGES
        for language in ("text", *["bash"] * (page.name in ("benchmarks.md", "performance.md")))
        for block in blocks(page, language)
        for line in block.splitlines()
        for part in line.split(" | ")
        if re.match(r"(salfom|accelerate|torchrun|python3?|pip) ", part)
    ]


@pytest.mark.parametrize("command", plain_commands())
def test_plain_commands_name_what_exists(command):
    # What may be left out is there, and for what another command prints stands a name.
    command = re.sub(r"\[(--.*?)\]", r"\1", re.sub(r"\$\(.*?\)", "printed", command))
    words = shlex.split(command, comments=True)
    launchers = {"torchrun": get_args_parser, "salfom": cli.parser}
    parsers = [(launchers[words[0]](), words[1:])] if words[0] in launchers else []
    if words[:2] == ["accelerate", "launch"]:
        parsers.append((launch_command_parser(), words[2:]))
    for module, parser in (("salfom_hf.train", training_parser), ("salfom_hf.predict", predict.parser)):
        if module in words:
            parsers.append((parser(), words[words.index(module) + 1 :]))
    for parser, arguments in parsers:
        # Neither an unknown option nor a missing argument, for which argparse exits.
        assert parser.parse_known_args(arguments)[1] == []
    if words[0] == "pip":
        extras = set(metadata("salfom-hf").get_all("Provides-Extra"))
        for word in words:
            assert not word.startswith(".") or Requirement(f"salfom-hf{word[1:]}").extras <= extras
            assert not word.endswith(".txt") or (DOCS.parent / word).is_file(), word
    elif words[0].startswith("python") and words[1] != "-m":
        script = (DOCS.parent / words[1]).read_text(encoding="utf-8")
        assert all(f'"{word}"' in script for word in words[2:] if word.startswith("-"))


def test_export_page(small, ready_exports):
    """From the first line to the last; the tiny model's windows are shorter."""
    run_commands("export.md")
    assert frames_in("talk_overlay.mp4") == 6
    assert run_python("export.md", {"(1, 16, 3": "(1, 4, 3"})["saliency"].shape == (1, 320, 416)


def test_own_video(small, model_folder, monkeypatch):
    monkeypatch.setitem(pretrained.KNOWN, "salfom-large", model_folder)
    shutil.copytree(model_folder, "run/model")
    for folder, files in (("clips", ["one.mp4", "two.mp4"]), (".", ["walk.mp4"])):
        Path(folder).mkdir(exist_ok=True)
        for file in files:
            shutil.copy("talk.mp4", Path(folder, file))
    with av.open("talk.mp4") as container:
        pictures = [frame.to_image() for frame in container.decode(video=0)]
    pictures[0].save("photo.jpg")
    Path("frames").mkdir()
    for number, picture in enumerate(pictures[:3], 1):
        picture.save(Path("frames", f"{number}.png"))
    run_commands("own-video.md", {"--start 10 --duration 5": "--start 0.08 --duration 0.12", "--at 12.5": "--at 0.1"})
    for name in ("one", "two", "talk", "walk"):
        assert frames_in(f"results/{name}_overlay.mp4") == 6
    assert Image.open("photo_overlay.png").size == (96, 64)
    assert (frames_in("frames.mp4"), frames_in("part.mp4"), frames_in("fast.mp4")) == (3, 3, 6)
    names = {"talk_overlay.mp4", "talk_side-by-side.mp4", "large.mp4", "mine.mp4", "talk_table.csv", "figure.png"}
    assert names <= set(os.listdir())
    namespace = run_python("own-video.md")
    assert namespace["archive"]["maps"].dtype == np.float16
    assert namespace["picture"].shape == (64, 96, 3)


def test_many_videos_page(small, ucf_sports, monkeypatch):
    monkeypatch.setattr("signal.signal", lambda *_: None)
    Path("clips", "day1").mkdir(parents=True)
    shutil.copy("talk.mp4", "clips/day1/a.mp4")
    Path("list.txt").write_text("talk.mp4\nclips/day1/a.mp4\n")
    run_commands("many-videos.md", {"/data/UCF-Sports": ucf_sports})
    assert frames_in("results/day1/a_overlay.mp4") == 6
    assert len(os.listdir("results/talk_maps")) == len(os.listdir("results/clips/day1/a_maps")) == 6
    namespace = run_python("many-videos.md")
    assert namespace["saliency"].shape == (namespace["row"]["height"], namespace["row"]["width"])
    assert Path("with-maps.parquet").is_file()


def test_converting_page(small, monkeypatch):
    installed = small / "cache" / "salfom-large"
    monkeypatch.setattr(convert, "SalFoMConfig", lambda: test_convert.SMALL)
    monkeypatch.setattr("salfom_hf.cli.convert.installed", lambda name: installed)
    monkeypatch.setitem(pretrained.KNOWN, "salfom-large", installed)
    torch.save(test_convert.salfom_state(), "SalFoM.pth")
    torch.save({"model": test_convert.umt_state(depth=1)}, "l16_ptk710_ftk710_ftk400_f16_res224.pth")
    run_commands("convert.md")
    files = {"config.json", "model.safetensors", "video_preprocessor_config.json"}
    assert set(os.listdir(installed)) == set(os.listdir("salfom-paper")) == files
    assert frames_in("talk_overlay.mp4") == 6
    namespace = run_python("convert.md")
    assert namespace["maps"].shape == (6, 64, 96)
    assert namespace["model"].config.encoder_config.hidden_size == 64


def test_architecture_page(tmp_path, monkeypatch):
    drawing = loaded(DOCS / "make_architecture.py")
    monkeypatch.setattr(drawing, "OUTPUT", tmp_path / "drawn.svg")
    for line in holds("architecture.md", "bash"):
        assert line == "python docs/make_architecture.py"
        drawing.main([])
    drawn = (tmp_path / "drawn.svg").read_text(encoding="utf-8")
    assert drawn == (DOCS / "architecture.svg").read_text(encoding="utf-8"), "run python docs/make_architecture.py"
    run_python("architecture.md")
    page = (DOCS / "architecture.md").read_text(encoding="utf-8")
    for config in (SalFoMConfig.from_pretrained("salfom"), SalFoMConfig()):
        for field in ("decoder_channels", "tcfe_depths", "tcfe_num_heads"):
            assert ", ".join(map(str, getattr(config, field))) in page


def test_extending_page(tmp_path, monkeypatch, capsys):
    # Taken out of the tables again afterwards.
    monkeypatch.setitem(ENCODERS, "resnet", None)
    monkeypatch.setitem(DATASETS, "lab", None)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    for seed, (split, name) in enumerate([("train", "a"), ("train", "b"), ("test", "c")]):
        pictures, fixations, densities = gaze_data.gaze_video(seed)
        gaze_data.write_avi(tmp_path / "lab" / "videos" / split / f"{name}.mp4", pictures)
        for folder, images in (("density", densities), ("fixated", fixations)):
            gaze_data.write_images(tmp_path / "lab" / folder / name, images, [f"{i:04d}.png" for i in range(1, 21)])
    namespace = run_python("extend.md", {"/data/lab": tmp_path / "lab"})
    assert tuple(namespace["saliency"].shape) == (1, 64, 96)
    assert namespace["dataset"]["video_id"][:] == ["a", "b"]
    assert tuple(namespace["clips"][0]["pixel_values_videos"].shape) == (16, 3, 64, 96)
    assert "0 errors, 0 warnings" in capsys.readouterr().out
    export_dataset({"train": namespace["dataset"]}, tmp_path / "shards", "lab")
    assert "# Lab" in (tmp_path / "shards" / "README.md").read_text(encoding="utf-8")
    # Where the video goes, its problem is named.
    shutil.rmtree(tmp_path / "lab" / "density" / "b")
    assert "b" in str(namespace["Lab"].check(tmp_path / "lab").fatal[0].where)


def test_security_page(small, model_folder, monkeypatch, capsys):
    run_commands("security.md")
    assert frames_in("talk_overlay.mp4") == 6
    capsys.readouterr()
    attack = run_python("security.md")["Attack"]
    assert re.search("attack.pth holds pickled Python objects", printed := capsys.readouterr().out)
    assert "This ran." not in printed
    assert not Path("converted").exists()
    # Nor does loading a model run what is in its old file of weights.
    shutil.copytree(model_folder, "old")
    Path("old", "model.safetensors").unlink()
    torch.save({"weight": attack()}, "old/pytorch_model.bin")
    assert cli.main(["predict", "talk.mp4", "--model", "old", "-o", "never.mp4"]) == 2
    assert "This ran." not in capsys.readouterr().out
    assert not Path("never.mp4").exists()


def anchors(page):
    """The names that GitHub gives to the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), flags=re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.S)
    for link in re.findall(r"\]\(([^)]+)\)|src=\"([^\"]+)\"", text):
        path, _, anchor = "".join(link).partition("#")
        if "://" in path:
            continue
        target = page.parent / path if path else page
        assert target.exists(), f"{page.name} links {path}"
        assert not anchor or anchor in anchors(target), f"{page.name} links {path}#{anchor}"


def test_the_index_has_every_page():
    index = (DOCS / "README.md").read_text(encoding="utf-8")
    readme = (DOCS.parent / "README.md").read_text(encoding="utf-8")
    for page in DOCS.glob("*.md"):
        if page.name != "README.md":
            assert f"]({page.name})" in index, page.name
            assert f"](docs/{page.name})" in readme, page.name
