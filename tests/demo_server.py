"""`salfom demo` as a process of its own, as people start it."""

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

PATIENCE = 300  # seconds; busy machines take minutes to import what a second imports elsewhere


@contextmanager
def serving(folder: Path, *arguments: str):
    """
    The address of a page, the folder of all temporary files, and in it that of uploads and results.

    Args:
        folder: an empty one, for temporary files and the log.
        arguments: of the command.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    temporary = folder / "temporary"
    temporary.mkdir(exist_ok=True)
    environment = os.environ | {"TMPDIR": str(temporary), "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}
    environment.pop("GRADIO_TEMP_DIR", None)
    command = [sys.executable, "-m", "salfom_hf.cli", "demo", "--port", str(port), "--device", "cpu", *arguments]
    log = folder / "log.txt"
    with log.open("w") as output:
        process = subprocess.Popen(
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            # What a shell starts in the background ignores Ctrl-C, and so would all that it starts.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
    try:
        deadline = time.monotonic() + PATIENCE
        while "Running on" not in log.read_text():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, f"no page after {PATIENCE} s: {log.read_text()}"
            time.sleep(0.2)
        (own,) = temporary.glob(".salfom-*")
        url, uploads = f"http://127.0.0.1:{port}", own / "gradio"
        yield SimpleNamespace(url=url, temporary=temporary, uploads=uploads, log=log, process=process)
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
