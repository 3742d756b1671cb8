"""The package as `pip install` gives it: its wheel, in an environment that has nothing else of it, does what users
do.
"""

import json
import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

from support.configs import SMALL_GAME

pytestmark = [pytest.mark.ray, pytest.mark.slow]

ROOT = Path(__file__).parents[1]
SMALL = {"env_config": SMALL_GAME, "train_batch_size": 4, "agent_hidden_dim": 8, "num_envs_per_env_runner": 2}
# A program that plays one step of the exported team, and finds neither torch nor Ray.
PLAY = """
import sys
sys.modules |= dict.fromkeys(("torch", "ray", "gymnasium", "pettingzoo"))
import numpy as np
from rllib_ddn.deploy import ExportedPolicy
policy = ExportedPolicy(sys.argv[1])
obs = policy.description["inputs"]["obs"]
count = len(policy.agents)
actions = policy.act(np.zeros((count, obs["shape"][-1]), obs["dtype"]), np.ones((count, 6), bool))
print(len(actions), "actions", sorted(set(sys.modules) & {"onnxruntime"}))
"""
SMALL |= {"min_sample_timesteps_per_iteration": 1, "evaluation_duration": 3, "num_cpus_for_main_process": 1}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built from the source distribution, as `python -m build` does, with this environment's setuptools."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def run(wheel, tmp_path_factory):
    """Runs a command of an empty environment into which the wheel is installed. What the wheel depends on is this
    environment's, seen through a .pth file, by which Python finds packages, but no editable installation."""
    folder = tmp_path_factory.mktemp("venv")
    venv.create(folder, with_pip=False, symlinks=True)
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}

    def command(program, *arguments):
        done = subprocess.run(
            [folder / "bin" / program, *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=500,
            cwd=folder,
            env=environment,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    command("python", "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--ignore-installed", wheel)
    return command


def test_the_wheel_holds_the_examples_and_no_results(wheel):
    found = {name for name in zipfile.ZipFile(wheel).namelist() if "tuned_examples" in name}
    assert found == {f"rllib_ddn/{path.relative_to(ROOT)}" for path in (ROOT / "tuned_examples").glob("**/*.yaml")}


@pytest.mark.timeout(1800)  # six processes that import Ray and torch
def test_from_an_example_to_a_figure(run, tmp_path):
    where = run("python", "-c", "import rllib_ddn, sys; print(rllib_ddn.__file__, *sys.path, sep='\\n')").splitlines()
    assert "site-packages" in where[0]
    assert not {str(ROOT), *map(str, ROOT.iterdir())} & set(where)  # nothing is imported from the checkout
    options = [
        "--config",
        json.dumps(SMALL),
        "--stop",
        '{"training_iteration": 2}',
        "--storage-path",
        tmp_path,
        "--ray-num-cpus",
        2,
    ]
    told = run("rllib", "example", "run", "predator_prey_small_ddn", *options)
    assert "terminated, results in" in told
    assert str(Path(where[0]).parents[1]) not in told
    *_, line = [line for line in told.splitlines() if "rllib evaluate " in line]
    assert line.replace("evaluate", "export") + " --out policy" in told
    options = ["--json", "--episodes", 1, "--network", "follower", "--save-mp4", tmp_path / "films"]
    played = json.loads(run("rllib", *line.split()[1:], *options))
    assert played["follower"]["episode_len_mean"] > 0
    assert (tmp_path / "films" / "follower_00.mp4").stat().st_size > 0
    # Exported there; and played where of this package's dependencies NumPy and onnxruntime are all that there is.
    written = json.loads(run("rllib", *line.replace("evaluate", "export").split()[1:], "--out", tmp_path / "policy"))
    assert written["file"] == str(tmp_path / "policy" / "follower.onnx")
    assert run("python", "-c", PLAY, tmp_path / "policy").startswith("3 actions")
    told = run("rllib", "plot", tmp_path / "predator-prey-small-ddn", "--out", tmp_path / "curves.png", "--table")
    assert "| DDN follower | " in told
    assert (tmp_path / "curves.png").stat().st_size > 10_000
