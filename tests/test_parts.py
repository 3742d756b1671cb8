"""What parts of one's own may and may not do, and what is said where they are wrong."""

import numpy as np
import pytest
import torch
from ray.rllib.callbacks.callbacks import RLlibCallback
from ray.rllib.policy import Policy
from torch import nn

from examples.intrinsic_reward import ReconstructionError
from examples.leader import GatedLeader
from examples.mixer import WeightedSum
from examples.target import two_steps
from rllib_ddn import DDNConfig, DistillationTerm, Follower, IntrinsicReward, Leader, Mixer, PTDEConfig, QMIXConfig
from rllib_ddn.networks import LEADERS, LocalPolicyNetwork
from rllib_ddn.networks.mixers import MIXERS
from support.configs import learner_stats, small_config

pytestmark = pytest.mark.usefixtures("cluster")


class Attached(DistillationTerm):
    """Does not detach the leader by itself, and logs plain numbers."""

    def __call__(self, follower, leader, batch):
        count = batch.valid.bool().sum()  # int64
        return (follower.q - leader.q).square().mean(), {"a_number": 0.5, "a_count": count, "a_flag": True}


@pytest.mark.parametrize("cores", [1, 2])
def test_no_term_reaches_the_leader(build, cores):
    policies = []
    for terms in ({}, {"attached": (Attached, 100.0)}):
        config = small_config(distillation_terms=terms, grad_clip=None).resources(num_cpus_for_main_process=cores)
        algo = build(config)
        for _ in range(3):
            statistics = learner_stats(algo.train())
        policies.append(algo.get_policy())
    assert statistics["a_number"] == 0.5
    assert statistics["a_flag"] == 1
    assert statistics["a_count"] > 1
    plain, attached = (policy.model.state_dict() for policy in policies)
    assert all(torch.equal(plain[name], attached[name]) for name in plain if name.startswith("host."))
    different = [name for name in plain if not torch.equal(plain[name], attached[name])]
    assert any(name.startswith("distillation.") for name in different)


class HalfFrozenFollower(LocalPolicyNetwork):
    """Its Q head stays as it starts."""

    def __init__(self, sizes, **options):
        super().__init__(sizes, **options)
        self.agent.q_head.requires_grad_(False)


class LeaderOfIt(LEADERS["personalized"]):
    follower = HalfFrozenFollower


@pytest.mark.parametrize("cores", [1, 2])
def test_a_follower_may_have_frozen_layers(build, cores):
    algo = build(small_config(state_fusion=LeaderOfIt).resources(num_cpus_for_main_process=cores))
    follower = algo.get_policy().model.distillation.follower
    head, encoder = follower.agent.q_head.weight.clone(), follower.agent.encoder.weight.clone()
    for _ in range(3):
        algo.train()
    assert torch.equal(follower.agent.q_head.weight, head)
    assert not torch.equal(follower.agent.encoder.weight, encoder)


class FewNeighbours(IntrinsicReward):
    """Counts in place of a network: nothing to train."""

    def novelty(self, batch):
        return 1.0 / (1.0 + (torch.cdist(batch.state, batch.state) < 1e-3).sum(1))


def test_an_intrinsic_reward_may_have_nothing_to_train(build):
    algo = build(intrinsic_reward=FewNeighbours)
    for _ in range(3):
        statistics = learner_stats(algo.train())
    assert list(algo.get_policy().optimizers) == ["host", "follower"]
    assert 0 < statistics["intrinsic_reward_mean"] < 1
    assert "grad_norm_intrinsic" not in statistics


@pytest.mark.parametrize("optimizer", ["rmsprop", "adam", {"type": "adam", "weight_decay": 0.1}])
def test_who_does_not_learn_stays_as_it_is(build, optimizer):
    algo = build(small_config(PTDEConfig, leader_timesteps=60, optimizer=optimizer))
    model = algo.get_policy().model
    fusion = [p.clone() for p in model.distillation.trained()]
    while algo._counters["num_env_steps_sampled"] + 24 <= 60:
        algo.train()
    assert algo.get_policy().num_grad_updates > 0
    assert all(torch.equal(*pair) for pair in zip(fusion, model.distillation.trained(), strict=True))
    while algo._counters["num_env_steps_sampled"] <= 60:
        algo.train()
    leader = [p.clone() for p in model.host.trained()]
    for _ in range(2):
        algo.train()
    assert all(torch.equal(*pair) for pair in zip(leader, model.host.trained(), strict=True))
    assert not any(torch.equal(*pair) for pair in zip(fusion, model.distillation.trained(), strict=True))


@pytest.mark.parametrize(("before", "after"), [("rmsprop", "adam"), ("adam", {"type": "rmsprop", "momentum": 0.9})])
def test_a_run_restored_with_another_optimizer_starts_it_afresh(build, tmp_path, before, after):
    algo = build(optimizer=before)
    for _ in range(3):
        algo.train()
    path = algo.save(str(tmp_path)).checkpoint.path
    other = build(optimizer=after)
    other.restore(path)
    assert not other.get_policy().optimizers["host"].state
    assert other.get_policy().optimizers["follower"].state
    for name, value in algo.get_policy().get_weights().items():
        np.testing.assert_array_equal(other.get_policy().get_weights()[name], value)
    for _ in range(3):
        statistics = learner_stats(other.train())
    assert np.isfinite(statistics["loss_global"])


class Normalized(MIXERS["vdn"]):
    """Has a buffer that moves."""

    def __init__(self, sizes):
        super().__init__(sizes)
        self.register_buffer("seen", torch.zeros(()))


def test_buffers_follow_into_the_target_whatever_tau(build):
    host = build(small_config(QMIXConfig, mixer=Normalized)).get_policy().model.host
    host.mixer.seen += 3
    host.update_target(tau=0.1)
    assert host.target_mixer.seen == 3


class Column(Mixer):
    def forward(self, team):
        return team.q.sum(-1, keepdim=True)


class Unfinished(Mixer):
    pass


class NoFollower(Leader):
    def make_fusion(self, sizes, embed_dim, hyper_dim):
        return nn.Identity()

    def fuse(self, z, state):
        return z


class NoFuse(Follower):
    pass


class DoubleLog(DistillationTerm):
    def __call__(self, follower, leader, batch):
        return follower.q.mean(), {"loss_global": torch.zeros(())}


class MixersDoubleLog(MIXERS["vdn"]):
    def loss(self, *arguments):
        loss, statistics = super().loss(*arguments)
        return loss, {**statistics, "target_mean": loss.detach()}


class PickyMixer(MIXERS["vdn"]):
    def __init__(self, sizes, depth):
        super().__init__(sizes)
        if sizes.num_agents != 3 or depth != 2:
            raise ValueError(f"mixer_config['depth'] is 2 for 3 agents; got {depth!r}.")


class NoSuper(Mixer):
    def __init__(self, sizes):
        self.size = sizes.num_agents

    def forward(self, team):
        return team.q.sum(-1)


class LayerFirst(NoSuper):
    def __init__(self, sizes):
        self.layer = nn.Linear(2, 2)


class NoSizes(NoSuper):
    def __init__(self):
        super().__init__(None)


class Misspelt(Mixer):
    def forward(self, team):
        return team.quality.sum(-1)


class Number(Mixer):
    def forward(self, team):
        return 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mixer": NoSuper}, r"mixer: NoSuper lacks super\(\).__init__\(sizes\) in its __init__\(\)"),
        (
            {"mixer": LayerFirst},
            r"mixer: LayerFirst\(sizes, \*\*{}\) fails: AttributeError: cannot assign module before Module.__init__",
        ),
        (
            {"mixer": NoSizes},
            r"mixer: NoSizes\(sizes, \*\*{}\) fails: TypeError: .* takes 1 positional argument but 2 were given",
        ),
        ({"mixer": Misspelt}, r"trial update with mixer=Misspelt fails: AttributeError: .* no attribute 'quality'"),
        ({"mixer": MixersDoubleLog}, r"two parts of an update log the statistic 'target_mean'"),
        (
            {"mixer": Number},
            r"trial update with mixer=Number fails: AttributeError: 'int' object has no attribute 'shape'",
        ),
        ({"targets": len}, r"trial update with targets=len fails: TypeError: "),
        ({"mixer": Column}, r"Column's value of a joint action has the shape \[2, 1\], but there are \[2\] steps"),
        (
            {"mixer": Unfinished},
            r"mixer is one of .* a subclass of Mixer, .*; got <class '.*Unfinished'>\. Unfinished lacks forward\(\)\.",
        ),
        ({"state_fusion": NoFollower}, r"state_fusion: NoFollower names no follower; set its attribute follower"),
        ({"intrinsic_reward": IntrinsicReward}, r"intrinsic_reward is .* IntrinsicReward lacks novelty\(\)\."),
        ({"distillation_terms": {"x": (DoubleLog, 1.0)}}, r"two parts of an update log the statistic 'loss_global'"),
        ({"distillation_terms": {"q": ("kl", 1.0)}}, r"distillation_terms\['q'\]: that name is taken"),
        (
            {"targets": lambda rewards, values, batch, gamma: rewards[:, None]},
            r"what targets\(\) returns has the shape \[2, 1\]",
        ),
        ({"mixer": PickyMixer, "mixer_config": {"depth": 1}}, r"mixer_config\['depth'\] is 2 for 3 agents; got 1"),
        (
            {"mixer": "nowhere:Mixer"},
            r"mixer is 'nowhere:Mixer', which cannot be imported: No module named 'nowhere'\. ",
        ),
        ({"mixer": "math:Sum"}, r"mixer is 'math:Sum', which cannot be imported: module 'math' has no attribute 'Sum'"),
        ({"mixer": "math:floor"}, r"mixer is one of .*; got 'math:floor'. It is <built-in function floor>."),
        ({"mixer": f"{__name__}:Unfinished"}, r"mixer is one of .*Unfinished'. Unfinished lacks forward\(\)\."),
        ({"targets": "math:Sum"}, r"targets is 'math:Sum', which cannot be imported"),
        ({"targets": f"{__name__}:Unfinished"}, r"trial update with targets=.*Unfinished fails: TypeError"),
        (
            {"distillation_terms": {"x": ("math:floor", 1.0)}},
            r"distillation_terms\['x'\] is one of .*; got 'math:floor'",
        ),
        ({"optimizer": {"type": "adam", "epsilon": 1e-5}}, r"optimizer is 'rmsprop', 'adam', or a dict"),
        ({"optimizer": {"type": "adam", "lr": 1e-5}}, r"optimizer is .*; got "),
        ({"grad_clip_by": "value"}, r"grad_clip_by is 'global_norm', of each optimizer; got 'value'"),
    ],
)
def test_wrong_parts_are_refused_when_the_algorithm_is_built(options, message):
    with pytest.raises(ValueError, match=message) as error:
        small_config(DDNConfig, **options).build_algo()
    assert "\n" not in str(error.value)


class Unreachable(RLlibCallback):
    def on_algorithm_init(self, **_):
        raise RuntimeError("the tracking server does not answer")


class FailingLeader(GatedLeader):
    def __init__(self, sizes, **options):
        raise RuntimeError("no such layer")


def test_only_what_a_custom_component_does_is_blamed_on_it():
    with pytest.raises(RuntimeError, match=r"^the tracking server does not answer$"):
        small_config(mixer=Normalized).callbacks(Unreachable).build_algo()
    with pytest.raises(
        ValueError, match=r"building the networks with state_fusion=FailingLeader fails: .* no such layer"
    ):
        small_config(state_fusion=FailingLeader).build_algo()


def test_custom_components_by_name(build):
    """A config, and so a checkpoint, holds the names; whoever builds the model imports what they stand for."""
    names = {
        "mixer": "examples.mixer:WeightedSum",
        "state_fusion": "examples.leader:GatedLeader",
        "intrinsic_reward": "examples.intrinsic_reward:ReconstructionError",
        "distillation_terms": {"absolute": ["examples.distillation_term:AbsoluteTerm", 0.5]},
        "targets": "examples.target:two_steps",
        "callbacks": "examples.mixer:WeightedSum",
    }
    with pytest.raises(ValueError, match="callbacks is a subclass of RLlibCallback; got"):
        small_config().update_from_dict(names)
    algo = build(small_config().update_from_dict({**names, "callbacks": "ray.rllib.callbacks.callbacks:RLlibCallback"}))
    for _ in range(3):
        statistics = learner_stats(algo.train())
    assert statistics["loss_absolute"] > 0
    restored = Policy.from_state(algo.get_policy().get_state())
    assert restored.config["mixer"] == names["mixer"]
    for policy in (algo.get_policy(), restored):
        model = policy.model
        assert type(model.host.mixer) is WeightedSum
        assert type(model.host.agent) is GatedLeader
        assert type(model.intrinsic) is ReconstructionError
        assert model.host.targets is two_steps
    for name, value in algo.get_policy().get_weights().items():
        np.testing.assert_array_equal(restored.get_weights()[name], value)


def test_parts_get_the_sizes_of_the_real_team(build):
    build(mixer=PickyMixer, mixer_config={"depth": 2})


def test_checking_a_config_draws_no_random_numbers():
    config = small_config()
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    config.validate()
    config.check_env()
    assert torch.rand(1) == expected
