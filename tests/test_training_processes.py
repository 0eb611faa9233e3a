import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import gaze_data
from salfom_hf import EfficientNetLiteConfig, EfficientNetLiteModel
from salfom_hf.training.log import read_log
from training_data import arguments

TESTS = Path(__file__).parent


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Three videos to validate on, which two processes cannot share out evenly."""
    videos = {"train": 4, "val": 3, "test": 1}
    return gaze_data.write_dhf1k(tmp_path_factory.mktemp("data") / "DHF1K", "frames", videos, frames=8)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    torch.manual_seed(0)
    config = EfficientNetLiteConfig(
        stem_channels=4, stage_channels=(4, 4, 8, 8, 8, 12, 12), stage_depths=(1,) * 7, stage_kernels=(3,) * 7
    )
    folder = tmp_path_factory.mktemp("encoder") / "lite"
    EfficientNetLiteModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def environment(datasets_cache):
    return {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


@pytest.fixture(scope="module")
def forked(environment):
    """Do a run in processes of its own, killing them on the way; all are forks of one that has imported everything."""
    command, pipe = [sys.executable, "-u", str(TESTS / "forked_training.py")], subprocess.PIPE
    with subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe, text=True) as server:

        def run(line, **options):
            print(json.dumps({"arguments": line, **options}), file=server.stdin, flush=True)
            result = json.loads(server.stdout.readline())
            return result["code"], result["killed"], result["said"]

        yield run


# Everything that a checkpoint has to hold: drawn clips, stochastic depth, averages, an encoder that rests at first,
# several batches a step, epochs that end between checkpoints.
EVENTFUL = {
    "epochs": 3,
    "clips_per_video": 2,
    "gradient_accumulation_steps": 2,
    "frozen_encoder_epochs": 1,
    "save_every": 1,
    "evaluate_every": 2,
    "pictures": 1,
    "learning_rate": 1e-2,
}


def eventful(data, encoder, output, **settings):
    return arguments(
        "light", data, output, encoder=encoder, decoder={"drop_path_rate": 0.5}, **{**EVENTFUL, **settings}
    )


def state(folder):
    """All that a run leaves that must be the same: weights, optimizer, averages, log."""
    last = max((folder / "checkpoints").iterdir(), key=lambda path: int(path.name.split("-")[1]))
    log = [{k: v for k, v in line.items() if k not in ("clips_per_second", "memory_gb")} for line in read_log(folder)]
    return {
        "checkpoint": (last.name, (last / "model.safetensors").read_bytes()),
        "optimizer": torch.load(last / "optimizer.bin", weights_only=True),
        "average": load_file(last / "average.safetensors"),
        "progress": (last / "progress.json").read_text(),
        "model": (folder / "model" / "model.safetensors").read_bytes(),
        "log": log,
    }


def assert_same(value, expected, where=""):
    if isinstance(expected, torch.Tensor):
        assert torch.equal(value, expected), where
    elif isinstance(expected, dict):
        assert value.keys() == expected.keys(), where
        for key in expected:
            assert_same(value[key], expected[key], f"{where}.{key}")
    elif isinstance(expected, (list, tuple)):
        assert len(value) == len(expected), where
        for index, (one, other) in enumerate(zip(value, expected, strict=True)):
            assert_same(one, other, f"{where}[{index}]")
    else:
        assert value == expected, where


@pytest.fixture(scope="module", params=[1, 2])
def uninterrupted(request, forked, data, encoder, tmp_path_factory):
    """The number of processes, and what an uninterrupted run leaves."""
    folder = tmp_path_factory.mktemp("uninterrupted") / "run"
    code, killed, said = forked(eventful(data, encoder, folder), processes=request.param)
    assert (code, killed) == (0, 0), said
    return request.param, state(folder)


def test_killed_run_ends_bitwise_the_same(uninterrupted, forked, data, encoder, tmp_path):
    """Killed at any time, at the opening, renaming or removing of a file, and with half of a file written."""
    processes, expected = uninterrupted
    line = eventful(data, encoder, tmp_path / "run")
    code, killed, said = forked(line, processes=processes, kills=4, seed=processes)
    assert code == 0, said
    assert killed >= 2
    # Of two processes, the one that is left says what happened, in a sentence.
    assert "Traceback" not in said
    assert_same(state(tmp_path / "run"), expected)
    assert not list((tmp_path / "run").rglob("*.unfinished"))


def compared(forked, data, tmp_path, batch_size, **settings):
    """Do a run in one process and in two, which share the clips of each step; gives the log of the two."""
    for processes in (1, 2):
        line = arguments("light", data, tmp_path / str(processes), batch_size=batch_size // processes, **settings)
        code, _, said = forked(line, processes=processes)
        assert code == 0, said
    one, two = read_log(tmp_path / "1"), read_log(tmp_path / "2")
    assert [entry["step"] for entry in one] == [entry["step"] for entry in two]
    for expected, entry in zip(one, two, strict=True):
        for name, value in expected.items():
            if name not in ("clips_per_second", "memory_gb"):
                assert entry[name] == pytest.approx(value, rel=1e-4, abs=1e-6), name
    return two


def test_two_processes_equal_one(forked, data, encoder, tmp_path):
    log = compared(forked, data, tmp_path, 4, encoder=encoder, epochs=2, clips_per_video=2, warmup_steps=0)
    assert [entry["step"] for entry in log] == [1, 2, 2, 3, 4, 4]
    # Three clips, one of them from a video with a frame that nobody looks at: none is counted twice.
    assert log[2]["validation/clips"] == 3


@pytest.mark.parametrize("batch_size", [2, 6])
def test_two_processes_equal_one_on_clips_of_several_shapes(forked, data, encoder, tmp_path, batch_size):
    """
    With one clip each, a process has no stills to train the encoder on; with three, the clips that fill the last
    batches of the validation up are of the shape of one that does not count twice.
    """
    stills = gaze_data.write_stills(tmp_path / "stills", splits={"train": 8, "dev": 8})
    settings = {"data_dir": [f"stills={stills}", f"dhf1k={data}"], "train": ["stills:train", "dhf1k:train"]}
    settings |= {"weights": [1, 1], "validation": "stills:dev", "encoder_from_stills": True, "size": []}
    settings |= {"max_steps": 2, "warmup_steps": 0, "pictures": 1, "decoder": {"image_size": [32, 64]}}
    log = compared(forked, data, tmp_path, batch_size, encoder=encoder, **settings)
    # The last of the eight has no fixations.
    assert log[-1]["validation/clips"] == 7


def launch(line, environment, processes=1, **options):
    start = [sys.executable, "-m"]
    if processes > 1:
        start += ["torch.distributed.run", "--standalone", "--nproc_per_node", str(processes), "-m"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([*start, "salfom_hf.train", *line], env=environment, **pipes, **options)


def wait_for_steps(folder, process):
    end = time.monotonic() + 120
    while not read_log(folder):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_and_says_so(forked, data, encoder, environment, tmp_path, number, code):
    """Sent to all processes of the group, as schedulers and terminals do, those that read clips among them."""
    line = eventful(data, encoder, tmp_path / "run", epochs=1000, num_workers=1, save_every=0, evaluate_every=900)
    process = launch(line, environment, start_new_session=True)
    wait_for_steps(tmp_path / "run", process)
    # Who begins in the same folder is refused, whatever the first one has written by now.
    refused, _, said = forked(line)
    assert refused == 2
    assert said.endswith(f"salfom: Another process trains in {tmp_path / 'run'}; wait until it ends, or name another "
                         "--output-dir.\n")  # fmt: skip
    os.killpg(process.pid, number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    (checkpoint,) = (tmp_path / "run" / "checkpoints").iterdir()
    step = read_log(tmp_path / "run")[-1]["step"]
    assert checkpoint.name == f"checkpoint-{step}"
    assert f"salfom: Stopped: step {step} is saved in {tmp_path / 'run'}; go on with --resume." in err
    assert "Traceback" not in err


CTRL_C = """
import os, signal, time
os.setsid()
def ctrl_c(*_):
    os.killpg(0, signal.SIGINT)
    time.sleep(1)
"""


@pytest.mark.parametrize(
    ("moment", "told"),
    [
        # When the data is loaded, and a second time while a step is under way.
        ("from salfom_hf.training import model; model.from_encoder = ctrl_c", ["Stopped before training began."]),
        ("from salfom_hf.training.loop import Trainer; Trainer.loss = lambda *_: ctrl_c() or ctrl_c()", []),
    ],
)
def test_ctrl_c_while_nothing_is_to_be_saved(forked, data, encoder, tmp_path, moment, told):
    code, _, said = forked(eventful(data, encoder, tmp_path / "run"), before=CTRL_C + moment)
    assert code == 130, said
    assert "Traceback" not in said
    assert [line for line in said.splitlines() if "salfom:" in line] == [f"salfom: {text}" for text in told]


def test_a_signal_with_torchrun(data, encoder, environment, tmp_path):
    """Of two processes; torchrun hands the signal on. Nothing is said twice."""
    line = eventful(data, encoder, tmp_path / "run", epochs=1000, save_every=0, evaluate_every=900)
    process = launch(line, environment, processes=2)
    wait_for_steps(tmp_path / "run", process)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert len(list((tmp_path / "run" / "checkpoints").iterdir())) == 1
    assert err.count("salfom: Stopped") == 1
    assert out.count("clips an epoch") == 1


@pytest.mark.parametrize("fault", ["folder", "data", "encoder", "disk"])
def test_failure_of_one_process_ends_both(forked, data, encoder, tmp_path, fault):
    """What only the first process finds out; it is said once, and the other does not wait."""
    if fault == "folder":
        (tmp_path / "run").write_text("a file")
    line = eventful(
        tmp_path if fault == "data" else data, tmp_path if fault == "encoder" else encoder, tmp_path / "run"
    )
    code, killed, said = forked(line, processes=2, room=6000 if fault == "disk" else None)
    assert (code, killed) == (2, 0), said
    assert said.count("salfom: ") == 1
    assert "Traceback" not in said


def test_an_unexpected_error_ends_the_program(forked, data, encoder, tmp_path):
    """Though the processes that read clips ignore signals."""
    line = eventful(data, encoder, tmp_path / "run", num_workers=1)
    failing = "from salfom_hf.training.loop import Trainer; Trainer.loss = lambda *_: {}['unexpected']"
    code, _, said = forked(line, before=failing)
    assert code == 1, said
    assert said.rstrip().endswith("KeyError: 'unexpected'")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_training_on_a_gpu_as_one_of_several_processes(data, encoder, tmp_path):
    """With NCCL, as torchrun and accelerate start it on many cards."""
    line = eventful(data, encoder, tmp_path / "run", mixed_precision="bf16", epochs=1)
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "1"]
    done = subprocess.run([*start, "-m", "salfom_hf.train", *line], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    weights = load_file(tmp_path / "run" / "model" / "model.safetensors")
    assert all(tensor.isfinite().all() for tensor in weights.values())
    assert read_log(tmp_path / "run")[0]["memory_gb"] > 0
