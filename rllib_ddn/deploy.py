"""A trained policy outside of Ray: plays a network that ``rllib export`` wrote, with onnxruntime and NumPy alone.

    policy = ExportedPolicy("exported")        # the folder
    observations, _ = env.reset()              # of a PettingZoo ParallelEnv
    policy.reset()
    while env.agents:
        observations, *_ = env.step(policy.act(observations))

Neither torch nor Ray nor Gymnasium has to be installed, and this module imports none of them. (Where Ray is installed,
importing anything of the package imports Ray, too.)
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rllib_ddn.checks import TeamEnvError, check_values, entries, flat_numbers

FORMAT_VERSION = 2
OBS_KEYS = ("obs", "observation", "observations")  # the keys under which an observation lies beside its action mask


class ExportedPolicy:
    """The greedy policy of a team, or of one of its agents.

    Agents have their names in the env. An agent that has no entry in the observations has left the episode, as in
    training, and gets no action.

    Args:
        folder: written by ``rllib export``.
        agent: the one agent that this is the policy of; by default it is the whole team's.
        threads: threads of onnxruntime. (A program of torch takes as many as torch is set to.)

    Attributes:
        description: the folder's ``policy.json``.
        agents: the n agents that act here.
        hidden: ``[B, n, H]`` float32, their recurrent state.
        last_action: ``[B, n]`` int64, counted from 0, -1 before the first step. Where another action is taken than the
            one that :meth:`act` returned, write it here.
        q_values: ``[B, n, A]`` float32, of the last :meth:`act`.

    Raises:
        ValueError: the folder holds no policy, one of another format version, or there is no such agent.
        ImportError: onnxruntime is missing, or torch for a program of torch.
    """

    q_values: np.ndarray

    def __init__(self, folder: str | Path, *, agent: Any = None, threads: int = 1):
        self.description = about = _description(Path(folder))
        ids = [member["id"] for member in about["agents"]]
        if agent is not None and agent not in ids:
            raise ValueError(f"agent is one of {', '.join(map(repr, ids))}; got {agent!r}.")
        self._alone = agent is not None
        self._ids = np.array([ids.index(agent)] if self._alone else range(len(ids)))
        self._members = [about["agents"][i] for i in self._ids]
        self.agents = [member["id"] for member in self._members]
        self._run = _program(Path(folder) / about["file"], list(about["inputs"]), threads)
        self.reset()

    def reset(self, num_teams: int | None = None) -> None:
        """Begins a new episode, of one team or of many.

        Args:
            num_teams: B; the arguments and results of :meth:`act` then have B entries. None: one team, without lists.
        """
        self._many, count = num_teams is not None, 1 if num_teams is None else num_teams
        self.hidden = np.zeros((count, len(self.agents), self._size("hidden")), np.float32)
        self.last_action = np.full((count, len(self.agents)), -1, np.int64)

    def restart(self, teams: Any) -> None:
        """Begins a new episode of some of many teams, given by an index, indices, or ``[B]`` booleans."""
        self.hidden[teams], self.last_action[teams] = 0.0, -1

    def act(self, observations: Any, action_mask: Any = None, state: Any = None) -> Any:
        """The best available actions of one step.

        Args:
            observations: of a team, ``{agent: observation}`` as PettingZoo's ``ParallelEnv`` gives them, each
                as it is or as a dict with ``observation`` (``obs``, ``observations``) and ``action_mask``; or all of
                them flattened and padded as one array ``[n, O]``. Of one agent alone, its observation. Of many teams a
                list of B such, or an array ``[B, n, O]``.
            action_mask: the available actions, where the observations do not tell: ``{agent: mask}`` beside a dict, an
                array ``[n, A]`` beside an array; of one agent alone, its mask. Of many teams a list of B such, or
                ``[B, n, A]``.
            state: the global state, for a network that sees it: S numbers, of many teams B times as many; where the
                env's state space is none of numbers, a value of that space, of many teams a list of B. Where the
                state was the concatenated observations, a team makes it by itself.

        Returns:
            ``{agent: action}`` for a dict, ``[n]`` int64 for an array, an int for an agent alone; of many teams a
            list or array of B.

        Raises:
            TeamEnvError: a part is missing or has another shape, there are NaN or infinity, or an agent has no action.
        """
        as_array = isinstance(observations, np.ndarray) and not self._alone
        in_info = [member["id"] for member in self._members if member.get("mask_in_info")]
        if in_info and action_mask is None and not as_array:
            raise TeamEnvError(
                f"in training the action mask of agent {in_info[0]!r} was in its info: the second argument of act() is "
                "a dict of the infos' masks by agent (of one agent alone, its mask)."
            )
        if as_array:
            obs, mask = self._from_arrays(observations, action_mask)
        else:
            teams = self._teams(observations, "observations")
            as_given = "a dict by agent, as the observations are"
            masks = [{}] * len(teams) if action_mask is None else self._teams(action_mask, "action masks", as_given)
            obs, mask = self._from_dicts(teams, masks)
        inputs = {
            "obs": obs,
            "action_mask": mask,
            "last_action": self.last_action,
            "hidden": self.hidden,
            "agent": self._ids,
        }
        global_state = self._state(state, obs)
        if global_state is not None:
            inputs["state"] = global_state
        check_values(obs, obs if global_state is None else global_state, mask, agents=self.agents)
        actions, self.q_values, self.hidden = self._run(inputs)
        self.last_action = actions.copy()
        actions = actions + [member["first_action"] for member in self._members]
        if as_array:
            return actions if self._many else actions[0]
        if self._alone:
            return [int(row[0]) for row in actions] if self._many else int(actions[0, 0])
        chosen = [
            {agent: int(action) for agent, action in zip(self.agents, row, strict=True) if agent in team}
            for row, team in zip(actions, teams, strict=True)
        ]
        return chosen if self._many else chosen[0]

    def _teams(self, given: Any, what: str, accepted: str = "a dict by agent, or one array") -> list[Mapping[Any, Any]]:
        """The observations or masks of each team, by agent."""
        teams = list(given) if self._many else [given]
        if len(teams) != len(self.hidden):
            raise TeamEnvError(f"there are {what} of {len(teams)} teams, but reset() got num_teams={len(self.hidden)}.")
        if self._alone:
            return [{self.agents[0]: value} for value in teams]
        for team in teams:
            if not isinstance(team, Mapping):
                raise TeamEnvError(f"{what} are {accepted}; got {type(team).__name__}.")
            for agent in team:
                if agent not in self.agents:
                    raise TeamEnvError(f"{what} name {agent!r}, which is none of {', '.join(map(repr, self.agents))}.")
        return teams

    def _from_dicts(self, teams: list[Mapping], masks: list[Mapping]) -> tuple[np.ndarray, np.ndarray]:
        """obs ``[B, n, O]`` and action mask ``[B, n, A]``: flattened, padded with zeros and unavailable actions."""
        shape = len(teams), len(self.agents)
        obs = np.zeros((*shape, self._size("obs")), self.description["inputs"]["obs"]["dtype"])
        mask = np.zeros((*shape, self._size("action_mask")), bool)
        for b, (team, given) in enumerate(zip(teams, masks, strict=True)):
            for i, member in enumerate(self._members):
                agent, count = member["id"], member["num_actions"]
                if agent not in team:
                    mask[b, i, 0] = True  # has left: a row of zeros, and one action
                    continue
                value, available = _unwrapped(member, team[agent])
                available = given.get(agent, available)
                flat = flatten(member["observation"], value, f"the observation of agent {agent!r}")
                obs[b, i, : len(flat)] = flat
                if available is None and member["has_action_mask"]:
                    raise TeamEnvError(
                        f'the observation of agent {agent!r} has no "action_mask", which it had in training.'
                    )
                what = f'"action_mask" of agent {agent!r}'
                mask[b, i, :count] = True if available is None else flatten(_box([count], "int8"), available, what)
        return obs, mask

    def _from_arrays(self, observations: np.ndarray, action_mask: Any) -> tuple[np.ndarray, np.ndarray]:
        """obs ``[B, n, O]`` and action mask ``[B, n, A]`` of arrays."""
        obs = self._array("obs", observations)
        counts = np.array([member["num_actions"] for member in self._members])
        own = np.arange(self._size("action_mask")) < counts[:, None]  # [n, A], without padding
        if action_mask is None:
            if any(member["has_action_mask"] or member.get("mask_in_info") for member in self._members):
                raise TeamEnvError(
                    "the action mask is missing, which the agents had in training: act(observations, action_mask)."
                )
            return obs, np.broadcast_to(own, (len(obs), *own.shape))
        return obs, self._array("action_mask", np.asarray(action_mask)) & own

    def _array(self, name: str, array: np.ndarray) -> np.ndarray:
        """An input ``[B, n, size]`` of the array ``[n, size]`` of one team or ``[B, n, size]`` of many."""
        shape = [*[len(self.hidden)] * self._many, len(self.agents), self._size(name)]
        if list(array.shape) != shape:
            raise TeamEnvError(f"{name} has the shape {array.shape}; it is {tuple(shape)} here.")
        return flatten(_box(shape, self.description["inputs"][name]["dtype"]), array, name).reshape(
            len(self.hidden), *shape[-2:]
        )

    def _state(self, state: Any, obs: np.ndarray) -> np.ndarray | None:
        """The global states ``[B, S]``, for a network that sees them."""
        sees = self.description["inputs"].get("state")
        if sees is None:
            return None
        if state is None and self.description["state"] == "concat" and not self._alone:
            return obs.reshape(len(obs), -1).astype(sees["dtype"])
        if state is None:
            raise TeamEnvError(
                f"the state is missing: the {self.description['network']} needs the one that the env has in training."
            )
        if space := self.description["state_space"]:
            states = state if self._many else [state]
            return np.stack([flatten(space, one, "the state") for one in states]).astype(sees["dtype"])
        return flatten(_box([len(obs), self._size("state")], sees["dtype"]), state, "the state").reshape(len(obs), -1)

    def _size(self, name: str) -> int:
        """The length of an input's rows."""
        return self.description["inputs"][name]["shape"][-1]


def flatten(layout: Mapping[str, Any], value: Any, what: str) -> np.ndarray:
    """Flattens a value of a space as in training: :func:`rllib_ddn.team.flatten`, for spaces that are described.

    Args:
        layout: ``{"type", "spaces"}`` of a Dict or a Tuple; else ``{"type", "space", "shape", "dtype"}``, with
            ``counts`` and ``start`` of a discrete space.
        value: to be flattened.
        what: the value's name in errors.

    Raises:
        TeamEnvError: see :func:`rllib_ddn.checks.flat_numbers`.
    """
    if "spaces" in layout:
        return np.concatenate([flatten(*entry) for entry in entries(layout["spaces"], value, what)])
    about = {key: layout[key] for key in layout if key != "type"}
    return flat_numbers(value, what, **about, one_hot=layout["type"] != "MultiBinary")


def _box(shape: list[int], dtype: str) -> dict[str, Any]:
    return {"type": "Box", "space": f"Box({tuple(shape)}, {dtype})", "shape": shape, "dtype": dtype}


def _unwrapped(member: Mapping[str, Any], value: Any) -> tuple[Any, Any]:
    """An observation, and the action mask that came with it or None."""
    parts, mask = member["observation"].get("spaces") or (), None
    if isinstance(value, Mapping):
        mask = None if "action_mask" in parts else value.get("action_mask")
        for key in (member["key"], *OBS_KEYS):
            if key in value and key not in parts:
                return value[key], mask
    return value, mask


def _description(folder: Path) -> dict[str, Any]:
    """The contents of ``policy.json``."""
    path = folder / "policy.json"
    if not path.is_file():
        raise ValueError(
            f"{folder} is not an exported policy: policy.json is missing there. `rllib export` makes such folders."
        )
    try:
        about = json.loads(path.read_text())
        version = about["format_version"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} cannot be read ({type(error).__name__}: {error}).") from error
    if version != FORMAT_VERSION:
        raise ValueError(
            f"{path} has the format version {version}, and this rllib-ddn reads {FORMAT_VERSION}: use the version "
            "that wrote it."
        )
    return about


def _program(path: Path, names: Sequence[str], threads: int) -> Callable[[dict[str, np.ndarray]], Sequence[np.ndarray]]:
    """A function from the inputs to actions, Q values and the new hidden state."""
    if not path.is_file():
        raise ValueError(f"{path} is missing, which policy.json names: copy the whole folder.")
    if path.suffix != ".onnx":
        return _torch_program(path, names)
    try:
        import onnxruntime
    except ImportError as error:
        raise ImportError(f"{path.name} needs onnxruntime: pip install onnxruntime ({error}).") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3  # it warns of every input with a default, as "agent" is
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda inputs: session.run(["actions", "q_values", "new_hidden"], inputs)


def _torch_program(path: Path, names: Sequence[str]) -> Callable[[dict[str, np.ndarray]], Sequence[np.ndarray]]:
    try:
        import torch
    except ImportError as error:
        raise ImportError(
            f"{path.name} is a program of torch: pip install torch, or export to ONNX ({error})."
        ) from error
    # torch's guards on the traced sizes would refuse one agent alone; the program is right for any number.
    module = torch.export.load(path).module(check_guards=False)

    def run(inputs: dict[str, np.ndarray]) -> Sequence[np.ndarray]:
        with torch.no_grad():
            return [
                output.numpy()
                for output in module(*[torch.from_numpy(np.ascontiguousarray(inputs[name])) for name in names])
            ]

    return run
