"""Checkpoints: a restored run continues exactly, and weights that do not fit are refused."""

import json
import logging
import pickle
import pickletools
import warnings
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import ray
import torch
from ray.rllib.algorithms import algorithm as algorithm_module
from ray.rllib.algorithms.algorithm import Algorithm
from ray.util.debug import reset_log_once

from rllib_ddn import DDN, DDNConfig
from rllib_ddn.cli.checkpoints import check_checkpoint
from support.configs import SMALL_GAME, learner_stats, small_config
from support.programs import run_program

pytestmark = pytest.mark.usefixtures("cluster")


@pytest.mark.parametrize("stage", ["replay", pytest.param("trajectory", marks=pytest.mark.slow)])
def test_a_restored_run_continues_exactly(tmp_path, stage):
    """Six iterations; and from the checkpoint after three of them, in a new process, three more."""
    run_program("train_and_save", tmp_path / "whole", stage, 3, 3)
    run_program("train_and_save", tmp_path / "rest", stage, 3, "--restore", tmp_path / "whole" / "0")
    expected, half_way, ours = (np.load(tmp_path / name / "weights.npz") for name in ("whole/1", "whole/0", "rest/0"))
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
    held = [len(each.local_replay_buffer) for each in (algo, other)]
    assert held == [8, 8]
    optimizer = other.get_policy().optimizers["follower"].state_dict()["state"]
    assert float(optimizer[0]["step"]) == algo.get_policy().num_grad_updates
    assert np.isfinite(learner_stats(other.train())["loss_global"])  # it learns at once
    other.stop()


def test_a_restored_algorithm_acts_without_warnings(build, tmp_path, caplog, monkeypatch):
    config = small_config().evaluation(evaluation_interval=1, evaluation_duration=1)
    algo = build(config)
    for _ in range(3):
        algo.train()
    path = algo.save(str(tmp_path)).checkpoint.path
    monkeypatch.setattr(logging.getLogger("ray"), "propagate", True)
    reset_log_once("compute_single_action")
    caplog.clear()
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        torch.set_warn_always(True)
        try:
            other = Algorithm.from_checkpoint(path)
            observations, _ = other.env_runner.env.reset(seed=1)
            other.compute_single_action(observations["team"], other.get_policy().get_initial_state(), explore=False)
        finally:
            torch.set_warn_always(False)
        other.stop()
    assert [record.message for record in caplog.records if record.levelno >= logging.WARNING] == []
    assert [str(warning.message) for warning in warned if "not writable" in str(warning.message)] == []


def test_means_over_the_last_episodes_continue(build, tmp_path):
    algo, other = build(), build()
    for _ in range(3):
        algo.train()
    other.restore(algo.save(str(tmp_path)).checkpoint.path)
    for _ in range(2):
        expected, result = (each.train()["env_runners"] for each in (algo, other))
        assert len(expected["hist_stats"]["episode_reward"]) > 2 * expected["num_episodes"]
        for name in ("episode_return_mean", "episode_return_min", "episode_len_mean", "hist_stats"):
            assert result[name] == expected[name]


@pytest.mark.parametrize(("saving", "restoring", "held"), [(True, False, 0), (False, True, 0), (True, True, 4)])
def test_the_replay_is_restored_where_both_want_it(build, tmp_path, saving, restoring, held, caplog):
    algo = build(store_buffer_in_checkpoints=saving)
    for _ in range(2):
        algo.train()
    path = algo.save(str(tmp_path)).checkpoint.path
    other = build(store_buffer_in_checkpoints=restoring)
    other.restore(path)
    assert len(other.local_replay_buffer) == held
    assert "store_buffer_in_checkpoints" not in caplog.text


def test_a_checkpoint_of_an_actor_names_no_method(tmp_path):
    """Those of a Tune trial could otherwise not be read once any method has another name, here or in RLlib."""
    algo = ray.remote(DDN).__ray_metadata__.modified_class(small_config())
    algo.save(str(tmp_path))
    algo.stop()
    opcodes = pickletools.genops((tmp_path / "algorithm_state.pkl").read_bytes())
    texts = {argument for _, argument, _ in opcodes if isinstance(argument, str)}
    assert "DDN" in texts
    assert not {text for text in texts if text.startswith(("ValueDecomposition.", "Algorithm.", "DDN."))}


def test_a_save_that_is_interrupted_leaves_the_checkpoint_before_it_whole(build, tmp_path, monkeypatch):
    algo = build()
    algo.train()
    algo.save(str(tmp_path))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    algo.train()

    def interrupted(state, file):
        file.write(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(algorithm_module.pickle, "dump", interrupted)
    with pytest.raises(OSError, match="no space left"):
        algo.save_checkpoint(str(tmp_path))
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    monkeypatch.undo()
    killed = tmp_path / ".unfinished-killed"  # what a process leaves that is killed meanwhile
    killed.mkdir()
    (killed / "algorithm_state.pkl").write_bytes(b"half")
    check_checkpoint(tmp_path)
    algo.save_checkpoint(str(tmp_path))
    other = build()
    other.restore(str(tmp_path))
    assert other.training_iteration == 2
    assert not list(tmp_path.glob(".unfinished-*"))


@pytest.mark.parametrize("moved", range(4))
def test_a_save_that_ends_between_two_of_its_moves_leaves_no_mixture(build, tmp_path, monkeypatch, moved):
    """All files of the second checkpoint are whole, and only some are in their places: iteration, counters, replay,
    weights and optimizers are all those of the first or all those of the second."""
    algo, saved, left, replace = build(), [], 99, Path.replace

    def killed(self, target):
        nonlocal left
        left -= 1
        if left < 0:
            raise KeyboardInterrupt
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", killed)
    for number in range(2):
        for _ in range(3):
            algo.train()
        policy = algo.get_policy()
        saved.append((policy.num_grad_updates, {name: value.copy() for name, value in policy.get_weights().items()}))
        left = moved if number else 99
        with pytest.raises(KeyboardInterrupt) if number else nullcontext():
            algo.save_checkpoint(str(tmp_path))
    other = build()
    other.restore(str(tmp_path))
    policy, which = other.get_policy(), other.training_iteration // 3 - 1
    assert which == (moved > 0)
    updates, weights = saved[which]
    assert policy.num_grad_updates == float(policy.optimizers["follower"].state_dict()["state"][0]["step"]) == updates
    assert len(other.local_replay_buffer) == 6 * (which + 1)
    assert other.local_replay_buffer.num_steps == other._counters["num_env_steps_sampled"]
    for name, value in policy.get_weights().items():
        np.testing.assert_array_equal(value, weights[name])


@pytest.mark.parametrize("moved", range(5))
def test_the_best_state_and_its_score_are_replaced_together(build, tmp_path, monkeypatch, moved):
    algo, left, replace = build(), 99, Path.replace

    def killed(self, target):
        nonlocal left
        left -= 1
        if left < 0:
            raise KeyboardInterrupt
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", killed)
    for iteration in (1, 2):
        algo._best_state, algo.score.best["training_iteration"] = (
            pickle.dumps(algo._state_to_evaluate(iteration)),
            iteration,
        )
        left = moved if iteration == 2 else 99
        with pytest.raises(KeyboardInterrupt) if iteration == 2 else nullcontext():
            algo.save_checkpoint(str(tmp_path))
    best = tmp_path / "best"
    if best.exists():
        figures = json.loads((best / "score.json").read_text())
        state = pickle.loads((best / "algorithm_state.pkl").read_bytes())
        assert figures["training_iteration"] == state["training_iteration"] == 1 + (moved > 1)
    algo._best_state, left = b"", 99
    algo.save_checkpoint(str(tmp_path))
    assert not best.exists()


def one_line(error):
    assert "\n" not in str(error.value)


def test_a_checkpoint_of_another_env(build, tmp_path):
    algo = build()
    algo.train()
    path = algo.save(str(tmp_path)).checkpoint.path
    config = small_config()
    config.environment(env_config={**SMALL_GAME, "sight": 2})
    other = build(config)
    before = other.get_policy().get_weights()
    with pytest.raises(ValueError, match=r"the weights '\S+' have the shape \(.*\), this model's have \(") as error:
        other.restore(path)
    one_line(error)
    for name, value in other.get_policy().get_weights().items():
        np.testing.assert_array_equal(value, before[name])


def test_a_checkpoint_of_another_mixer(build, tmp_path):
    path = build().save(str(tmp_path)).checkpoint.path
    with pytest.raises(ValueError, match=r"the weights hold 'host\.(target_)?mixer\S+, which this model does not have"):
        build(mixer="vdn").restore(path)
    with pytest.raises(ValueError, match=r"the weights hold 'intrinsic\S+', which this model does not have"):
        build(intrinsic_reward=False).restore(path)
