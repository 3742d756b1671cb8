"""Export: a network as one file, and ``policy.json`` beside it, for :mod:`rllib_ddn.deploy`."""

from __future__ import annotations

import contextlib
import copy
import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from ray.rllib.env.env_context import EnvContext
from torch import Tensor, nn

from rllib_ddn.checks import line
from rllib_ddn.deploy import FORMAT_VERSION
from rllib_ddn.envs.grouping import as_team_env
from rllib_ddn.networks import LocalInput, TeamNetwork, greedy_actions
from rllib_ddn.rllib.env_creator import creator_of
from rllib_ddn.rllib.model import ValueDecompositionModel
from rllib_ddn.team import Member, TeamSpec, discrete

SUFFIXES = {"onnx": ".onnx", "torch": ".pt2"}
OUTPUTS = ("actions", "q_values", "new_hidden")
PADDING = (
    "A flattened observation is followed by zeros, an agent's own actions by others that are never available. An agent "
    "that has left the episode observes zeros and has action 0 alone."
)


class GreedyStep(nn.Module):
    """One greedy step of n agents of B teams: what is exported.

    Args:
        network: the network that acts.
        local_input: makes its local input ``z``.
    """

    def __init__(self, network: TeamNetwork, local_input: LocalInput):
        super().__init__()
        self.network, self.local_input = network, local_input

    def forward(
        self,
        obs: Tensor,
        action_mask: Tensor,
        last_action: Tensor,
        hidden: Tensor,
        agent: Tensor,
        state: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """
        Args:
            obs: ``[B, n, O]``, action_mask: ``[B, n, A]`` bool.
            last_action: ``[B, n]`` int64, -1 before the first step. hidden: ``[B, n, H]``, zeros before it.
            agent: ``[n]`` int64, the agents' places in the team.
            state: ``[B, S]``, for a network that sees it.

        Returns:
            The best available actions ``[B, n]``, Q values ``[B, n, A]``, and the new hidden state.
        """
        z = self.local_input(obs, last_action, agent)
        inputs = (z,) if state is None else (z, state.float())
        out = self.network(*inputs, hidden=hidden)
        return greedy_actions(out.q, action_mask), out.q, out.hidden


def export_network(
    model: ValueDecompositionModel,
    config: Mapping[str, Any],
    folder: str | Path,
    network: str | None = None,
    file_format: str = "onnx",
    opset: int | None = None,
    **notes: Any,
) -> Path:
    """Writes a deployed network and ``policy.json`` into a folder.

    Args:
        model: the model of the network.
        config: the config of the policy that has it.
        folder: made where it does not exist.
        network: one of the model's networks; by default the one that acts for a user.
        file_format: ``"onnx"``, or ``"torch"`` for a program of ``torch.export``.
        opset: version of ONNX's operators; by default that of torch's exporter.
        notes: further entries of ``policy.json``.

    Returns:
        The network's file.

    Raises:
        ValueError: there is no such network or format, a package is missing, or the network or an observation space
            cannot be exported.
    """
    networks = model.deployed
    network = network or model.acting_network
    if network not in networks:
        raise ValueError(f"network is one of {', '.join(map(repr, networks))}; got {network!r}.")
    if file_format not in SUFFIXES:
        raise ValueError(f"format is one of {', '.join(map(repr, SUFFIXES))}; got {file_format!r}.")
    step = copy.deepcopy(GreedyStep(networks[network], model.local_input)).cpu().eval()
    inputs = _inputs(step.network, model.spec, model.sizes.hidden_dim)
    about = {
        "format_version": FORMAT_VERSION,
        "file": f"{network}{SUFFIXES[file_format]}",
        "network": network,
        "inputs": inputs,
        "outputs": list(OUTPUTS),
        **_of_env(config),
        "padding": PADDING,
        "state": "concat" if config["env_config"].get("state") == "concat" else "env",
        "env": config["env"],
        "env_config": config["env_config"],
        **notes,
    }
    text = json.dumps(about, indent=2, default=_as_json)
    with _quiet():
        program = _traced(step, inputs)
        path = Path(folder) / about["file"]
        path.parent.mkdir(parents=True, exist_ok=True)
        if file_format == "onnx":
            _write_onnx(program, path, inputs, opset)
        else:
            torch.export.save(program, path)
    (path.parent / "policy.json").write_text(text + "\n")
    return path


def _inputs(network: TeamNetwork, spec: TeamSpec, hidden_dim: int) -> dict[str, dict[str, Any]]:
    """Dtype and shape of each input; B teams and n agents are any number."""
    rows = ["teams", "agents"]
    inputs: dict[str, dict[str, Any]] = {
        "obs": {"dtype": str(spec.obs_dtype), "shape": [*rows, spec.obs_dim]},
        "action_mask": {"dtype": "bool", "shape": [*rows, spec.num_actions]},
        "last_action": {"dtype": "int64", "shape": rows, "first": -1},
        "hidden": {"dtype": "float32", "shape": [*rows, hidden_dim], "first": 0},
        "agent": {"dtype": "int64", "shape": ["agents"], "default": list(range(spec.num_agents))},
    }
    if network.sees_state:
        inputs["state"] = {"dtype": str(spec.state_dtype), "shape": ["teams", spec.state_dim]}
    return inputs


def _traced(step: GreedyStep, inputs: dict[str, dict[str, Any]]) -> torch.export.ExportedProgram:
    """The network's step as a program for any number of teams and agents."""
    sizes = {"teams": 3, "agents": 2}  # of the example; torch takes 1 for a constant
    example = [
        torch.zeros([sizes.get(size, size) for size in about["shape"]], dtype=getattr(torch, about["dtype"]))
        for about in inputs.values()
    ]
    try:
        with torch.no_grad():
            return torch.export.export(step, tuple(example), dynamic_shapes=_dynamic(inputs), strict=False)
    except Exception as error:  # torch's errors are of many kinds
        raise ValueError(
            f"{type(step.network).__name__} cannot be exported, which has to work for any number of teams and agents: "
            f"{' '.join(str(error).split())[:300]}"
        ) from error


def _dynamic(inputs: dict[str, dict[str, Any]]) -> dict[str, dict[int, Any]]:
    """The axes of each input that have any length, as torch wants them."""
    axes = {name: torch.export.Dim(name) for name in ("teams", "agents")}
    return {
        name: {k: axes[size] for k, size in enumerate(about["shape"]) if size in axes} for name, about in inputs.items()
    }


def _write_onnx(
    program: torch.export.ExportedProgram, path: Path, inputs: dict[str, dict[str, Any]], opset: int | None
) -> None:
    try:
        import onnx
        import onnxscript  # noqa: F401  (torch's exporter needs it)
    except ImportError as error:
        raise ValueError(f'export to ONNX needs more packages: pip install "rllib-ddn[export]" ({error}).') from error
    exported = torch.onnx.export(
        program,
        (),
        input_names=list(inputs),
        output_names=list(OUTPUTS),
        dynamic_shapes=_dynamic(inputs),
        opset_version=opset,
        dynamo=True,
        verbose=False,
    )
    assert exported is not None  # None is returned where a file is given
    model = exported.model_proto
    all_agents = torch.tensor(inputs["agent"]["default"]).numpy()
    model.graph.initializer.append(onnx.numpy_helper.from_array(all_agents, "agent"))  # an input's default
    onnx.checker.check_model(model)
    onnx.save(model, path)


def _as_json(value: Any) -> Any:
    """A value of the env's config that JSON does not have, as ``policy.json`` holds it."""
    if isinstance(value, (np.generic, np.ndarray)):
        return value.tolist()
    if callable(value) and hasattr(value, "__qualname__"):
        return f"{value.__module__}:{value.__qualname__}"
    raise ValueError(
        f"{line(repr(value))} of the env's config cannot be exported: policy.json has numbers, strings, lists, dicts, "
        "and the names of functions and classes. Let a function that env_config names make it."
    )


def _of_env(config: Mapping[str, Any]) -> dict[str, Any]:
    """The agents of the config's env, which is built for that, and its state space, where the state is not numbers."""
    context = EnvContext(config["env_config"], worker_index=0)
    with contextlib.closing(as_team_env(creator_of(config["env"], config)(context), context)) as env:
        state = None if env.concatenates or isinstance(env.state_space, spaces.Box) else env.state_space
        return {
            "agents": [_described(member) for member in env.members],
            "state_space": None if state is None else layout(state),
        }


def _described(member: Member) -> dict[str, Any]:
    if not isinstance(member.id, (str, Integral)):
        raise ValueError(
            f"the agent {member.id!r} cannot be exported: policy.json has agents whose names are strings or integers, "
            f"and this is a {type(member.id).__name__}."
        )
    return {
        "id": member.id if isinstance(member.id, str) else int(member.id),
        "num_actions": member.num_actions,
        "has_action_mask": member.has_action_mask,
        "mask_in_info": member.mask_in_info,
        "first_action": member.first_action,
        "key": member.key,
        "observation": layout(member.observation_space),
    }


def layout(space: spaces.Space) -> dict[str, Any]:
    """A space as :func:`rllib_ddn.deploy.flatten` wants it.

    Raises:
        ValueError: the space cannot be described.
    """
    kind = type(space).__name__
    if isinstance(space, spaces.Dict):
        return {"type": "Dict", "spaces": {key: layout(part) for key, part in space.spaces.items()}}
    if isinstance(space, spaces.Tuple):
        return {"type": "Tuple", "spaces": [layout(part) for part in space.spaces]}
    if not isinstance(space, (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)):
        raise ValueError(
            f"observations of the space {kind} cannot be exported: only Box, the discrete spaces, Dict and Tuple."
        )
    numbers = {"shape": list(space.shape or ()), "dtype": str(space.dtype), **discrete(space)}
    return {"type": kind, "space": " ".join(repr(space).split()), **numbers}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the warnings of torch's exporters about their own internals and about packages that are not installed."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
