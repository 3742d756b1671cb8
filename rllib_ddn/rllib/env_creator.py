"""The env that a config names: registered, or ``module:name`` of a custom class or function (RLlib:
``module.name``)."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

from ray.tune.registry import ENV_CREATOR

from rllib_ddn.envs.single import TEAM_KEYS
from rllib_ddn.names import imported, is_custom
from rllib_ddn.rllib.ray_internals import is_registered, rllibs_env_creator
from rllib_ddn.team import TeamEnvError

WHOLE = ("config", "env_config")  # first arguments that are the env_config itself, as RLlib's own env classes have them


def is_custom_env(env: Any) -> bool:
    """Whether an env is ``module:name`` or ``module.name``, and none that is registered under such a name."""
    dotted = isinstance(env, str) and "." in env and ":" not in env
    return (dotted or is_custom(env)) and not is_registered(ENV_CREATOR, env)


def creator_of(env: Any, config: Any) -> Callable[[dict[str, Any]], Any]:
    """The function that makes an env of an ``env_config``, as RLlib finds it, but for ``module:name``: RLlib would hide
    its errors, and pass it the keys that all envs have."""
    return partial(_make, env) if is_custom_env(env) else rllibs_env_creator(env, config)


def _make(name: str, env_config: dict[str, Any]) -> Any:
    """The keys become keyword arguments, those of all envs only where the env names them; or ``env_config`` is the
    first argument, where that has its name.

    Raises:
        TeamEnvError: there is no such module or name.
    """
    try:
        factory = imported(name)
    except ImportError as error:
        raise TeamEnvError(f"env is {name!r}, which cannot be imported: {error}") from error
    named = inspect.signature(factory).parameters
    first = next(iter(named.values()), None)
    if first is not None and first.name in WHOLE and first.kind == first.POSITIONAL_OR_KEYWORD:
        return factory(env_config)
    return factory(**{key: value for key, value in env_config.items() if key in named or key not in TEAM_KEYS})
