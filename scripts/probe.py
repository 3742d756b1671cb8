"""What each network sees of an agent's own view, before it has learned anything and how soon it can learn to.

python scripts/probe.py [--embed-dim D] [--hyper-dim K] [--updates 300 1000] [--seeds 1]

Predator-Prey with its default arguments, played at random; a quarter of the games is held out. Of the
features f that the agent network's GRU gets (Equation 6's F), for the leaders, the follower and a host's
plain agent network, it prints

- between: the share of their variance that lies between the agents of a time step, at the start;
- R2, linear: how well a linear regression from f, as it is at the start, tells the agent's own view;
- R2 after n updates: the same when f is trained with the regression, 64 time steps of all agents at a time.
  This is what tells a blind network from one whose features are merely not linear in what it sees.
"""

from __future__ import annotations

import argparse
import statistics

import numpy as np
import torch
from torch import Tensor, nn

from rllib_ddn.envs.predator_prey import VectorPredatorPrey
from rllib_ddn.networks import LEADERS, LocalAgent, LocalInput, LocalPolicyNetwork, TeamNetwork, TeamSizes

HIDDEN = 64


def play(num_games: int = 64, steps: int = 200) -> tuple[Tensor, Tensor, Tensor]:
    """Random play: observations ``[G, T, N, O]``, states ``[G, T, S]`` and local inputs z ``[G, T, N, Z]``."""
    rng, games = np.random.default_rng(0), VectorPredatorPrey(num_games)
    games.reset(np.arange(num_games))
    last = np.full(games.action_mask.shape[:2], -1)
    rows = []
    for _ in range(steps):
        rows.append((games.obs, games.state, last))
        last = np.where(games.action_mask, rng.random(games.action_mask.shape), -1).argmax(-1)
        games.step(last, np.arange(num_games))
        over = games.terminated | games.truncated
        if over.any():
            games.reset(rng.integers(2**31, size=over.sum()), np.flatnonzero(over))
            last = np.where(over[:, None], -1, last)
    obs, state, last_action = (torch.from_numpy(np.stack(column, 1)) for column in zip(*rows, strict=True))
    local_input = LocalInput(games.num_predators, games.action_mask.shape[-1])
    return obs.float(), state.float(), local_input(obs, last_action)


def make_network(name: str, sizes: TeamSizes, embed_dim: int, hyper_dim: int) -> TeamNetwork:
    """ "host", "follower" (of the personalized leader), or a leader of the table."""
    if name == "host":
        return LocalAgent(sizes.local_dim, sizes.num_actions, HIDDEN)
    make = LocalPolicyNetwork if name == "follower" else LEADERS[name]
    return make(sizes, embed_dim=embed_dim, hyper_dim=hyper_dim)


def r_squared(predicted: Tensor, true: Tensor) -> float:
    """Share of the variance of ``true [..., O]`` that is told, all O together."""
    true, predicted = true.flatten(0, -2), predicted.flatten(0, -2)
    return 1 - ((predicted - true).square().sum() / (true - true.mean(0)).square().sum()).item()


def between_agents(features: Tensor) -> float:
    """Variance over the agents of a time step as a share of all variance; ``[M, N, H]``."""
    within_step = (features - features.mean(1, keepdim=True)).square().sum()
    return (within_step / (features - features.mean((0, 1))).square().sum()).item()


def linear_r_squared(train: Tensor, train_view: Tensor, test: Tensor, test_view: Tensor) -> float:
    """Held-out R2 of a ridge regression."""
    x, y = (rows.flatten(0, -2).double() for rows in (nn.functional.pad(train, (0, 1), value=1.0), train_view))
    weights = torch.linalg.solve(x.t() @ x + 1e-3 * torch.eye(x.shape[1]), x.t() @ y)
    return r_squared(nn.functional.pad(test, (0, 1), value=1.0).double() @ weights, test_view.double())


def probe(network: TeamNetwork, updates: list[int], data: tuple[Tensor, Tensor, Tensor]) -> list[float]:
    """The figures of one network: between, R2 linear, R2 after each of ``updates``."""
    obs, state, z = data
    split = len(obs) * 3 // 4
    train, test = (
        [rows.flatten(0, 1) for rows in (z[part], state[part], obs[part])]
        for part in (slice(split), slice(split, None))
    )
    features = lambda z, state: network(*network.inputs(z, state)).features  # noqa: E731
    with torch.no_grad():
        f, f_test = features(*train[:2]), features(*test[:2])
    figures = [between_agents(f), linear_r_squared(f, train[2], f_test, test[2])]
    readout = nn.Linear(HIDDEN, obs.shape[-1])
    optimizer = torch.optim.Adam([*network.parameters(), *readout.parameters()], 1e-3)
    for update in range(1, max(updates) + 1):
        batch = torch.randint(len(f), (64,))
        z_batch, state_batch, view = (rows[batch] for rows in train)
        loss = (readout(features(z_batch, state_batch)) - view).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if update in updates:
            with torch.no_grad():
                figures.append(r_squared(readout(features(*test[:2])), test[2]))
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=[*LEADERS, "follower", "host"], help="default: %(default)s")
    parser.add_argument("--embed-dim", type=int, default=64, help="D (default: %(default)s)")
    parser.add_argument("--hyper-dim", type=int, default=4, help="K (default: %(default)s)")
    parser.add_argument("--updates", type=int, nargs="+", default=[300, 1000], help="default: %(default)s")
    parser.add_argument("--seeds", type=int, default=1, help="median of so many (default: %(default)s)")
    options = parser.parse_args()
    data = play()
    obs, state, z = data
    agents = obs.shape[-2]
    sizes = TeamSizes(agents, z.shape[-1] - obs.shape[-1] - agents, state.shape[-1], obs.shape[-1], HIDDEN)
    print(f"D = {options.embed_dim}, K = {options.hyper_dim}")
    columns = ("network", "between", "R2, linear", *(f"R2 after {n}" for n in options.updates))
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    for name in options.networks:
        figures = []
        for seed in range(options.seeds):
            torch.manual_seed(seed)
            network = make_network(name, sizes, options.embed_dim, options.hyper_dim)
            figures.append(probe(network, options.updates, data))
        medians = (statistics.median(column) for column in zip(*figures, strict=True))
        print(f"| {name} | {' | '.join(f'{figure:.2f}' for figure in medians)} |", flush=True)


if __name__ == "__main__":
    main()
