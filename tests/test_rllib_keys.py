"""Single settings: RLlib's keys that are supported and those that are not, and the names that PyMARL has for keys."""

import math
import re
from types import SimpleNamespace

import pytest
from gymnasium.spaces import Box, Dict, Discrete, Tuple
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig

from rllib_ddn import DDN, DDNConfig, Mixer, QMIXConfig, VDNConfig
from rllib_ddn.cli.experiments import check
from rllib_ddn.envs.vector import warn_once
from rllib_ddn.rllib.from_pymarl import HINTS
from rllib_ddn.rllib.ranges import RANGES
from rllib_ddn.rllib.resources import check_env_runners
from rllib_ddn.team import TeamEnvError, TeamSpec
from support.configs import plain_config, small_config

pytestmark = pytest.mark.usefixtures("cluster")


def refusal(settings, config_class=DDNConfig):
    """The line in which a config dict is refused."""
    with pytest.raises(ValueError) as error:  # noqa: PT011  (the caller looks at its message)
        config_class().update_from_dict({**plain_config(), **settings}).validate()
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    "settings",
    [
        {"num_envs_per_env_runner": 0},
        {"num_envs_per_env_runner": -1},
        {"min_sample_timesteps_per_iteration": math.nan},
        {"min_train_timesteps_per_iteration": math.nan},
        {"min_time_s_per_iteration": math.inf},
        {"q_loss_coeff": math.inf},
        {"intrinsic_reward_coeff": math.inf},
        {"block_loss_coeff": 1e300},
        {"distillation_temperature": math.inf},
        {"distillation_temperature": 1e-300},
        {"lr": 1e10},
        {"evaluation_interval": -1},
        {"evaluation_interval": 1.5},
        {"num_env_runners": -1},
        {"evaluation_num_env_runners": -1},
        {"num_cpus_for_main_process": -1},
        {"num_cpus_per_env_runner": -1},
        {"num_gpus": -1},
        {"num_gpus_per_env_runner": -0.5},
        {"explore": "no"},
        {"agent_hidden_dim": 64.0},
        {"fusion_embed_dim": 64.0},
        {"train_batch_size": 4.0},
        {"updates_per_episode": math.inf},
        {"gamma": "0.99"},
        {"train_batch_size": "32"},
        {"grad_clip": "10"},
        {"env_config": None},
        {"exploration_config": None},
        {"replay_buffer_config": None},
        {"mixer_config": None},
        {"intrinsic_reward_config": None},
        {"model": None},
        {"model": 3},
        {"evaluation_config": 3},
        {"seed": "abc"},
        {"seed": -1},
        {"seed": 2**40},
        {"minibatch_size": 16},
        {"observation_filter": "MeanStdFilter"},
        {"log_level": "LOUD"},
        {"callbacks": "nowhere.Callbacks"},
        {"optimizer": {"type": "rmsprop", "alpha": 5}},
        {"optimizer": {"type": "adam", "weight_decay": math.inf}},
        {"optimizer": {"type": "adam", "maximize": True}},
        {"policies_to_train": []},
    ],
    ids=str,
)
def test_nonsense_is_refused_by_name(settings):
    (name,) = settings
    assert refusal(settings).startswith(f"{name} ")


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        (
            {"exploration_config": {"epsilon_timestep": 10}},
            "exploration_config['epsilon_timestep'] is unknown. Did you",
        ),
        ({"exploration_config": {"initial_epsilon": 1.5}}, "exploration_config['initial_epsilon'] is a probability"),
        ({"exploration_config": {"final_epsilon": -0.1}}, "exploration_config['final_epsilon'] is a probability"),
        ({"exploration_config": {"epsilon_timesteps": 1.5}}, "exploration_config['epsilon_timesteps'] is "),
        ({"replay_buffer_config": {"type": "ReplayBuffer"}}, "replay_buffer_config['type'] is unknown"),
        ({"replay_buffer_config": {"type": None}}, "replay_buffer_config['type'] is unknown"),
        ({"mixer_config": {"embed_dim": 32.0}}, "mixer_config['embed_dim'] is an integer from 1 to 8,192; got 32.0"),
        ({"mixer": "owqmix", "mixer_config": {"alpha": "big"}}, "mixer_config['alpha'] is a number"),
        (
            {"model": {"use_lstm": True, "fcnet_activation": "tanh"}},
            "model is not supported by these algorithms; got {'use",
        ),
        ({"model": {"custom_model": "mine"}}, "model is not supported"),
        ({"evaluation_config": {"explore": "no"}}, "evaluation_config: explore is True or False; got 'no'"),
        ({"evaluation_config": {"explor": False}}, "evaluation_config: unknown config key 'explor'. Did you mean"),
        ({"evaluation_config": {"num_learners": 2}}, "evaluation_config: num_learners is not supported"),
    ],
    ids=str,
)
def test_nonsense_within_a_dict_is_refused_by_name(settings, name):
    assert refusal(settings).startswith(name)


@pytest.mark.parametrize(("method", "key"), [("environment", "env_config"), ("env_runners", "exploration_config")])
def test_methods_refuse_what_is_no_dict(method, key):
    with pytest.raises(ValueError, match=f"{key} is a dict; got None"):
        getattr(DDNConfig(), method)(**{key: None})


def test_a_key_of_rllib_that_is_not_in_the_table_keeps_rllibs_default():
    set_by_rllib = ("algo_class", "in_evaluation", "simple_optimizer", "stats_cls_lookup")
    public = [name for name in vars(AlgorithmConfig()) if not name.startswith("_") and name not in set_by_rllib]
    unsupported = [name for name in public if name not in RANGES]
    assert {"num_learners", "rollout_fragment_length", "clip_rewards", "num_epochs", "output"} < set(unsupported)
    for name in unsupported:
        config = small_config()
        setattr(config, name, object())
        with pytest.raises(ValueError, match=rf"^{name} is not supported by these algorithms; got <object") as error:
            config.validate()
        assert "\n" not in str(error.value)
    for name in ("num_learners", "clip_rewards", "num_epochs"):
        assert refusal({name: 2}).startswith(f"{name} is not supported")
    for name in ("num_epochs", "minibatch_size", "train_batch_size_per_learner", "model"):
        with pytest.raises(ValueError, match=f"^{name} is not supported"):
            DDNConfig().training(**{name: {"a": 2}})
    small_config().validate()


def test_what_users_of_pymarl_type():
    assert len(HINTS) > 50
    for name in HINTS.keys() - vars(DDNConfig()).keys():
        assert refusal({name: 1}) == f"unknown config key {name!r}. Here: {HINTS[name]}."
        with pytest.raises(ValueError, match=f"unknown config key '{name}'. Here: "):
            DDNConfig().training(**{name: 1})
    assert "replay_buffer_config" in refusal({"buffer_size": 5000})  # which RLlib has, too
    for key in ("target_update_interval", "epsilon_start", "batch_size", "rnn_hidden_dim", "grad_norm_clip", "n_step"):
        assert any(name in vars(DDNConfig()) for name in re.findall(r"\w+", HINTS[key])), key


@pytest.mark.parametrize("overrides", [{}, {"seed": 2}, None, DDNConfig(), DDNConfig.overrides(seed=3)], ids=type)
def test_evaluations_are_greedy(overrides):
    config = DDNConfig().evaluation(evaluation_config=overrides)
    assert config.get_evaluation_config_object().explore is False
    assert config.explore is True


def test_evaluations_explore_where_they_are_told_to():
    assert DDNConfig().evaluation(evaluation_config={"explore": True}).get_evaluation_config_object().explore is True


@pytest.mark.parametrize(
    ("mixer", "near"), [("QMIX", "qmix"), ("Qatten", "qatten"), ("VDN", "vdn"), ("ow_qmix", "owqmix")]
)
def test_mixers_are_found_whatever_their_case(mixer, near):
    assert refusal({"mixer": mixer}).endswith(f"got {mixer!r}. Did you mean {near!r}?")


def test_qtran_is_no_mixer_of_ddn():
    assert refusal({"mixer": "qtran"}).startswith("mixer is ")
    VDNConfig().update_from_dict({**plain_config(), "mixer": "qtran"}).validate()


def test_a_gpu_that_is_not_there(monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    with pytest.raises(
        ValueError, match="num_gpus is 1, but the learner finds no GPUs: leave num_gpus 0, and it learns on"
    ) as error:
        DDN(config=plain_config(num_gpus=1))
    assert "\n" not in str(error.value)


def test_a_learner_in_a_cluster_may_have_the_gpus_of_another_machine(monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    spec = {"run": "DDN", "config": plain_config(num_gpus=1)}
    with pytest.raises(ValueError, match="num_gpus is 1, but the learner finds no GPUs"):
        check("here", spec)
    check("elsewhere", spec, learns_here=False)


LACKING = [
    ({"num_env_runners": 2}, "a trial needs 3 CPUs, and the cluster has 2"),
    ({"num_env_runners": 1, "evaluation_num_env_runners": 1}, "a trial needs 3 CPUs, and the cluster has 2"),
    ({"num_env_runners": 1, "num_gpus_per_env_runner": 1}, "a trial needs 1 GPUs, and the cluster has 0"),
]


@pytest.mark.parametrize(("config", "message"), LACKING)
@pytest.mark.parametrize("grows", [False, True])
def test_a_trial_that_the_cluster_has_no_room_for(monkeypatch, caplog, config, message, grows):
    monkeypatch.setattr("ray.cluster_resources", lambda: {"CPU": 2.0})
    DDN.default_resource_request(plain_config(num_env_runners=2, num_cpus_per_env_runner=0.5))
    assert "CPU" not in caplog.text
    if grows:
        monkeypatch.setattr("ray._private.worker._global_node", SimpleNamespace(head=False))
        warn_once.cache_clear()
        DDN.default_resource_request(plain_config(**config))
        assert f"{message}: waiting until nodes" in caplog.text
    else:
        with pytest.raises(ValueError, match=message):
            DDN.default_resource_request(plain_config(**config))


def test_env_runners_that_the_cluster_has_no_room_for(monkeypatch):
    monkeypatch.setattr("ray.cluster_resources", lambda: {"CPU": 2.0})
    config = (
        small_config().env_runners(num_env_runners=2).evaluation(evaluation_interval=1, evaluation_num_env_runners=1)
    )
    with pytest.raises(ValueError, match="the env runners need 3 CPUs, and the cluster has 2"):
        config.build_algo()
    config.evaluation(evaluation_interval=None)  # RLlib makes the evaluation's all the same
    with pytest.raises(ValueError, match="the env runners need 3 CPUs"):
        config.build_algo()


def test_env_runners_that_wait_for_those_of_another_algorithm(monkeypatch, caplog):
    monkeypatch.setattr("ray.cluster_resources", lambda: {"CPU": 2.0})
    monkeypatch.setattr("ray.available_resources", lambda: {"CPU": 1.0})
    warn_once.cache_clear()
    for count in (1, 2):
        assert "CPU" not in caplog.text
        config = small_config().env_runners(num_env_runners=count)
        check_env_runners(config, config.get_evaluation_config_object())
    assert "the env runners need 2 CPUs, and the cluster has 2, of which only 1" in caplog.text


def test_messages_of_a_host_do_not_speak_of_ddn():
    agent = {"obs": Box(-1, 1, (2,)), "state": Box(-1, 1, (2,))}
    with pytest.raises(TeamEnvError, match=r"agent 0 is Box.*; actions must be Discrete") as error:
        TeamSpec.from_spaces(Tuple([Dict(agent)]), Tuple([Box(-1, 1, (2,))]))
    assert "DDN" not in str(error.value)
    with pytest.raises(TeamEnvError, match="different lengths"):
        TeamSpec.from_spaces(Tuple([Dict(agent), Dict({**agent, "obs": Box(0, 1, (3,))})]), Tuple([Discrete(2)] * 2))
    assert "DDN" not in refusal({"num_learners": 2}, QMIXConfig)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"policies_to_train": lambda *_: None}, r"policies_to_train is \['default_policy'\], or None"),
        (
            {"env": Mixer},
            r"env <class .*Mixer'> cannot be made: it raised TypeError: Can't instantiate abstract class Mixer",
        ),
        (
            {"env": "nowhere.Game"},
            r"env is 'nowhere.Game', which cannot be imported: No module named 'nowhere'. Custom modules",
        ),
        (
            {"env": "fractions.Fraction", "env_config": {"a": 1}},
            r"env 'fractions.Fraction' cannot be made: it raised TypeError: .*keyword",
        ),
        (
            {"enable_env_runner_and_connector_v2": True},
            "enable_rl_module_and_learner is False",
        ),
    ],
)
def test_what_random_settings_have_found(settings, words):
    with pytest.raises(ValueError, match=words) as error:
        small_config().update_from_dict(settings).build_algo()
    assert "\n" not in str(error.value)
