"""scripts/chaos.py: every fault once, and nothing is lost but what a fault may cost; and what does not add up is
found.
"""

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "scripts" / "chaos.py"
# Alone it takes a minute and a half; on a busy machine far more.
pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def chaos():
    """The script as a module."""
    spec = importlib.util.spec_from_file_location("chaos", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """What the short form prints, and its books."""
    books = tmp_path_factory.mktemp("chaos") / "books"
    command = [sys.executable, SCRIPT, "--short", "--seed", "1", "--folder", books]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1700, check=False)
    assert done.returncode == 0, done.stdout + done.stderr[-4000:]
    return done.stdout, books


def test_every_fault_once_and_all_adds_up(run):
    printed, _ = run
    for fault in (
        "an env runner is killed",
        "all env runners are killed",
        "a node is killed",
        "an env raises",
        "an env hangs",
        "an env gives NaN",
        "the trainer is killed",
        "the trainer is killed as it saves",
    ):
        (line,) = [line for line in printed.splitlines() if line.startswith(f"{fault}  ")]
        assert line.removeprefix(fault).split()[0] == "1"
    assert printed.endswith("All adds up.\n")


def lines(book):
    return [json.loads(line) for line in book.read_text().splitlines()]


def spoil(books, what):
    """Changes one figure of one book."""
    played, trained = lines(books / "played"), lines(books / "trained")
    end = trained[-1]
    kept = end["replay"][-1][0]  # the ticket of the last episode
    if what == "played":
        played = [line for line in played if line.get("ended", [None])[0] != kept]
    elif what == "begun":
        played += [
            {"begun": "never heard of again", "job": [line for line in trained if "life" in line][-1]["life"], "pid": 1}
        ]
    elif what == "checksum":
        end["replay"][-1][2] ^= 1
    elif what == "twice":
        next(line for line in trained if "new" in line)["new"][0] = kept
    elif what == "mixture":
        [line for line in trained if "life" in line][-1]["updates"] += 1
    else:
        end[what] += 1
    for book, changed in (("played", played), ("trained", trained)):
        (books / book).write_text("".join(json.dumps(line) + "\n" for line in changed))


@pytest.mark.parametrize(
    ("what", "wrong"),
    [
        ("iterations", ["iterations"]),
        ("steps", ["env steps"]),
        ("updates", ["updates"]),
        ("held_steps", ["env steps in replay"]),
        ("checksum", ["episodes in replay", "env steps in replay"]),
        ("played", ["episodes", "env steps", "episodes in replay", "env steps in replay"]),
        ("twice", ["episodes", "episodes in replay", "env steps in replay"]),
        ("begun", ["episodes lost that nothing explains"]),
        ("mixture", ["lives of the trainer that began whole"]),
    ],
)
def test_what_does_not_add_up_is_found(run, chaos, tmp_path, what, wrong):
    shutil.copytree(run[1], tmp_path / "books")
    assert chaos.judge(tmp_path / "books")[1]
    spoil(tmp_path / "books", what)
    table, adds_up = chaos.judge(tmp_path / "books")
    assert not adds_up
    found = [line for line in table.splitlines() if line.endswith("DOES NOT ADD UP")]
    assert {line[:52].partition(",")[0].strip() for line in found} >= set(wrong)
