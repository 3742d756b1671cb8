"""The model of DDN: leader, follower, mixer and IDM in one ``TorchModelV2``."""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

import torch
from ray.rllib.models.torch.torch_modelv2 import TorchModelV2
from torch import Tensor, nn

from rllib_ddn import losses
from rllib_ddn.envs.grouping import TeamSpec
from rllib_ddn.networks import (
    MIXERS,
    AgentOutput,
    GlobalGuidingNetwork,
    InternalDistillationModule,
    LocalInput,
    LocalPolicyNetwork,
    greedy_actions,
)

LEADER, FOLLOWER = NETWORKS = ("leader", "follower")


class TrainBatch(NamedTuple):
    """A batch of episodes as time-major float tensors, with what the losses share.

    Attributes:
        obs: ``[T + 1, B, N, O]``.
        state: ``[T + 1, B, S]``.
        z: ``[T + 1, B, N, Z]``, the local information ``(o_i, u_i, i)``.
        action_mask: ``[T + 1, B, N, A]`` bool, all True behind the end of an episode.
        actions: ``[T, B, N]`` int64.
        rewards: ``[T, B]``.
        terminated: ``[T, B]``, 1 at the last step of episodes that terminated.
        valid: ``[T, B]``, 1 at real steps, 0 at padding.
        keep: ``[T, B]``, the mask m of the intrinsic reward.
    """

    obs: Tensor
    state: Tensor
    z: Tensor
    action_mask: Tensor
    actions: Tensor
    rewards: Tensor
    terminated: Tensor
    valid: Tensor
    keep: Tensor


class DDNTorchModel(TorchModelV2, nn.Module):
    """Leader (GGN) with mixer and their targets, follower (LPN), and IDM (paper, Figure 1).

    Registered in RLlib's model catalog as ``"ddn"``. Its sizes come from the team's spaces (see
    :class:`rllib_ddn.envs.grouping.TeamSpec`), its options from ``DDNConfig.training()``, where
    they are explained.

    The state of a recurrent policy is ``[hidden [N, H], last_action [N]]``.
    """

    def __init__(
        self,
        obs_space: Any,
        action_space: Any,
        num_outputs: int,
        model_config: dict[str, Any],
        name: str,
        *,
        mixer: str = "qmix",
        mixer_config: dict[str, Any] | None = None,
        state_fusion: str = "personalized",
        fusion_embed_dim: int = 32,
        fusion_hyper_dim: int = 16,
        agent_hidden_dim: int = 64,
        intrinsic_reward: bool = True,
        normalize_intrinsic_reward: bool = False,
        loss_coeffs: tuple[float, float, float] = (1.0, 1.0, 1.0),
        distillation_temperature: float = 1.0,
        behaviour_network: str = FOLLOWER,
    ):
        TorchModelV2.__init__(self, obs_space, action_space, num_outputs, model_config, name)
        nn.Module.__init__(self)
        self.spec = spec = TeamSpec.from_spaces(obs_space, action_space)
        self.loss_coeffs, self.temperature = loss_coeffs, distillation_temperature
        self.behaviour_network = behaviour_network

        self.local_input = LocalInput(spec.num_agents, spec.num_actions, spec.obs_dim)
        options = {
            "state_fusion": state_fusion,
            "embed_dim": fusion_embed_dim,
            "hyper_dim": fusion_hyper_dim,
            "hidden_dim": agent_hidden_dim,
        }
        self.leader = GlobalGuidingNetwork(spec.state_dim, self.local_input.dim, spec.num_actions, **options)
        self.follower = LocalPolicyNetwork(spec.obs_dim, self.local_input.dim, spec.num_actions, **options)
        self.mixer = MIXERS[mixer](spec.num_agents, spec.state_dim, **(mixer_config or {}))
        self.target_leader = copy.deepcopy(self.leader).requires_grad_(False)
        self.target_mixer = copy.deepcopy(self.mixer).requires_grad_(False)
        # Made last, so that the other networks start alike with and without it.
        self.idm = (
            InternalDistillationModule(spec.state_dim, normalize=normalize_intrinsic_reward) if intrinsic_reward else None
        )
        # What Policy.loss() unrolled, for custom_loss() right after it.
        self.unrolled: tuple[TrainBatch, AgentOutput, Tensor | None] | None = None

    def to_train_batch(self, batch: Any) -> TrainBatch:
        """Turns an episode-major batch (see :mod:`rllib_ddn.replay`) into a :class:`TrainBatch`."""
        flip = lambda name: batch[name].transpose(0, 1)  # noqa: E731  [B, T, ...] to [T, B, ...]
        obs, state = flip("obs").float().contiguous(), flip("state").float().contiguous()
        actions = flip("actions").long()
        steps = torch.arange(len(actions) + 1, device=obs.device).unsqueeze(1)  # [T + 1, 1]
        length = batch["length"]  # [B]
        padding = steps > length  # [T + 1, B]; the final observation is not padding
        before = torch.full_like(actions[:1], -1)
        return TrainBatch(
            obs=obs,
            state=state,
            z=self.local_input(obs, torch.cat([before, actions])),
            action_mask=flip("action_mask") | padding[..., None, None],
            actions=actions,
            rewards=flip("rewards").float(),
            terminated=(batch["terminated"] & (steps[:-1] == length - 1)).float(),
            valid=(steps[:-1] < length).float(),
            keep=flip("keep").float(),
        )

    def act(
        self, network: str, obs: Tensor, state: Tensor, action_mask: Tensor, hidden: Tensor, last_action: Tensor
    ) -> tuple[Tensor, AgentOutput]:
        """One step of B teams.

        Args:
            network: "leader" or "follower"; the follower is not given the state.
            obs: ``[B, N, O]``, state: ``[B, S]``, action_mask: ``[B, N, A]`` bool.
            hidden: ``[B, N, H]``, last_action: ``[B, N]``, -1 before the first step.

        Returns:
            The best available actions ``[B, N]``, and the network's output for this step.
        """
        obs = obs.unsqueeze(0).float()
        z = self.local_input(obs, last_action.unsqueeze(0))
        if network == LEADER:
            out = self.leader(z, state.unsqueeze(0).float(), hidden)
        else:
            out = self.follower(z, obs, hidden)
        return greedy_actions(out.q[0], action_mask), out

    def forward(self, input_dict: dict[str, Any], state: list[Tensor], seq_lens: Tensor) -> tuple[Tensor, list[Tensor]]:
        """RLlib's call for one step: ``input_dict`` holds ``obs``, ``state`` and ``action_mask`` as
        :meth:`act` takes them, ``state`` is ``[hidden, last_action]``.

        Returns:
            Q values ``[B, N, A]`` with unavailable actions at the lowest float, and the new state.
        """
        hidden, last_action = state
        mask = input_dict["action_mask"]
        actions, out = self.act(
            self.behaviour_network, input_dict["obs"], input_dict["state"], mask, hidden, last_action.long()
        )
        q = out.q[0].masked_fill(~mask, torch.finfo(out.q.dtype).min)
        return q, [out.hidden, actions.to(last_action.dtype)]

    def get_initial_state(self) -> list[Tensor]:
        """``[hidden [N, H] of zeros, last_action [N] of -1]``."""
        agents = self.spec.num_agents
        return [torch.zeros(agents, self.leader.agent.hidden_dim), torch.full((agents,), -1.0)]

    def custom_loss(self, policy_loss: list[Tensor], loss_inputs: Any) -> list[Tensor]:
        """RLlib's hook: adds the follower's and the IDM's losses to the leader's.

        Args:
            policy_loss: ``[L_global]``.
            loss_inputs: the train batch; what the policy made of it is used instead.

        Returns:
            One loss per optimizer: ``[L_global, L_local]`` or ``[L_global, L_local, L_I]``
            (Equations 5, 7 and 8).
        """
        assert self.unrolled is not None
        batch, leader, error = self.unrolled
        self.unrolled = None
        follower = self.follower(batch.z[:-1], batch.obs[:-1])
        local, stats = self.local_loss(leader, follower, batch)
        out = [*policy_loss, local]
        if error is not None:
            out.append(losses.idm_loss(error, batch.valid))
            stats["loss_idm"] = out[-1].detach()
        self.tower_stats.update(stats)
        return out

    def local_loss(self, leader: AgentOutput, follower: AgentOutput, batch: TrainBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """``L_local = L_B + L_Q + L_F``, each with its coefficient (Equations 6 and 7).

        Args:
            leader: its unroll over at least T steps; detached in the losses.
            follower: its unroll over T steps.
            batch: the batch that both were unrolled on.

        Returns:
            L_local, and the three losses as statistics. A loss with coefficient 0 is not computed.
        """
        steps = len(batch.actions)
        terms = {
            "loss_block": lambda: losses.block_loss(follower.fused, leader.fused[:steps], batch.valid),
            "loss_q": lambda: losses.q_loss(
                follower.q, leader.q[:steps], batch.action_mask[:steps], batch.valid, self.temperature
            ),
            "loss_feature": lambda: losses.feature_loss(follower.features, leader.features[:steps], batch.valid),
        }
        # An empty sum that is still a function of the follower, so that all three may be off.
        total = follower.q.sum() * 0.0
        stats = {}
        for (name, term), coeff in zip(terms.items(), self.loss_coeffs, strict=True):
            if coeff:
                value = term()
                total = total + coeff * value
                stats[name] = value.detach()
        return total, stats

    def update_target(self) -> None:
        """Hard copy of leader and mixer into their targets."""
        self.target_leader.load_state_dict(self.leader.state_dict())
        self.target_mixer.load_state_dict(self.mixer.state_dict())
