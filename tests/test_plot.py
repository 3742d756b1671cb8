"""scripts/plot.py on result folders with known curves."""

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
from PIL import Image

SCRIPT = Path(__file__).parent.parent / "scripts" / "plot.py"


def trial(folder, seed, offset):
    folder.mkdir(parents=True)
    (folder / "params.json").write_text(json.dumps({"seed": seed}))
    pd.DataFrame(
        {
            "timesteps_total": [10_000 + offset, 20_000 + offset, 30_000 + offset],
            "evaluation/leader/episode_return_mean": [1.0, 2.0, 3.0 + seed],
            "evaluation/follower/episode_return_mean": [0.0, None, 2.0 + seed],  # not evaluated at every iteration
        }
    ).to_csv(folder / "progress.csv", index=False)


def test_curves_of_several_seeds(tmp_path):
    trial(tmp_path / "results" / "a", 1, 7)
    trial(tmp_path / "results" / "b", 2, 150)
    out, csv = tmp_path / "curves.png", tmp_path / "curves.csv"
    done = subprocess.run(
        [sys.executable, SCRIPT, tmp_path / "results", "--out", out, "--csv", csv], check=True, capture_output=True, text=True
    )
    assert "leader 4.50, follower 3.50" in done.stdout  # the last evaluations' means over the seeds
    curves = pd.read_csv(csv)
    assert list(curves.columns) == ["seed", "env steps", "network", "episode_return_mean"]
    assert len(curves) == 10
    assert curves[(curves.seed == 2) & (curves.network == "leader")]["env steps"].tolist() == [10_150, 20_150, 30_150]
    assert Image.open(out).size[0] > 800


def test_folders_without_results(tmp_path):
    done = subprocess.run([sys.executable, SCRIPT, tmp_path], capture_output=True, text=True)
    assert done.returncode != 0
    assert f"there is no progress.csv under {tmp_path}" in done.stderr
