"""Export: what plays outside of Ray is what plays in it, with the same refusals."""

import copy
import importlib
import json
import re
import types

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Text, Tuple
from typer.testing import CliRunner

import rllib_ddn
from examples import leader as example
from rllib_ddn import DDNConfig, QMIXConfig
from rllib_ddn.cli import app
from rllib_ddn.deploy import FORMAT_VERSION, ExportedPolicy, flatten
from rllib_ddn.envs.smax import SMAXTeam
from rllib_ddn.rllib.config import ValueDecompositionConfig
from rllib_ddn.rllib.export import _described, layout
from rllib_ddn.team import Member, TeamEnvError
from rllib_ddn.team import flatten as flatten_in_training
from support.configs import SMALL_GAME, small_config
from support.games import Uneven
from support.programs import run_program
from support.toy import Toy

pytestmark = pytest.mark.usefixtures("cluster")

SPREAD = {"env": "mpe2.simple_spread_v3:parallel_env", "max_cycles": 10}
# Of each env: algorithm, env_config, the network that is exported.
GAMES = {
    "predator_prey": (DDNConfig, SMALL_GAME, "follower"),
    "smax": (DDNConfig, {"map_name": "3m"}, "follower"),
    "pettingzoo": (QMIXConfig, SPREAD, "agent"),
}


# Of each algorithm.
CLASSES = {
    name.removesuffix("Config"): value
    for name, value in vars(rllib_ddn).items()
    if isinstance(value, type) and issubclass(value, ValueDecompositionConfig) and value is not ValueDecompositionConfig
}


def trained(env, env_config, config_class=DDNConfig, rounds=3, noise=0.3, **training):
    """A policy whose weights are not the initial ones, and its algorithm."""
    config = small_config(config_class, **training)
    config.env_config = {}
    config.environment(env, env_config=env_config)
    algo = config.build_algo()
    for _ in range(rounds):
        algo.train()
    torch.manual_seed(1)
    with torch.no_grad():  # so that play is not one and the same action
        for parameter in algo.get_policy().model.parameters():
            parameter += noise * torch.randn_like(parameter)
    return algo


def recorded(algo, network, seed):
    """A greedy episode of RLlib's: obs, state, action_mask ``[T, N, ...]``, actions, and q ``[T, N, A]``."""
    policy, q = algo.get_policy(), []
    act = policy.act

    def record(*arguments, **options):
        result = act(*arguments, **options)
        q.append(result[2][0].numpy())
        return result

    policy.act = record
    episodes, _ = algo.env_runner.play([seed], network, explore=False)
    policy.act = act
    length = episodes["length"][0]
    episode = {name: episodes[name][0, :length] for name in ("obs", "state", "action_mask", "actions")}
    return {**episode, "q": np.stack(q)}


def env_seed(seed):
    """With which seed the env runner resets the env."""
    return int(np.random.default_rng(seed).integers(2**31))


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """By env: the folder with the ONNX file, and recorded episodes."""
    made = {}

    def get(env):
        if env not in made:
            config_class, env_config, network = GAMES[env]
            # With little noise the agents of simple_spread play one and the same action.
            algo = trained(env, env_config, config_class, noise=1.0 if env == "pettingzoo" else 0.3)
            folder = tmp_path_factory.mktemp(env)
            algo.get_policy().export(folder)
            episodes = [recorded(algo, network, [k, 7]) for k in range(3)]
            algo.stop()
            made[env] = types.SimpleNamespace(folder=folder, episodes=episodes, network=network)
        return made[env]

    return get


def each_step(episode):
    yield from zip(*(episode[name] for name in ("obs", "action_mask", "actions", "q")), strict=True)


# -- Parity -------------------------------------------------------------------------------------


@pytest.mark.parametrize("env", GAMES)
def test_whole_episodes_are_played_as_by_rllib(exported, env):
    game = exported(env)
    policy = ExportedPolicy(game.folder)
    steps = 0
    for episode in game.episodes:
        policy.reset()
        for obs, mask, actions, q in each_step(episode):
            assert policy.act(obs, mask).tolist() == actions.tolist()
            np.testing.assert_allclose(policy.q_values[0], q, atol=1e-5)
            steps += 1
    assert steps >= 15
    assert len(np.unique(np.concatenate([episode["actions"].ravel() for episode in game.episodes]))) > 1


@pytest.mark.parametrize("env", GAMES)
def test_many_teams_and_restarts(exported, env):
    """Three teams at once, the last of which begins its episode again and again; each remembers its own."""
    game = exported(env)
    policy, (first, second, third) = ExportedPolicy(game.folder), game.episodes
    policy.reset(3)
    length = min(len(episode["obs"]) for episode in game.episodes)
    for t in range(length):
        times = t, t, t % 2
        if t and t % 2 == 0:
            policy.restart([2])
        now = [{name: e[name][k] for name in e} for e, k in zip((first, second, third), times, strict=True)]
        obs, mask, actions, q = (
            np.stack([step[name] for step in now]) for name in ("obs", "action_mask", "actions", "q")
        )
        np.testing.assert_array_equal(policy.act(obs, mask), actions)
        np.testing.assert_allclose(policy.q_values, q, atol=1e-5)


@pytest.mark.parametrize("env", ["predator_prey", "pettingzoo"])
def test_a_pettingzoo_game_is_played_to_its_end(exported, env):
    """From the env's own dicts, by the team and by each agent alone."""
    game, (_, env_config, _) = exported(env), GAMES[env]
    arguments = dict(env_config)
    module, name = arguments.pop("env", "rllib_ddn.envs.predator_prey:parallel_env").split(":")
    parallel = getattr(importlib.import_module(module), name)(**arguments)
    policy = ExportedPolicy(game.folder)
    assert policy.agents == parallel.possible_agents
    members = {agent: ExportedPolicy(game.folder, agent=agent) for agent in parallel.possible_agents}
    observations, _ = parallel.reset(seed=env_seed([0, 7]))
    t, expected = 0, game.episodes[0]["actions"]
    while parallel.agents:
        actions = policy.act(observations)
        assert list(actions.values()) == expected[t].tolist()
        assert actions == {agent: member.act(observations[agent]) for agent, member in members.items()}
        observations, *_ = parallel.step(actions)
        t += 1
    assert t == len(expected)


def test_smax_by_the_names_of_its_units(exported):
    game, env = exported("smax"), SMAXTeam({"map_name": "3m"})
    policy, expected = ExportedPolicy(game.folder), game.episodes[1]["actions"]
    assert policy.agents == ["ally_0", "ally_1", "ally_2"]
    observation, _ = env.reset(seed=env_seed([1, 7]))
    for actions in expected:
        chosen = policy.act(dict(zip(policy.agents, observation["team"], strict=True)))
        assert list(chosen.values()) == actions.tolist()
        observation, *_ = env.step({"team": tuple(chosen.values())})


def test_where_neither_torch_nor_ray_nor_gymnasium_can_be_imported(exported, tmp_path):
    for env in GAMES:
        np.savez(tmp_path / "episode.npz", **exported(env).episodes[0])
        barred = ("torch", "ray", "gymnasium", "pettingzoo", "onnx")
        told = run_program("play_exported", exported(env).folder, tmp_path / "episode.npz", *barred)
        assert told == f"played {len(exported(env).episodes[0]['obs'])}\n"


def test_predator_prey_is_played_where_neither_torch_nor_ray_can_be_imported(exported, tmp_path):
    np.savez(tmp_path / "episode.npz", **exported("predator_prey").episodes[0])
    told = run_program(
        "play_exported", exported("predator_prey").folder, tmp_path / "episode.npz", "torch", "ray", "onnx"
    )
    assert re.match(r"a game of [1-9]", told)


def test_a_program_of_torch_plays_without_ray(tmp_path):
    algo = trained("pettingzoo", SPREAD)
    algo.export_policy_model(str(tmp_path))  # RLlib's own call
    episode = recorded(algo, "follower", [5])
    algo.stop()
    np.savez(tmp_path / "episode.npz", **episode)
    assert (tmp_path / "follower.pt2").is_file()
    told = run_program(
        "play_exported", tmp_path, tmp_path / "episode.npz", "ray", "gymnasium", "pettingzoo", "onnxruntime"
    )
    assert told == f"played {len(episode['obs'])}\n"


def test_a_leader_sees_the_state(tmp_path):
    algo = trained("predator_prey", SMALL_GAME)
    algo.get_policy().export(tmp_path, network="leader")
    policy, episode = ExportedPolicy(tmp_path), recorded(algo, "leader", [5])
    algo.stop()
    for state, (obs, mask, actions, q) in zip(episode["state"], each_step(episode), strict=True):
        assert policy.act(obs, mask, state).tolist() == actions.tolist()
        np.testing.assert_allclose(policy.q_values[0], q, atol=1e-5)
    with pytest.raises(
        TeamEnvError, match="the state is missing: the leader needs the one that the env has in training"
    ):
        policy.act(obs, mask)
    with pytest.raises(TeamEnvError, match=r"the state has the shape \(31,\)"):
        policy.act(obs, mask, state[:-1])


def test_a_leader_makes_the_concatenated_state_by_itself(tmp_path):
    algo = trained("pettingzoo", {**SPREAD, "state": "concat"})
    algo.get_policy().export(tmp_path, "leader", "torch")
    policy, episode = ExportedPolicy(tmp_path), recorded(algo, "leader", [5])
    algo.stop()
    for obs, mask, actions, q in each_step(episode):
        assert policy.act(obs, mask).tolist() == actions.tolist()
        np.testing.assert_allclose(policy.q_values[0], q, atol=1e-5)
    with pytest.raises(TeamEnvError, match="the state is missing"):
        ExportedPolicy(tmp_path, agent="agent_1").act(obs[1])


def test_agents_of_unequal_sizes_that_leave(tmp_path):
    """They are padded as in training; who is not among the observations has left and gets no action."""
    algo = trained("pettingzoo", {"env": Uneven}, QMIXConfig)
    algo.get_policy().export(tmp_path, format="torch")
    policy, episode = ExportedPolicy(tmp_path), recorded(algo, "agent", [5])
    algo.stop()
    env = Uneven()
    observations, infos = env.reset()
    taken = []
    for t in range(3):
        masks = {agent: info["action_mask"] for agent, info in infos.items() if "action_mask" in info}
        actions = policy.act({agent: observations[agent] for agent in env.agents}, masks)
        np.testing.assert_allclose(policy.q_values[0], episode["q"][t], atol=1e-5)
        assert list(actions) == env.agents
        taken.append([actions.get(agent, 0) for agent in ("a", "b")])
        observations, *_, infos = env.step(actions)
    assert taken == episode["actions"].tolist()
    policy.reset()
    with pytest.raises(TeamEnvError, match="in training the action mask of agent 'a' was in its info"):
        policy.act(Uneven().reset()[0])
    with pytest.raises(
        TeamEnvError, match="the observation of agent 'b' has no \"action_mask\", which it had in training"
    ):
        ExportedPolicy(tmp_path, agent="b").act(np.zeros(2))


class Habits(Toy):
    """Actions from 2 on, parts beside the observation, a mask, and a state that is one of six places."""

    state_space = Discrete(6)

    def observation_space(self, agent):
        goal, mask = Box(-10, 10, (2,), np.float32), Box(0, 1, (3,), np.int8)
        return Dict({"observation": super().observation_space(agent), "goal": goal, "action_mask": mask})

    def action_space(self, agent):
        return Discrete(3, start=2)

    def state(self):
        return self.t

    def observe(self, agent):
        goal, mask = np.array([7, 8], np.float32), np.array([1, self.t % 2, 1], np.int8)
        return {"observation": super().observe(agent), "goal": goal, "action_mask": mask}


@pytest.mark.parametrize("network", ["leader", "follower"])
def test_envs_habits_are_those_of_training(tmp_path, network):
    algo = trained("pettingzoo", {"env": Habits, "team_reward": "sum"})
    algo.get_policy().export(tmp_path, network, "torch")
    episode = recorded(algo, network, [5])
    algo.stop()
    policy, env = ExportedPolicy(tmp_path), Habits()
    alone = ExportedPolicy(tmp_path, agent="b")
    observations, _ = env.reset()
    for t in range(5):
        state = env.state() if network == "leader" else None
        actions = policy.act(observations, state=state)
        assert list(actions.values()) == (episode["actions"][t] + 2).tolist()
        np.testing.assert_allclose(policy.q_values[0], episode["q"][t], atol=1e-5)
        assert alone.act(observations["b"], state=state) == actions["b"]
        observations, *_ = env.step(actions)


LEADERS = ["personalized", "raw", "concatenated", example.GatedLeader]


@pytest.mark.parametrize("state_fusion", LEADERS, ids=lambda fusion: getattr(fusion, "__name__", fusion))
def test_every_leader_and_follower_is_traced_for_any_number_of_teams_and_agents(build, tmp_path, state_fusion):
    algo = build(small_config(state_fusion=state_fusion))
    policy = algo.get_policy()
    spec, rng = policy.spec, np.random.default_rng(0)
    for name, network in policy.model.deployed.items():
        program = torch.export.load(policy.export(tmp_path / name, name, "torch")).module(check_guards=False)
        for teams in (1, 5):
            inputs = [
                torch.from_numpy(rng.integers(0, 2, (teams, 3, spec.obs_dim)).astype(np.int8)),
                torch.ones(teams, 3, spec.num_actions, dtype=torch.bool),
                torch.from_numpy(rng.integers(-1, spec.num_actions, (teams, 3))),
                torch.randn(teams, 3, 16),
                torch.arange(3),
            ]
            inputs += [
                torch.from_numpy(rng.integers(0, 2, (teams, spec.state_dim)).astype(np.int8))
            ] * network.sees_state
            obs, mask, last_action, hidden, _, *state = inputs
            with torch.no_grad():
                actions, out = policy.model.act(
                    network, obs, *(state or [torch.zeros(teams, 1)]), mask, hidden, last_action
                )
                found = program(*inputs)
                one = [x[:, 2:] if k < 4 else x for k, x in enumerate(inputs)]
                one[4] = torch.tensor([2])
                alone = program(*one)
            np.testing.assert_array_equal(found[0], actions)
            for ours, theirs in zip(found[1:], (out.q, out.hidden), strict=True):
                torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
            torch.testing.assert_close(alone[1], out.q[:, 2:], atol=1e-5, rtol=0)


# -- What is written ----------------------------------------------------------------------------


def test_the_onnx_file_has_the_promised_inputs_and_outputs(exported):
    path = exported("predator_prey").folder / "follower.onnx"
    onnx.checker.check_model(onnx.load(path), full_check=True)
    session = onnxruntime.InferenceSession(path)
    assert {i.name: i.shape for i in session.get_inputs()} == {
        "obs": ["teams", "agents", 18],
        "action_mask": ["teams", "agents", 6],
        "last_action": ["teams", "agents"],
        "hidden": ["teams", "agents", 16],
    }
    assert [i.name for i in session.get_overridable_initializers()] == ["agent"]  # who they are; by default everybody
    assert [o.name for o in session.get_outputs()] == ["actions", "q_values", "new_hidden"]


def test_the_description_says_what_there_is_to_know(exported):
    about = json.loads((exported("pettingzoo").folder / "policy.json").read_text())
    assert about["format_version"] == FORMAT_VERSION
    assert (about["env"], about["env_config"]) == ("pettingzoo", SPREAD)
    assert about["inputs"]["obs"] == {"dtype": "float32", "shape": ["teams", "agents", 18]}
    assert [agent["id"] for agent in about["agents"]] == ["agent_0", "agent_1", "agent_2"]
    assert about["agents"][0]["observation"]["shape"] == [18]
    assert about["agents"][0]["num_actions"] == 5
    assert not about["agents"][0]["has_action_mask"]
    assert about["env_steps"] > 0


def test_the_command_exports_a_checkpoint_with_its_scores(tmp_path):
    config = small_config()
    config.evaluation(evaluation_interval=1, evaluation_duration=2)
    algo = config.build_algo()
    results = [algo.train() for _ in range(3)]
    checkpoint = tmp_path / "trial" / "checkpoint_000000"
    algo.save(str(checkpoint))
    results.append(algo.train())  # after the checkpoint: of no account
    lines = [{k: r[k] for k in ("training_iteration", "timesteps_total", "evaluation")} for r in results]
    (tmp_path / "trial" / "result.json").write_text("".join(json.dumps(line) + "\n" for line in lines))
    done = CliRunner().invoke(app, ["export", str(checkpoint), "--out", str(tmp_path / "out"), "--format", "torch"])
    assert done.exit_code == 0, done.output
    about = json.loads((tmp_path / "out" / "policy.json").read_text())
    assert (about["algorithm"], about["checkpoint"], about["network"]) == ("DDN", str(checkpoint), "follower")
    assert about["env_steps"] == results[2]["timesteps_total"]
    expected = results[2]["evaluation"]["follower"]["episode_return_mean"]
    assert about["scored"]["follower"]["episode_return_mean"] == expected
    assert json.loads(done.stdout)["scored"]["episode_return_mean"] == expected
    algo.restore(str(checkpoint))
    policy, episode = ExportedPolicy(tmp_path / "out"), recorded(algo, "follower", [3])
    algo.stop()
    for obs, mask, actions, _ in each_step(episode):
        assert policy.act(obs, mask).tolist() == actions.tolist()
    for arguments, message in (
        (["--network", "agent"], "--network agent: DDN has leader and follower."),
        (["--out", "/dev/null/x"], "/dev/null/x"),
    ):
        done = CliRunner().invoke(app, ["export", str(checkpoint), "--out", str(tmp_path / "no"), *arguments])
        assert done.exit_code == 2
        (line,) = [line for line in done.stderr.splitlines() if line.startswith("rllib: ")]
        assert message in line


@pytest.mark.parametrize("name", sorted(CLASSES))
def test_every_algorithm_is_exported(build, tmp_path, name):
    """A host its one network, a peer of DDN its follower; both play as in RLlib."""
    algo = build(small_config(CLASSES[name]))
    network = "follower" if "follower" in algo.config.networks else "agent"
    assert algo.get_policy().export(tmp_path, format="torch") == tmp_path / f"{network}.pt2"
    policy, episode = ExportedPolicy(tmp_path), recorded(algo, network, [5])
    for obs, mask, actions, q in each_step(episode):
        assert policy.act(obs, mask).tolist() == actions.tolist()
        np.testing.assert_allclose(policy.q_values[0], q, atol=1e-5)


def test_names_and_settings_are_written_as_they_are_or_refused(build, tmp_path):
    policy = build(small_config()).get_policy()
    about = _described(Member(np.int64(3), Box(0, 1, (2,)), 5, False))
    assert json.loads(json.dumps(about))["id"] == 3
    for name in ((0, 1), None, 0.5):
        with pytest.raises(ValueError, match=r"cannot be exported: policy.json has agents whose"):
            _described(Member(name, Box(0, 1, (2,)), 5, False))
    policy.config = {**policy.config, "env_config": {**SMALL_GAME, "penalty": np.float64(0.5)}}
    maps = ["two  spaces", "a\tb", "[\n 1]"]
    policy.export(tmp_path, format="torch", maker=np.zeros, maps=maps)
    about = json.loads((tmp_path / "policy.json").read_text())
    assert (about["env_config"], about["maker"], about["maps"]) == (SMALL_GAME, "numpy:zeros", maps)
    with pytest.raises(ValueError, match=r"<object object at .* of the env's config cannot be exported"):
        policy.export(tmp_path / "no", format="torch", maker=object())
    assert not (tmp_path / "no").exists()


def test_what_cannot_be_exported(build, tmp_path):
    policy = build().get_policy()
    with pytest.raises(ValueError, match="network is one of 'leader', 'follower'; got 'agent'"):
        policy.export(tmp_path, "agent")
    with pytest.raises(ValueError, match="format is one of 'onnx', 'torch'; got 'tflite'"):
        policy.export(tmp_path, format="tflite")
    with pytest.raises(
        ValueError, match="observations of the space Text cannot be exported: only Box, the discrete spaces"
    ):
        layout(Text(3))

    follower = policy.model.deployed["follower"]

    def chooses_by_value(z):
        return follower.fusion(z[..., :18], z) if z.sum() > 0 else z

    follower.fuse = chooses_by_value
    with pytest.raises(
        ValueError, match="LocalPolicyNetwork cannot be exported, which has to work for any number"
    ) as error:
        policy.export(tmp_path)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "policy.json").exists()


# -- Bad input ----------------------------------------------------------------------------------


@pytest.fixture
def policy(exported):
    return ExportedPolicy(exported("predator_prey").folder)


def test_values_that_training_refuses_are_refused(exported, policy):
    obs, mask, *_ = next(each_step(exported("predator_prey").episodes[0]))
    for bad, message in (
        ((obs[:, :-1], mask), r"obs has the shape \(3, 17\); it is \(3, 18\) here"),
        ((obs[None], mask), r"obs has the shape \(1, 3, 18\); it is \(3, 18\) here"),
        ((obs, mask[:2]), r"action_mask has the shape \(2, 6\); it is \(3, 6\) here"),
        ((obs, np.zeros_like(mask)), "the action mask of agent 'predator_0' is all zero: leave at least one action"),
        ((obs + 0.5, mask), r"obs holds 0.5; its space .* has integers"),
        ((obs * np.nan, mask), "obs holds nan; its space .* has integers"),
        ((obs,), r"the action mask is missing, which the agents had in training: act\(observations, action_mask\)"),
    ):
        with pytest.raises(TeamEnvError, match=message) as error:
            policy.act(*bad)
        assert "\n" not in str(error.value)
    assert not policy.hidden.any()  # nothing was played


def test_observations_by_agent_that_training_refuses(exported, policy):
    obs, mask, *_ = next(each_step(exported("predator_prey").episodes[0]))
    good = {a: {"observation": o, "action_mask": m} for a, o, m in zip(policy.agents, obs, mask, strict=True)}

    def spoiled(**change):
        bad = copy.deepcopy(good)
        bad["predator_1"].update(change)
        return bad

    for bad, message in (
        (
            spoiled(observation=obs[1, :5]),
            r"the observation of agent 'predator_1' has the shape \(5,\); its space has \(18,\)",
        ),
        (spoiled(observation="far"), "the observation of agent 'predator_1' is 'far'; its space .* has numbers"),
        (spoiled(action_mask=[0] * 6), "the action mask of agent 'predator_1' is all zero"),
        (spoiled(action_mask=[1, 1]), r"\"action_mask\" of agent 'predator_1' has the shape \(2,\)"),
        (spoiled(action_mask=None), "the observation of agent 'predator_1' has no \"action_mask\""),
        ({**good, "prey_0": obs[0]}, "observations name 'prey_0', which is none of 'predator_0', 'predator_1'"),
        ([good], "observations are a dict by agent, or one array; got list"),
    ):
        with pytest.raises(TeamEnvError, match=message) as error:
            policy.act(bad)
        assert "\n" not in str(error.value)
    with pytest.raises(TeamEnvError, match="action masks are a dict by agent, as the observations are; got ndarray"):
        policy.act(good, mask)
    assert set(policy.act(good)) == set(policy.agents)
    policy.reset(2)
    with pytest.raises(TeamEnvError, match=r"there are observations of 1 teams, but reset\(\) got num_teams=2"):
        policy.act([good])


def test_numbers_that_are_not_finite(exported):
    policy = ExportedPolicy(exported("smax").folder)
    obs, mask, *_ = next(each_step(exported("smax").episodes[0]))
    obs = obs.copy()
    obs[2, 0] = np.nan
    with pytest.raises(
        TeamEnvError, match="observation that holds NaN or infinity, of agent 'ally_2'; observations must be"
    ):
        policy.act(obs, mask)
    alone = ExportedPolicy(exported("smax").folder, agent="ally_2")
    with pytest.raises(TeamEnvError, match="observation that holds NaN or infinity, of agent 'ally_2'"):
        alone.act({"obs": obs[2], "action_mask": mask[2]})


def test_folders_that_hold_no_policy(exported, tmp_path):
    with pytest.raises(ValueError, match=r"nowhere is not an exported policy: policy.json is missing there"):
        ExportedPolicy(tmp_path / "nowhere")
    (tmp_path / "policy.json").write_text("{")
    with pytest.raises(ValueError, match=r"policy.json cannot be read \(JSONDecodeError"):
        ExportedPolicy(tmp_path)
    about = json.loads((exported("smax").folder / "policy.json").read_text())
    (tmp_path / "policy.json").write_text(json.dumps({**about, "format_version": FORMAT_VERSION + 1}))
    with pytest.raises(ValueError, match=r"has the format version .*: use the version that wrote it"):
        ExportedPolicy(tmp_path)
    (tmp_path / "policy.json").write_text(json.dumps(about))
    with pytest.raises(ValueError, match=r"follower.onnx is missing, which policy.json names"):
        ExportedPolicy(tmp_path)
    with pytest.raises(ValueError, match="agent is one of 'ally_0', 'ally_1', 'ally_2'; got 'ally_3'"):
        ExportedPolicy(exported("smax").folder, agent="ally_3")


SPACES = [
    Discrete(3),
    Discrete(4, start=2),
    MultiDiscrete([2, 3]),
    MultiDiscrete([[2, 3], [4, 2]]),
    MultiBinary(3),
    Box(-1, 1, (2, 3), np.float32),
    Box(-1, 1, (2,), np.float64),
    Box(0, 255, (2,), np.uint8),
    Dict({"b": Discrete(2), "a": Tuple([Box(0, 1, (2,)), MultiDiscrete([3, 2])])}),
]


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_observations_are_flattened_as_in_training(space):
    described = json.loads(json.dumps(layout(space)))
    space.seed(0)
    for _ in range(10):
        value = space.sample()
        ours, theirs = flatten(described, value, "x"), flatten_in_training(space, value, "x")
        np.testing.assert_array_equal(ours, theirs)
        assert ours.dtype == theirs.dtype


@pytest.mark.parametrize("space", SPACES, ids=str)
@pytest.mark.parametrize(
    "value", [0.5, np.nan, 9, -1, [0, 2], [2, 2], [1, 300], [1, np.inf], "far", None, {"b": 1}, (1,), {}]
)
def test_what_training_does_not_flatten_is_refused_with_the_same_words(space, value):
    def outcome(function, *arguments):
        try:
            return function(*arguments).tolist()
        except TeamEnvError as error:
            return str(error)

    ours = outcome(flatten, json.loads(json.dumps(layout(space))), value, "x")
    np.testing.assert_equal(ours, outcome(flatten_in_training, space, value, "x"))
