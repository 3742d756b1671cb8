"""Parts of one's own: each example is trained with as it stands, and its statistics arrive."""

import numpy as np
import pytest
from ray import tune
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from examples import distillation_term, intrinsic_reward, leader, mixer, multi_agent_env, parallel_env
from support.configs import learner_stats, small_config

pytestmark = pytest.mark.usefixtures("cluster")

# Of each example, the key that takes its class, where the class is in the model, and the statistics that are its own.
PARTS = {
    "mixer": (mixer, ("mixer", "mixer_config"), lambda model: model.host.mixer, {"largest_weight"}),
    "leader": (leader, ("state_fusion",), lambda model: model.host.agent, set()),
    "follower": (leader, ("state_fusion",), lambda model: model.distillation.follower, set()),
    "term": (
        distillation_term,
        ("distillation_terms",),
        lambda model: model.distillation.terms["absolute"][0],
        {"loss_absolute", "same_actions"},
    ),
    "intrinsic reward": (
        intrinsic_reward,
        ("intrinsic_reward",),
        lambda model: model.intrinsic,
        {"loss_reconstruction"},
    ),
}


def example_config(module, keys):
    """The example's settings on a small game."""
    return small_config(**{key: getattr(module.config, key) for key in keys})


@pytest.mark.parametrize("name", PARTS)
def test_a_part_of_ones_own(build, name):
    module, keys, part, statistics = PARTS[name]
    algo = build(example_config(module, keys))
    first = learner_stats(algo.train())
    for _ in range(3):
        last = learner_stats(algo.train())
    used = part(algo.get_policy().model)
    assert type(used).__module__ == module.__name__
    assert statistics <= first.keys() <= last.keys()
    assert all(np.isnan(first[name]) for name in statistics)  # fewer episodes than a batch: nothing was learned yet
    assert all(np.isfinite(last[name]) for name in last)


def test_a_term_of_ones_own_in_the_place_of_l_q(build):
    algo = build(q_loss=distillation_term.AbsoluteTerm, distillation_terms={"more": ("squared", 0.1)})
    for _ in range(3):
        stats = learner_stats(algo.train())
    assert {"loss_q", "same_actions", "loss_more"} <= stats.keys()
    assert "loss_absolute" not in stats
    assert type(algo.get_policy().model.distillation.terms["q"][0]) is distillation_term.AbsoluteTerm


def test_a_mixer_of_ones_own_is_trained(build):
    algo = build(example_config(mixer, ("mixer", "mixer_config")))
    weights = algo.get_policy().model.host.mixer.w
    np.testing.assert_allclose(weights.detach(), 0.1)
    for _ in range(3):
        stats = learner_stats(algo.train())
    assert (weights != 0.1).all()
    # A mean over the round's two updates, so near the last.
    assert stats["largest_weight"] == pytest.approx(weights.exp().max().item(), rel=0.01)


def test_an_env_of_ones_own(build):
    """The best return is 1: the two meet."""
    config = small_config()
    config.env_config = {}
    config.environment("pettingzoo", env_config=dict(parallel_env.config.env_config))
    algo = build(config)
    for _ in range(4):
        result = algo.train()
    assert np.isfinite(learner_stats(result)["loss_global"])
    held = algo.local_replay_buffer.sample(8, np.random.default_rng(0))
    met, lengths = held["terminated"], held["length"]
    assert lengths.max() <= 8
    assert (lengths[~met] == 8).all()
    assert held["rewards"].sum(1).tolist() == met.astype(float).tolist()


def test_an_rllib_env_of_ones_own(build):
    """The team's reward is how many of the two say the number that they see."""
    config = small_config()
    config.env_config = {}
    config.environment("echo", env_config=dict(multi_agent_env.config.env_config))
    in_a_module = config.copy().environment(
        "examples.multi_agent_env.team", env_config={"numbers": 3, "state": "concat"}
    )
    assert (in_a_module.check_env().obs_dim, in_a_module.check_env().state_dim) == (3, 6)
    algo = build(config)
    for _ in range(4):
        result = algo.train()
    assert np.isfinite(learner_stats(result)["loss_global"])
    held = algo.local_replay_buffer.sample(8, np.random.default_rng(0))
    assert held["actions"].max() < 5
    seen = held["obs"][:, :-1].argmax(-1)  # [B, T, N]: of each step, without what is seen after the last
    assert held["rewards"].tolist() == (held["actions"] == seen).sum(-1).tolist()


def test_tensorboard_has_the_statistics_of_ones_own_parts(tmp_path):
    """All of them at once, through Tune."""
    config = small_config(
        mixer=mixer.WeightedSum,
        state_fusion=leader.GatedLeader,
        distillation_terms=distillation_term.config.distillation_terms,
        intrinsic_reward=intrinsic_reward.ReconstructionError,
    )
    analysis = tune.run(
        "DDN", config=config.to_dict(), stop={"training_iteration": 3}, storage_path=str(tmp_path), verbose=0
    )
    (trial,) = analysis.trials
    events = EventAccumulator(trial.path)
    events.Reload()
    for _, _, _, statistics in PARTS.values():
        for name in statistics:
            curve = events.Scalars(f"ray/tune/info/learner/default_policy/learner_stats/{name}")
            assert np.isfinite(curve[-1].value), name
    logged = trial.last_result
    assert curve[-1].value == pytest.approx(learner_stats(logged)["loss_reconstruction"])
