"""The paper's grids, and `rllib reproduce`, which runs them and writes the tables."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from ray.tune.registry import get_trainable_cls

from rllib_ddn import DDNConfig
from rllib_ddn.cli import reproduce, tuning
from rllib_ddn.cli.curves import area, final, stratified, transfer
from rllib_ddn.cli.tables import TABLES, Table
from support.command import rllib
from support.configs import SMALL_GAME

pytestmark = pytest.mark.usefixtures("cluster")

NO_POINTS = reproduce.read_points(None)


def grid(table):
    """Of each row of a table, its config."""
    found = {}
    for trial in reproduce.trials(Table.of(table), None, None, 1, None, {}):
        config = get_trainable_cls(trial.run).get_default_config().update_from_dict(trial.config)
        config.validate()
        found[trial.row] = config
    return found


@pytest.mark.parametrize("table", TABLES)
def test_every_row_has_a_valid_config_and_a_label(table):
    rows = grid(table)
    assert list(rows) == list(Table.of(table).rows)
    assert all(len(figures) == len(rows) for figures in Table.of(table).paper.values())
    if Table.of(table).is_papers:
        penalty = 2.0 if table == "figure5" else 0.0
        assert {config.env_config["penalty"] for config in rows.values()} == {penalty}
        # The paper's section B.3: not the defaults.
        settings = {(c.optimizer, c.lr, c.td_lambda, c.target_update_interval_episodes) for c in rows.values()}
        assert settings == {("rmsprop", 5e-4, 0.0, 200)}
        assert all(config.behaviour_network == "follower" for config in rows.values() if type(config) is DDNConfig)


def test_the_grids_differ_in_what_the_paper_varies():
    coeffs = [(c.block_loss_coeff, c.q_loss_coeff, c.feature_loss_coeff) for c in grid("table4").values()]
    assert coeffs == [(1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 1)]
    assert [c.state_fusion for c in grid("table3").values()] == ["personalized", "raw"]
    assert [bool(c.intrinsic_reward) and c.mask_probability for c in grid("table5").values()] == [
        False,
        0.1,
        0.25,
        0.5,
        0.75,
        0.9,
    ]
    hosts = [(c.mixer, isinstance(c, DDNConfig)) for c in grid("table1").values()]
    assert hosts == [("vdn", False), ("vdn", True), ("qatten", False), ("qatten", True)]
    hosts = [(c.mixer, isinstance(c, DDNConfig)) for c in grid("figure5").values()]
    assert hosts == [(host, ddn) for host in ("vdn", "qplex", "owqmix") for ddn in (False, True)]


def test_stages_are_as_long_as_the_run():
    found = {t.row: t.config for t in reproduce.trials(Table.of("table2"), "predator_prey", None, 1, 100_000, {})}
    assert (found["ptde"]["leader_timesteps"], found["igmda"]["mixture_timesteps"]) == (80_000, 15_000)


def write_trial(storage, name, config, returns, start=0, timestamp=1000):
    """A trial's folder as Tune leaves it: an evaluation of both networks every 10 steps, and every 10 seconds."""
    folder = storage / name / f"DDN_predator_prey_{len(list(storage.rglob('params.json')))}"
    folder.mkdir(parents=True)
    (folder / "params.json").write_text(json.dumps(config))
    columns = {"timesteps_total": start + 10 * (1 + np.arange(len(returns)))}
    columns["timestamp"] = timestamp + columns["timesteps_total"]
    for k, network in enumerate(("leader", "follower")):
        columns[f"evaluation/{network}/episode_return_mean"] = np.array(returns) - k
    pd.DataFrame(columns).to_csv(folder / "progress.csv", index=False)
    return folder


def test_table_by_hand(tmp_path):
    """Three seeds: means of the last tenth of the steps, their interquartile mean, and the ratio."""
    found = reproduce.trials(Table.of("table3"), "predator_prey", None, 3, 100, {})
    for trial in found:
        if trial.row == "personalized":
            write_trial(
                tmp_path, "any", trial.config, [0] * 8 + [4 * trial.seed, 6 * trial.seed]
            )  # 5, 10, 15 from step 90 on
    curves = reproduce.load(found, tmp_path, NO_POINTS)
    assert final(curves, "personalized", "leader", 90).tolist() == [5, 10, 15]
    text = Table.of("table3").markdown(curves, "Caption.", 100, "here")
    row = next(line for line in text.splitlines() if line.startswith("| personalized"))
    assert row == "| personalized state | 10.00 [5.00, 15.00] | 9.00 [4.00, 14.00] | 90% | 0.9701 | 0.8789 |"
    assert "| raw state | not run | not run | - | 0.8216 | 0.1237 |" in text
    left = [(t.row, t.seed) for t, _ in reproduce.pending(found, tmp_path, NO_POINTS)]
    assert left == [("raw", 1), ("raw", 2), ("raw", 3)]


def test_the_evaluation_at_the_end_counts_where_an_iteration_is_longer_than_the_training(tmp_path):
    found = reproduce.trials(Table.of("table3"), "predator_prey", None, 1, 4, {})
    for trial, begun in zip(found, (0, -10), strict=True):  # evaluations at 10, 20, 30 env steps; at 0, 10, 20
        write_trial(tmp_path, trial.row, trial.config, [8.0, 3.0, 3.0], start=begun)
    every = reproduce.within(reproduce.load(found, tmp_path, NO_POINTS), 4)
    text = Table.of("table3").markdown(every, "Caption.", 4, "here")
    assert "| personalized state | 8.00 | 7.00 | 88% |" in text
    assert "| raw state | 3.00 | 2.00 | 67% |" in text
    early = every[every["env steps"] < 4]
    assert "| raw state | no evaluation after 4 steps |" in Table.of("table3").markdown(early, "Caption.", 4, "here")


def test_a_comparison_by_hand(tmp_path):
    """Of each quarter of the steps, the evaluations from a tenth of all steps before its end to a hundredth after
    it.
    """
    found = [trial for trial in reproduce.trials(Table.of("sight"), None, None, None, 100, {}) if trial.row == "ddn"]
    assert [trial.seed for trial in found] == [11, 12, 13]  # seeds with which no setting was chosen
    for trial in found:
        write_trial(tmp_path, "any", trial.config, [0, 8, 2, 0, 6, 0, 0, 1, trial.seed, trial.seed + 2])
    text = Table.of("sight").markdown(reproduce.load(found, tmp_path, NO_POINTS), "Caption.", 100, "here")
    ends = "| 13.00 [12.00, 14.00] | 4.00 [3.83, 4.17] | 12.00, 13.00, 14.00 |"
    assert next(line for line in text.splitlines() if "leader" in line).endswith(
        "| leader | 8.00 [8.00, 8.00] | 3.00 [3.00, 3.00] | 0.00 [0.00, 0.00] " + ends
    )


def test_a_follower_below_zero_has_no_share_of_its_leader(tmp_path):
    found = reproduce.trials(Table.of("table3"), "predator_prey", None, 1, 100, {})
    for trial, returns in zip(found, (0.5, 1.0), strict=True):  # the follower's are lower by 1
        write_trial(tmp_path, trial.row, trial.config, [returns] * 10)
    text = Table.of("table3").markdown(reproduce.load(found, tmp_path, NO_POINTS), "Caption.", 100, "here")
    assert "| personalized state | 0.50 | -0.50 | not positive | 0.9701 |" in text
    assert "| raw state | 1.00 | 0.00 | 0% | 0.8216 |" in text


def test_a_trial_is_told_by_its_config_and_not_by_its_tables_name(tmp_path):
    """DDN as it is belongs to several tables; written-out defaults make no difference, other values do."""
    config = {"env": "predator_prey", "env_config": {"penalty": 0.0}, "num_envs_per_env_runner": 8, "seed": 1}
    config["evaluation_config"] = {"num_envs_per_env_runner": 32}
    config |= {"optimizer": "rmsprop", "lr": 5e-4, "td_lambda": 0.0, "target_update_interval_episodes": 200}
    config["behaviour_network"] = "follower"
    write_trial(tmp_path, "table3", {**config, "state_fusion": "personalized"}, [1.0] * 10)
    write_trial(tmp_path, "table9", {**config, "gamma": 0.5}, [1.0] * 10)
    for table, row in (("table4", "all"), ("table5", "mask_75"), ("table2", "ddn")):
        (trial,) = [t for t in reproduce.trials(Table.of(table), "predator_prey", None, 1, 100, {}) if t.row == row]
        assert len(trial.folders(tmp_path)) == 1
    (other,) = [
        t for t in reproduce.trials(Table.of("table5"), "predator_prey", None, 1, 100, {}) if t.row == "mask_90"
    ]
    assert other.folders(tmp_path) == []


def test_a_continued_trial_is_one_curve(tmp_path):
    (trial, _) = reproduce.trials(Table.of("table3"), "predator_prey", None, 1, 100, {})
    write_trial(tmp_path, "first", trial.config, [1.0] * 6)
    write_trial(tmp_path, "continued", trial.config, [2.0] * 6, start=40)  # from the checkpoint at step 40
    curves = reproduce.load([trial], tmp_path, NO_POINTS)
    leader = curves[curves["network"] == "leader"]
    assert leader["env steps"].tolist() == [10, 20, 30, 40, 50, 60, 70, 80, 90, 100]
    assert leader["value"].tolist() == [1] * 4 + [2] * 6


def test_points_of_an_earlier_run_stand_for_trials_that_are_not_there(tmp_path):
    """Of three seeds the first is in the storage, the second finished elsewhere, the third stopped there halfway."""
    found = [t for t in reproduce.trials(Table.of("table3"), "predator_prey", None, 3, 100, {}) if t.row == "raw"]
    for trial in found[:2]:
        write_trial(tmp_path / "elsewhere", "any", trial.config, [5.0] * 10)
    write_trial(tmp_path / "elsewhere", "any", found[2].config, [5.0] * 5)
    reproduce.load(found, tmp_path / "elsewhere", NO_POINTS).to_csv(tmp_path / "table3.csv", index=False)
    write_trial(tmp_path / "here", "any", found[0].config, [7.0] * 10)

    points = reproduce.read_points(tmp_path / "table3.csv")
    every = reproduce.load(found, tmp_path / "here", points)
    assert final(every, "raw", "leader", 0).tolist() == [7, 5, 5]  # who has a folder is read from there alone
    assert [trial.seed for trial, _ in reproduce.pending(found, tmp_path / "here", points)] == [3]
    with pytest.raises(ValueError, match="columns row, seed"):
        reproduce.read_points(next((tmp_path / "here").rglob("progress.csv")))


@pytest.mark.parametrize("name", ["small", "smax", "smax_hard", "sight", "predator_prey"])
def test_the_tables_shown_are_written_from_their_points(name, tmp_path):
    """What `tuned_examples/results` shows is what the command makes of the points beside it."""
    shown = Path(__file__).parents[1] / "tuned_examples" / "results"
    shown_from_points(name, shown / f"{name}.csv", tmp_path)
    assert (tmp_path / f"{name}.md").read_text() == (shown / f"{name}.md").read_text()
    assert (tmp_path / f"{name}.csv").read_text() == (shown / f"{name}.csv").read_text()


@pytest.mark.parametrize("dead_first", [True, False])
def test_a_trial_that_was_begun_again_is_the_later_one(tmp_path, dead_first):
    """Killed before its first checkpoint, it began from 0 again; the folders' names do not tell which came first."""
    (trial, _) = reproduce.trials(Table.of("table3"), "predator_prey", None, 1, 100, {})
    writes = [([1.0] * 3, 1000), ([2.0] * 10, 2000)]
    for returns, timestamp in writes if dead_first else reversed(writes):
        write_trial(tmp_path, "any", trial.config, returns, timestamp=timestamp)
    assert final(reproduce.load([trial], tmp_path, NO_POINTS), "personalized", "leader", 0).tolist() == [2]
    assert list(reproduce.pending([trial], tmp_path, NO_POINTS)) == []


def test_the_win_rate_is_what_is_told_where_any_evaluation_has_it(tmp_path):
    (trial, other) = reproduce.trials(Table.of("table3"), "predator_prey", None, 1, 100, {})
    for each, wins in ((trial, [np.nan, 0.5]), (other, [np.nan, np.nan])):  # the first iteration was not evaluated
        path = write_trial(tmp_path, each.row, each.config, [np.nan, 3.0]) / "progress.csv"
        pd.read_csv(path).assign(**{"evaluation/leader/win_rate": wins}).to_csv(path, index=False)
    told = {
        each.row: reproduce.load([each], tmp_path, NO_POINTS)["metric"].unique().tolist() for each in (trial, other)
    }
    assert told == {"personalized": ["win_rate"], "raw": ["episode_return_mean"]}


def test_another_env_takes_its_settings_from_the_config():
    (trial, *_) = reproduce.trials(Table.of("smax"), "predator_prey", None, 1, None, {"env_config": {"penalty": 1.0}})
    assert trial.config["env_config"] == {"penalty": 1.0}
    (trial, *_) = reproduce.trials(Table.of("smax"), "predator_prey", {"penalty": 3.0}, 1, None, {})
    assert trial.config["env_config"] == {"penalty": 3.0}


def shown_from_points(name, points, out, *options, code=0):
    storage = ["--storage-path", out / "storage", "--out", out, "--no-run", "--points", points]
    return rllib("reproduce", name, *storage, *options, code=code)


def test_points_are_of_the_grid_as_it_is(tmp_path):
    shown = Path(__file__).parents[1] / "tuned_examples" / "results" / "sight.csv"
    for options in (
        ["--env", "smax"],
        ["--env-config", '{"penalty": 1.0}'],
        ["--config", '{"lr": 0.1}'],
        ["--steps", 9],
    ):
        told = shown_from_points("sight", shown, tmp_path, *options, code=2)
        assert "leave --env, --env-config, --config and --steps out" in told
    points = tmp_path / "sight.csv"
    points.write_bytes(shown.read_bytes())
    assert "choose another --out" in shown_from_points("sight", points, tmp_path, "--row", "ddn", code=2)
    points.write_text(points.read_text().replace("episode_return_mean", "win_rate", 1))
    told = shown_from_points("sight", points, tmp_path, code=2)
    assert "some evaluations tell the win_rate and others the episode_return_mean" in told


def test_a_half_copied_checkpoint_is_passed_over(tmp_path):
    (trial, _) = reproduce.trials(Table.of("table3"), "predator_prey", None, 1, 100, {})
    write_trial(tmp_path, "any", trial.config, [1.0] * 6)
    (folder,) = trial.folders(tmp_path)
    for name, text in (("checkpoint_000000", "{}"), ("checkpoint_000001", '{"type": ')):
        (folder / name).mkdir()
        (folder / name / "rllib_checkpoint.json").write_text(text)
    assert [checkpoint for _, checkpoint in reproduce.pending([trial], tmp_path, NO_POINTS)] == [
        folder / "checkpoint_000000"
    ]


def test_runs_are_finished_continued_and_never_repeated(tmp_path, monkeypatch, cluster):
    small = {
        "train_batch_size": 4,
        "replay_buffer_config": {"capacity": 50},
        "agent_hidden_dim": 16,
        "evaluation_duration": 2,
        "min_sample_timesteps_per_iteration": 20,
        "num_envs_per_env_runner": 2,
    }
    ran, run = [], tuning.run
    monkeypatch.setattr(
        tuning, "run", lambda given, *more, **options: ran.append(given) or run(given, *more, **options)
    )
    options = ["--config", json.dumps(small), "--env-config", json.dumps(SMALL_GAME)]
    options += ["--storage-path", tmp_path / "trials", "--out", tmp_path]

    def reproduced(steps):
        printed = rllib("reproduce", "table3", *options, "--steps", steps, "--seeds", 1)
        return printed, len(list((tmp_path / "trials").rglob("params.json")))

    printed, folders = reproduced(100)
    assert "0 of 2 trials are finished" in printed
    assert folders == 2
    assert [spec["config"]["seed"] for spec in ran[0].values()] == [{"grid_search": [1]}] * 2
    assert "| personalized state | " in (tmp_path / "table3.md").read_text()
    assert "This is not SMAC" in printed
    assert f"With {json.dumps(small)}." in printed
    printed, folders = reproduced(100)
    assert "2 of 2 trials are finished" in printed
    assert (folders, len(ran)) == (2, 1)
    _, folders = reproduced(200)
    assert folders == 4
    assert list(ran[1]) == ["table3-personalized-seed1", "table3-raw-seed1"]
    assert all(Path(spec["restore"]).is_dir() for spec in ran[1].values())
    curves = pd.read_csv(tmp_path / "table3.csv")
    steps = curves[(curves["row"] == "raw") & (curves["network"] == "leader")]["env steps"]
    assert steps.is_monotonic_increasing
    assert steps.min() < 100 < 200 <= steps.max()
    assert (tmp_path / "table3.png").stat().st_size > 10_000


def test_ratios_and_differences_by_hand():
    """Two seeds of a base and of DDN on it, four evaluations each."""
    steps = [100, 200, 300, 400]
    curves = {
        ("base", 1, ""): [0.0, 0.2, 0.4, 0.6],
        ("base", 2, ""): [0.0, 0.0, 0.6, 0.8],
        ("ddn", 1, "leader"): [0.0, 0.6, 0.8, 0.8],
        ("ddn", 1, "follower"): [0.0, 0.6, 0.4, 0.8],
        ("ddn", 2, "leader"): [0.0, 0.0, 0.7, 1.0],
        ("ddn", 2, "follower"): [0.0, 0.0, 0.7, 0.9],
    }
    rows = [
        {"row": row, "seed": seed, "network": network, "env steps": step, "metric": "win_rate", "value": value}
        for (row, seed, network), values in curves.items()
        for step, value in zip(steps, values, strict=True)
    ]
    table = pd.DataFrame(rows)
    assert area(table, "base", "").to_dict() == pytest.approx(
        {1: 0.3, 2: 1.0 / 3}
    )  # 0.5 * 0 + 0.2 + 0.4 + 0.5 * 0.6, over 3
    assert transfer(table, "ddn").tolist() == pytest.approx([0.5, 1.0, 1.0, 0.9])
    assert transfer(table, "base").empty
    assert stratified([]) == ""
    assert stratified([np.full(3, 0.5), np.full(2, 0.5)]) == "0.50 [0.50, 0.50]"
    labels = {"base": ("B",), "ddn": ("D",), "weak": ("W",)}
    grid = Path("comparisons", "any.yaml")
    named = Table(grid, "", ["Algorithm"], labels, bases={"ddn": "base", "weak": "base"})
    weak = table[table["row"] == "ddn"].assign(row="weak", value=0.1)  # whose leader is never good
    _, lines, together = named._pairs(pd.concat([table, weak]), 400)
    *_, line, last = lines.splitlines()
    assert last.startswith("| W | - | 0 evaluations | - | -0.22 ")
    assert "leader -0.07 [" in together  # of -0.233, -0.2, 0.067 and 0.3 the two in the middle
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[:4] == ["D", "0.850", "50% of 4", "0.50"]
    assert cells[4].split()[0] == "0.18"  # 0.6 - 0.3 and 0.4 - 1 / 3
