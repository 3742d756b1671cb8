"""The policy of DDN: acting, the leader's loss, optimizers and postprocessing."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from ray.rllib.models import ModelCatalog
from ray.rllib.policy.sample_batch import SampleBatch
from ray.rllib.policy.torch_policy_v2 import TorchPolicyV2
from ray.rllib.utils.annotations import override
from ray.rllib.utils.metrics.learner_info import LEARNER_STATS_KEY
from torch import Tensor

from rllib_ddn import losses
from rllib_ddn.ddn_torch_model import FOLLOWER, LEADER, MIXTURE, DDNTorchModel, no_loss
from rllib_ddn.networks import InternalDistillationModule, greedy_actions
from rllib_ddn.team import OBS, TeamSpec, encode

LEARNER_STATS = (
    "loss_global",
    "loss_block",
    "loss_q",
    "loss_feature",
    "loss_idm",
    "intrinsic_reward_mean",
    "q_tot_mean",
    "target_mean",
    "grad_norm_leader",
    "grad_norm_follower",
)


class DDNTorchPolicy(TorchPolicyV2):
    """One policy for the whole team.

    Two networks can act: the one that ``behaviour_network`` names acts in training and in
    ``compute_single_action``; evaluation plays both.

    A train batch has a row per episode (see :mod:`rllib_ddn.replay`), so that RLlib's splitting
    over several GPUs splits by episodes. There is one loss per optimizer: RMSprop for leader and
    mixer, Adam for the follower, Adam for the IDM's predictor (paper, section B.3).
    """

    model: DDNTorchModel
    config: dict[str, Any]

    def __init__(self, observation_space: Any, action_space: Any, config: dict[str, Any]):
        self.spec = TeamSpec.from_spaces(observation_space, action_space)
        self._grad_norms: dict[str, Tensor] = {}
        self._rng = np.random.default_rng(config["seed"])  # explores in compute_actions() alone
        super().__init__(observation_space, action_space, config)

    @override(TorchPolicyV2)
    def make_model(self) -> DDNTorchModel:
        config = self.config
        options = {
            key: config[key]
            for key in (
                "mixer",
                "mixer_config",
                "state_fusion",
                "fusion_embed_dim",
                "fusion_hyper_dim",
                "agent_hidden_dim",
                "intrinsic_reward",
                "normalize_intrinsic_reward",
                "distillation",
                "q_loss",
                "distillation_temperature",
                "follower_agent",
                "behaviour_network",
            )
        }
        options["loss_coeffs"] = (config["block_loss_coeff"], config["q_loss_coeff"], config["feature_loss_coeff"])
        model_config = dict(config["model"])
        model_config["custom_model"] = model_config.get("custom_model") or "ddn"
        model_config["custom_model_config"] = {**options, **model_config.get("custom_model_config", {})}
        return ModelCatalog.get_model_v2(
            obs_space=self.observation_space,
            action_space=self.action_space,
            num_outputs=self.spec.num_actions,
            model_config=model_config,
            framework="torch",
            name="ddn",
        )

    @override(TorchPolicyV2)
    def optimizer(self) -> list[torch.optim.Optimizer]:
        config, model = self.config, self.model
        lr = config["lr"]
        leader = [*model.leader.parameters(), *model.mixer.parameters()]
        optimizers: list[torch.optim.Optimizer] = [torch.optim.RMSprop(leader, lr=lr, alpha=0.99, eps=1e-5)]
        if model.follower is not None:
            lpn_lr = lr if config["lpn_lr"] is None else config["lpn_lr"]
            optimizers.append(torch.optim.Adam(model.follower_parameters(), lr=lpn_lr))
        if model.idm is not None:
            idm_lr = lr if config["idm_lr"] is None else config["idm_lr"]
            optimizers.append(torch.optim.Adam(model.idm.predictor.parameters(), lr=idm_lr))
        return optimizers

    # -- Acting: Algorithm 1, lines 4 to 8 ------------------------------------------------------

    @torch.no_grad()
    def act(
        self,
        network: str,
        obs: np.ndarray,
        state: np.ndarray,
        action_mask: np.ndarray,
        memory: tuple[Tensor, Tensor],
        epsilon: float = 0.0,
        uniform: np.ndarray | None = None,
    ) -> tuple[np.ndarray, tuple[Tensor, Tensor], Tensor]:
        """Acts for B teams at once.

        Args:
            network: "leader" or "follower".
            obs: ``[B, N, O]``, state: ``[B, S]``, action_mask: ``[B, N, A]`` bool.
            memory: see :meth:`initial_memory`.
            epsilon: probability with which each agent, independently, takes a random available
                action.
            uniform: ``[B, N, 2]`` numbers in [0, 1): whether to explore, and which action.

        Returns:
            actions ``[B, N]``, the new memory, and the Q values ``[B, N, A]``.
        """
        to_tensor = lambda array: torch.from_numpy(np.ascontiguousarray(array)).to(self.device)  # noqa: E731
        greedy, out = self.model.act(network, to_tensor(obs), to_tensor(state), to_tensor(action_mask), *memory)
        actions = greedy.cpu().numpy()
        if epsilon > 0.0:
            assert uniform is not None
            actions = np.where(uniform[..., 0] < epsilon, random_available(action_mask, uniform[..., 1]), actions)
        return actions, (out.hidden, to_tensor(actions)), out.q

    def initial_memory(self, num_teams: int) -> tuple[Tensor, Tensor]:
        """What a team remembers before its first step: hidden ``[B, N, H]``, last action ``[B, N]``."""
        hidden, last_action = self.model.get_initial_state()
        repeat = lambda x: x.expand(num_teams, *x.shape).to(self.device)  # noqa: E731
        return repeat(hidden), repeat(last_action.long())

    def epsilon(self, timestep: int) -> float:
        """The exploration probability after ``timestep`` env steps of the whole algorithm."""
        return float(self.exploration.epsilon_schedule(timestep))

    @override(TorchPolicyV2)
    def compute_actions_from_input_dict(
        self, input_dict: dict[str, Any], explore: bool | None = None, timestep: int | None = None, **kwargs: Any
    ) -> tuple[tuple[np.ndarray, ...], list[np.ndarray], dict[str, np.ndarray]]:
        """Acts on batched team observations as the env gives them.

        Args:
            input_dict: ``obs``, the (batched) observations of the Tuple space, which for the follower
                may lack the state; ``state_in_0`` and ``state_in_1``, the recurrent state (missing: a new
                episode begins).
            explore: whether to explore; default: the config's.
            timestep: env steps so far, for epsilon; default: the policy's count.
            kwargs: ``network="leader"`` or ``"follower"`` overrides ``behaviour_network``.

        Returns:
            One array of actions ``[B]`` per agent, the new recurrent state ``[hidden [B, N, H],
            last_action [B, N]]``, and the extra output ``{"q_values": [B, N, A]}``.
        """
        network = kwargs.get("network") or self.model.behaviour_network
        obs, state, mask = self._encode(input_dict[SampleBatch.OBS], needs_state=network == LEADER)
        memory = self.initial_memory(len(obs))
        if "state_in_0" in input_dict:
            hidden, last_action = (torch.as_tensor(np.asarray(input_dict[f"state_in_{i}"]), device=self.device) for i in range(2))
            memory = hidden.float(), last_action.long()
        explore = self.config["explore"] if explore is None else explore
        epsilon = self.epsilon(self.global_timestep if timestep is None else timestep) if explore else 0.0
        uniform = self._rng.random((*mask.shape[:2], 2))
        actions, (hidden, last_action), q = self.act(network, obs, state, mask, memory, epsilon, uniform)
        state_out = [hidden.cpu().numpy(), last_action.cpu().numpy().astype(np.float32)]
        return tuple(actions.T), state_out, {"q_values": q.cpu().numpy()}

    @override(TorchPolicyV2)
    def compute_actions(
        self,
        obs_batch: Any,
        state_batches: list[Any] | None = None,
        prev_action_batch: Any = None,
        prev_reward_batch: Any = None,
        info_batch: Any = None,
        episodes: Any = None,
        explore: bool | None = None,
        timestep: int | None = None,
        **kwargs: Any,
    ):
        """As :meth:`compute_actions_from_input_dict`, with the recurrent state in ``state_batches``."""
        input_dict = {SampleBatch.OBS: obs_batch}
        for i, batch in enumerate(state_batches or []):
            input_dict[f"state_in_{i}"] = batch
        return self.compute_actions_from_input_dict(input_dict, explore, timestep, **kwargs)

    def _encode(self, batched: Any, needs_state: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Batched observations of the Tuple space as obs, state and action mask."""
        agents = [agent if isinstance(agent, dict) else {OBS: agent} for agent in batched]
        rows = [
            encode([{k: v[b] for k, v in agent.items()} for agent in agents], self.observation_space, self.spec, needs_state)
            for b in range(len(agents[0][OBS]))
        ]
        obs, state, mask = map(np.stack, zip(*rows, strict=True))
        return obs, state, mask

    # -- Learning: Algorithm 1, lines 15 to 24 --------------------------------------------------

    @override(TorchPolicyV2)
    def loss(self, model: DDNTorchModel, dist_class: Any, train_batch: SampleBatch) -> list[Tensor]:
        """``[L_global]`` (Equation 5); the model's ``custom_loss`` adds the other losses."""
        batch = model.to_train_batch(train_batch)
        model.tower_stats.clear()

        with torch.set_grad_enabled(model.leader_learns):  # line 17: the leader's Q values
            leader, local_loss = model.unroll_leader(batch)

        # Line 20: the intrinsic reward, before the predictor learns from these states.
        rewards, error = batch.rewards, None
        if model.idm is not None:
            error = model.idm(batch.state)  # [M]
            if model.idm.normalize:
                model.idm.update_moments(error, batch.valid)
            intrinsic = model.idm.reward(error, batch.keep, self.config["intrinsic_reward_coeff"])
            if self.config["intrinsic_reward_stage"] == "replay":
                rewards = rewards + intrinsic  # Equation 10
            model.tower_stats["intrinsic_reward_mean"] = losses.masked_mean(intrinsic, batch.valid)

        model.begun = batch, local_loss, error
        if not model.leader_learns:
            return [no_loss([*model.leader.parameters(), *model.mixer.parameters()])]

        with torch.no_grad():  # line 19: the target
            out = model.target_leader(batch.z, batch.state, batch_sizes=batch.batch_sizes)
            # Double Q: the online leader chooses, the target leader values.
            chooser = leader if self.config["double_q"] else out
            best = greedy_actions(chooser.q, batch.action_mask)  # [M, N]
            greedy_value = model.target_mixer.bootstrap(batch.team(out, best))  # [M]
            y = losses.td_target(rewards, batch.terminated, greedy_value[batch.next], self.config["gamma"])

        loss, q_tot = model.mixer.loss(batch.team(leader, batch.actions), y, greedy_value, batch.valid)
        model.tower_stats["loss_global"] = loss.detach()
        model.tower_stats["q_tot_mean"] = losses.masked_mean(q_tot.detach(), batch.valid)
        model.tower_stats["target_mean"] = losses.masked_mean(y, batch.valid)
        return [loss]

    @override(TorchPolicyV2)
    def stats_fn(self, train_batch: SampleBatch) -> dict[str, Tensor]:
        """Means over the towers, still on the device: nothing waits for them here."""
        names = self.model_gpu_towers[0].tower_stats
        return {name: torch.stack(self.get_tower_stats(name)).mean() for name in names}

    @override(TorchPolicyV2)
    def apply_gradients(self, gradients: Any) -> None:
        """Clips each optimizer's gradients by themselves, then steps."""
        names = ["grad_norm_leader", *["grad_norm_follower"] * (self.model.follower is not None), "grad_norm_idm"]
        for name, optimizer in zip(names, self._optimizers, strict=False):
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            clip = self.config["grad_clip"]
            norm = torch.nn.utils.clip_grad_norm_(parameters, torch.inf if clip is None else clip)
            if name in LEARNER_STATS:
                self._grad_norms[name] = norm
        super().apply_gradients(gradients)

    @override(TorchPolicyV2)
    def learn_on_batch(self, postprocessed_batch: SampleBatch) -> dict[str, Any]:
        fetches = super().learn_on_batch(postprocessed_batch)
        fetches[LEARNER_STATS_KEY].update(self._grad_norms)
        return fetches

    @override(TorchPolicyV2)
    def learn_on_loaded_batch(self, offset: int = 0, buffer_index: int = 0) -> dict[str, Any]:
        fetches = super().learn_on_loaded_batch(offset, buffer_index)
        for tower in fetches.values():
            if isinstance(tower, dict) and LEARNER_STATS_KEY in tower:
                tower[LEARNER_STATS_KEY].update(self._grad_norms)
        return fetches

    def update_target(self) -> None:
        """Line 27: hard copy of leader and mixer into their targets."""
        for model in self.model_gpu_towers:
            model.update_target()

    # -- IDM postprocessing on the env runner ---------------------------------------------------

    @override(TorchPolicyV2)
    @torch.no_grad()
    def postprocess_trajectory(
        self, sample_batch: SampleBatch, other_agent_batches: Any = None, episode: Any = None
    ) -> SampleBatch:
        """Adds the intrinsic reward to one episode's rewards (Equations 9 and 10).

        Only with ``intrinsic_reward_stage="trajectory"``; the default stage takes it from the
        current predictor each time an episode is sampled from replay.

        Args:
            sample_batch: T steps of one episode with ``state [T, S]``, ``rewards [T]`` and
                ``eps_id [T]``, which seeds the mask.
            other_agent_batches: unused, there is one team.
            episode: unused.

        Returns:
            The batch, with ``rewards`` replaced and ``intrinsic_rewards [T]`` added.
        """
        idm: InternalDistillationModule | None = self.model.idm
        if idm is None or self.config["intrinsic_reward_stage"] != "trajectory":
            return sample_batch
        state = torch.from_numpy(np.asarray(sample_batch["state"], np.float32)).to(self.device)
        rng = np.random.default_rng(int(sample_batch[SampleBatch.EPS_ID][0]))
        keep = torch.from_numpy(rng.random(len(state)) < self.config["mask_probability"]).to(self.device)
        intrinsic = idm.reward(idm(state), keep.float(), self.config["intrinsic_reward_coeff"]).cpu().numpy()
        sample_batch["intrinsic_rewards"] = intrinsic
        sample_batch[SampleBatch.REWARDS] = sample_batch[SampleBatch.REWARDS] + intrinsic
        return sample_batch

    # -- Weights and checkpoints ----------------------------------------------------------------

    def get_acting_weights(self) -> dict[str, np.ndarray]:
        """The weights that env runners need to act: the behaviour network, and the IDM where the
        intrinsic reward is added on the env runner."""
        behaviour = self.config["behaviour_network"]
        parts = ["follower."] * (behaviour in (FOLLOWER, MIXTURE)) + ["leader."] * (behaviour != FOLLOWER)
        if self.config["intrinsic_reward_stage"] == "trajectory":
            parts.append("idm.")
        return {
            name: value.detach().cpu().numpy() for name, value in self.model.state_dict().items() if name.startswith(tuple(parts))
        }

    @override(TorchPolicyV2)
    def set_weights(self, weights: dict[str, Any]) -> None:
        """Takes all weights, or those of :meth:`get_acting_weights`.

        Raises:
            ValueError: the weights have other names or shapes than this model.
        """
        own = self.model.state_dict()
        how = "Build it with the env, mixer, state_fusion, network sizes and intrinsic_reward that the weights come from."
        for name in weights.keys() - own.keys():
            raise ValueError(f"the weights hold {name!r}, which this model does not have. {how}")
        for name in own.keys() - weights.keys():
            if weights.keys() != self.get_acting_weights().keys():
                raise ValueError(f"the weights lack {name!r}, which this model has. {how}")
        for name, value in weights.items():
            if tuple(value.shape) != tuple(own[name].shape):
                raise ValueError(
                    f"the weights {name!r} have the shape {tuple(value.shape)}, this model's have {tuple(own[name].shape)}. {how}"
                )
        self.model.load_state_dict({name: torch.as_tensor(np.array(value)) for name, value in weights.items()}, strict=False)

    @override(TorchPolicyV2)
    def get_state(self) -> dict[str, Any]:
        state = super().get_state()
        # Epsilon follows from the time step alone, and RLlib cannot restore this part twice.
        state.pop("_exploration_state", None)
        return state

    @override(TorchPolicyV2)
    def set_state(self, state: dict[str, Any]) -> None:
        self.set_weights(state["weights"])  # first, for its clear errors
        own_config = self.config
        super().set_state(state)
        self.config = own_config  # RLlib would take the training config into evaluation, too
        self.num_grad_updates = state["num_grad_updates"]


def random_available(action_mask: np.ndarray, uniform: np.ndarray) -> np.ndarray:
    """A uniformly random available action.

    Args:
        action_mask: ``[..., A]`` bool, at least one True in each row.
        uniform: ``[...]`` numbers in [0, 1).

    Returns:
        ``[...]`` action indices.
    """
    nth = (uniform * action_mask.sum(-1)).astype(np.int64) + 1
    return np.argmax(np.cumsum(action_mask, -1) == nth[..., None], -1)


__all__ = ["LEARNER_STATS", "DDNTorchPolicy", "random_available"]
