"""
Training runs in processes that can be killed, started many times from one process that has imported everything.

    echo '{"arguments": […], "processes": 2, "kills": 3, "seed": 0}' | python tests/forked_training.py

For each line of its input, it starts the run, kills one of its processes at some moment, starts it again with
`--resume`, and so on until it ends by itself. Prints what happened as a line of JSON:
`{"killed": number of runs that were, "code": exit code of the last, "said": what all have written}`.
"""

import json
import os
import random
import resource
import signal
import socket
import sys
import tempfile
import time
from pathlib import Path

import torch

from salfom_hf.cli.train import main

PATIENCE = 90  # seconds until a process counts as hanging
HANGS = 1000  # its exit code then


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def die_at_file_event(number, folder):
    """Die when a file in the folder is opened, renamed or removed for the n-th time."""
    left = [number]

    def hook(event, arguments):
        if event in ("open", "os.mkdir", "os.rename", "os.remove", "shutil.rmtree") and str(folder) in str(arguments):
            left[0] -= 1
            if left[0] == 0:
                die()

    sys.addaudithook(hook)


def die_in_the_middle_of_a_file(number):
    """Die when half of the n-th file of torch is written."""
    save, left = torch.save, [number]

    def torn(content, file, *args, **kwargs):
        save(content, file, *args, **kwargs)
        left[0] -= 1
        if left[0] == 0:
            path = Path(file)
            os.truncate(path, path.stat().st_size // 2)
            die()

    torch.save = torn


def start(arguments, rank, processes, port, prepare):
    child = os.fork()
    if child:
        return child
    if processes > 1:
        os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(processes))
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    prepare()
    sys.exit(main(arguments))  # Goes through all that called this, to end as any program of Python does.


def wait(children):
    """Exit codes of all, −9 for those that were killed; those that hang are ended."""
    codes, end = {}, time.monotonic() + PATIENCE
    while len(codes) < len(children) and time.monotonic() < end:
        for child in children:
            if child not in codes:
                ended, status = os.waitpid(child, os.WNOHANG)
                if ended:
                    codes[child] = os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    for child in set(children) - codes.keys():
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        codes[child] = HANGS
    return [codes[child] for child in children]


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def run(log, arguments, processes=1, kills=0, seed=0, room=None, before=""):
    rng = random.Random(seed)
    folder = arguments[arguments.index("--output-dir") + 1]
    killed = 0
    for attempt in range(100):
        victim, port, moment = rng.randrange(processes), free_port(), rng.random()

        kind = ("file event", "torn file", "time")[attempt % 3] if attempt < kills else None

        def prepare(rank, kind=kind, victim=victim, moment=moment):
            for stream in (1, 2):
                os.dup2(log.fileno(), stream)
            if room:  # Bytes of the largest file that can be written.
                resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))
            exec(before, {})
            if kind == "file event" and rank == 0:  # The first process writes nearly all.
                die_at_file_event(15 + int(30 * moment), folder)
            elif kind == "torn file" and rank == victim:
                die_in_the_middle_of_a_file(1 + int(3 * moment) // (rank + 1))

        resume = ["--resume"] if attempt else []
        children = [
            start(arguments + resume, rank, processes, port, lambda rank=rank: prepare(rank))
            for rank in range(processes)
        ]
        if kind == "time":
            time.sleep(0.6 + 1.4 * moment)
            os.kill(children[victim], signal.SIGKILL)
        codes = wait(children)
        killed += -signal.SIGKILL in codes
        if -signal.SIGKILL not in codes or HANGS in codes:
            log.seek(0)
            return {"killed": killed, "code": max(codes), "said": log.read()}
    raise AssertionError("The run does not end.")


if __name__ == "__main__":
    for line in sys.stdin:
        with tempfile.TemporaryFile("w+") as log:
            print(json.dumps(run(log, **json.loads(line))), flush=True)
