"""
Every command that writes, ended at any moment and started again: nothing is mixed, lost or left over.

    python tests/kill_commands.py [--kills 100] [--seed 1] [--commands evaluate train]

Each run is a process of its own, which is killed (SIGKILL) or asked to end (SIGTERM, SIGHUP, SIGINT), at a moment by
the clock or when it opens, renames or removes a file for the n-th time; then the same command runs again. Meanwhile
another process writes in the same folder. What is left is compared with what an undisturbed run has written. Linux.
"""

import argparse
import hashlib
import json
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "ACCELERATE_USE_CPU": "true"}

import datasets
import numpy as np
import torch

import gaze_data
from conftest import DECODER, tiny_model, write_clip
from salfom_hf import EfficientNetLiteConfig, SalFoMVideoProcessor, cli, predict, train
from salfom_hf.export import convert as converter
from salfom_hf.files import ENDING, atomic_output
from salfom_hf.hub import publish
from salfom_hf.video import read_frames
from test_convert import SMALL, salfom_state
from training_data import arguments

PATIENCE = 300  # seconds until a process counts as hanging
# What is not the same in two runs that nobody disturbs: times and speeds.
VARYING = re.compile(r"seconds|speed|per_second|memory_gb|date|time$")


class Command(NamedTuple):
    """A command that writes into the current folder, `out`."""

    line: Callable[[Path], list[str]]  # its arguments, for the folder of inputs
    main: Callable[[list[str]], int] = cli.main
    again: tuple[str, ...] = ("--overwrite",)  # how it is started where something may be there already
    resumes: bool = False  # What is finished is kept: parts of the output may be there at any time.
    ends_in_order: bool = False  # At a signal, what there is becomes a whole output.


def predict_line(kind: str, output: str) -> Callable[[Path], list[str]]:
    return lambda inputs: ["predict", f"{inputs}/clip.mp4", "-o", output, "--format", kind, *model_of(inputs)]


def model_of(inputs: Path) -> list[str]:
    return ["--model", f"{inputs}/model"]


def evaluate_line(inputs: Path) -> list[str]:
    line = [
        "evaluate",
        "--dataset",
        "ucf_sports",
        "--data-dir",
        f"{inputs}/ucf",
        "--split",
        "train",
        "-o",
        "out/scores",
    ]
    return [*line, "--baseline", "center", "--metrics", "nss", "cc", *model_of(inputs)]


def train_line(inputs: Path) -> list[str]:
    return arguments("light", inputs / "dhf1k", "out/run", encoder=inputs / "encoder", save_every=1, epochs=2)


SIZE = ["--size", "64", "96"]
COMMANDS = {
    "predict": Command(predict_line("overlay", "out/clip.mp4")),
    "predict-npz": Command(predict_line("npz", "out/clip.npz")),
    "predict-maps": Command(predict_line("maps", "out/maps")),
    "predict-many": Command(
        lambda inputs: [f"{inputs}/clips", "out/many", "--format", "csv", *model_of(inputs)], predict.main, (), True
    ),
    "live": Command(
        lambda inputs: ["live", f"{inputs}/clip.mp4", "-o", "out/live.mkv", "--latency", "60", *model_of(inputs)],
        ends_in_order=True,
    ),
    "data-make": Command(lambda inputs: ["data", "make", f"{inputs}/clips", f"{inputs}/gaze.csv", "out/gaze"]),
    "data-show": Command(
        lambda inputs: ["data", "show", "ucf_sports", f"{inputs}/ucf", "--split", "test", "-o", "out/sheet.png"]
    ),
    "data-export": Command(
        lambda inputs: ["data", "export", "ucf_sports", f"{inputs}/ucf", "out/shards", "--split", "test"]
    ),
    "evaluate": Command(evaluate_line, again=(), resumes=True),
    "submit": Command(
        lambda inputs: ["submit", "--data-dir", f"{inputs}/dhf1k", "-o", "out/maps", *model_of(inputs)],
        again=(),
        resumes=True,
    ),
    "train": Command(train_line, train.main, ("--resume",), True),
    "convert": Command(lambda inputs: ["convert", f"{inputs}/authors.pth", "out/converted"]),
    "export-hub": Command(lambda inputs: ["export", "hub", f"{inputs}/model", "out/hub"]),
    "export-onnx": Command(lambda inputs: ["export", "onnx", f"{inputs}/model", "out/onnx", *SIZE]),
    "export-torch": Command(lambda inputs: ["export", "torch-export", f"{inputs}/model", "out/model.pt2", *SIZE]),
    # What the Hub does with half an upload is its own affair.
    "push": Command(lambda inputs: ["push", f"{inputs}/model", "--repo-id", "org/name"], again=(), resumes=True),
}


class Hub:
    """Stands in for the Hub, which is the folder `out/name`."""

    def create_repo(self, *_: Any, **__: Any) -> None:
        Path("out/name").mkdir(parents=True, exist_ok=True)

    def upload_folder(self, folder_path: str, **_: Any) -> None:
        shutil.copytree(folder_path, "out/name", dirs_exist_ok=True)


def make_inputs(folder: Path) -> None:
    encoder = EfficientNetLiteConfig(stem_channels=4, stage_channels=(4,) * 7, stage_depths=(1,) * 7)
    model = tiny_model(encoder, **DECODER, decoder_hidden_size=4, output_stride=4, center_prior=True)
    model.save_pretrained(folder / "model")
    SalFoMVideoProcessor(size={"height": 64, "width": 96}, num_frames=4).save_pretrained(folder / "model")
    model.salfom.encoder.save_pretrained(folder / "encoder")
    write_clip(folder / "clip.mp4", 40)
    (folder / "clips").mkdir()
    for name in "abc":
        write_clip(folder / "clips" / f"{name}.mp4", 12, sound=False)
    rows = [f"{name},{frame},{20 + frame},30" for name in "abc" for frame in range(12)]
    (folder / "gaze.csv").write_text("\n".join(["video,frame,x,y", *rows]))
    gaze_data.write_ucf_sports(folder / "ucf", frames=6)
    gaze_data.write_dhf1k(folder / "dhf1k", "frames", frames=6)
    torch.save({"model": salfom_state()}, folder / "authors.pth")


def forked(work: Callable[[], int | None], log: Path) -> int:
    """Do this in a process of its own, in a group of its own; gives the number of the process."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        os.setsid()
        with log.open("ab") as file:
            for stream in (1, 2):
                os.dup2(file.fileno(), stream)
        code = work() or 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def wait(child: int, log: Path) -> int:
    """The exit code of a process, negative for a signal."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    raise FaultError(f"hangs: {log.read_text()[-2000:]}")


class FaultError(Exception):
    """What is wrong after a command was ended."""


class Room:
    """A folder in which a command runs again and again, first without being disturbed."""

    def __init__(self, folder: Path, inputs: Path, command: Command) -> None:
        self.folder, self.inputs, self.command = folder, inputs, command
        self.log = folder / "log.txt"
        for name in ("out", "temporary", "cache"):
            (folder / name).mkdir(parents=True)
        begin = time.monotonic()
        self.run(again=False)
        self.seconds, self.events = time.monotonic() - begin, int((folder / "events").read_text())
        self.expected = self.state()
        # Another output of the same kind, as an earlier run may have left it.
        shutil.copytree(folder / "out", folder / "old")
        for path in files_in(folder / "old"):
            path.write_bytes(path.read_bytes() + b" ")
            if path.parent != folder / "old":
                shutil.copy(path, path.with_stem("old"))

    def clear(self, keep_old: bool) -> dict[str, str]:
        """Begin with an old output or none, which is returned as `state` does."""
        shutil.rmtree(self.folder / "out")
        if keep_old:
            shutil.copytree(self.folder / "old", self.folder / "out")
        else:
            (self.folder / "out").mkdir()
        return self.state()

    def start(self, again: bool, at_event: int = 0, number: int = signal.SIGKILL) -> int:
        """Start the command; it is sent the signal when it does something with a file for the n-th time."""

        def work() -> int:
            os.chdir(self.folder)
            for each in ENDING:
                signal.signal(each, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            tempfile.tempdir = str(self.folder / "temporary")
            datasets.config.HF_DATASETS_CACHE = self.folder / "cache"
            publish.HfApi = Hub
            converter.SalFoMConfig = lambda: SMALL
            count = 0

            def watch(event: str, values: tuple) -> None:
                nonlocal count
                changes = event in ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.chmod", "os.truncate")
                if changes or (event == "open" and "w" in str(values[1])):
                    count += 1
                    if count == at_event:
                        os.kill(os.getpid(), number)

            sys.addaudithook(watch)
            code = self.command.main([*self.command.line(self.inputs), *(self.command.again if again else ())])
            (self.folder / "events").write_text(str(count))
            return code

        return forked(work, self.log)

    def run(self, again: bool) -> None:
        """Run it to its end."""
        code = wait(self.start(again), self.log)
        if code:
            raise FaultError(f"ends with {code}: {self.log.read_text()[-2000:]}")

    def state(self) -> dict[str, str]:
        """What the output holds, but for what differs between any two runs."""
        return {str(path.relative_to(self.folder)): digest(path) for path in files_in(self.folder / "out")}

    def unfinished(self) -> set[str]:
        """Temporary files and folders."""
        left = [*(self.folder / "out").rglob(".salfom-*"), *(self.folder / "temporary").iterdir()]
        left += (self.folder / "out").rglob("*.unfinished")
        return {str(path.relative_to(self.folder)) for path in left}


def files_in(folder: Path) -> list[Path]:
    """All files that are results."""
    found = (path for path in folder.rglob("*") if path.is_file() and ".salfom-" not in str(path))
    trackers = re.compile(r"tfevents|hparams\.yml|\.lock$")
    return sorted(path for path in found if not trackers.search(path.name))


def digest(path: Path) -> str:
    """What a file holds; times and speeds are left out."""
    content = path.read_bytes()
    if path.name == "live.mkv":  # Its pictures have the times at which they came.
        content = b"%d pictures" % sum(1 for _ in read_frames(path))
    elif content.endswith(b" "):  # An old output.
        pass
    elif path.suffix == ".npz":
        with np.load(path) as archive:
            content = b"".join(archive[name].tobytes() for name in sorted(archive.files))
    elif path.suffix == ".pt2":
        program = torch.export.load(path)
        content = repr({name: value.tolist() for name, value in program.state_dict.items()}).encode()
    elif path.suffix in (".json", ".jsonl"):
        content = repr([without_times(json.loads(line)) for line in json_of(path)]).encode()
    return hashlib.sha256(content).hexdigest()


def json_of(path: Path) -> list[str]:
    text = path.read_text()
    return text.splitlines() if path.suffix == ".jsonl" else [text]


def without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_times(inside) for key, inside in value.items() if not VARYING.search(key)}
    return [without_times(inside) for inside in value] if isinstance(value, list) else value


class Neighbour:
    """Another process, at work on a file of its own in the same folder, which it must be able to finish."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.log = folder, folder / "neighbour.txt"
        (heard, told), (waits, self.go_on) = os.pipe(), os.pipe()

        def work() -> None:
            os.close(self.go_on)  # So that it ends when this program does.
            with atomic_output(folder / "out" / "neighbour.bin") as path:
                path.write_bytes(b"mine")
                os.write(told, b"!")
                os.read(waits, 1)

        self.child = forked(work, self.log)
        os.read(heard, 1)
        for descriptor in (heard, told, waits):
            os.close(descriptor)
        self.own = {str(path.relative_to(folder)) for path in (folder / "out").glob(".salfom-*")}

    def finish(self) -> None:
        os.write(self.go_on, b"!")
        os.close(self.go_on)
        if wait(self.child, self.log):
            raise FaultError(f"another process could not finish: {self.log.read_text()}")
        (self.folder / "out" / "neighbour.bin").unlink()


def trial(room: Room, chance: random.Random) -> str:
    """End the command at some moment, and run it again; how it was ended."""
    number = signal.SIGKILL if chance.random() < 0.6 else chance.choice(ENDING)
    at_event = chance.randint(1, room.events) if chance.random() < 0.5 else 0
    seconds = chance.uniform(0, room.seconds)
    before = room.clear(keep_old=not room.command.resumes and chance.random() < 0.5)
    neighbour = Neighbour(room.folder)
    how = f"{signal.Signals(number).name} {f'at file event {at_event}' if at_event else f'after {seconds:.2f} s'}"
    try:
        child = room.start(bool(before), at_event, number)
        if not at_event:
            time.sleep(seconds)
            os.kill(child, number)
        code = wait(child, room.log)
        how += f", exit code {code}"
        after, left = room.state(), room.unfinished() - neighbour.own
        in_order = room.command.ends_in_order and number != signal.SIGKILL
        if not room.command.resumes and not in_order and after not in (before, room.expected):
            raise FaultError(f"{how}: neither the old output nor the new one: {sorted(after)}")
        if number != signal.SIGKILL and left:
            raise FaultError(f"{how}: left over: {sorted(left)}")
        room.run(bool(after) or room.command.resumes)
        if left := room.unfinished() - neighbour.own:
            raise FaultError(f"{how}: left over after the next run: {sorted(left)}")
        neighbour.finish()
        after = room.state()
        names = sorted(after.keys() | room.expected.keys())
        if other := [name for name in names if after.get(name) != room.expected.get(name)]:
            raise FaultError(f"{how}: not what an undisturbed run writes: {other}")
    except FaultError:
        with suppress(ProcessLookupError):
            os.killpg(neighbour.child, signal.SIGKILL)
        raise
    return "ended" if code else "finished before"


def kill(names: list[str], kills: int, seed: int, say: Callable = print) -> Counter:
    """End each of these commands so many times; counts what came of it, and says every fault."""
    torch.set_num_threads(1)
    counts: Counter = Counter()
    with tempfile.TemporaryDirectory(prefix="kill-") as name:
        folder = Path(name)
        (folder / "inputs").mkdir()
        if wait(forked(lambda: make_inputs(folder / "inputs"), folder / "log.txt"), folder / "log.txt"):
            raise FaultError((folder / "log.txt").read_text())
        for place, command in enumerate(names):
            chance = random.Random(f"{seed} {command}")
            room = Room(folder / str(place), folder / "inputs", COMMANDS[command])
            outcomes: Counter = Counter()
            for turn in range(kills):
                try:
                    outcomes[trial(room, chance)] += 1
                except FaultError as fault:
                    outcomes["fault"] += 1
                    say(f"{command}, --seed {seed}, turn {turn}: {fault}")
            say(f"{command}: {', '.join(f'{count} {outcome}' for outcome, count in outcomes.items())}", flush=True)
            counts += outcomes
    return counts


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--kills", type=int, default=1, help="of each command, default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument("--commands", nargs="+", choices=COMMANDS, default=[*COMMANDS], help="default: all")
    parser.add_argument("--without", nargs="+", choices=COMMANDS, default=[], help="leave these out")
    args = parser.parse_args()
    names = [name for name in args.commands if name not in args.without]
    begin = time.monotonic()
    counts = kill(names, args.kills, args.seed)
    told = ", ".join(f"{count} {outcome}" for outcome, count in counts.items())
    print(f"{len(names)} commands, {counts.total()} times, in {time.monotonic() - begin:.0f} s: {told}")
    return 1 if counts["fault"] else 0


if __name__ == "__main__":
    sys.exit(main())
