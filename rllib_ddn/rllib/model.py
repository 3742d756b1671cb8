"""The models: what a policy learns with, as ``TorchModelV2``."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from ray.rllib.models.torch.torch_modelv2 import TorchModelV2
from torch import Tensor, nn

from rllib_ddn.learning import AGENT, FOLLOWER, HOST, INTRINSIC, LEADER
from rllib_ddn.learning.distillation import TERMS, Distillation, DistillationTerm
from rllib_ddn.learning.host import Host
from rllib_ddn.learning.intrinsic import IntrinsicReward
from rllib_ddn.learning.targets import td_targets
from rllib_ddn.learning.update import Update
from rllib_ddn.names import resolved
from rllib_ddn.networks import (
    LEADERS,
    MIXERS,
    AgentOutput,
    AveragedNetworks,
    LocalAgent,
    LocalInput,
    TeamNetwork,
    TeamSizes,
    greedy_actions,
)
from rllib_ddn.rllib.components import blame_custom_components, class_of, intrinsic_reward_class
from rllib_ddn.team import TeamSpec

MIXTURE = "mixture"  # leader or follower, drawn for each sampling round


class ValueDecompositionModel(TorchModelV2, nn.Module):
    """A host: agent network and mixer with their targets.

    Registered in RLlib's model catalog as ``"value_decomposition"``. Its sizes come from the team's spaces
    (see :class:`rllib_ddn.team.TeamSpec`), its options from the algorithm's config.

    The state of a recurrent policy is ``[hidden [N, H], last_action [N]]``.

    Attributes:
        host: learns from the team's reward.
        distillation: the follower, which learns from the host's agent network; None without one.
        intrinsic: the intrinsic reward; None without one.
        networks: the networks that can act, by name, with the optimizers' weights; in training these act.
        averages: averages of their weights; None where ``weight_averaging`` is.
        deployed: the networks that evaluation and users play with, by name: the averages, or :attr:`networks`.
        log_names: the name under which each learner's gradient norm is logged.
        update: the newest update on this model's device: ``loss()`` of the policy computes it, :meth:`custom_loss`
            takes its losses, ``stats_fn()`` its statistics.
    """

    log_names: Mapping[str, str] = {HOST: AGENT}
    host: Host
    distillation: Distillation | None
    intrinsic: IntrinsicReward | None

    def __init__(
        self,
        obs_space: Any,
        action_space: Any,
        num_outputs: int,
        model_config: dict[str, Any],
        name: str,
        *,
        config: Mapping[str, Any],
    ):
        TorchModelV2.__init__(self, obs_space, action_space, num_outputs, model_config, name)
        nn.Module.__init__(self)
        self.spec = spec = TeamSpec.from_spaces(obs_space, action_space)
        self.local_input = LocalInput(spec.num_agents, spec.num_actions)
        self.sizes = TeamSizes.of(spec, config["agent_hidden_dim"])
        self.distillation, self.intrinsic = None, None
        with blame_custom_components(config, "building the networks"):
            self.build(config)
        decay = config["weight_averaging"]
        self.averages = None if decay is None else AveragedNetworks(self.networks, decay)
        self.update = Update()

    def build(self, config: Mapping[str, Any]) -> None:
        """Makes :attr:`host`, and in subclasses the other learners."""
        sizes = self.sizes
        self.host = self.make_host(LocalAgent(sizes.local_dim, sizes.num_actions, sizes.hidden_dim), config)

    def make_host(self, agent: TeamNetwork, config: Mapping[str, Any]) -> Host:
        """A host of an agent network and the config's mixer."""
        mixer = class_of(config["mixer"], MIXERS)(self.sizes, **config["mixer_config"])
        targets = resolved(config["targets"]) or partial(td_targets, td_lambda=config["td_lambda"])
        return Host(agent, mixer, gamma=config["gamma"], double_q=config["double_q"], targets=targets)

    @property
    def networks(self) -> dict[str, TeamNetwork]:
        return {AGENT: self.host.agent}

    @property
    def deployed(self) -> dict[str, TeamNetwork]:
        return self.networks if self.averages is None else self.averages.networks

    @property
    def acting_network(self) -> str:
        """The network that acts for a user."""
        return AGENT

    def trained(self) -> dict[str, list[nn.Parameter]]:
        """The trainable parameters of each learner, by the learner's name: one optimizer each."""
        return {HOST: self.host.trained()}

    def custom_loss(self, policy_loss: list[Tensor], loss_inputs: Any) -> list[Tensor]:
        """RLlib's hook: adds L_local (Equation 7) and L_I (Equation 8) to the host's loss.

        Args:
            policy_loss: what the policy's ``loss()`` returned: the host's, if it learns in this update.
            loss_inputs: the train batch; unused, for ``loss()`` has left the losses in :attr:`update`.

        Returns:
            One loss per optimizer, in the order of :meth:`trained`. RLlib wants one for each: a learner without a loss
            in this update gets 0, and the policy leaves its parameters as they are.
        """
        losses = {**self.update.losses, **dict(zip([HOST], policy_loss, strict=False))}
        zero = lambda parameters: torch.stack([parameter.sum() for parameter in parameters]).sum() * 0.0  # noqa: E731
        return [
            losses[learner] if learner in losses else zero(parameters) for learner, parameters in self.trained().items()
        ]

    def act(
        self, network: TeamNetwork, obs: Tensor, state: Tensor, action_mask: Tensor, hidden: Tensor, last_action: Tensor
    ) -> tuple[Tensor, AgentOutput]:
        """One step of B teams.

        Args:
            network: one of :attr:`networks` or :attr:`deployed`. Only one that ``sees_state`` is given the state.
            obs: ``[B, N, O]``, state: ``[B, S]``, action_mask: ``[B, N, A]`` bool.
            hidden: ``[B, N, H]``, last_action: ``[B, N]``, -1 before the first step.

        Returns:
            The best available actions ``[B, N]``, and the network's output for this step.
        """
        out = network(*network.inputs(self.local_input(obs, last_action), state.float()), hidden=hidden)
        return greedy_actions(out.q, action_mask), out

    def forward(self, input_dict: dict[str, Any], state: list[Tensor], seq_lens: Tensor) -> tuple[Tensor, list[Tensor]]:
        """RLlib's call for one step: ``input_dict`` holds ``obs``, ``state`` and ``action_mask`` as
        :meth:`act` takes them, ``state`` is ``[hidden, last_action]``.

        Returns:
            Q values ``[B, N, A]`` with unavailable actions at the lowest float, and the new state.
        """
        hidden, last_action = state
        mask = input_dict["action_mask"]
        network = self.deployed[self.acting_network]
        actions, out = self.act(network, input_dict["obs"], input_dict["state"], mask, hidden, last_action.long())
        q = out.q.masked_fill(~mask, torch.finfo(out.q.dtype).min)
        return q, [out.hidden, actions.to(last_action.dtype)]

    def get_initial_state(self) -> list[Tensor]:
        """``[hidden [N, H] of zeros, last_action [N] of -1]``."""
        agents = self.spec.num_agents
        return [torch.zeros(agents, self.sizes.hidden_dim), torch.full((agents,), -1.0)]


class DDNTorchModel(ValueDecompositionModel):
    """DDN: a host whose agent network is the leader (GGN), a follower (LPN) that is distilled from it, and
    an intrinsic reward (paper, Figure 1). Registered as ``"ddn"``."""

    log_names = {HOST: LEADER, FOLLOWER: FOLLOWER, INTRINSIC: INTRINSIC}

    distillation: Distillation

    def build(self, config: Mapping[str, Any]) -> None:
        leader_class = class_of(config["state_fusion"], LEADERS)
        options = {"embed_dim": config["fusion_embed_dim"], "hyper_dim": config["fusion_hyper_dim"]}
        leader, follower = leader_class(self.sizes, **options), leader_class.follower(self.sizes, **options)
        own_agent = config["follower_agent"] == "own"
        if not own_agent:
            follower.agent = leader.agent  # one network: the follower has a fusion block of its own only
        self.host = self.make_host(leader, config)
        self.distillation = Distillation(follower, self._terms(config), trains_agent=own_agent)
        reward = intrinsic_reward_class(config["intrinsic_reward"])
        if reward is not None:  # made last, so that the other networks start alike with and without it
            self.intrinsic = reward(
                self.sizes,
                coefficient=config["intrinsic_reward_coeff"],
                mask_probability=config["mask_probability"],
                normalize=config["normalize_intrinsic_reward"],
                gamma=config["gamma"],
                **config["intrinsic_reward_config"],
            )

    @staticmethod
    def _terms(config: Mapping[str, Any]) -> dict[str, tuple[DistillationTerm, float]]:
        chosen = {
            "block": ("block", config["block_loss_coeff"]),
            "q": (config["q_loss"], config["q_loss_coeff"]),
            "feature": ("feature", config["feature_loss_coeff"]),
            **config["distillation_terms"],
        }
        temperature = config["distillation_temperature"]
        return {name: (class_of(term, TERMS)(temperature), coefficient) for name, (term, coefficient) in chosen.items()}

    @property
    def networks(self) -> dict[str, TeamNetwork]:
        return {LEADER: self.host.agent, FOLLOWER: self.distillation.follower}

    @property
    def acting_network(self) -> str:
        return FOLLOWER

    def trained(self) -> dict[str, list[nn.Parameter]]:
        parameters = {HOST: self.host.trained(), FOLLOWER: self.distillation.trained()}
        if self.intrinsic is not None and self.intrinsic.trained():
            parameters[INTRINSIC] = self.intrinsic.trained()
        return parameters
