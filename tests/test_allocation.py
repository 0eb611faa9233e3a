"""The allocator's setting, in a process of its own: it cannot be taken back."""

import platform
import subprocess
import sys

import pytest

# Blocks of 64 MiB that are made, touched and freed again: the median of the page faults of each, as now and then
# something small is put where the last one was.
FAULTS = """
import resource
import statistics
import torch
{setting}

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

counts = []
for _ in range(25):
    before = faults()
    torch.empty(2**24).fill_(1.0)
    counts.append(faults() - before)
print(statistics.median(counts))
"""


def page_faults(setting: str) -> float:
    code = FAULTS.format(setting=setting)
    return float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="The C library is not glibc.")
def test_freed_memory_is_used_again():
    kept = page_faults("from salfom_hf.inference.cpu import keep_freed_memory; keep_freed_memory()")
    assert kept < 10
    assert page_faults("") > 100


def test_other_libraries_are_left_alone(monkeypatch):
    from salfom_hf.inference import cpu

    monkeypatch.setattr(cpu.platform, "libc_ver", lambda: ("", ""))
    monkeypatch.setattr(cpu.ctypes, "CDLL", lambda _: pytest.fail("The C library was touched."))
    cpu.keep_freed_memory()
