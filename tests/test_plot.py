"""`rllib plot` and the curves that it shares with `rllib reproduce`, on result folders with known evaluations."""

import json

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from rllib_ddn.cli.curves import curves, default_window, final, interval, iqm, smooth
from support.command import rllib


def write_trial(
    folder, run="DDN", seed=1, returns=(1.0, 2.0, 3.0), start=10_000, metric="episode_return_mean", **config
):
    """A trial's folder as Tune leaves it: evaluations 10,000 env steps apart, the follower's lower by 1."""
    folder = folder / f"{run}_predator_prey_{seed}_{start}"
    folder.mkdir(parents=True)
    (folder / "params.json").write_text(json.dumps({"env": "predator_prey", "seed": seed, **config}))
    steps = start + 10_000 * np.arange(len(returns))
    columns = {
        "timesteps_total": steps,
        "training_iteration": steps // 10_000,
        "time_total_s": 3600.0 * np.arange(1, len(returns) + 1),
    }
    networks = ("leader", "follower") if run == "DDN" else ("agent",)
    columns |= {f"evaluation/{network}/{metric}": np.array(returns) - k for k, network in enumerate(networks)}
    pd.DataFrame(columns).to_csv(folder / "progress.csv", index=False)
    return folder


def test_interquartile_mean_by_hand():
    assert iqm(np.array([100.0, 1.0, 2.0, -50.0])) == 1.5
    low, high = interval(np.array([[1.0, 5.0], [3.0, 5.0]]))
    assert (low.tolist(), high.tolist()) == ([1, 5], [3, 5])


def test_evaluations_are_smoothed_over_the_steps_before_them():
    steps, values = np.array([10, 20, 30, 60, 65]), np.array([1.0, 2.0, 6.0, 8.0, 0.0])
    assert smooth(steps, values, 20).tolist() == [1, 1.5, 4, 8, 4]
    assert smooth(steps, values, 1).tolist() == values.tolist()
    assert [default_window(steps) for steps in (308_072, 1_000_000, 10)] == [20_000, 50_000, 1]


def test_seeds_are_joined_where_they_were_evaluated():
    """Evaluated at different steps, they are brought to common points; none goes on where it has no evaluation."""
    rows = [(1, step, float(step)) for step in (10, 30, 50)] + [(2, step, 100.0 + step) for step in (20, 40)]
    table = pd.DataFrame(rows, columns=["seed", "env steps", "value"]).assign(row="QMIX", network="", hours=0.0)
    (curve,) = curves(table, window=1, points=5)
    assert curve.label == "QMIX"
    assert curve.x.tolist() == [10, 20, 30, 40, 50]
    np.testing.assert_equal(curve.seeds, [[10, 20, 30, 40, 50], [np.nan, 120, 130, 140, np.nan]])
    assert final(table, "QMIX", "", 30).tolist() == [40, 140]


def test_several_algorithms_and_seeds(tmp_path):
    for seed in (1, 2):
        write_trial(tmp_path / "ddn", "DDN", seed, [1.0, 2.0, 3.0 + seed])
        write_trial(tmp_path / "qmix", "QMIX", seed, [0.0, 1.0, 5.0 * seed])
    out, csv = tmp_path / "curves.png", tmp_path / "curves.csv"
    told = rllib("plot", tmp_path / "ddn", tmp_path / "qmix", "--out", out, "--csv", csv, "--table")
    assert "from 27,000 to 30,000 env steps" in told
    assert "| DDN follower | 3.50 [3.00, 4.00] | 3.00, 4.00 |" in told
    assert "| DDN leader | 4.50 [4.00, 5.00] | 4.00, 5.00 |" in told
    assert "| QMIX | 7.50 [5.00, 10.00] | 5.00, 10.00 |" in told
    told = rllib(
        "plot", tmp_path / "ddn", "--out", out, "--table", "--mean-from", 5000, "--mean-to", 25000, "--by", "hours"
    )
    assert "| DDN leader | 1.50 [1.50, 1.50] | 1.50, 1.50 |" in told
    every = pd.read_csv(csv)
    assert list(every.columns) == ["env", "row", "seed", "network", "env steps", "hours", "metric", "value"]
    assert len(every) == 18
    assert every[(every.seed == 2) & (every.row == "QMIX")]["hours"].tolist() == [1, 2, 3]
    assert Image.open(out).size[0] > 800


@pytest.fixture
def drawn(monkeypatch):
    """The figures that are drawn, which are not written."""
    seen = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, out, **options: seen.append(figure))
    return seen


def test_each_env_has_a_panel_and_a_scale_of_its_own(tmp_path, drawn):
    for k, env in enumerate(["predator_prey", "smax"]):
        for run in ("DDN", "QMIX"):
            write_trial(
                tmp_path / env, run, 1, np.array([1.0, 2.0, 3.0]) + 100 * k, env=env, env_config={"map_name": f"m{k}"}
            )
    told = rllib("plot", tmp_path, "--out", tmp_path / "a.png", "--table", "--csv", tmp_path / "a.csv")
    (figure,) = drawn
    assert [axes.get_title() for axes in figure.axes] == ["Predator-Prey: m0", "SMAX: m1"]
    assert [len(axes.lines) for axes in figure.axes] == [3, 3]
    assert figure.axes[0].get_ylim()[1] < 10 < 50 < figure.axes[1].get_ylim()[0]
    assert [line.get_color() for line in figure.axes[0].lines] == [line.get_color() for line in figure.axes[1].lines]
    assert told.count("| QMIX | ") == 2
    assert "SMAX: m1: episode return mean" in told
    assert set(pd.read_csv(tmp_path / "a.csv")["env"]) == {"Predator-Prey: m0", "SMAX: m1"}


@pytest.mark.parametrize(("worst", "cut"), [(-40.0, True), (-1.0, False)])
def test_an_axis_that_cuts_a_curve_off_says_so(tmp_path, drawn, worst, cut):
    """As where a penalty makes the beginning many times worse than the end is good."""
    write_trial(tmp_path, "QMIX", 1, [worst, 5.0, 20.0])
    rllib("plot", tmp_path, "--out", tmp_path / "a.png", "--window", 1)
    (figure,) = drawn
    (note,) = [text.get_text() for text in figure.findobj(Text) if "Each point" in text.get_text()]
    assert ("The axis begins above the lowest point, -40." in note) == cut
    assert (figure.axes[0].get_ylim()[0] == -12) == cut
    assert (figure.axes[0].get_ylim()[0] <= worst) != cut


def test_trials_that_differ_are_told_apart_by_what_they_differ_in(tmp_path):
    write_trial(tmp_path, "DDN", 1, mixer="vdn", env_config={"penalty": 0.0})
    write_trial(tmp_path, "DDN", 2, env_config={"penalty": 0.0}, exploration_config={"epsilon_timesteps": 7})
    write_trial(tmp_path, "QMIX", 1, env_config={"penalty": 2.0})
    told = rllib("plot", tmp_path, "--out", tmp_path / "a.png", "--table")
    for row in (
        "DDN (penalty 0, mixer vdn, epsilon_timesteps 50000) follower",
        "DDN (penalty 0, mixer qmix, epsilon_timesteps 7) leader",
        "QMIX (penalty 2)",
    ):
        assert f"| {row} | " in told
    named = rllib("plot", f"one={tmp_path}", "--out", tmp_path / "a.png", "--table")
    assert "| one follower | 2.00 [2.00, 2.00] | 2.00, 2.00 |" in named


def test_a_trainable_of_ones_own_in_a_folder_with_an_equals_sign(tmp_path):
    folder = tmp_path / "lr=0.1"
    write_trial(folder, "Mine")
    assert "| Mine | 3.00 |" in rllib("plot", folder, "--out", tmp_path / "a.png", "--table")
    assert "| one | 3.00 |" in rllib("plot", f"one={folder}", "--out", tmp_path / "a.png", "--table")


def test_a_continued_trial_is_one_curve(tmp_path):
    write_trial(tmp_path, returns=[1.0] * 6)
    write_trial(tmp_path, returns=[2.0] * 6, start=40_000)  # from the checkpoint at 30,000
    rllib("plot", tmp_path, "--out", tmp_path / "a.png", "--csv", tmp_path / "a.csv")
    leader = pd.read_csv(tmp_path / "a.csv").query("network == 'leader'")
    assert leader["env steps"].tolist() == list(range(10_000, 100_000, 10_000))
    assert leader["value"].tolist() == [1] * 3 + [2] * 6
    assert leader["hours"].tolist() == list(range(1, 10))  # although Tune counts the second part's from 0


@pytest.mark.parametrize(
    ("options", "message"),
    [([], "there is no progress.csv with results in "), (["--metric", "nothing"], "has no evaluation of nothing")],
)
def test_folders_without_results(tmp_path, options, message):
    folder = tmp_path / "empty"
    folder.mkdir()
    if options:
        write_trial(folder)
    assert message in rllib("plot", folder, *options, "--out", tmp_path / "a.png", code=2)
