"""DDN's policy: which network acts, the active learners, and the intrinsic reward on the env runner."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import torch
from ray.rllib.policy.sample_batch import SampleBatch
from ray.rllib.policy.torch_policy_v2 import TorchPolicyV2
from ray.rllib.utils.annotations import override

from rllib_ddn.learning import FOLLOWER, HOST, INTRINSIC, LEADER, LEARNERS
from rllib_ddn.learning.batch import TrainBatch, make_batch
from rllib_ddn.learning.executor import Executor, concurrent, sequential
from rllib_ddn.random_streams import seed_sequence
from rllib_ddn.rllib.model import MIXTURE, DDNTorchModel
from rllib_ddn.rllib.policy import ValueDecompositionPolicy


class DDNTorchPolicy(ValueDecompositionPolicy):
    """DDN's policy. ``behaviour_network`` names the network that acts in training; the follower acts in
    ``compute_single_action()``, and evaluation plays both.

    Attributes:
        executor: how leader and follower share the learner's cores (see :mod:`rllib_ddn.learning.executor`).
    """

    MODEL = "ddn"
    OPTIMIZER_KEYS = {
        HOST: ("optimizer", "lr"),
        FOLLOWER: ("follower_optimizer", "follower_lr"),
        INTRINSIC: ("intrinsic_optimizer", "intrinsic_lr"),
    }

    model: DDNTorchModel

    def __init__(self, observation_space: Any, action_space: Any, config: dict[str, Any]):
        super().__init__(observation_space, action_space, config)
        both_learn = config["leader_timesteps"] is None and bool(self.model.distillation.terms)  # in one update
        overlap = both_learn and config["num_cpus_for_main_process"] > 1 and self.device.type == "cpu"
        normalizes = self.model.intrinsic is not None and self.model.intrinsic.normalize
        self._observes_whole_batches = len(self.devices) > 1 and normalizes
        self.executor: Executor = concurrent if overlap else sequential

    @override(ValueDecompositionPolicy)
    def network_of_round(self, seed: np.random.SeedSequence) -> str:
        """The ``behaviour_network``; of a "mixture" the leader with a probability that falls from 1 to 0."""
        if self.config["behaviour_network"] != MIXTURE:
            return self.config["behaviour_network"]
        probability = 1.0 - self.global_timestep / self.config["mixture_timesteps"]
        return LEADER if np.random.default_rng(seed).random() < probability else FOLLOWER

    @property
    def learner_threads(self) -> int:
        """Where the follower learns beside the leader, each gets half of the cores."""
        cores = super().learner_threads
        return cores if self.executor is sequential else cores // 2

    @override(ValueDecompositionPolicy)
    def active_learners(self) -> Collection[str]:
        """All, the follower in every ``follower_update_interval``-th update; or with ``leader_timesteps`` the leader
        first and then the follower, and the intrinsic reward in both stages."""
        first_stage = self.config["leader_timesteps"]
        if first_stage is None:
            waits = self.num_grad_updates % self.config["follower_update_interval"]
            return (HOST, INTRINSIC) if waits else LEARNERS
        return (HOST if self.global_timestep <= first_stage else FOLLOWER, INTRINSIC)

    @property
    def update_options(self) -> dict[str, Any]:
        return {
            "add_intrinsic_reward": self.config["intrinsic_reward_stage"] == "replay",
            "observe": not self._observes_whole_batches,
            "executor": self.executor,
        }

    @override(ValueDecompositionPolicy)
    def load_batch_into_buffer(self, batch: SampleBatch, buffer_index: int = 0) -> int:
        if self._observes_whole_batches and self.model.intrinsic is not None:  # each device sees a part
            whole = {name: torch.from_numpy(np.asarray(array)).to(self.device) for name, array in batch.items()}
            self.model.intrinsic.observe(make_batch(whole, self.model.local_input))
        return super().load_batch_into_buffer(batch, buffer_index)

    @override(ValueDecompositionPolicy)
    def acting_parts(self) -> tuple[str, ...]:
        prefixes = {LEADER: ("host.agent.",), FOLLOWER: ("distillation.follower.",)}
        behaviour = self.config["behaviour_network"]
        acting = prefixes[LEADER] + prefixes[FOLLOWER] if behaviour == MIXTURE else prefixes[behaviour]
        return (*acting, *["intrinsic."] * (self.config["intrinsic_reward_stage"] == "trajectory"))

    @override(TorchPolicyV2)
    def postprocess_trajectory(
        self, sample_batch: SampleBatch, other_agent_batches: Any = None, episode: Any = None
    ) -> SampleBatch:
        """Adds the intrinsic reward to one episode's rewards (Equations 9 and 10), on the env runner.

        Only with ``intrinsic_reward_stage="trajectory"``; the default stage takes it from the
        current predictor each time an episode is sampled from replay.

        Args:
            sample_batch: T steps of one episode: ``obs [T, N, O]``, ``state [T, S]``, ``action_mask
                [T, N, A]``, the same of the following steps as ``new_...``, ``actions [T, N]``,
                ``rewards [T]``, and ``eps_id [T]``, which seeds the mask.
            other_agent_batches: unused, there is one team.
            episode: RLlib's of these steps, whose metrics get the mean intrinsic reward of a step; may be None.

        Returns:
            The batch, with ``rewards`` replaced and ``intrinsic_rewards [T]`` added.
        """
        intrinsic = self.model.intrinsic
        if intrinsic is None or self.config["intrinsic_reward_stage"] != "trajectory":
            return sample_batch
        reward = intrinsic.reward(self._batch_of_trajectory(sample_batch))[:-1].cpu().numpy()
        sample_batch["intrinsic_rewards"] = reward
        if episode is not None:
            episode.custom_metrics["intrinsic_reward"] = float(reward.mean())
        sample_batch[SampleBatch.REWARDS] = sample_batch[SampleBatch.REWARDS] + reward
        return sample_batch

    def _batch_of_trajectory(self, steps: Mapping[str, np.ndarray]) -> TrainBatch:
        """One episode as a train batch of T + 1 rows."""
        length = len(steps["rewards"])
        episodes = {
            name: np.concatenate([steps[name], steps[f"new_{name}"][-1:]]) for name in ("obs", "state", "action_mask")
        }
        episodes |= {name: np.asarray(steps[name]) for name in ("actions", "rewards")}
        seed = seed_sequence("intrinsic_reward_mask", int(steps[SampleBatch.EPS_ID][0]))
        episodes["uniform"] = np.random.default_rng(seed).random(length)
        episodes["terminated"], episodes["length"] = np.asarray(steps[SampleBatch.TERMINATEDS][-1]), np.array(length)
        tensors = {name: torch.from_numpy(array[None]).to(self.device) for name, array in episodes.items()}
        return make_batch(tensors, self.model.local_input)
