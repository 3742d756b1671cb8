"""Programs of ``tests/programs``, which tests run in processes of their own."""

import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).parents[1]


def run_program(name, *arguments, timeout=300, cwd=None):
    """Runs a program to its end and returns what it printed; fails with what it printed to stderr."""
    command = [sys.executable, TESTS / "programs" / f"{name}.py", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, cwd=cwd, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout
