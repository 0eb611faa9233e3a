"""Commands that are ended at any moment leave nothing half-written, and go on."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

KILL = Path(__file__).with_name("kill_commands.py")


@pytest.mark.skipif(sys.platform != "linux", reason="Others have no /proc, or no fork.")
def test_each_command_is_ended_and_goes_on():
    """`python tests/kill_commands.py --kills 100` is the same at length, also of the two that trace a network."""
    command = [sys.executable, KILL, "--kills", "1", "--without", "export-onnx", "export-torch"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    commands, kills, ended = re.search(r"(\d+) commands, (\d+) times, in \d+ s: (\d+) ended", done.stdout).groups()
    assert commands == kills
    assert int(ended) > int(kills) / 2
