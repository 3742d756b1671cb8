"""What envs return: what cannot be is refused, what is suspicious is logged once."""

from __future__ import annotations

import re
import sysconfig
import traceback
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from gymnasium import spaces

from rllib_ddn.checks import line
from rllib_ddn.envs.vector import warn_once
from rllib_ddn.team import ACTION_MASK, TeamEnvError

RETURNED = {
    "reset": ("observations", "infos"),
    "step": ("observations", "rewards", "terminations", "truncations", "infos"),
}
COMMON = "__common__"  # RLlib's key of an info for all agents
_PACKAGE = Path(__file__).parents[1]
_INSTALLED = [sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")]
_MASK_LIKE = re.compile("mask|avail|legal", re.IGNORECASE)


def unpacked(env: Any, method: str, result: Any) -> Sequence[Mapping[Any, Any]]:
    """What ``reset()`` or ``step()`` of an env has returned.

    Raises:
        TeamEnvError: these are not as many dicts as the method returns today, or an info is no dict.
    """
    if wrong := _misfit(result, RETURNED[method]):
        raise TeamEnvError(
            f"{method}() of {env} returned {wrong}; reset() returns ({', '.join(RETURNED['reset'])}), step() "
            f"({', '.join(RETURNED['step'])}), each a dict by agent, and each info a dict."
        )
    return result


def _misfit(result: Any, names: Sequence[str]) -> str:
    if not isinstance(result, (tuple, list)):
        return line(repr(result))
    if len(result) != len(names):
        return f"{len(result)} values"
    for name, part in zip(names, result, strict=True):
        if not isinstance(part, Mapping):
            return f"{line(repr(part))} as {name}"
    for agent, info in result[-1].items():
        if not isinstance(info, Mapping):
            return f"{line(repr(info))} as info of agent {agent!r}"
    return ""


def refuse_others(agents: Iterable[Any], known: Collection[Any], what: str) -> None:
    """Refuses what the env gives to nobody in the team, and would be lost.

    Raises:
        TeamEnvError: an agent is not known.
    """
    for agent in agents:
        if agent not in known:
            shown = ", ".join(map(repr, list(known)[:4])) + (", ..." if len(known) > 4 else "")
            raise TeamEnvError(f"the env gave {what} to {agent!r}; its team is {shown}.")


def warn_of_masks(agent: Any, given: Any) -> None:
    """Warns, once in a process, of each key that may be meant as an action mask and is not taken for one.

    Args:
        agent: its name.
        given: its observation space, or its info.
    """
    parts = given.spaces if isinstance(given, spaces.Dict) else given if isinstance(given, Mapping) else {}
    for key, part in parts.items():
        if key != ACTION_MASK and _MASK_LIKE.search(str(key)):
            warn_once(
                f"agent {agent!r} gets {key!r}, which may be meant as a mask of its actions, but does not mask "
                f'them: only "{ACTION_MASK}" does.'
            )
        if isinstance(part, spaces.Dict):
            warn_of_masks(agent, part)


def described(error: BaseException) -> str:
    """An exception and the line of the env's own code that raised it, in one line."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not Path(frame.filename).is_relative_to(_PACKAGE) and not _is_installed(frame)]
    where = [f"({Path(frame.filename).name}, line {frame.lineno}, in {frame.name})" for frame in own or frames][-1:]
    return " ".join(" ".join([f"{type(error).__name__}: {error}", *where]).split())


def _is_installed(frame: traceback.FrameSummary) -> bool:
    return any(Path(frame.filename).is_relative_to(folder) for folder in _INSTALLED)


class RewardWatch:
    """Looks at the agents' own rewards until an episode has had some, and warns of two habits once.

    Args:
        env: the env.
        hints: whether equal rewards deserve a hint at ``team_reward``.
    """

    def __init__(self, env: Any, hints: bool):
        self._env, self._hints, self._watches = env, hints, True
        self._rewarded = self._zero_sum = self._equal = 0

    def __call__(self, rewards: Sequence[float], ended: bool) -> None:
        """
        Args:
            rewards: of one step.
            ended: whether it was an episode's last.
        """
        if not self._watches or len(rewards) < 2:
            return
        if any(rewards):
            self._rewarded += 1
            self._zero_sum += abs(sum(rewards)) <= 1e-6 * max(map(abs, rewards))
            self._equal += min(rewards) == max(rewards)
        if not ended or not self._rewarded:
            return
        self._watches = False
        if self._zero_sum == self._rewarded:
            warn_once(
                f"the rewards of {self._env}'s agents sum to zero at every step, and so does the team's: do two "
                "sides play "
                "against each other? A team has one goal."
            )
        if self._hints and self._equal == self._rewarded:
            warn_once(
                f"all {len(rewards)} agents of {self._env} get the same reward at every step, and the team's is the "
                "sum: "
                'env_config={"team_reward": "mean"} gives the team that reward itself; with "sum" this is not logged.'
            )
