"""The policy of a team: acting, and what RLlib's learner asks of a policy."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import tree
from ray.rllib.models import ModelCatalog
from ray.rllib.policy.sample_batch import SampleBatch
from ray.rllib.policy.torch_policy_v2 import TorchPolicyV2
from ray.rllib.utils.annotations import override
from torch import Tensor

from rllib_ddn.checks import check_values
from rllib_ddn.learning import HOST, LEARNERS
from rllib_ddn.learning.batch import TrainBatch, make_batch
from rllib_ddn.learning.episodes import empty_episodes
from rllib_ddn.learning.optimizers import check_finite, clip_gradients, make_optimizer
from rllib_ddn.learning.update import Update, compute_update
from rllib_ddn.random_streams import seed_sequence
from rllib_ddn.rllib.export import export_network
from rllib_ddn.rllib.model import ValueDecompositionModel, blame_custom_components
from rllib_ddn.rllib.policy_state import PolicyState
from rllib_ddn.team import OBS, STATE, TeamEnvError, TeamSpec, encode, team_members

RecurrentState = tuple[Tensor, Tensor]  # hidden [B, N, H], last action [B, N]
STEPS_PER_DEVICE = "steps_per_device"  # a column of batches for several devices: their mean number of steps


class ValueDecompositionPolicy(PolicyState):
    """One policy for the whole team.

    A train batch has a row per episode (see :mod:`rllib_ddn.learning.episodes`), so that RLlib's splitting
    over several GPUs splits by episodes. There is one loss and one optimizer per learner (see
    :mod:`rllib_ddn.learning.update`), both under its name.

    Attributes:
        gradient_norms: ``grad_norm_<network>`` of the newest update, before clipping.
    """

    MODEL: ClassVar[str] = "value_decomposition"  # in RLlib's model catalog
    # The config keys of each learner's optimizer and learning rate.
    OPTIMIZER_KEYS: ClassVar[Mapping[str, tuple[str, str]]] = {HOST: ("optimizer", "lr")}

    config: dict[str, Any]

    def __init__(self, observation_space: Any, action_space: Any, config: dict[str, Any]):
        self.spec = TeamSpec.from_spaces(observation_space, action_space)
        self.gradient_norms: dict[str, Tensor] = {}
        self.seed_exploration(config["seed"], config.get("worker_index", 0))
        super().__init__(observation_space, action_space, config)

    def seed_exploration(self, seed: int | None, worker_index: int = 0) -> None:
        """Seeds the exploration of callers of :meth:`compute_actions`, with the seed of the run."""
        self._rng = np.random.default_rng(seed_sequence("compute_actions", seed, worker_index))

    @override(TorchPolicyV2)
    def make_model(self) -> ValueDecompositionModel:
        model_config = dict(self.config["model"])
        model_config |= {"custom_model": self.MODEL, "custom_model_config": {"config": self.config}}
        return ModelCatalog.get_model_v2(
            obs_space=self.observation_space,
            action_space=self.action_space,
            num_outputs=self.spec.num_actions,
            model_config=model_config,
            framework="torch",
            name=self.MODEL,
        )

    @override(TorchPolicyV2)
    def optimizer(self) -> list[torch.optim.Optimizer]:
        self.optimizers = {
            learner: make_optimizer(
                self.config[self.OPTIMIZER_KEYS[learner][0]], parameters, self.learning_rate(learner)
            )
            for learner, parameters in self.model.trained().items()
        }
        return list(self.optimizers.values())

    def learning_rate(self, learner: str) -> float:
        """A learner's learning rate after the env steps so far."""
        lr = self.config[self.OPTIMIZER_KEYS[learner][1]]
        lr = self.config["lr"] if lr is None else lr
        if isinstance(lr, (list, tuple)):
            steps, rates = zip(*lr, strict=True)
            lr = float(np.interp(self.global_timestep, steps, rates))
        return lr

    def learning_rates(self) -> dict[str, float]:
        """The learning rates by the names of their metrics: ``cur_lr`` of the host, ``cur_lr_<learner>`` of the
        others."""
        names = {learner: "cur_lr" if learner == HOST else f"cur_lr_{learner}" for learner in self.optimizers}
        return {name: self.learning_rate(learner) for learner, name in names.items()}

    @override(TorchPolicyV2)
    def on_global_var_update(self, global_vars: dict[str, Any]) -> None:
        """Takes the number of env steps, which schedules follow."""
        super().on_global_var_update(global_vars)
        for learner, optimizer in self.optimizers.items():
            for group in optimizer.param_groups:
                group["lr"] = self.learning_rate(learner)

    # -- Acting: Algorithm 1, lines 4 to 8 ------------------------------------------------------

    @torch.no_grad()
    def act(
        self,
        network: str,
        obs: np.ndarray,
        state: np.ndarray,
        action_mask: np.ndarray,
        recurrent_state: RecurrentState,
        epsilon: float = 0.0,
        uniform: np.ndarray | None = None,
        online: bool = False,
    ) -> tuple[np.ndarray, RecurrentState, Tensor]:
        """Acts for B teams at once.

        Args:
            network: the network that acts, of the model's ``networks``.
            obs: ``[B, N, O]``, state: ``[B, S]``, action_mask: ``[B, N, A]`` bool.
            recurrent_state: see :meth:`initial_recurrent_state`.
            epsilon: probability with which each agent, independently, takes a random available
                action.
            uniform: ``[B, N, 2]`` numbers in [0, 1): whether to explore, and which action.
            online: whether it acts with the optimizer's weights, as in training, and not with their averages.

        Returns:
            actions ``[B, N]``, the new recurrent state, and the Q values ``[B, N, A]``.
        """
        to_tensor = lambda array: torch.from_numpy(np.ascontiguousarray(array)).to(self.device)  # noqa: E731
        acting = (self.model.networks if online else self.model.deployed)[network]
        greedy, out = self.model.act(acting, to_tensor(obs), to_tensor(state), to_tensor(action_mask), *recurrent_state)
        actions = greedy.cpu().numpy()
        if epsilon > 0.0:
            assert uniform is not None
            actions = np.where(uniform[..., 0] < epsilon, random_available(action_mask, uniform[..., 1]), actions)
        return actions, (out.hidden, to_tensor(actions)), out.q

    def initial_recurrent_state(self, num_teams: int) -> RecurrentState:
        """The recurrent state before the first step: hidden ``[B, N, H]``, last action ``[B, N]``."""
        hidden, last_action = self.model.get_initial_state()
        repeat = lambda x: x.expand(num_teams, *x.shape).to(self.device)  # noqa: E731
        return repeat(hidden), repeat(last_action.long())

    def network_of_round(self, seed: np.random.SeedSequence) -> str:
        """The network that acts in a sampling round; ``seed`` decides where it is drawn at random."""
        return self.model.acting_network

    def epsilon(self, timestep: int) -> float:
        """The exploration probability after ``timestep`` env steps of the whole algorithm."""
        return float(self.exploration.epsilon_schedule(timestep))

    @override(TorchPolicyV2)
    def compute_actions_from_input_dict(
        self, input_dict: dict[str, Any], explore: bool | None = None, timestep: int | None = None, **kwargs: Any
    ) -> tuple[tuple[np.ndarray, ...], list[np.ndarray], dict[str, np.ndarray]]:
        """Acts on batched team observations as the env gives them.

        Args:
            input_dict: ``obs``, the (batched) observations of the Tuple space, which for a network that
                does not see the state may lack it; ``state_in_0`` and ``state_in_1``, the recurrent state
                (missing: a new episode begins).
            explore: whether to explore; default: the config's.
            timestep: env steps so far, for epsilon; default: the policy's count.
            kwargs: ``network``, the network that acts; of DDN by default the follower, whichever acts in training.

        Returns:
            One array of actions ``[B]`` per agent, the new recurrent state ``[hidden [B, N, H],
            last_action [B, N]]``, and the extra output ``{"q_values": [B, N, A]}``.
        """
        network = kwargs.get("network") or self.model.acting_network
        obs, state, mask = self._encode(input_dict[SampleBatch.OBS], self.model.networks[network].sees_state)
        recurrent_state = self.initial_recurrent_state(len(obs))
        if "state_in_0" in input_dict:
            hidden, last_action = (
                torch.as_tensor(np.asarray(input_dict[f"state_in_{i}"]), device=self.device) for i in range(2)
            )
            recurrent_state = hidden.float(), last_action.long()
        explore = self.config["explore"] if explore is None else explore
        epsilon = self.epsilon(self.global_timestep if timestep is None else timestep) if explore else 0.0
        uniform = self._rng.random((*mask.shape[:2], 2))
        actions, (hidden, last_action), q = self.act(network, obs, state, mask, recurrent_state, epsilon, uniform)
        state_out = [hidden.cpu().numpy(), last_action.cpu().numpy().astype(np.float32)]
        env_actions = actions + [space.start for space in self.action_space]
        return tuple(env_actions.T), state_out, {"q_values": q.cpu().numpy()}

    @override(TorchPolicyV2)
    def compute_actions(
        self,
        obs_batch: Any,
        state_batches: list[Any] | None = None,
        *others: Any,
        explore: bool | None = None,
        timestep: int | None = None,
        **kwargs: Any,
    ) -> tuple[tuple[np.ndarray, ...], list[np.ndarray], dict[str, np.ndarray]]:
        """As :meth:`compute_actions_from_input_dict`, with the recurrent state in ``state_batches``."""
        state = {f"state_in_{i}": batch for i, batch in enumerate(state_batches or [])}
        return self.compute_actions_from_input_dict({SampleBatch.OBS: obs_batch, **state}, explore, timestep, **kwargs)

    def _encode(self, batched: Any, needs_state: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Batched observations of the Tuple space as obs, state and action mask."""
        if isinstance(batched, np.ndarray) and batched.dtype == object:  # [B, N] Dicts, of Algorithm.compute_actions()
            teams = [list(team) for team in batched]
        else:
            agents = [agent if isinstance(agent, dict) else {OBS: agent} for agent in batched]
            size = len(tree.flatten(agents)[0])
            row = lambda agent, b: tree.map_structure(lambda part: part[b], agent)  # noqa: E731
            teams = [[row(agent, b) for agent in agents] for b in range(size)]
        members = team_members(self.observation_space, self.action_space)
        obs, mask, states = zip(*(encode(team, members, self.spec) for team in teams), strict=True)
        if states[0] is None and needs_state:
            raise TeamEnvError(f'the observation has no "{STATE}": training needs it, and a leader that acts.')
        none = np.zeros(self.spec.state_dim, self.spec.state_dtype)
        arrays = np.stack(obs), np.stack([none if state is None else state for state in states]), np.stack(mask)
        check_values(*arrays)
        return arrays

    # -- Learning: Algorithm 1, lines 15 to 24 --------------------------------------------------

    def active_learners(self) -> Collection[str]:
        """The learners that have a loss in the next update."""
        return LEARNERS

    @property
    def learner_threads(self) -> int:
        """The number of torch's threads in the learner's process."""
        return int(self.config["num_cpus_for_main_process"])

    @property
    def update_options(self) -> dict[str, Any]:
        """Further arguments of :func:`~rllib_ddn.learning.update.compute_update`."""
        return {}

    @override(TorchPolicyV2)
    def loss(self, model: ValueDecompositionModel, dist_class: Any, train_batch: SampleBatch) -> list[Tensor]:
        """Computes the update of one device, which ``model.update`` then holds.

        Returns:
            The host's loss, if it learns; the model's ``custom_loss()`` adds the other learners'.
        """
        batch = make_batch(train_batch, model.local_input)
        model.update = self.compute_update(model, batch, self.active_learners())
        if STEPS_PER_DEVICE in train_batch:  # RLlib averages over the devices, a loss is a mean over one device's steps
            weight = train_batch["length"].sum() / train_batch[STEPS_PER_DEVICE][0]
            weighted = lambda part: {name: weight * value for name, value in part.items()}  # noqa: E731
            model.update = Update(weighted(model.update.losses), weighted(model.update.statistics))
        return [model.update.losses[HOST]] if HOST in model.update.losses else []

    def compute_update(
        self, model: ValueDecompositionModel, batch: TrainBatch, learners: Collection[str] = LEARNERS
    ) -> Update:
        """The update of a batch on one device: losses and statistics of the active learners."""
        return compute_update(
            model.host, batch, model.distillation, model.intrinsic, learners=learners, **self.update_options
        )

    @override(TorchPolicyV2)
    def stats_fn(self, train_batch: SampleBatch) -> dict[str, Tensor]:
        """The statistics of the update, means over the devices. They stay on the device: nothing waits for them
        here."""
        of_devices = [model.update.statistics for model in self.model_gpu_towers]
        return {
            name: torch.stack([statistics[name].to(self.device) for statistics in of_devices]).mean()
            for name in of_devices[0]
        }

    def statistics_names(self) -> list[str]:
        """The names of all statistics of an update, found by computing one on an episode of one step."""
        episodes = {name: torch.from_numpy(array) for name, array in empty_episodes(1, 1, self.spec).items()}
        episodes["action_mask"][:], episodes["length"][:] = True, 1
        model = copy.deepcopy(self.model).to("cpu")  # a copy: running moments change
        batch = make_batch({**episodes, "uniform": torch.zeros(1, 1)}, model.local_input)
        with blame_custom_components(self.config, "a trial update"):
            names = list(self.compute_update(model, batch).statistics)
        return [*names, *map(self._norm_name, self.optimizers)]

    def _norm_name(self, learner: str) -> str:
        return f"grad_norm_{self.model.log_names[learner]}"

    @override(TorchPolicyV2)
    def apply_gradients(self, gradients: Any) -> None:
        """Clips each learner's gradients by themselves, steps its optimizer, and moves the averaged weights.

        Raises:
            DivergenceError: a gradient is not finite; nothing is changed.
        """
        learned = {name: self.optimizers[name] for name in self.optimizers if name in self.model.update.losses}
        for model in self.model_gpu_towers:
            model.update = Update(statistics=model.update.statistics)  # the losses hold all that backward() needed
        for learner, parameters in self.model.trained().items():
            if learner not in learned:
                for parameter in parameters:
                    parameter.grad = None  # an optimizer may move parameters whose gradients are zeros
        norms = clip_gradients(learned, self.config["grad_clip"])
        check_finite(norms, self.model.update.statistics)
        self.gradient_norms = {self._norm_name(learner): norm for learner, norm in norms.items()}
        super().apply_gradients(gradients)
        if self.model.averages is not None:
            self.model.averages.update(self.model.networks)

    @override(TorchPolicyV2)
    def load_batch_into_buffer(self, batch: SampleBatch, buffer_index: int = 0) -> int:
        """Splits a batch over the devices, the same number of episodes for each, whatever their lengths."""
        steps = batch["length"].sum() / len(self.devices)
        batch[STEPS_PER_DEVICE] = np.full(len(batch["length"]), steps, np.float32)
        return super().load_batch_into_buffer(batch, buffer_index)

    def update_target(self) -> None:
        """Line 27: the targets move to their online networks, by ``tau``."""
        for model in self.model_gpu_towers:
            model.host.update_target(self.config["tau"])

    # -- Export ---------------------------------------------------------------------------------

    def export(
        self,
        folder: str | Path,
        network: str | None = None,
        format: str = "onnx",
        opset: int | None = None,
        **notes: Any,
    ) -> Path:
        """Writes a network for use without Ray, by :class:`rllib_ddn.deploy.ExportedPolicy` or any other program: see
        :func:`rllib_ddn.rllib.export.export_network`."""
        notes = {"env_steps": self.global_timestep, **notes}
        return export_network(self.model, self.config, folder, network, format, opset, **notes)

    @override(TorchPolicyV2)
    def export_model(self, export_dir: str, onnx: int | None = None) -> None:
        """RLlib's hook of ``algo.export_policy_model(export_dir, onnx=opset)``: see :meth:`export`."""
        self.export(export_dir, format="torch" if onnx is None else "onnx", opset=onnx)


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
