"""A policy's weights and state: what env runners get, what checkpoints hold, and what of them fits."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from ray.rllib.policy.policy import Policy
from ray.rllib.policy.torch_policy_v2 import TorchPolicyV2
from ray.rllib.utils.annotations import override
from ray.rllib.utils.numpy import convert_to_numpy
from ray.rllib.utils.torch_utils import convert_to_torch_tensor

from rllib_ddn.rllib.model import ValueDecompositionModel


class PolicyState(TorchPolicyV2):
    """Weights, and the state of model and optimizers, of a team's policy.

    Attributes:
        optimizers: by the name of the learner that each trains.
    """

    model: ValueDecompositionModel
    config: dict[str, Any]
    optimizers: dict[str, torch.optim.Optimizer]

    def acting_parts(self) -> tuple[str, ...]:
        """Prefixes of the names of the weights that env runners need."""
        return ("host.agent.",)

    def get_acting_weights(self) -> dict[str, np.ndarray]:
        """The weights that env runners need."""
        weights, parts = self.model.state_dict(), self.acting_parts()
        return {name: value.detach().cpu().numpy() for name, value in weights.items() if name.startswith(parts)}

    @override(TorchPolicyV2)
    def set_weights(self, weights: dict[str, Any]) -> None:
        """Takes all weights, or those of :meth:`get_acting_weights`.

        Averages need not fit: where this model has none they are left out, and where the weights have none they start
        from the weights.

        Raises:
            ValueError: the weights have other names or shapes than this model's.
        """
        own, averages = self.model.state_dict(), self.model.averages
        if averages is None:
            weights = _without_averages(weights)
        restart = averages is not None and weights.keys() == _without_averages(own).keys()
        expected = _without_averages(own) if restart else own
        if weights.keys() != self.get_acting_weights().keys():
            for name in weights.keys() - expected.keys():
                raise ValueError(f"the weights hold {name!r}, which this model does not have. {_FITTING}")
            for name in expected.keys() - weights.keys():
                raise ValueError(f"the weights lack {name!r}, which this model has. {_FITTING}")
        for name, value in weights.items():
            if tuple(value.shape) != tuple(own[name].shape):
                raise ValueError(
                    f"the weights {name!r} have the shape {tuple(value.shape)}, this model's have "
                    f"{tuple(own[name].shape)}. {_FITTING}"
                )
        tensors = {name: torch.as_tensor(np.array(value)) for name, value in weights.items()}
        self.model.load_state_dict(tensors, strict=False)
        if averages is not None and restart:
            averages.restart(self.model.networks)

    @override(TorchPolicyV2)
    def get_state(self) -> dict[str, Any]:
        """RLlib's state of any policy, and the state of each optimizer. Epsilon follows from the time step alone."""
        states = {learner: optimizer.state_dict() for learner, optimizer in self.optimizers.items()}
        return {**Policy.get_state(self), "optimizers": convert_to_numpy(states)}

    @override(TorchPolicyV2)
    def set_state(self, state: dict[str, Any]) -> None:
        """Restores weights, counters, and the state of the optimizers that are of the same kind; others start afresh.
        Learning rates and other arguments of the optimizers are the config's, not the checkpoint's.

        Raises:
            ValueError: see :meth:`set_weights`.
        """
        self.set_weights(state["weights"])  # first: where they do not fit, nothing is changed
        own_config = self.config
        super().set_state(state)
        self.config = own_config  # RLlib would take the training's config into evaluation, too
        self.num_grad_updates = state["num_grad_updates"]
        for learner, optimizer in self.optimizers.items():
            own, saved = optimizer.state_dict(), state["optimizers"][learner]
            if _kind(own) == _kind(saved):
                # A copy: arrays from Ray's object store are read-only, of which torch warns.
                tensors = convert_to_torch_tensor(copy.deepcopy(saved["state"]), device=self.device)
                optimizer.load_state_dict({"state": tensors, "param_groups": own["param_groups"]})


_FITTING = (
    "Build it with the config that the weights come from: env, mixer, state_fusion, network sizes, intrinsic_reward."
)


def _without_averages(weights: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in weights.items() if not name.startswith("averages.")}


def _kind(optimizer_state: dict[str, Any]) -> set[str]:
    """What distinguishes kinds of optimizers: the arguments that they have, and those that make them keep more."""
    group = optimizer_state["param_groups"][0]
    switches = {name for name in ("momentum", "centered", "amsgrad") if group.get(name)}
    return (group.keys() & {"alpha", "betas"}) | {f"with {name}" for name in switches}
