"""Options of PyMARL, PyMARL2, EPyMARL and of RLlib's former QMIX and DQN, and what they are called here.

One table serves docs/from_pymarl.md (``python scripts/document.py`` copies it) and the hints at unknown config keys.
"""

from __future__ import annotations

import re

TABLE = """\
| option | here |
| --- | --- |
| `--config=qmix`, `name` | `--algo QMIX`, or `run: QMIX` in a file |
| `--env-config`, `env_args`, `map_name` | `--env smac --env-config '{"map_name": "3s5z"}'`; `env` and `env_config` in a file |
| `t_max`, `timesteps_total` | `--stop '{"timesteps_total": 2000000}'` |
| `runner: parallel`, `batch_size_run` | `num_envs_per_env_runner`, the episodes that one process samples at once; `num_env_runners`, processes |
| `batch_size`, `replay_batch_size` | `train_batch_size`, in episodes likewise |
| `buffer_size`, `replay_buffer_size`, `capacity` | `replay_buffer_config={"capacity": 5000}`, in episodes likewise |
| `training_intensity` (RLlib), one update a run of the parallel runner | `updates_per_episode`, 1 / `batch_size_run` for the same |
| `learning_starts`, `num_steps_sampled_before_learning_starts` (RLlib) | learning starts with `train_batch_size` episodes |
| `buffer_cpu_only` | always |
| `lr`, `gamma`, `td_lambda` (PyMARL2), `double_q`, `seed` | the same |
| `agent_lr` | `lr`, a number or a schedule |
| `optim_alpha`, `optim_eps`, `optim` | `optimizer={"type": "rmsprop", "alpha": 0.99, "eps": 1e-5}` |
| `optimizer: adam` (PyMARL2) | `optimizer="adam"` |
| `grad_norm_clip` | `grad_clip` |
| `n_step` (RLlib) | `td_lambda` looks further ahead than one step |
| `target_update_interval`, `target_network_update_freq`, `target_update_freq` (RLlib) | `target_update_interval_episodes`; or `target_update_interval_updates`, in updates |
| `target_update_interval_or_tau` (EPyMARL) | above 1 `target_update_interval_updates`; below 1 `tau`, with `target_update_interval_updates=1` |
| `action_selector`, `epsilon_start`, `epsilon_finish`, `epsilon_anneal_time` | `exploration_config={"initial_epsilon": 1.0, "final_epsilon": 0.05, "epsilon_timesteps": 50000}` |
| `epsilon`, `initial_epsilon`, `final_epsilon`, `epsilon_timesteps` (RLlib) | entries of `exploration_config` |
| `mixer` | `mixer` of DDN; VDN, QMIX and the others alone are algorithms of their own |
| `mixing_embed_dim`, `hypernet_embed`, `hypernet_layers` | `mixer_config={"embed_dim": 32, "hypernet_dim": 64}`; hypernetworks have two layers |
| `agent: rnn`, `rnn_hidden_dim`, `hidden_dim`, `model` (RLlib) | `agent_hidden_dim`; the agent network is always a GRU, and DDN's `state_fusion` chooses its leader |
| `obs_agent_id`, `obs_last_action` | agent networks always see both |
| `mac`, `learner`, `agent_output_type` | follow from the algorithm, such as `--algo QMIX` |
| `test_interval` | `min_sample_timesteps_per_iteration` times `evaluation_interval` |
| `test_nepisode`, `evaluation_num_episodes` (RLlib) | `evaluation_duration` |
| `test_greedy` | evaluations are always greedy |
| `log_interval`, `runner_log_interval`, `learner_log_interval` | every iteration of `min_sample_timesteps_per_iteration` env steps |
| `use_tensorboard`, `local_results_path` | always, below `--storage-path` |
| `save_model`, `save_model_interval` | every two minutes and at the end; `--checkpoint-freq` counts iterations |
| `checkpoint_path`, `load_step` | `--restore CHECKPOINT`; `--resume` for the newest |
| `evaluate`, `save_replay` | `rllib evaluate CHECKPOINT`, with `--save-replay` for StarCraft II's replays |
| `use_cuda` | `num_gpus=1` |
| `repeat_id` | `seed={"grid_search": [1, 2, 3]}` |
| `common_reward`, `reward_scalarisation` (EPyMARL) | `env_config={"team_reward": "sum"}` of `"pettingzoo"`, or `"mean"` |
| `standardise_rewards` (EPyMARL) | not supported: scale the env's reward |
| `..._ns`: a network for each agent (EPyMARL) | not supported: one network serves all agents, told apart by their id |
"""


def _hints() -> dict[str, str]:
    found: dict[str, str] = {}
    for row in TABLE.splitlines()[2:]:
        options, here = row.strip("| ").split(" | ")
        found |= {name: here.replace("`", "") for name in re.findall(r"`(\w+)", options)}
    return found


HINTS = _hints()  # by option, without Markdown
