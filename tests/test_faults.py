"""Env runners that die, hang or raise."""

import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
import ray
from ray.exceptions import RayActorError
from ray.rllib.utils.actor_manager import FaultAwareApply, FaultTolerantActorManager

from rllib_ddn.rllib.faults import EnvRunnersError, Runners
from support.configs import small_config

pytestmark = pytest.mark.usefixtures("cluster")


def faulty_config(folder, **runners):
    """Two games of four steps an env runner, which fail when a file in the folder says so."""
    config = small_config().environment("pettingzoo")
    config.env_config = {"env": "support.faulty:Faulty", "folder": str(folder)}
    return config.env_runners(num_envs_per_env_runner=2, **runners)


def kill(algo, which):
    pids = algo.env_runner_group.foreach_env_runner(lambda runner: os.getpid(), local_env_runner=False)
    for pid in pids[which]:
        os.kill(pid, signal.SIGKILL)


def healthy(algo):
    return algo.env_runner_group.num_healthy_remote_workers()


def train_until_all_are_back(algo, runners=2):
    for _ in range(100_000):
        result = algo.train()
        if healthy(algo) == runners:
            return result
    raise AssertionError("they never came back")


def refused(error):
    """Asserts that the error is a line, and that what was trained is saved; returns where."""
    assert "\n" not in str(error.value)
    return str(error.value).split("All that was trained before is saved in ")[1].rstrip(".")


def test_when_all_are_killed_the_iteration_ends_with_those_that_come_back(build):
    recreated = []
    config = small_config().env_runners(num_env_runners=2)
    config.callbacks(on_env_runners_recreated=lambda *, env_runner_indices, **_: recreated.extend(env_runner_indices))
    algo = build(config)
    for _ in range(3):
        algo.train()
    before = algo.get_policy().num_grad_updates
    kill(algo, slice(2))
    algo.train()
    assert healthy(algo) >= 1
    assert algo.get_policy().num_grad_updates > before
    result = train_until_all_are_back(algo)
    assert result["counters"]["num_episodes_lost"] == 4
    assert result["num_remote_worker_restarts"] == 2
    assert sorted(recreated) == [1, 2]
    held = algo.local_replay_buffer.sample(min(30, len(algo.local_replay_buffer)), np.random.default_rng(0))
    starts = [row.tobytes() for row in held["state"][:, 0]]
    assert len(set(starts)) == len(starts)  # the replacements repeat no episode


def test_nobody_waits_for_one_that_is_killed(build, tmp_path):
    """It cannot come back before the file ``wait`` is gone."""
    algo = build(faulty_config(tmp_path, num_env_runners=2))
    algo.train()
    (tmp_path / "wait").touch()
    kill(algo, slice(1))
    before = algo._counters["num_episodes_sampled"]
    for k in (1, 2, 3):
        algo.train()
        assert healthy(algo) == 1
        assert algo._counters["num_episodes_sampled"] == before + 2 * k
    (tmp_path / "wait").unlink()
    result = train_until_all_are_back(algo)
    assert result["counters"]["num_episodes_lost"] == 2


@pytest.mark.parametrize("ahead", [False, True])
def test_an_env_runner_that_hangs_or_raises_is_replaced(build, tmp_path, caplog, ahead):
    config = faulty_config(tmp_path, num_env_runners=2, sample_timeout_s=4.0).training(sample_ahead=ahead)
    algo = build(config)
    for _ in range(3):
        algo.train()
    (tmp_path / "hang").touch()
    for _ in range(3):
        result = algo.train()
    assert result["info"]["num_env_runners_hung"] == 1
    assert result["counters"]["num_episodes_lost"] == 2
    train_until_all_are_back(algo)

    (tmp_path / "raise").touch()
    for _ in range(3):
        algo.train()
    result = train_until_all_are_back(algo)
    assert result["info"]["num_env_runners_hung"] == 1
    assert result["counters"]["num_episodes_lost"] == 4
    assert result["num_remote_worker_restarts"] == 2
    told = [record.getMessage() for record in caplog.records if record.name == "rllib_ddn.rllib.faults"]
    hung, first_back, raised, second_back = told
    assert first_back.endswith("is back")
    assert second_back.endswith("is back")
    assert hung.endswith("has not answered for 4 s")
    assert "raised ZeroDivisionError: no such place (faulty.py, line " in raised


@pytest.mark.parametrize("runners", [0, 2])
def test_an_env_that_always_raises_ends_in_a_line_and_what_was_trained_is_saved(build, tmp_path, runners):
    config = faulty_config(tmp_path, num_env_runners=runners)
    config.fault_tolerance(num_consecutive_env_runner_failures_tolerance=1)
    algo = build(config)
    for _ in range(3):
        algo.train()
    weights = {name: value.copy() for name, value in algo.get_policy().get_weights().items()}
    (tmp_path / "raise always").touch()
    with pytest.raises(
        EnvRunnersError, match=r"raised ZeroDivisionError: no such place \(faulty.py, line \d+, in step\)"
    ) as error:
        algo.train()
    (tmp_path / "raise always").unlink()
    other = build(faulty_config(tmp_path))
    other.restore(refused(error))
    for name, value in weights.items():
        np.testing.assert_array_equal(other.get_policy().get_weights()[name], value)
    if runners:
        assert "have failed 2 times without an episode in between" in str(error.value)


def test_without_restarts_a_failure_ends_the_training(build, tmp_path):
    config = faulty_config(tmp_path, num_env_runners=1).fault_tolerance(restart_failed_env_runners=False)
    algo = build(config)
    algo.train()
    (tmp_path / "raise").touch()
    with pytest.raises(
        EnvRunnersError, match=r"restart_failed_env_runners and ignore_env_runner_failures are off"
    ) as error:
        algo.train()
    refused(error)


@pytest.mark.parametrize("how", ["die", "raise"])
def test_where_failures_are_ignored_the_others_play_until_none_is_left(build, tmp_path, how):
    def fail_one():
        if how == "die":
            kill(algo, slice(1))
        else:
            (tmp_path / "raise").touch()

    config = faulty_config(tmp_path, num_env_runners=2)
    algo = build(config.fault_tolerance(restart_failed_env_runners=False, ignore_env_runner_failures=True))
    algo.train()
    fail_one()
    for _ in range(3):
        algo.train()
    assert healthy(algo) == 1
    fail_one()
    with pytest.raises(
        EnvRunnersError, match=r"no env runner is left, and Ray restarts none\. The last failure: env runner"
    ) as error:
        algo.train()
    refused(error)


def test_a_failed_sub_environment_is_made_anew_and_the_others_play_on(build, tmp_path):
    config = faulty_config(tmp_path).fault_tolerance(restart_failed_sub_environments=True)
    config.fault_tolerance(num_consecutive_env_runner_failures_tolerance=2)
    algo = build(config)
    algo.train()
    failed = algo.env_runner.async_env.get_sub_environments()
    (tmp_path / "raise").touch()
    result = algo.train()
    assert result["counters"]["num_episodes_broken"] == 1
    assert result["counters"]["num_episodes_sampled"] == 3
    kept = [env in failed for env in algo.env_runner.async_env.get_sub_environments()]
    assert sorted(kept) == [False, True]
    result = algo.train()
    assert result["counters"]["num_episodes_sampled"] == 5

    (tmp_path / "raise always").touch()
    with pytest.raises(
        EnvRunnersError, match=r"have failed 3 times without an episode in between.*: all episodes have failed"
    ) as error:
        algo.train()
    refused(error)


def test_each_played_episode_is_among_the_metrics_once(build, tmp_path, monkeypatch):
    """Also where the next round is under way when an iteration ends: RLlib, which would wait for it, asks nobody for
    metrics.
    """
    algo = build(faulty_config(tmp_path, num_env_runners=2).training(sample_ahead=True))
    manager, counted, asked = algo.env_runner_group._worker_manager, 0, []

    def call_actors(*, func, remote_actor_ids, call=manager._call_actors, **others):
        if func.__module__ == "ray.rllib.evaluation.metrics":
            asked.append(list(remote_actor_ids))
        return call(func=func, remote_actor_ids=remote_actor_ids, **others)

    monkeypatch.setattr(manager, "_call_actors", call_actors)
    for _ in range(4):
        result = algo.train()
        counted += result["env_runners"]["num_episodes"]
        assert counted == result["counters"]["num_episodes_sampled"]
    assert asked == [[]] * 4
    assert algo.runners.pending == 2


@ray.remote(max_restarts=-1)
class Runner(FaultAwareApply):
    """What a group of env runners asks for its calls."""


def test_one_that_died_and_is_back_before_it_is_waited_for_did_not_hang():
    manager = FaultTolerantActorManager([Runner.remote()])
    group = SimpleNamespace(_worker_manager=manager, foreach_env_runner=lambda *args, **kwargs: [])
    runners = Runners(group, small_config())
    (runner,) = manager.actors()
    runners.submit(lambda runner: "episodes")
    assert runners.gather(60.0) == (["episodes"], [])
    runners.submit(lambda runner: time.sleep(600))
    ray.kill(manager.actors()[runner], no_restart=False)
    manager.set_actor_state(runner, healthy=False)  # another call found it dead
    assert runners.restore_unhealthy(wait=True, state=lambda: {"policy_states": {}})
    results, failures = runners.gather(60.0)
    assert results == []
    assert [failure.why[:8] for failure in failures] == ["has died"]
    assert (runners.hung, runners.failures_in_a_row, runners.healthy()) == (0, 1, [runner])
    assert manager.total_num_restarts() == 1
    runners.submit(lambda runner: 1 / 0)
    ray.wait(list(runners._pending.values()))
    under_way = manager.actors()[runner].apply.remote(lambda runner: time.sleep(600))
    ray.kill(manager.actors()[runner], no_restart=False)  # after it has answered
    with pytest.raises(RayActorError):
        ray.get(under_way)  # until it is dead
    manager.set_actor_state(runner, healthy=False)
    assert runners.restore_unhealthy(wait=True, state=lambda: {"policy_states": {}})
    results, failures = runners.gather(60.0)
    assert [failure.why[:24] for failure in failures] == ["raised ZeroDivisionError"]
    assert runners.healthy() == [runner]  # it is another one that raised
    runners.submit(lambda runner: "episodes")
    assert runners.gather(60.0) == (["episodes"], [])


def test_where_sigterm_is_blocked_it_is_passed_over_and_ends_what_is_started():
    program = """if True:
        import os, signal, subprocess
        from rllib_ddn.rllib.process import ignore_sigterm
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        ignore_sigterm()
        os.kill(os.getpid(), signal.SIGTERM)
        game = subprocess.Popen(["sleep", "60"])
        game.terminate()
        print(game.wait(30))
    """
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split()[-1] == "-15"
