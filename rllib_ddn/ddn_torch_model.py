"""The model of DDN: leader, follower, mixer and IDM in one ``TorchModelV2``."""

from __future__ import annotations

import copy
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, NamedTuple

import torch
from ray.rllib.models.torch.torch_modelv2 import TorchModelV2
from torch import Tensor, nn

from rllib_ddn import losses
from rllib_ddn.networks import (
    MIXERS,
    AgentOutput,
    GlobalGuidingNetwork,
    InternalDistillationModule,
    LocalAgentNetwork,
    LocalInput,
    LocalPolicyNetwork,
    Mixer,
    TeamSizes,
    TeamValues,
    greedy_actions,
)
from rllib_ddn.overlap import OverlappedLoss
from rllib_ddn.team import TeamSpec

LEADER, FOLLOWER = NETWORKS = ("leader", "follower")
AGENT = "agent"  # the only network of a host without distillation
MIXTURE = "mixture"  # leader or follower, a new choice for each round


LocalLoss = Callable[[], tuple[Tensor, dict[str, Tensor]]]


class TrainBatch(NamedTuple):
    """The steps of a batch of episodes as rows of tensors, with what the losses share.

    The M rows are packed for the GRU: all episodes' step 0, then all episodes' step 1, and so on,
    the longest episodes first. An episode of T steps has T + 1 rows; its last is the final
    observation, which no action follows.

    Attributes:
        obs: ``[M, N, O]``, a part of z.
        state: ``[M, S]``.
        z: ``[M, N, Z]``, the local information ``(o_i, u_i, i)``.
        action_mask: ``[M, N, A]`` bool.
        actions: ``[M, N]`` int64.
        rewards: ``[M]``.
        terminated: ``[M]``, 1 at the last step of episodes that terminated.
        valid: ``[M]``, 1 at steps, 0 at final observations (and padding).
        keep: ``[M]``, the mask m of the intrinsic reward.
        next: ``[M]`` int64, the row of the following time step; of a row without one, its own.
        batch_sizes: ``[T + 1]`` int64 on the CPU, number of episodes at each step.
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
    next: Tensor
    batch_sizes: Tensor

    def team(self, out: AgentOutput, actions: Tensor) -> TeamValues:
        """A network's values of the batch and a joint action ``[M, N]``, as mixers take them."""
        return TeamValues(out.q, actions, self.action_mask, self.state, self.z, out.histories, self.batch_sizes)


class DDNTorchModel(TorchModelV2, nn.Module):
    """Leader (GGN) with mixer and their targets, follower (LPN), and IDM (paper, Figure 1).

    Without distillation, a plain agent network stands in the leader's place, and there is no follower.

    Registered in RLlib's model catalog as ``"ddn"``. Its sizes come from the team's spaces (see
    :class:`rllib_ddn.team.TeamSpec`), its options from ``DDNConfig.training()``, where
    they are explained.

    The state of a recurrent policy is ``[hidden [N, H], last_action [N]]``.
    """

    tower_stats: dict[str, Tensor]

    def __init__(
        self,
        obs_space: Any,
        action_space: Any,
        num_outputs: int,
        model_config: dict[str, Any],
        name: str,
        *,
        mixer: str | type[Mixer] = "qmix",
        mixer_config: dict[str, Any] | None = None,
        state_fusion: str = "personalized",
        fusion_embed_dim: int = 32,
        fusion_hyper_dim: int = 16,
        agent_hidden_dim: int = 64,
        intrinsic_reward: bool = True,
        normalize_intrinsic_reward: bool = False,
        loss_coeffs: tuple[float, float, float] = (1.0, 1.0, 1.0),
        distillation: bool = True,
        q_loss: str = "kl",
        distillation_temperature: float = 1.0,
        follower_agent: str = "own",
        behaviour_network: str = FOLLOWER,
    ):
        TorchModelV2.__init__(self, obs_space, action_space, num_outputs, model_config, name)
        nn.Module.__init__(self)
        self.spec = spec = TeamSpec.from_spaces(obs_space, action_space)
        self.loss_coeffs, self.temperature = loss_coeffs, distillation_temperature
        self.q_loss = losses.Q_LOSSES[q_loss]
        self.behaviour_network = FOLLOWER if behaviour_network == MIXTURE else behaviour_network

        self.local_input = LocalInput(spec.num_agents, spec.num_actions, spec.obs_dim)
        options: dict[str, Any] = {
            "state_fusion": state_fusion,
            "embed_dim": fusion_embed_dim,
            "hyper_dim": fusion_hyper_dim,
            "hidden_dim": agent_hidden_dim,
        }
        local_dim, actions = self.local_input.dim, spec.num_actions
        self.leader: GlobalGuidingNetwork | LocalAgentNetwork = (
            GlobalGuidingNetwork(spec.state_dim, local_dim, actions, **options)
            if distillation
            else LocalAgentNetwork(local_dim, actions, agent_hidden_dim)
        )
        self.follower = LocalPolicyNetwork(spec.obs_dim, local_dim, actions, **options) if distillation else None
        if self.follower is not None and follower_agent == "leader":
            assert isinstance(self.leader, GlobalGuidingNetwork)
            self.follower.agent = self.leader.agent  # one network: the follower has a fusion block of its own only
        mixer_class = MIXERS[mixer] if isinstance(mixer, str) else mixer
        sizes = TeamSizes(spec.num_agents, actions, spec.state_dim, local_dim, agent_hidden_dim)
        self.mixer = mixer_class(sizes, **(mixer_config or {}))
        self.target_leader = copy.deepcopy(self.leader).requires_grad_(False)
        self.target_mixer = copy.deepcopy(self.mixer).requires_grad_(False)
        # Made last, so that the other networks start alike with and without it.
        self.idm = InternalDistillationModule(spec.state_dim, normalize=normalize_intrinsic_reward) if intrinsic_reward else None
        # Set by the learner where it has two cores or more: the follower learns beside the leader.
        self.overlap = False
        # In the second of two stages the leader stays as it is, in the first it learns alone.
        self.leader_learns = self.follower_learns = True
        # What Policy.loss() began, for custom_loss() right after it.
        self.begun: tuple[TrainBatch, LocalLoss | None, Tensor | None] | None = None

    def to_train_batch(self, batch: Any, pack: bool | None = None) -> TrainBatch:
        """Turns an episode-major batch into a :class:`TrainBatch`.

        Args:
            batch: the fields of :mod:`rllib_ddn.replay` and ``keep`` ``[B, T]``, as tensors.
            pack: whether to leave padding out, by default on a CPU. On a GPU all episodes are taken to
                be as long as the longest, and ``valid`` masks their padding: there, waiting for the
                lengths would cost more than computing the padding does.
        """
        length = batch["length"].long()  # [B]
        device, (rows, steps) = length.device, batch["rewards"].shape
        time = torch.arange(steps + 1, device=device).unsqueeze(1)  # [T + 1, 1]
        if device.type == "cpu" if pack is None else pack:
            length, order = torch.sort(length, descending=True, stable=True)
            exists = time <= length  # [T + 1, B]
            t, b = exists.nonzero(as_tuple=True)  # [M], [M]
            batch_sizes = exists.sum(1)
        else:
            order = torch.arange(rows, device=device)
            t, b = time.repeat(1, rows).flatten(), order.repeat(steps + 1)
            batch_sizes = torch.full((steps + 1,), rows)
        episode, length = order[b], length[b]  # [M], [M]
        step = t.clamp(max=steps - 1)  # final observations have no action; any will do
        valid = t < length
        last_action = torch.where(t.unsqueeze(1) > 0, batch["actions"][episode, (t - 1).clamp(min=0)].long(), -1)  # [M, N]
        # The next step of the b-th longest episode is the b-th row among those of the next step.
        starts = torch.nn.functional.pad(batch_sizes.cumsum(0), (1, 0)).to(device)  # [T + 2]
        following = torch.where(valid, starts[t + 1] + b, torch.arange(len(t), device=device))
        z = self.local_input(batch["obs"][episode, t], last_action)
        return TrainBatch(
            obs=z[..., : self.spec.obs_dim],
            state=batch["state"][episode, t].float(),
            z=z,
            # Padding, where there is any, has masks of zeros; nothing that follows from them is used.
            action_mask=batch["action_mask"][episode, t],
            actions=batch["actions"][episode, step].long(),
            rewards=batch["rewards"][episode, step].float(),
            terminated=(batch["terminated"][episode] & (t == length - 1)).float(),
            valid=valid.float(),
            keep=batch["keep"][episode, step].float(),
            next=following,
            batch_sizes=batch_sizes,
        )

    def act(
        self, network: str, obs: Tensor, state: Tensor, action_mask: Tensor, hidden: Tensor, last_action: Tensor
    ) -> tuple[Tensor, AgentOutput]:
        """One step of B teams.

        Args:
            network: "leader" or "follower" (which is not given the state); without distillation "agent".
            obs: ``[B, N, O]``, state: ``[B, S]``, action_mask: ``[B, N, A]`` bool.
            hidden: ``[B, N, H]``, last_action: ``[B, N]``, -1 before the first step.

        Returns:
            The best available actions ``[B, N]``, and the network's output for this step.
        """
        z = self.local_input(obs, last_action)
        if network == FOLLOWER:
            assert self.follower is not None
            out = self.follower(z, z[..., : self.spec.obs_dim], hidden)
        else:
            out = self.leader(z, state.float(), hidden)
        return greedy_actions(out.q, action_mask), out

    def forward(self, input_dict: dict[str, Any], state: list[Tensor], seq_lens: Tensor) -> tuple[Tensor, list[Tensor]]:
        """RLlib's call for one step: ``input_dict`` holds ``obs``, ``state`` and ``action_mask`` as
        :meth:`act` takes them, ``state`` is ``[hidden, last_action]``.

        Returns:
            Q values ``[B, N, A]`` with unavailable actions at the lowest float, and the new state.
        """
        hidden, last_action = state
        mask = input_dict["action_mask"]
        actions, out = self.act(self.behaviour_network, input_dict["obs"], input_dict["state"], mask, hidden, last_action.long())
        q = out.q.masked_fill(~mask, torch.finfo(out.q.dtype).min)
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
            One loss per optimizer: ``[L_global, L_local, L_I]`` (Equations 5, 7 and 8), of which there
            are those whose networks there are.
        """
        assert self.begun is not None
        batch, local_loss, error = self.begun
        self.begun = None
        out, stats = list(policy_loss), dict[str, Tensor]()
        if local_loss is not None:
            local, stats = local_loss()
            out.append(local)
        elif self.follower is not None:
            out.append(no_loss(self.follower_parameters()))
        if error is not None:
            out.append(losses.idm_loss(error, batch.valid))
            stats["loss_idm"] = out[-1].detach()
        self.tower_stats.update(stats)
        return out

    def follower_parameters(self) -> list[nn.Parameter]:
        """What the follower's optimizer trains: all of it, but for an agent network that is the leader's."""
        assert self.follower is not None
        shared = {id(p) for p in self.leader.parameters()}
        return [p for p in self.follower.parameters() if id(p) not in shared]

    def unroll_leader(self, batch: TrainBatch) -> tuple[AgentOutput, LocalLoss | None]:
        """Unrolls the leader over the batch, with :attr:`overlap` while the follower is unrolled, too.

        Returns:
            The leader's unroll, and a function that gives what :meth:`local_loss` does, if there is a
            follower.
        """
        if self.follower is None or not self.follower_learns:
            return self.leader(batch.z, batch.state, batch_sizes=batch.batch_sizes), None
        follower_network = self.follower
        teacher: Future[AgentOutput] = Future()

        def learn() -> tuple[Tensor, dict[str, Tensor]]:
            follower = follower_network(batch.z, batch.obs, batch_sizes=batch.batch_sizes)
            return self.local_loss(teacher.result(), follower, batch)

        local_loss = OverlappedLoss(learn, self.follower_parameters()).result if self.overlap else learn
        try:
            leader = self.leader(batch.z, batch.state, batch_sizes=batch.batch_sizes)
        except BaseException:
            teacher.cancel()
            raise
        teacher.set_result(leader)
        return leader, local_loss

    def local_loss(self, leader: AgentOutput, follower: AgentOutput, batch: TrainBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """``L_local = L_B + L_Q + L_F``, each with its coefficient (Equations 6 and 7).

        Args:
            leader: its unroll over the batch; detached in the losses.
            follower: its unroll over the batch.
            batch: the batch that both were unrolled on.

        Returns:
            L_local, and the three losses as statistics. A loss with coefficient 0 is not computed.
        """
        terms = {
            "loss_block": lambda: losses.block_loss(follower.fused, leader.fused, batch.valid),
            "loss_q": lambda: self.q_loss(follower.q, leader.q, batch.action_mask, batch.valid, self.temperature),
            "loss_feature": lambda: losses.feature_loss(follower.features, leader.features, batch.valid),
        }
        # An empty sum that is still a function of what the follower trains, so that all three may be off.
        total = no_loss(self.follower_parameters())
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


def no_loss(parameters: list[nn.Parameter]) -> Tensor:
    """A loss of 0 whose gradients are zeros: the parameters stay as they are."""
    return torch.stack([parameter.sum() for parameter in parameters]).sum() * 0.0
