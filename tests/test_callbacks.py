"""RLlib's callbacks."""

import numpy as np
import pytest
from ray.rllib.callbacks.callbacks import RLlibCallback

from rllib_ddn.rllib.ranges import CALLBACKS
from support.configs import small_config


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


def test_functions_are_called_as_methods_are(build):
    """As in RLlib's own examples: config.callbacks(on_train_result=...), one function or several."""
    calls, config = [], small_config()
    names = [name for name in CALLBACKS if name not in ("on_checkpoint_loaded", "on_env_runners_recreated")]
    functions = {name: lambda name=name, **told: calls.append((name, *sorted(told))) for name in names}
    config.evaluation(evaluation_interval=1, evaluation_duration=1)
    config.callbacks(
        Recorder,
        **functions | {"on_train_result": [functions["on_train_result"], lambda *, result, **_: result.pop("mine")]},
    )
    algo = build(config)
    result = algo.train()
    assert "mine" not in result  # after the class's own, which has put it there
    assert {name for name, *_ in calls} == set(names)
    assert calls.count(("on_train_result", "algorithm", "metrics_logger", "result")) == 1
    ended = ("on_episode_end", "base_env", "env_index", "episode", "policies", "worker")
    assert calls.count(ended) == 2 + 2  # the round's, and one greedy episode of each network
    with pytest.raises(
        ValueError, match=r"callbacks_on_train_result is a function, a list of functions, or None; got 5"
    ):
        small_config().callbacks(on_train_result=5).validate()
    with pytest.raises(ValueError, match=r"callbacks_on_environment_created is not supported"):
        small_config().callbacks(on_environment_created=print).validate()


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
