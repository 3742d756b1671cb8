"""Random streams: one for each purpose, none of which meets another, and a run without a seed resumes with its own."""

import sys
from collections import Counter, defaultdict
from itertools import product

import numpy as np

from rllib_ddn.random_streams import PURPOSES, seed_sequence
from rllib_ddn.rllib.evaluation import evaluate_checkpoint
from support.configs import small_config


def test_no_stream_is_another_padded_with_zeros():
    indices = [combination for count in range(4) for combination in product((0, 1, 3), repeat=count)]
    seeds = [(purpose, seed, *rest) for purpose in PURPOSES for seed in (0, 3) for rest in indices]
    first = {np.random.default_rng(seed_sequence(*seed)).integers(2**63) for seed in seeds}
    assert len(first) == len(seeds)


def test_all_streams_of_a_run_differ(build, tmp_path, monkeypatch):
    """Training with a mixture and the intrinsic reward's mask on the env runner, evaluation, compute_actions() and
    ``rllib evaluate``: whatever makes a generator does so from a seed of its own."""
    real, streams, phase = np.random.default_rng, defaultdict(list), "training"

    def recording(seed=None):
        generator = real(seed)
        caller = sys._getframe(1).f_code.co_qualname
        if "rllib_ddn" in sys._getframe(1).f_globals["__name__"]:
            streams[generator.bit_generator.state["state"]["state"]].append((phase, caller))
        return generator

    monkeypatch.setattr(np.random, "default_rng", recording)
    config = small_config(behaviour_network="mixture", intrinsic_reward_stage="trajectory")
    config.evaluation(evaluation_interval=None, evaluation_duration=4)
    algo = build(config)
    for _ in range(4):
        algo.train()
    phase = "evaluation"
    algo.evaluate()
    path = algo.save(str(tmp_path)).checkpoint.path
    phase = "rllib evaluate"
    config = config.copy(copy_frozen=False).evaluation(evaluation_interval=100)
    evaluate_checkpoint(config, path, ("leader", "follower"), 4)
    found = Counter()
    for users in streams.values():
        (user, *others) = users
        again = ("rllib evaluate", user[1])  # the same algorithm, built once more
        assert all(other in (again, user) for other in others), users
        assert user[0] != "training" or set(others) <= {again}, users  # both networks evaluate on the same episodes
        found[user[0], user[1].removesuffix(".<locals>.<listcomp>").split(".")[-1]] += 1
    assert found["training", "episode_stream"] == 8
    assert found["training", "network_of_round"] == 4
    assert found["training", "_batch_of_trajectory"] == 8
    assert found["training", "setup"] == 1  # the learner's
    assert found["evaluation", "episode_stream"] == found["rllib evaluate", "episode_stream"] == 4


def test_a_run_without_a_seed_is_restored_with_that_of_its_checkpoint(build, tmp_path):
    make = lambda: build(small_config(store_buffer_in_checkpoints=True).debugging(seed=None))  # noqa: E731
    algo = make()
    for _ in range(2):
        algo.train()
    path, other = algo.save(str(tmp_path)).checkpoint.path, make()
    assert other.seed != algo.seed
    drawn = algo.get_policy()._rng.bit_generator.state
    other.restore(path)
    for each in (algo, other):
        for _ in range(2):
            each.train()
        result = each.train()
        assert (result["seed"], result["config"]["seed"]) == (algo.seed, None)
        assert each.get_policy()._rng.bit_generator.state == drawn
    theirs = other.get_policy().get_weights()
    for name, value in algo.get_policy().get_weights().items():
        np.testing.assert_array_equal(value, theirs[name], err_msg=name)
