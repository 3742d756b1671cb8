#!/usr/bin/env bash
# Package:  xuance 1.4.4, its learners of QMIX, VDN, QTRAN and IQL without a recurrent network (use_rnn: False).
# Promised: with use_actions_mask an environment says by avail_actions() which actions each agent has, and the comment
#           on double_q in its files of settings says that it is double Q learning: the online network chooses the
#           next action among those that are available then, and the target network values it.
# Happens:  the next action is chosen by the mask of the current step, while values are masked by that of the next
#           one. Where the choice is not available in the next step, the value that is bootstrapped from is -1e10. In
#           an environment whose available actions alternate this is so in nearly every step, and VDN's first loss is
#           above 1e20. QMIX's loss looks harmless, for its mixer's ELU flattens -1e10, but its targets say nothing
#           about the next state. With double_q: False, and with a recurrent network, the masks are right.
# Matters:  results of these learners on environments with masks are not those of the algorithms.
# Upstream: no issue was found.
#
# Exits with 0 if this still happens, with 1 if it has changed. Most of its time goes into installing torch, whose CPU
# build is enough.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 numpy==1.26.4 gymnasium==1.2.2 scipy==1.17.1 pyyaml==6.0.3 \
    tensorboard==2.21.0 tqdm==4.70.1 pyglet==1.5.15 opencv-python-headless==4.10.0.84 wandb==0.30.0
"$work/venv/bin/pip" install --quiet --no-deps xuance==1.4.4
cd "$work"
"$work/venv/bin/python" -W ignore - 2>stderr <<'EOF' || { status=$?; tail -n 3 stderr; exit $status; }
import sys
from argparse import Namespace
from importlib.metadata import version

import numpy as np
import torch
from gymnasium.spaces import Box, Discrete
from xuance.common import MultiAgentBaseCallback
from xuance.environment import REGISTRY_MULTI_AGENT_ENV, RawMultiAgentEnv, make_envs
from xuance.torch.agents import REGISTRY_Agents


class Alternating(RawMultiAgentEnv):
    """Actions 0 and 1 are available at even steps, 2 and 3 at odd ones. Every step pays 1; episodes have 10."""

    def __init__(self, config):
        super().__init__()
        self.env_id, self.agents, self.num_agents, self.max_episode_steps = "alternating", ["a", "b"], 2, 10
        self.state_space = Box(0, 1, (1,), np.float32)
        self.observation_space = dict.fromkeys(self.agents, self.state_space)
        self.action_space = dict.fromkeys(self.agents, Discrete(4))
        self.time = 0

    def state(self):
        return np.array([self.time % 2], np.float32)

    def avail_actions(self):
        return {agent: np.arange(4) // 2 == self.time % 2 for agent in self.agents}

    def reset(self, **kwargs):
        self.time = 0
        return dict.fromkeys(self.agents, self.state()), {}

    def step(self, actions):
        assert all(self.avail_actions()[agent][action] for agent, action in actions.items())
        self.time += 1
        over = self.time == self.max_episode_steps
        observations, rewards = dict.fromkeys(self.agents, self.state()), dict.fromkeys(self.agents, 1.0)
        return observations, rewards, dict.fromkeys(self.agents, over), False, {}

    def render(self, *args):
        pass

    def close(self):
        pass


class NextValues(MultiAgentBaseCallback):
    """Keeps the agents' next values, which the update bootstraps from."""

    def on_update_agent_wise(self, iterations, model_key, **kwargs):
        self.values = kwargs["q_next_a"][model_key].detach()
        return {}


REGISTRY_MULTI_AGENT_ENV["alternating"] = Alternating


def update(algorithm, double_q):
    """Loss of one update after 60 random steps, and the share of next values that are those of forbidden actions."""
    settings = Namespace(
        agent=algorithm, learner=f"{algorithm}_Learner", policy="Mixing_Q_network", representation="Basic_MLP",
        env_name="alternating", env_id="alternating", env_seed=1, seed=1, vectorize="DummyVecMultiAgentEnv",
        parallels=1, device="cpu", runner="MARL", use_rnn=False, use_parameter_sharing=True,
        use_actions_mask=True, activation="relu",
        representation_hidden_size=[16], q_hidden_size=[16], hidden_dim_mixing_net=8, hidden_dim_hyper_net=8,
        double_q=double_q, gamma=0.99, learning_rate=0.001, batch_size=32, buffer_size=1000, n_epochs=1,
        start_greedy=1.0, end_greedy=1.0, decay_step_greedy=1000, start_training=10**6, training_frequency=1,
        sync_frequency=100, use_grad_clip=False, grad_clip_norm=0.5, running_steps=1000, eval_interval=10**6,
        test_episode=1, log_dir="logs/", model_dir="models/", project_name="findings", logger="tensorboard",
        wandb_user_name="", fps=1,
        render=False, render_mode="rgb_array", test_mode=False, distributed_training=False, dl_toolbox="torch",
    )
    envs = make_envs(settings)
    envs.reset()
    torch.manual_seed(1)
    agents = REGISTRY_Agents[algorithm](settings, envs)
    agents.learner.callback = seen = NextValues()
    agents.train(60)
    loss = agents.train_epochs(1)["loss_Q"]
    return loss, (seen.values < -1e9).float().mean().item()


print(f"xuance {version('xuance')}, available actions alternate, first update")
print("expected: no next value is that of an action that is not available then")
forbidden = {}
for algorithm in ("VDN", "QMIX"):
    for double_q in (True, False):
        loss, share = update(algorithm, double_q)
        forbidden[algorithm, double_q] = share
        seen = f"{algorithm:4} double_q {double_q!s:5} loss {loss:9.3g}"
        print(f"seen:     {seen}, next values of forbidden actions: {share:.0%}")
sys.exit(0 if all((share > 0.9) == double_q for (_, double_q), share in forbidden.items()) else 1)
EOF
