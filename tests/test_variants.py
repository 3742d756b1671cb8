"""Hosts alone and teacher-student peers: what sets each apart, on the shared training path."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from ray.tune.registry import get_trainable_cls

import rllib_ddn
from rllib_ddn import DDNConfig, Mixer
from rllib_ddn.learning.distillation import SquaredTerm
from rllib_ddn.learning.replay import EpisodeReplay
from rllib_ddn.networks import MIXERS
from rllib_ddn.rllib import variants
from support.configs import learner_stats, small_config

pytestmark = pytest.mark.usefixtures("cluster")

HOSTS = {
    "VDN": "vdn",
    "QMIX": "qmix",
    "Qatten": "qatten",
    "QPLEX": "qplex",
    "CWQMIX": "cwqmix",
    "OWQMIX": "owqmix",
    "QTRAN": "qtran",
}
PEERS = ("CTDS", "PTDE", "IGMDA")


def config_of(name, **training):
    return small_config(getattr(variants, f"{name}Config"), **training)


def weights(module):
    return copy.deepcopy(module.state_dict())


def changed(module, before):
    found = {name for name, value in module.state_dict().items() if not torch.equal(value, before[name])}
    return {name for name in found if not name.startswith("averages.")}


@pytest.mark.parametrize("name", [*HOSTS, *PEERS])
def test_each_is_a_trainable_with_a_config(name):
    algorithm = getattr(rllib_ddn, name)
    assert get_trainable_cls(name) is algorithm
    config = algorithm.get_default_config()
    assert type(config) is getattr(rllib_ddn, f"{name}Config")
    assert config.algo_class is algorithm
    assert DDNConfig().q_loss == "kl"  # the choices are the variant's own


@pytest.mark.parametrize("name", HOSTS)
def test_hosts_train_all_of_their_parameters_and_nothing_else(build, name):
    algo = build(config_of(name))
    model = algo.get_policy().model
    assert type(model.host.mixer) is MIXERS[name.lower()]
    assert model.distillation is None
    assert model.intrinsic is None
    before = weights(model)
    for _ in range(6):
        result = algo.train()
    trained = {f"host.{part}.{key}" for part in ("agent", "mixer") for key in getattr(model.host, part).state_dict()}
    assert changed(model, before) == trained
    assert np.isfinite(learner_stats(result)["loss_global"])


@pytest.mark.parametrize("mixer", [name for name in MIXERS if MIXERS[name].hosts_ddn])
def test_every_host_takes_ddn(build, mixer):
    algo = build(mixer=mixer)
    before = weights(algo.get_policy().model)
    for _ in range(3):
        algo.train()
    parts = {".".join(name.split(".")[:2]) for name in changed(algo.get_policy().model, before)}
    trained = {"host.agent", "host.mixer", "distillation.follower", "intrinsic.networks"}
    assert parts == (trained - {"host.mixer"} if mixer == "vdn" else trained)


def test_the_follower_may_learn_in_every_second_update(build):
    """It changes in these alone; the leader learns what it learns without."""
    every, second = (build(follower_update_interval=interval) for interval in (1, 2))
    moved, apply, policy = [], second.get_policy().apply_gradients, second.get_policy()

    def record(gradients):
        before = weights(policy.model.distillation), weights(policy.model.host.agent)
        apply(gradients)
        moved.append(
            [
                bool(changed(m, b))
                for m, b in zip((policy.model.distillation, policy.model.host.agent), before, strict=True)
            ]
        )

    policy.apply_gradients = record
    for _ in range(4):
        every.train()
        result = second.train()
    assert moved == [[k % 2 == 0, True] for k in range(len(moved))]
    assert len(moved) > 3
    assert not changed(policy.model.host, weights(every.get_policy().model.host))
    assert learner_stats(result)["grad_norm_follower"] > 0  # of the updates in which it learns
    assert np.isfinite(learner_stats(result)["loss_q"])


def test_qtran_is_no_host_of_ddn():
    with pytest.raises(
        ValueError, match=r"mixer is a host that a follower can learn from, one of 'vdn', .*; 'qtran' exists alone"
    ):
        small_config(mixer="qtran").build_algo()


def test_options_of_a_mixer_are_checked_when_the_algorithm_is_built():
    with pytest.raises(ValueError, match=r"mixer_config\['alpha'\] is a weight above 0 and at most 1; got 0"):
        config_of("OWQMIX", mixer_config={"alpha": 0}).build_algo()


def test_ctds_regresses_the_teachers_q_values(build):
    algo = build(config_of("CTDS"))
    for _ in range(3):
        stats = learner_stats(algo.train())
    assert algo.config.behaviour_network == "leader"
    assert stats["loss_q"] > 0
    assert not {"loss_block", "loss_feature", "loss_idm"} & stats.keys()  # what is not computed has no column
    terms = algo.get_policy().model.distillation.terms
    assert {name: type(term) for name, (term, _) in terms.items()} == {"q": SquaredTerm}


def test_ptde_fixes_the_leader_in_its_second_stage(build):
    algo = build(config_of("PTDE", leader_timesteps=100))
    host, follower = algo.get_policy().model.host, algo.get_policy().model.distillation.follower
    assert follower.agent is host.agent.agent
    fusion = weights(follower.fusion)
    while algo._counters["num_env_steps_sampled"] < 80:
        algo.train()
    assert not changed(follower.fusion, fusion)  # the leader learns alone
    while algo._counters["num_env_steps_sampled"] <= 100:
        algo.train()
    leader, mixer, fusion = weights(host.agent), weights(host.mixer), weights(follower.fusion)
    for _ in range(2):
        stats = learner_stats(algo.train())
    assert not changed(host.agent, leader)
    assert not changed(host.mixer, mixer)
    assert changed(follower.fusion, fusion) == set(fusion)
    assert stats["loss_block"] > 0
    assert all(np.isnan(stats[name]) for name in ("loss_global", "target_mean", "q_tot_mean"))
    assert not {"loss_q", "loss_feature"} & stats.keys()


def test_ptdes_student_stands_in_for_the_personalized_state(build):
    """The follower's Q values are the leader's agent network's, on o_hat and z instead of S_hat and z."""
    model = build(config_of("PTDE")).get_policy().model
    torch.manual_seed(0)
    spec = model.spec
    z, state = torch.randn(1, spec.num_agents, model.sizes.local_dim), torch.randn(1, spec.state_dim)
    leader, follower = model.networks["leader"], model.networks["follower"]
    theirs, ours = leader(z, state), follower(z)
    for out, hat in ((theirs, leader.fusion(state, z)), (ours, follower.fusion(z[..., : spec.obs_dim], z))):
        q = leader.agent(torch.cat([hat, z], -1)[0])[1]
        torch.testing.assert_close(out.q[0], q)
    assert not torch.allclose(theirs.q, ours.q)


def test_igmdas_mixture_moves_from_the_expert_to_the_learner(build):
    algo = build(config_of("IGMDA", mixture_timesteps=1000))
    runner, played = algo.env_runner, []
    play = runner.play
    runner.play = lambda seeds, network, *args, **kwargs: (
        played.append(network) or play(seeds, network, *args, **kwargs)
    )
    shares = []
    for timestep in (0, 250, 750, 1000):
        runner.set_global_vars({"timestep": timestep})
        played.clear()
        for k in range(60):
            runner.sample(round_number=k)
        shares.append(played.count("leader") / 60)
    assert (shares[0], shares[3]) == (1, 0)
    assert 0.6 < shares[1] < 0.9
    assert 0.1 < shares[2] < 0.4
    sent = {".".join(key.split(".")[:2]) for key in runner.policy.get_acting_weights()}
    assert sent == {"host.agent", "distillation.follower"}


@pytest.mark.parametrize("name", PEERS)
def test_peers_are_evaluated_as_ddn_is_and_restore_exactly(build, name, tmp_path):
    config = config_of(name, store_buffer_in_checkpoints=True).evaluation(evaluation_interval=1, evaluation_duration=3)
    algo = build(config)
    algo.train()
    results = algo.train()["evaluation"]
    assert {"leader", "follower", "knowledge_transfer"} <= set(results)
    path = algo.save(str(tmp_path)).checkpoint.path
    algo.train()
    other = build(config.copy(copy_frozen=False))
    other.restore(path)
    other.train()
    for key, value in algo.get_policy().model.state_dict().items():
        assert torch.equal(value, other.get_policy().model.state_dict()[key]), key


@pytest.mark.parametrize(
    ("training", "message"),
    [
        (
            {"q_loss": "mse"},
            "q_loss is one of 'kl', 'squared', 'imitation', a subclass of DistillationTerm, ",
        ),
        ({"follower_agent": "leader"}, 'follower_agent="leader" leaves the follower its fusion block.*q_loss_coeff'),
        ({"leader_timesteps": 0}, "leader_timesteps is a positive integer, or None; got 0"),
        ({"mixture_timesteps": 0.5}, "mixture_timesteps is a positive integer; got 0.5"),
    ],
)
def test_bad_choices(training, message):
    with pytest.raises(ValueError, match=message):
        small_config(**training).build_algo()


def test_a_mixer_in_the_script_that_is_run(build):
    """The example of docs/extending.md, which no other process can import, on an env runner in one."""
    code = (Path(__file__).parent / "examples" / "mixer.py").read_text()
    names = {"__name__": "__main__"}
    exec(code, names)
    (mixer,) = [v for v in names.values() if isinstance(v, type) and issubclass(v, Mixer) and v is not Mixer]
    config = small_config(
        **{key: value for key, value in names["config"].to_dict().items() if key in ("mixer", "mixer_config")}
    )
    algo = build(config.env_runners(num_env_runners=1))
    for _ in range(3):
        algo.train()
    assert type(algo.get_policy().model.host.mixer) is mixer
    assert isinstance(algo.local_replay_buffer, EpisodeReplay)
    assert len(algo.local_replay_buffer) == 6
