"""A stand-in of ``smac.env``: the interface of StarCraft2Env, kept strictly, on a toy battle.

Actions are SMAC's: 0 no-op (of the dead alone), 1 stop, 2 to 5 moves, 6 and on an attack on each enemy.
An attack costs an enemy a quarter of its health; each living enemy hurts a random agent.

``FAULTS`` is a list of what goes wrong, one entry a step: "crash" (the real env's ``(0, True, {})``) or
"die" (an exception, as of a game that cannot be restarted); ``START_FAULTS`` the number of resets that fail.
"""

import subprocess
from types import SimpleNamespace

import numpy as np

from rllib_ddn.envs.smac import PAPER_MAPS
from smac.env.starcraft2.maps.smac_maps import ENEMIES

FAULTS: list = []
START_FAULTS = [0]
REPLAYS: list = []


class StarCraft2Env:
    def __init__(
        self,
        map_name="8m",
        step_mul=8,
        difficulty="7",
        seed=None,
        replay_dir="",
        reward_scale_rate=20,
        continuing_episode=False,
    ):
        self.map_name, self.difficulty, self._seed, self.replay_dir = map_name, difficulty, seed, replay_dir
        self.continuing_episode = continuing_episode
        self.n_agents, self.n_actions, self._obs, self._state, self.episode_limit = PAPER_MAPS[map_name]
        self.n_enemies = ENEMIES[map_name]
        self._sc2_proc, self._playing = None, False

    def get_env_info(self):
        return {
            "state_shape": self._state,
            "obs_shape": self._obs,
            "n_actions": self.n_actions,
            "n_agents": self.n_agents,
            "episode_limit": self.episode_limit,
        }

    def reset(self):
        if START_FAULTS[0]:
            START_FAULTS[0] -= 1
            raise ConnectionError("the game does not start")
        if self._sc2_proc is None:
            self._sc2_proc = SimpleNamespace(_proc=subprocess.Popen(["sleep", "600"]))
            self.rng = np.random.default_rng(self._seed)
        self.allies, self.enemies = np.ones(self.n_agents), np.ones(self.n_enemies)
        self.steps, self._playing = 0, True
        self.near = self.rng.random((self.n_agents, self.n_enemies)) < 0.5
        return self.get_obs(), self.get_state()

    def step(self, actions):
        assert self._playing, "step() before reset()"
        assert len(actions) == self.n_agents, f"{len(actions)} actions for {self.n_agents} agents"
        assert all(type(action) is int for action in actions)
        masks = self.get_avail_actions()
        for agent, action in enumerate(actions):
            if not masks[agent][action]:
                raise ValueError(f"agent {agent} cannot perform action {action}")
        fault = FAULTS.pop(0) if FAULTS else None
        if fault == "crash":
            self._playing = False
            return 0, True, {}
        if fault == "die":
            raise ConnectionError("the game is gone")
        before = self.enemies.sum()
        for action in actions:
            if action >= 6:
                self.enemies[action - 6] = max(0, self.enemies[action - 6] - 0.25)
        for _ in np.flatnonzero(self.enemies):
            target = self.rng.integers(self.n_agents)
            self.allies[target] = max(0, self.allies[target] - 0.1)
        self.near = self.rng.random((self.n_agents, self.n_enemies)) < 0.5
        self.steps += 1
        won, lost = not self.enemies.any(), not self.allies.any()
        over = won or lost or self.steps >= self.episode_limit
        info = {
            "battle_won": won,
            "dead_allies": int((self.allies == 0).sum()),
            "dead_enemies": int((self.enemies == 0).sum()),
        }
        if over and not won and not lost and self.continuing_episode:
            info["episode_limit"] = True
        self._playing = not over
        return before - self.enemies.sum() + 10 * won, over, info

    def get_obs(self):
        obs = np.zeros((self.n_agents, self._obs), np.float32)
        obs[:, : self.n_enemies] = self.near
        obs[:, self.n_enemies] = self.allies
        return list(obs)

    def get_state(self):
        state = np.zeros(self._state, np.float32)
        state[: self.n_agents], state[self.n_agents : self.n_agents + self.n_enemies] = self.allies, self.enemies
        return state

    def get_avail_actions(self):
        masks = []
        for agent in range(self.n_agents):
            mask = [0] * self.n_actions
            if self.allies[agent] == 0:
                mask[0] = 1
            else:
                mask[1:6] = [1] * 5
                mask[6 : 6 + self.n_enemies] = (self.near[agent] & (self.enemies > 0)).astype(int).tolist()
            masks.append(mask)
        return masks

    def save_replay(self):
        REPLAYS.append((self.replay_dir, self.steps))

    def close(self):
        if self._sc2_proc is not None:
            self._sc2_proc._proc.kill()
            self._sc2_proc._proc.wait()
            self._sc2_proc = None
