"""The yardstick of the benchmarks: QMIX's update in plain torch, one time step after the other.

This is how value decomposition is usually written: the agent network is called once a step on all
agents of all episodes, for the online and for the target network, and autograd does the rest. It
uses nothing of this package.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn


class StepwiseAgent(nn.Module):
    """MLP, GRU cell, Q values, for one time step of ``[R, inputs]`` rows."""

    def __init__(self, inputs: int, actions: int, hidden: int = 64):
        super().__init__()
        self.first, self.cell, self.last = (
            nn.Linear(inputs, hidden),
            nn.GRUCell(hidden, hidden),
            nn.Linear(hidden, actions),
        )

    def unroll(self, inputs: Tensor) -> Tensor:
        """inputs ``[B, T, N, I]``; returns Q values ``[B, T, N, A]``."""
        episodes, steps, agents, _ = inputs.shape
        hidden = inputs.new_zeros(episodes * agents, self.cell.hidden_size)
        values = []
        for t in range(steps):
            hidden = self.cell(torch.relu(self.first(inputs[:, t].flatten(0, 1))), hidden)
            values.append(self.last(hidden).view(episodes, agents, -1))
        return torch.stack(values, 1)


class StepwiseMixer(nn.Module):
    """QMIX's mixing network (Rashid et al. 2020) with two-layer hypernetworks."""

    def __init__(self, agents: int, state: int, embed: int = 32, hidden: int = 64):
        super().__init__()
        self.agents, self.embed = agents, embed
        self.w1 = nn.Sequential(nn.Linear(state, hidden), nn.ReLU(), nn.Linear(hidden, agents * embed))
        self.w2 = nn.Sequential(nn.Linear(state, hidden), nn.ReLU(), nn.Linear(hidden, embed))
        self.b1 = nn.Linear(state, embed)
        self.b2 = nn.Sequential(nn.Linear(state, embed), nn.ReLU(), nn.Linear(embed, 1))

    def forward(self, q: Tensor, state: Tensor) -> Tensor:
        """q ``[B, T, N]``, state ``[B, T, S]``; returns ``[B, T]``."""
        shape = q.shape[:2]
        q, state = q.reshape(-1, 1, self.agents), state.reshape(-1, state.shape[-1])
        w1 = self.w1(state).abs().view(-1, self.agents, self.embed)
        mixed = nn.functional.elu(torch.bmm(q, w1) + self.b1(state).unsqueeze(1))
        out = torch.bmm(mixed, self.w2(state).abs().unsqueeze(2)).view(-1, 1) + self.b2(state)
        return out.view(shape)


def qmix_update(
    agents: int, obs: int, state: int, actions: int, steps: int, batch: int, device: str = "cpu"
) -> Callable[[], None]:
    """A function that makes one update on random episodes, which lie ready as float tensors.

    Args:
        agents: N.
        obs: O, size of an agent's observation; its last action and id are appended.
        state: S.
        actions: A.
        steps: T, length of all episodes.
        batch: number of episodes.
        device: where.
    """
    inputs = obs + actions + agents
    agent, mixer = StepwiseAgent(inputs, actions).to(device), StepwiseMixer(agents, state).to(device)
    target_agent, target_mixer = copy.deepcopy(agent), copy.deepcopy(mixer)
    parameters = [*agent.parameters(), *mixer.parameters()]
    optimizer = torch.optim.RMSprop(parameters, lr=5e-4, alpha=0.99, eps=1e-5)
    x = torch.randn(batch, steps + 1, agents, inputs, device=device)
    states = torch.randn(batch, steps + 1, state, device=device)
    taken = torch.randint(actions, (batch, steps, agents, 1), device=device)
    rewards = torch.randn(batch, steps, device=device)

    def update() -> None:
        q = agent.unroll(x)
        with torch.no_grad():
            best = q[:, 1:].argmax(-1, keepdim=True)
            following = target_agent.unroll(x)[:, 1:].gather(-1, best).squeeze(-1)
            target = rewards + 0.99 * target_mixer(following, states[:, 1:])
        chosen = q[:, :-1].gather(-1, taken).squeeze(-1)
        loss = (mixer(chosen, states[:, :-1]) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 10)
        optimizer.step()

    return update
