"""The policies: acting, and what RLlib's learner asks of one."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tree
from ray.rllib.models import ModelCatalog
from ray.rllib.policy.sample_batch import SampleBatch
from ray.rllib.policy.torch_policy_v2 import TorchPolicyV2
from ray.rllib.utils.annotations import override
from ray.rllib.utils.metrics.learner_info import LEARNER_STATS_KEY
from torch import Tensor

from rllib_ddn.learning import HOST, LEARNERS
from rllib_ddn.learning.batch import TrainBatch, make_batch
from rllib_ddn.learning.episodes import empty_episodes
from rllib_ddn.learning.optimizers import check_finite, clip_gradients, make_optimizer
from rllib_ddn.learning.update import Update, compute_update
from rllib_ddn.random_streams import seed_sequence
from rllib_ddn.rllib.export import export_policy
from rllib_ddn.rllib.model import ValueDecompositionModel, blame_custom_components
from rllib_ddn.team import OBS, TeamSpec, encode

RecurrentState = tuple[Tensor, Tensor]  # hidden [B, N, H], last action [B, N]
STEPS_PER_DEVICE = "steps_per_device"  # a column of batches for several devices: their mean number of steps


class ValueDecompositionPolicy(TorchPolicyV2):
    """One policy for the whole team.

    A train batch has a row per episode (see :mod:`rllib_ddn.learning.episodes`), so that RLlib's splitting
    over several GPUs splits by episodes. There is one loss and one optimizer per learner (see
    :mod:`rllib_ddn.learning.update`).
    """

    MODEL = "value_decomposition"

    model: ValueDecompositionModel
    config: dict[str, Any]

    def __init__(self, observation_space: Any, action_space: Any, config: dict[str, Any]):
        self.spec = TeamSpec.from_spaces(observation_space, action_space)
        self._gradient_norms: dict[str, Tensor] = {}
        self._learned: Collection[str] = ()  # who has a loss in the update under way
        self.seed_exploration(config["seed"], config.get("worker_index", 0))
        super().__init__(observation_space, action_space, config)

    def seed_exploration(self, seed: int | None, worker_index: int = 0) -> None:
        """Seeds the exploration of callers of :meth:`compute_actions`, with the seed of the run."""
        self._rng = np.random.default_rng(seed_sequence("compute_actions", seed, worker_index))

    @override(TorchPolicyV2)
    def make_model(self) -> ValueDecompositionModel:
        model_config = dict(self.config["model"])
        model_config["custom_model"] = model_config.get("custom_model") or self.MODEL
        model_config["custom_model_config"] = {"config": self.config, **model_config.get("custom_model_config", {})}
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
        return [
            make_optimizer(self.config[self.OPTIMIZER_KEYS[learner][0]], parameters, self.learning_rate(learner))
            for learner, parameters in self.model.trained().items()
        ]

    # The config keys of each learner's optimizer and learning rate.
    OPTIMIZER_KEYS: Mapping[str, tuple[str, str]] = {HOST: ("optimizer", "lr")}

    def learning_rate(self, learner: str) -> float:
        """A learner's learning rate now."""
        lr = self.config[self.OPTIMIZER_KEYS[learner][1]]
        lr = self.config["lr"] if lr is None else lr
        if isinstance(lr, (list, tuple)):
            steps, rates = zip(*lr, strict=True)
            lr = float(np.interp(self.global_timestep, steps, rates))
        return lr

    @override(TorchPolicyV2)
    def on_global_var_update(self, global_vars: dict[str, Any]) -> None:
        """Takes the number of env steps, which schedules follow."""
        super().on_global_var_update(global_vars)
        for learner, optimizer in self.optimizers.items():
            for group in optimizer.param_groups:
                group["lr"] = self.learning_rate(learner)

    @property
    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """Optimizers by learner."""
        return dict(zip(self.model.trained(), self._optimizers, strict=True))

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
            network: which network acts, of the model's ``networks``.
            obs: ``[B, N, O]``, state: ``[B, S]``, action_mask: ``[B, N, A]`` bool.
            recurrent_state: see :meth:`initial_recurrent_state`.
            epsilon: probability with which each agent, independently, takes a random available
                action.
            uniform: ``[B, N, 2]`` numbers in [0, 1): whether to explore, and which action.
            online: whether the weights are those that the optimizer moves, as in training, and not their average.

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
        """The network that acts in a round of training; ``seed`` decides where it is drawn."""
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
            kwargs: ``network``, which network acts; of DDN by default the follower, whoever acts in training.

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
        if (
            isinstance(batched, np.ndarray) and batched.dtype == object
        ):  # [B, N] of Dicts, from Algorithm.compute_actions()
            teams = [list(team) for team in batched]
        else:
            agents = [agent if isinstance(agent, dict) else {OBS: agent} for agent in batched]
            size = len(tree.flatten(agents)[0])
            teams = [[tree.map_structure(lambda part: part[b], agent) for agent in agents] for b in range(size)]  # noqa: B023
        rows = [encode(team, self.observation_space, self.spec, needs_state) for team in teams]
        obs, state, mask = map(np.stack, zip(*rows, strict=True))
        return obs, state, mask

    # -- Learning: Algorithm 1, lines 15 to 24 --------------------------------------------------

    def compute_update(
        self, model: ValueDecompositionModel, batch: TrainBatch, learners: Collection[str] = LEARNERS
    ) -> Update:
        """The losses of one update on one device."""
        return compute_update(model.host, batch, learners=learners)

    def learners(self) -> Collection[str]:
        """Who learns now."""
        return LEARNERS

    @property
    def learner_threads(self) -> int:
        """The number of torch's threads in the learner's process."""
        return int(self.config["num_cpus_for_main_process"])

    @override(TorchPolicyV2)
    def loss(self, model: ValueDecompositionModel, dist_class: Any, train_batch: SampleBatch) -> list[Tensor]:
        """The host's loss, where it learns; the model's ``custom_loss`` finds the others at the train batch."""
        batch = make_batch(train_batch, model.local_input)
        update = self.compute_update(model, batch, self.learners())
        if (
            STEPS_PER_DEVICE in train_batch
        ):  # RLlib averages over the devices, and losses are means over one device's steps
            weight = train_batch["length"].sum() / train_batch[STEPS_PER_DEVICE][0]
            weighted = (
                {name: weight * value for name, value in part.items()} for part in (update.losses, update.statistics)
            )
            update = Update(*weighted)
        train_batch.computed = update
        self._learned = tuple(update.losses)
        model.tower_stats.clear()
        model.tower_stats.update(update.statistics)
        return [update.losses[HOST]] if HOST in update.losses else []

    @override(TorchPolicyV2)
    def stats_fn(self, train_batch: SampleBatch) -> dict[str, Tensor]:
        """Means over the towers, still on the device: nothing waits for them here."""
        names = self.model_gpu_towers[0].tower_stats
        return {name: torch.stack(self.get_tower_stats(name)).mean() for name in names}

    def statistics_names(self) -> list[str]:
        """The names of all statistics of an update, found by computing one on an episode of one step."""
        episodes = {name: torch.from_numpy(array) for name, array in empty_episodes(1, 1, self.spec).items()}
        episodes["action_mask"][:], episodes["length"][:] = True, 1
        model = copy.deepcopy(self.model).to("cpu")  # a copy: running moments change
        batch = make_batch({**episodes, "uniform": torch.zeros(1, 1)}, model.local_input)
        with blame_custom_components(self.config, "a trial update"):
            names = list(self.compute_update(model, batch, LEARNERS).statistics)
        return [*names, *(f"grad_norm_{self.model.log_names[learner]}" for learner in self.model.trained())]

    def learning_rates(self) -> dict[str, float]:
        """``cur_lr`` of the host, ``cur_lr_<learner>`` of the others."""
        names = {learner: "cur_lr" if learner == HOST else f"cur_lr_{learner}" for learner in self.model.trained()}
        return {name: self.learning_rate(learner) for learner, name in names.items()}

    @override(TorchPolicyV2)
    def apply_gradients(self, gradients: Any) -> None:
        """Clips each learner's gradients by themselves, then steps.

        Raises:
            DivergenceError: a gradient is not finite; nothing is changed.
        """
        for learner, parameters in self.model.trained().items():
            if learner not in self._learned:
                for parameter in parameters:
                    parameter.grad = None  # an optimizer may move parameters whose gradients are zeros
        learned = {learner: optimizer for learner, optimizer in self.optimizers.items() if learner in self._learned}
        norms = clip_gradients(learned, self.config["grad_clip"])
        check_finite(norms, self.model.tower_stats)
        self._gradient_norms = {f"grad_norm_{self.model.log_names[learner]}": norm for learner, norm in norms.items()}
        super().apply_gradients(gradients)
        if self.model.averages is not None:
            self.model.averages.update(self.model.networks)

    @override(TorchPolicyV2)
    def learn_on_batch(self, postprocessed_batch: SampleBatch) -> dict[str, Any]:
        fetches = super().learn_on_batch(postprocessed_batch)
        self._complete(fetches[LEARNER_STATS_KEY])
        return fetches

    @override(TorchPolicyV2)
    def load_batch_into_buffer(self, batch: SampleBatch, buffer_index: int = 0) -> int:
        """Splits a batch over the devices, each of which gets as many episodes, of whatever lengths."""
        steps = batch["length"].sum() / len(self.devices)
        batch[STEPS_PER_DEVICE] = np.full(len(batch["length"]), steps, np.float32)
        return super().load_batch_into_buffer(batch, buffer_index)

    @override(TorchPolicyV2)
    def learn_on_loaded_batch(self, offset: int = 0, buffer_index: int = 0) -> dict[str, Any]:
        fetches = super().learn_on_loaded_batch(offset, buffer_index)
        for tower in fetches.values():
            if isinstance(tower, dict) and LEARNER_STATS_KEY in tower:
                self._complete(tower[LEARNER_STATS_KEY])
        return fetches

    def _complete(self, statistics: dict[str, Any]) -> None:
        statistics.update(self._gradient_norms)
        statistics.pop("allreduce_latency", None)  # RLlib's timing of distributed learners, which are not used

    def update_target(self) -> None:
        """Line 27: the targets move to their online networks, by ``tau``."""
        for model in self.model_gpu_towers:
            model.host.update_target(self.config["tau"])

    # -- Weights and checkpoints ----------------------------------------------------------------

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

        Averages need not fit: where this model has none, they are left out, and where the weights have none, they start
        from the weights.

        Raises:
            ValueError: the weights have other names or shapes than this model.
        """
        own, averages = self.model.state_dict(), self.model.averages
        if averages is None:
            weights = _without_averages(weights)
        restart = averages is not None and weights.keys() == _without_averages(own).keys()
        if restart:
            own = _without_averages(own)
        how = "Build it with the config that the weights come from: env, mixer, state_fusion, network sizes, intrinsic_reward."
        if any(name.startswith(("leader.", "target_leader.")) for name in weights):
            how = "They are of version 0.1, whose weights had other names (see CHANGELOG.md): train anew, or use that version."
        for name in weights.keys() - own.keys():
            raise ValueError(f"the weights hold {name!r}, which this model does not have. {how}")
        missing = own.keys() - weights.keys()
        for name in missing if missing and weights.keys() != self.get_acting_weights().keys() else ():
            raise ValueError(f"the weights lack {name!r}, which this model has. {how}")
        for name, value in weights.items():
            if tuple(value.shape) != tuple(own[name].shape):
                raise ValueError(
                    f"the weights {name!r} have the shape {tuple(value.shape)}, this model's have {tuple(own[name].shape)}. {how}"
                )
        self.model.load_state_dict(
            {name: torch.as_tensor(np.array(value)) for name, value in weights.items()}, strict=False
        )
        if averages is not None and restart:
            averages.restart(self.model.networks)

    def export(self, folder: str | Path, network: str | None = None, format: str = "onnx", **notes: Any) -> Path:
        """Writes a network for use without Ray, by :class:`rllib_ddn.deploy.ExportedPolicy` or by anything else.

        Args:
            folder: gets the network's file and ``policy.json``.
            network: one of the model's ``networks``; by default the follower, or a host's one network.
            format: ``"onnx"``, or ``"torch"`` for a program of ``torch.export``.
            notes: what ``policy.json`` says besides.

        Returns:
            The network's file.

        Raises:
            ValueError: see :func:`rllib_ddn.rllib.export.export_policy`.
        """
        return export_policy(self, folder, network, format, **notes)

    @override(TorchPolicyV2)
    def export_model(self, export_dir: str, onnx: int | None = None) -> None:
        """What RLlib's ``algo.export_policy_model(export_dir, onnx=opset)`` calls: see :meth:`export`."""
        export_policy(self, export_dir, file_format="torch" if onnx is None else "onnx", opset=onnx)

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
        # An optimizer of another kind has no use for the saved state, and starts afresh. The state is copied: from Ray's
        # object store its arrays are read-only, of which torch warns.
        saved = state.get("_optimizer_variables") or []
        state = {
            **state,
            "_optimizer_variables": [
                copy.deepcopy(theirs) if _kept_figures(theirs) == _kept_figures(own.state_dict()) else own.state_dict()
                for own, theirs in zip(self._optimizers, saved, strict=False)
            ],
        }
        settings = [[dict(group, params=None) for group in optimizer.param_groups] for optimizer in self._optimizers]
        super().set_state(state)
        self.config = own_config  # RLlib would take the training config into evaluation, too
        # Learning rates and the like are the config's, not the checkpoint's.
        for optimizer, groups in zip(self._optimizers, settings, strict=True):
            for group, own in zip(optimizer.param_groups, groups, strict=True):
                group.update({name: value for name, value in own.items() if name != "params"})
        self.num_grad_updates = state["num_grad_updates"]


def _without_averages(weights: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in weights.items() if not name.startswith("averages.")}


def _kept_figures(optimizer_state: dict[str, Any]) -> set[str]:
    """What distinguishes kinds of optimizers: the arguments that they have, and those that make them keep more."""
    group = optimizer_state["param_groups"][0]
    switches = {name for name in ("momentum", "centered", "amsgrad") if group.get(name)}
    return (group.keys() & {"alpha", "betas"}) | {f"with {name}" for name in switches}


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
