"""Bad input: one line that names the key or the space, what was given, and what is accepted."""

import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, Tuple
from ray import tune
from ray.rllib.env.multi_agent_env import MultiAgentEnv
from ray.rllib.evaluation.rollout_worker import RolloutWorker
from ray.rllib.examples.envs.classes.multi_agent.two_step_game import TwoStepGame
from ray.tune.error import TuneError

from rllib_ddn import DDN, DDNConfig, Mixer, QMIXConfig
from rllib_ddn.cli.checkpoints import check_checkpoint
from rllib_ddn.team import TeamEnvError
from support.configs import small_config

pytestmark = pytest.mark.usefixtures("cluster")

FULL = {
    "obs": Box(-1, 1, (3,), np.float32),
    "action_mask": Box(0, 1, (2,), np.int8),
    "state": Box(-1, 1, (2,), np.float32),
}


class Team(MultiAgentEnv):
    """A team of two; ``env_config`` says what is wrong with it."""

    def __init__(self, config):
        super().__init__()
        self.wrong, self.at = config.get("wrong"), config.get("at", 0)
        self.possible_agents = self.agents = ["team"]
        agents = [dict(FULL), dict(FULL)]
        actions = [Discrete(2), Discrete(2)]
        if self.wrong == "no state":
            agents = [{k: v for k, v in agent.items() if k != "state"} for agent in agents]
        if self.wrong == "obs sizes":
            agents[1]["obs"] = Box(-1, 1, (5,), np.float32)
        if self.wrong == "mask size":
            agents = [{**agent, "action_mask": Box(0, 1, (7,), np.int8)} for agent in agents]
        if self.wrong == "action counts":
            actions = [Discrete(2), Discrete(3)]
        if self.wrong == "continuous":
            actions = [Box(-1, 1, (2,)), Box(-1, 1, (2,))]
        self.observation_space, self.action_space = Tuple([Dict(a) for a in agents]), Tuple(actions)
        if self.wrong == "not a tuple":
            self.observation_space = Dict(agents[0])

    def observe(self):
        now = self.t == self.at
        agent = {"obs": np.zeros(3, np.float32), "action_mask": np.ones(2, np.int8), "state": np.zeros(2, np.float32)}
        other = {**agent, "obs": np.full(3, np.nan, np.float32) if now and self.wrong == "nan obs" else agent["obs"]}
        if now and self.wrong == "zero mask":
            other["action_mask"] = np.zeros(2, np.int8)
        return {"team": [agent, other]}

    def reset(self, *, seed=None, options=None):
        self.t = 0
        return self.observe(), {}

    def step(self, action_dict):
        self.t += 1
        over = self.t == 4
        reward = float("nan") if self.wrong == "nan reward" and self.t == self.at else 1.0
        return self.observe(), {"team": reward}, {"__all__": over}, {"__all__": False}, {"team": {}}


def team_config(wrong, **env_config):
    config = small_config()
    config.environment(Team, env_config={"wrong": wrong, **env_config})
    return config


def one_line(error):
    text = str(error.value)
    assert "\n" not in text
    assert "Traceback" not in text
    return text


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("no state", r'no global state: put "state" .* or choose env_config=\{"state": "concat"\}'),
        ("obs sizes", r"different lengths \[3, 5\]: pad them"),
        ("mask size", r'"action_mask" of agent 0 has the space .* there are 2 actions'),
        ("action counts", r"different numbers of actions \[2, 3\]: pad them"),
        ("continuous", r"action space of agent 0 is Box.*; actions must be Discrete\(n\)\. Discretize them"),
        ("not a tuple", r"Team is not grouped: its observation and action space are Dict and Tuple"),
    ],
)
@pytest.mark.parametrize("runners", [0, 1])
def test_bad_spaces_are_refused_when_the_algorithm_is_built(build, wrong, message, runners):
    config = team_config(wrong)
    config.env_runners(num_env_runners=runners)
    with pytest.raises(TeamEnvError, match=message) as error:
        build(config)
    one_line(error)


def test_an_ungrouped_env(build):
    config = small_config()
    config.environment(TwoStepGame)
    with pytest.raises(TeamEnvError, match=r"TwoStepGame .* Group all agents into one team with env.with_agent_groups"):
        build(config)


def test_not_a_multi_agent_env(build):
    config = small_config()
    config.env_config = {}
    config.environment("CartPole-v1")
    with pytest.raises(TeamEnvError, match="is not a MultiAgentEnv"):
        build(config)


def test_several_groups(build):
    def creator(_):
        game = TwoStepGame({})
        spaces = {"obs_space": Tuple([game.observation_space]), "act_space": Tuple([game.action_space])}
        return game.with_agent_groups({"red": [0], "blue": [1]}, **spaces)

    tune.register_env("two_groups", creator)
    config = small_config()
    config.environment("two_groups")
    with pytest.raises(TeamEnvError, match=r"has 2 agents or groups \('blue', 'red'\), but one team is trained"):
        build(config)


def test_an_env_that_is_not_registered(build):
    config = small_config()
    config.env = "predator_pray"
    with pytest.raises(
        TeamEnvError, match=r"env is 'predator_pray', which is not reg.* Did you mean 'predator_prey'\?"
    ) as error:
        config.check_env()
    one_line(error)


def test_no_env(build):
    config = small_config()
    config.env = None
    with pytest.raises(ValueError, match="no env is set"):
        config.check_env()


@pytest.mark.parametrize(
    ("wrong", "message", "runners"),
    [
        ("nan obs", r"observation that holds NaN or infinity at step 2", 0),
        ("nan obs", r"observation that holds NaN or infinity at step 2", 1),
        ("zero mask", r"action mask of agent 1 is all zero at step 2: leave at least one action", 0),
        ("nan reward", r"the env gave the reward nan", 0),
    ],
)
def test_bad_data_in_mid_training_loses_nothing_trained(build, wrong, message, runners):
    config = team_config(None)
    config.env_runners(num_env_runners=runners)
    algo = build(config)
    for _ in range(3):
        algo.train()
    weights = algo.get_policy().get_weights()

    def spoil(env):
        env.wrong, env.at = wrong, 2

    algo.env_runner_group.foreach_env_runner(lambda runner: runner.foreach_env(spoil))
    with pytest.raises(TeamEnvError, match=message + r".* All that was trained before is saved in ") as error:
        algo.train()
    saved = one_line(error).split("saved in ")[1].rstrip(".")
    other = build(team_config(None))
    other.restore(saved)
    for name, value in weights.items():
        np.testing.assert_array_equal(other.get_policy().get_weights()[name], value)


def test_under_tune_what_was_trained_lies_in_the_trials_folder(tmp_path):
    config = team_config("nan obs", at=2).to_dict()
    with pytest.raises(TuneError):
        tune.run("DDN", config=config, storage_path=str(tmp_path), verbose=0)
    (saved,) = tmp_path.rglob("checkpoint_before_error")
    assert (saved.parent / "params.json").is_file()
    check_checkpoint(saved)
    assert str(saved) in (saved.parent / "error.txt").read_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mixer": "qmixx"}, r"^mixer is one of .*; got 'qmixx'. Did you mean 'qmix'\?"),
        ({"mixer_config": {"embed": 3}}, r"^mixer_config\['embed'\] is unknown: QMixer has embed_dim, hypernet_dim"),
        ({"mask_probability": 1.5}, r"^mask_probability is a probability in \[0, 1\]; got 1.5"),
        ({"mask_probability": float("nan")}, r"^mask_probability is a probability in \[0, 1\]; got nan"),
        ({"mask_probability": "often"}, r"^mask_probability is a probability in \[0, 1\]; got 'often'"),
        ({"state_fusion": "rare"}, r"^state_fusion is one of 'personalized', .*; got 'rare'"),
        ({"behaviour_network": "teacher"}, r"^behaviour_network is one of 'leader', 'follower'"),
        ({"intrinsic_reward_stage": "later"}, r"^intrinsic_reward_stage is one of 'replay', 'trajectory'"),
        ({"intrinsic_reward": 1}, r"^intrinsic_reward is .*; got 1"),
        ({"intrinsic_reward": "idm"}, r"^intrinsic_reward is .*; got 'idm'"),
        ({"intrinsic_reward": None}, r"^intrinsic_reward is .*; got None"),
        ({"intrinsic_reward": Mixer}, r"^intrinsic_reward is .*; got <class"),
        ({"intrinsic_reward": False, "intrinsic_reward_stage": "trajectory"}, r"needs an intrinsic_reward"),
        ({"distillation_terms": {"more": "kl"}}, r"^distillation_terms is .*; got \{'more': 'kl'\}"),
        ({"distillation_terms": {"more": ("kl", -1)}}, r"^distillation_terms is .*; got"),
        ({"distillation_terms": {"more": (Mixer, 1)}}, r"^distillation_terms\['more'\] is "),
        ({"distillation_temperature": 0}, r"^distillation_temperature is a number from 1e-06 to 1,000,000; got 0"),
        ({"updates_per_episode": -1}, r"^updates_per_episode is a number from 0.001 to 1,000; got -1"),
        ({"block_loss_coeff": -0.5}, r"^block_loss_coeff is a number from 0 to 1,000,000; got -0.5"),
        ({"fusion_embed_dim": 2.5}, r"^fusion_embed_dim is an integer from 1 to 8,192; got 2.5"),
        ({"target_update_interval_episodes": 0}, r"^target_update_interval_episodes is a positive integer; got 0"),
        ({"lr": [[10, 1e-3], [0, 1e-4]]}, r"^lr is .*, or a schedule \[\[0, rate\], .*; got \[\[10"),
        (
            {"replay_buffer_config": {"capacity": 0}},
            r"^replay_buffer_config\['capacity'\] is a positive integer; got 0",
        ),
        ({"replay_buffer_config": {"capacity": 3}}, r"capacity'\] = 3 is less than train_batch_size = 4"),
        ({"replay_buffer_config": {"size": 30}}, r"^replay_buffer_config\['size'\] is unknown"),
    ],
)
def test_bad_values(options, message):
    with pytest.raises(ValueError, match=message) as error:
        small_config(**options).validate()
    one_line(error)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.env_runners(exploration_config={"type": "SoftQ"}), r"^exploration_config\['type'\] is .*'SoftQ'"),
        (lambda c: c.env_runners(batch_mode="truncate_episodes"), r"^batch_mode is 'complete_episodes'"),
        (lambda c: c.multi_agent(policies={"a", "b"}), r"^policies is 'default_policy' alone.*; got \{"),
        (lambda c: c.evaluation(evaluation_duration_unit="timesteps"), r"^evaluation_duration_unit is 'episodes'"),
        (lambda c: setattr(c, "env_runner_cls", RolloutWorker), r"^env_runner_cls is TeamEnvRunner"),
    ],
)
def test_bad_settings_of_rllib(change, message):
    config = small_config()
    change(config)
    with pytest.raises(ValueError, match=message):
        config.validate()


def test_unknown_keys_get_the_nearest_name():
    with pytest.raises(ValueError, match=r"unknown config key 'mask_probabilty'. Did you mean 'mask_probability'\?"):
        DDNConfig().training(mask_probabilty=0.5)
    with pytest.raises(ValueError, match=r"unknown config key 'gama'. Did you mean 'gamma'\?"):
        DDNConfig().training(gama=0.5)
    with pytest.raises(ValueError, match=r"unknown config key 'num_env_runnners'. Did you mean 'num_env_runners'\?"):
        DDN.get_default_config().update_from_dict({"num_env_runnners": 2})


@pytest.mark.parametrize(
    "key", ["mask_probability", "state_fusion", "follower_lr", "distillation_terms", "behaviour_network"]
)
def test_a_host_has_no_key_of_ddns(key):
    message = rf"unknown config key '{key}': it is a key of DDNConfig, and QMIXConfig has no use for it"
    assert not hasattr(QMIXConfig(), key)
    with pytest.raises(ValueError, match=message):
        QMIXConfig().training(**{key: None})
    with pytest.raises(ValueError, match=message):
        QMIXConfig().update_from_dict({key: None})


def test_tune_refuses_a_bad_config_in_the_driver(tmp_path):
    with pytest.raises(Exception, match=r"mixer is one of 'vdn', 'qmix', .*; got 'sum'"):
        tune.run("DDN", config={"env": "predator_prey", "mixer": "sum"}, storage_path=str(tmp_path), verbose=0)


def test_a_factory_that_does_not_exist(build):
    config = small_config()
    config.environment(
        "pettingzoo", env_config={"env": "pettingzoo.sisl.pursuit_v3:parallel_env"}, disable_env_checking=True
    )
    with pytest.raises(TeamEnvError, match=r"cannot be imported: .* Installed is pettingzoo.sisl.pursuit_v\d"):
        config.check_env()
    config.env_config = {"env": "nonsense"}
    with pytest.raises(TeamEnvError, match=r"names a ParallelEnv factory, such as .* got \'nonsense\'"):
        config.check_env()
    config.env_config = {"env": "mpe2.simple_spread_v3:parallel_env", "team_reward": "max"}
    with pytest.raises(TeamEnvError, match=r"env_config\['team_reward'\] is one of 'sum', 'mean'; got 'max'"):
        config.check_env()
    config.env_config = {"env": "mpe2.simple_spread_v3:parallel_env", "continuous_actions": True}
    with pytest.raises(TeamEnvError, match=r"action space of agent 'agent_0' is Box"):
        config.check_env()
