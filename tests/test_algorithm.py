"""The algorithm through RLlib: schedules, runners, callbacks, evaluation, checkpoints."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from ray import tune
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.callbacks.callbacks import RLlibCallback
from ray.tune.registry import get_trainable_cls

from conftest import SMALL_GAME, small_config
from rllib_ddn import DDN, DDNConfig, QMIXConfig, VDNConfig


def counters(algo):
    return algo._counters["num_episodes_sampled"], algo.get_policy().num_grad_updates


@pytest.mark.parametrize("rate", [1, 0.25, 2.5])
def test_updates_per_episode(build, rate):
    algo = build(updates_per_episode=rate)
    algo.train()  # 2 episodes: fewer than a batch of 4
    assert counters(algo) == (2, 0)
    for _ in range(9):
        algo.train()
    assert counters(algo) == (20, int(20 * rate) - int(2 * rate))


@pytest.mark.parametrize("num_envs", [1, 3])
def test_targets_are_copied_every_so_many_episodes(build, num_envs):
    config = small_config(target_update_interval_episodes=6)
    config.env_runners(num_envs_per_env_runner=num_envs)
    algo = build(config)
    copies, original = [], algo.get_policy().update_target
    algo.get_policy().update_target = lambda: copies.append(algo._counters["num_episodes_sampled"]) or original()
    while algo._counters["num_episodes_sampled"] < 18:
        algo.training_step()
    assert copies == [6, 12, 18]


@pytest.mark.parametrize(("runners", "envs"), [(0, 1), (0, 3), (1, 2), (2, 2)])
def test_any_number_of_runners_and_sub_envs(build, runners, envs):
    config = small_config()
    config.env_runners(num_env_runners=runners, num_envs_per_env_runner=envs)
    algo = build(config)
    for _ in range(4):
        result = algo.train()
    episodes = 4 * max(1, runners) * envs
    assert algo._counters["num_episodes_sampled"] == episodes
    assert result["num_env_steps_sampled"] == algo.local_replay_buffer.num_steps
    assert result["env_runners"]["num_episodes"] == max(1, runners) * envs
    held = algo.local_replay_buffer.sample(min(episodes, 50), np.random.default_rng(0))
    starts = {row.tobytes() for row in held["state"][:, 0]}
    assert len(starts) == episodes  # no two episodes have the same seed
    if episodes >= 4:
        assert np.isfinite(result["info"]["learner"]["default_policy"]["learner_stats"]["loss_global"])


def test_remote_runners_act_with_the_learners_weights_and_get_no_others(build):
    config = small_config()
    config.env_runners(num_env_runners=1)
    algo = build(config)
    for _ in range(3):
        algo.train()
    own = algo.get_policy().get_weights()
    (remote,) = algo.env_runner_group.foreach_env_runner(lambda r: r.policy.get_weights(), local_env_runner=False)
    for name, value in own.items():
        if value.any() and not name.startswith("idm.target"):  # these never change
            assert np.array_equal(value, remote[name]) == name.startswith("follower."), name
    sent = algo.env_runner.get_weights(inference_only=True)["default_policy"]
    assert all(name.startswith("follower.") for name in sent)


def test_the_learner_stats_are_all_there(build):
    algo = build()
    names = {
        "loss_global", "loss_block", "loss_q", "loss_feature", "loss_idm", "intrinsic_reward_mean", "q_tot_mean", "target_mean",
        "grad_norm_leader", "grad_norm_follower",
    }  # fmt: skip
    first = algo.train()["info"]["learner"]["default_policy"]["learner_stats"]
    assert set(first) == names  # from the first result on, for loggers that fix their columns
    assert all(np.isnan(value) for value in first.values())
    algo.train()
    assert all(np.isfinite(v) for v in algo.train()["info"]["learner"]["default_policy"]["learner_stats"].values())


@pytest.mark.parametrize("eval_runners", [0, 2])
def test_evaluation_plays_both_networks_greedily_on_the_same_games(build, eval_runners):
    config = small_config()
    config.evaluation(evaluation_interval=2, evaluation_duration=5, evaluation_num_env_runners=eval_runners)
    algo = build(config)
    first, second = algo.train(), algo.train()
    assert np.isnan(first["evaluation"]["leader"]["episode_return_mean"])
    results = second["evaluation"]
    for network in ("leader", "follower"):
        assert 0 < results[network]["episode_len_mean"] <= 12
        # Play the same seeds here: greedy play is a function of weights and seed.
        runner = algo.env_runner
        seeds = [[algo._evaluation_seed, 1, k] for k in range(5)]
        returns = [runner.play([seed], network, explore=False)[1][0].episode_reward for seed in seeds]
        assert results[network]["episode_return_mean"] == pytest.approx(np.mean(returns))
    assert results["env_runners"]["num_episodes"] == 5
    assert results["env_runners"]["episode_return_mean"] == results["follower"]["episode_return_mean"]
    # Evaluation is no training.
    assert algo._counters["num_episodes_sampled"] == 4


@pytest.mark.parametrize(("name", "config"), [("VDN", VDNConfig), ("QMIX", QMIXConfig)])
def test_a_host_alone(build, name, config):
    """One network, blind to the state; trained, evaluated and broadcast as DDN is."""
    algo = build(small_config(config).evaluation(evaluation_interval=1, evaluation_duration=2))
    assert (type(algo).__name__, get_trainable_cls(name)) == (name, type(algo))
    for _ in range(3):
        result = algo.train()
    assert {"agent", "env_runners"} <= result["evaluation"].keys()
    assert not {"leader", "follower", "knowledge_transfer"} & result["evaluation"].keys()
    stats = result["info"]["learner"]["default_policy"]["learner_stats"]
    assert np.isfinite(stats["loss_global"])
    assert np.isnan(stats["loss_q"])
    policy = algo.get_policy()
    assert {key.split(".")[0] for key in policy.get_acting_weights()} == {"leader"}
    obs, state, mask = np.zeros((1, 3, policy.spec.obs_dim)), np.zeros((2, policy.spec.state_dim)), np.ones((1, 3, 6), bool)
    state[1] = 1.0
    q = [policy.act("agent", obs, s[None], mask, policy.initial_memory(1))[2] for s in state]
    torch.testing.assert_close(*q, rtol=0, atol=0)


def test_knowledge_transfer_by_hand():
    from ray.rllib.evaluation.metrics import RolloutMetrics

    from rllib_ddn.evaluation import compare

    def episodes(*returns, won=None):
        custom = [{} if won is None else {"battle_won": w} for w in won or returns]
        return [RolloutMetrics(7, r, custom_metrics=c) for r, c in zip(returns, custom, strict=True)]

    result = compare({"leader": episodes(10, 30), "follower": episodes(5, 25)})
    assert result["leader"]["episode_return_mean"] == 20
    assert result["knowledge_transfer"] == 0.75
    assert "win_rate" not in result["leader"]
    result = compare({"leader": episodes(1, 1, won=(1.0, 1.0)), "follower": episodes(1, 1, won=(1.0, 0.0))})
    assert (result["leader"]["win_rate"], result["knowledge_transfer"]) == (1.0, 0.5)  # of win rates, where there are any
    assert np.isnan(compare({"leader": episodes(-1.0), "follower": episodes(2.0)})["knowledge_transfer"])


class Recorder(RLlibCallback):
    """Counts its calls and pays a bonus for every step."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def on_episode_start(self, *, episode, env_index, base_env, **kwargs):
        self.calls.append("start")
        assert base_env.get_sub_environments()[env_index] is not None
        episode.user_data["steps"] = 0

    def on_episode_step(self, *, episode, **kwargs):
        episode.user_data["steps"] += 1
        assert "num_captured" in episode.last_info_for("team")

    def on_episode_end(self, *, episode, **kwargs):
        self.calls.append("end")
        assert episode.user_data["steps"] == episode.length
        episode.custom_metrics["steps_twice"] = 2 * episode.length

    def on_postprocess_trajectory(self, *, postprocessed_batch, episode, **kwargs):
        self.calls.append("postprocess")
        assert len(postprocessed_batch["rewards"]) == len(postprocessed_batch["new_obs"]) == episode.length
        postprocessed_batch["rewards"] = postprocessed_batch["rewards"] + 100

    def on_sample_end(self, *, samples, **kwargs):
        self.calls.append(f"sample {len(samples['length'])}")

    def on_learn_on_batch(self, *, train_batch, **kwargs):
        self.calls.append("learn")

    def on_train_result(self, *, result, **kwargs):
        result["mine"] = 42


def test_rllibs_callbacks(build):
    config = small_config()
    config.callbacks(Recorder)
    algo = build(config)
    algo.train()
    result = algo.train()
    calls = algo.env_runner.callbacks.calls
    assert calls[:7] == ["start", "start", "postprocess", "end", "postprocess", "end", "sample 2"]
    assert algo.get_policy().callbacks.calls == ["learn", "learn"] or calls.count("learn") == 2
    assert result["mine"] == 42
    lengths = result["env_runners"]["hist_stats"]["episode_lengths"]
    assert result["env_runners"]["custom_metrics"]["steps_twice_mean"] == 2 * np.mean(lengths)
    # The bonus is for learning; the metrics stay the env's.
    held = algo.local_replay_buffer.sample(4, np.random.default_rng(0))
    assert all(held["rewards"][b, :n].min() > 90 for b, n in enumerate(held["length"]))
    assert result["env_runners"]["episode_return_max"] <= 20


def test_an_env_runner_that_dies_is_replaced_and_training_goes_on(build):
    config = small_config()
    config.env_runners(num_env_runners=2)
    config.fault_tolerance(restart_failed_env_runners=True, env_runner_restore_timeout_s=30)
    algo = build(config)
    algo.train()
    pids = algo.env_runner_group.foreach_env_runner(lambda runner: os.getpid(), local_env_runner=False)
    os.kill(pids[0], signal.SIGKILL)
    for _ in range(40):
        result = algo.train()
        if algo.env_runner_group.num_healthy_remote_workers() == 2 and result["num_remote_worker_restarts"] >= 1:
            break
    assert algo.env_runner_group.num_healthy_remote_workers() == 2
    held = algo.local_replay_buffer.sample(len(algo.local_replay_buffer), np.random.default_rng(0))
    starts = [row.tobytes() for row in held["state"][:, 0]]
    assert len(set(starts)) == len(starts)  # the replacement repeats no episode


# A run of 6 iterations, or of 3 and 3 more in this new process.
RUN = """
import sys, pathlib, numpy as np
sys.path.insert(0, {tests!r})
from conftest import small_config
config = small_config(store_buffer_in_checkpoints=True, intrinsic_reward_stage={stage!r}, normalize_intrinsic_reward=True)
config.evaluation(evaluation_interval=1, evaluation_duration=2)
algo = config.build_algo()
for path in sys.argv[2:]:
    algo.restore(path)
for _ in range(int(sys.argv[1])):
    algo.train()
algo.save_checkpoint(str(pathlib.Path({out!r})))
np.savez({out!r} + "/weights.npz", **algo.get_policy().get_weights())
"""


def run_in_new_process(tmp_path, name, stage, iterations, *restore):
    out = tmp_path / name
    out.mkdir()
    code = RUN.format(tests=str(Path(__file__).parent), out=str(out), stage=stage)
    subprocess.run([sys.executable, "-c", code, str(iterations), *map(str, restore)], check=True, capture_output=True, timeout=300)
    return out


@pytest.mark.parametrize("stage", ["replay", "trajectory"])
def test_a_restored_run_continues_exactly(tmp_path, stage):
    whole = run_in_new_process(tmp_path, "whole", stage, 6)
    half = run_in_new_process(tmp_path, "half", stage, 3)
    rest = run_in_new_process(tmp_path, "rest", stage, 3, half)
    expected, half_way, ours = (np.load(path / "weights.npz") for path in (whole, half, rest))
    assert set(expected) == set(ours)
    for name in expected:
        np.testing.assert_array_equal(expected[name], ours[name], err_msg=name)
    assert any(not np.array_equal(expected[name], half_way[name]) for name in expected)


def test_from_checkpoint(build, tmp_path):
    algo = build()
    for _ in range(4):
        algo.train()
    path = algo.save(str(tmp_path)).checkpoint.path
    other = Algorithm.from_checkpoint(path)
    assert isinstance(other, DDN)
    assert isinstance(other.config, DDNConfig)
    for name, value in algo.get_policy().get_weights().items():
        np.testing.assert_array_equal(value, other.get_policy().get_weights()[name])
    assert other.get_policy().num_grad_updates == algo.get_policy().num_grad_updates
    assert other._counters["num_env_steps_sampled"] == algo._counters["num_env_steps_sampled"]
    assert len(other.local_replay_buffer) == 0  # off by default
    optimizer = other.get_policy()._optimizers[1].state_dict()["state"]
    assert float(optimizer[0]["step"]) == algo.get_policy().num_grad_updates
    for _ in range(3):
        result = other.train()
    assert np.isfinite(result["info"]["learner"]["default_policy"]["learner_stats"]["loss_global"])
    other.stop()


def plain_config(**more):
    """What a user types: a plain dict."""
    return {
        "env": "predator_prey",
        "env_config": dict(SMALL_GAME),
        "train_batch_size": 4,
        "agent_hidden_dim": 8,
        "num_envs_per_env_runner": 2,
        "min_sample_timesteps_per_iteration": 1,
        "evaluation_duration": 2,
        **more,
    }


def test_tune_run_with_a_grid_and_a_sampler(tmp_path):
    config = plain_config(
        mixer=tune.grid_search(["vdn", "qmix"]), lr=tune.loguniform(1e-4, 1e-3), exploration_config={"epsilon_timesteps": 100}
    )
    analysis = tune.run("DDN", config=config, stop={"training_iteration": 3}, storage_path=str(tmp_path), verbose=0)
    assert sorted(trial.config["mixer"] for trial in analysis.trials) == ["qmix", "vdn"]
    assert all(trial.status == "TERMINATED" for trial in analysis.trials)
    assert all(1e-4 <= trial.config["lr"] <= 1e-3 for trial in analysis.trials)
    # progress.csv and result.json have the curves; TensorBoard's file is read in test_cli.py.
    for trial in analysis.trials:
        header, *rows = (Path(trial.path) / "progress.csv").read_text().splitlines()
        assert "evaluation/follower/episode_return_mean" in header
        assert "info/learner/default_policy/learner_stats/loss_q" in header
        assert len(rows) == 3
        last = json.loads((Path(trial.path) / "result.json").read_text().splitlines()[-1])
        assert np.isfinite(last["evaluation"]["leader"]["episode_return_mean"])


def test_tuner_with_a_config_object(tmp_path):
    config = small_config(mask_probability=tune.grid_search([0.1, 0.9]))
    tuner = tune.Tuner(
        "DDN",
        param_space=config,
        run_config=tune.RunConfig(stop={"training_iteration": 2}, storage_path=str(tmp_path), verbose=0),
    )
    results = tuner.fit()
    assert not results.errors
    assert sorted(result.config["mask_probability"] for result in results) == [0.1, 0.9]


def test_a_config_dict_is_the_config():
    config = small_config(mixer="vdn", mask_probability=0.3)
    again = DDN.get_default_config().update_from_dict(config.to_dict())
    assert again.to_dict() == config.to_dict()


def test_the_defaults_are_the_papers():
    """Section B.3, and PyMARL's values where it is silent."""
    config = DDNConfig()
    assert (config.lr, config.gamma, config.train_batch_size, config.grad_clip) == (5e-4, 0.99, 32, 10)
    assert config.replay_buffer_config == {"capacity": 5000}
    assert config.target_update_interval_episodes == 200
    assert (config.mixer, config.mask_probability, config.behaviour_network) == ("qmix", 0.75, "follower")
    schedule = config.exploration_config
    assert (schedule["initial_epsilon"], schedule["final_epsilon"], schedule["epsilon_timesteps"]) == (1.0, 0.05, 50_000)


def test_the_optimizers_are_the_papers(build):
    leader, follower, idm = build(lpn_lr=1e-3).get_policy()._optimizers
    assert type(leader).__name__ == "RMSprop"
    assert (leader.defaults["lr"], leader.defaults["alpha"], leader.defaults["eps"]) == (5e-4, 0.99, 1e-5)
    assert type(follower).__name__ == type(idm).__name__ == "Adam"
    assert (follower.defaults["lr"], idm.defaults["lr"]) == (1e-3, 5e-4)


def test_worker_processes_need_no_import(tmp_path):
    """A new process that only imports rllib_ddn runs DDN in a Tune actor with a remote env runner."""
    code = f"""
import rllib_ddn
from ray import tune
import ray
ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False)
config = {plain_config(num_env_runners=1, evaluation_interval=None)!r}
analysis = tune.run("DDN", config=config, stop={{"training_iteration": 2}}, storage_path={str(tmp_path)!r}, verbose=0)
assert analysis.trials[0].status == "TERMINATED"
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=300, cwd=tmp_path)
