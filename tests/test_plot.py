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
    assert "leader   4.50  (seed 1: 4.00, seed 2: 5.00)" in done.stdout  # the last tenth of the steps
    assert "follower 3.50  (seed 1: 3.00, seed 2: 4.00)" in done.stdout
    window = ["--mean-from", "5000", "--mean-to", "25000", "--out", out]
    done = subprocess.run([sys.executable, SCRIPT, tmp_path / "results", *window], check=True, capture_output=True, text=True)
    assert "leader   1.50  (seed 1: 1.50, seed 2: 1.50)" in done.stdout
    curves = pd.read_csv(csv)
    assert list(curves.columns) == ["seed", "env steps", "network", "episode_return_mean"]
    assert len(curves) == 10
    assert curves[(curves.seed == 2) & (curves.network == "leader")]["env steps"].tolist() == [10_150, 20_150, 30_150]
    assert Image.open(out).size[0] > 800


def test_folders_without_results(tmp_path):
    done = subprocess.run([sys.executable, SCRIPT, tmp_path], capture_output=True, text=True)
    assert done.returncode != 0
    assert f"there is no progress.csv under {tmp_path}" in done.stderr


def test_a_hosts_curve(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "params.json").write_text("{}")
    curve = {"timesteps_total": [10_000, 20_000], "evaluation/agent/episode_return_mean": [1.0, 2.0]}
    pd.DataFrame(curve).to_csv(tmp_path / "a" / "progress.csv", index=False)
    out = tmp_path / "curve.png"
    done = subprocess.run([sys.executable, SCRIPT, tmp_path / "a", "--out", out], check=True, capture_output=True, text=True)
    assert "agent    2.00  (seed 1: 2.00)" in done.stdout
    assert out.exists()
