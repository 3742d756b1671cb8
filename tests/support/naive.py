"""The losses of an update from the paper's equations, one episode, one step and one agent at a time."""

import types

import numpy as np
import torch

from rllib_ddn.networks import LocalAgent
from rllib_ddn.networks.leaders import RawFollower, RawLeader


def generated(block, z):
    """W(z) ``[..., X, D]``, built for every row, and B(z) ``[..., D]`` of a fusion block, as the paper has them."""
    h = torch.relu(block.hyper(z))  # [..., K]
    *a, c = block.kernels.unflatten(1, (block.hyper_dim + 1, block.embed_dim)).transpose(0, 1)
    w = torch.zeros(*z.shape[:-1], *c.shape, dtype=z.dtype) + c
    for k, a_k in enumerate(a):
        w = w + h[..., k, None, None] * a_k
    return w / len(c) ** 0.5, z @ block.bias.weight.t() + block.bias.bias


def unroll(network, z, state):
    """One episode's fused inputs, features and Q values; W is materialized where there is one."""
    steps, agents = z.shape[:2]
    fused, features, q = [], [], []
    hidden = [torch.zeros(network.agent.hidden_dim) for _ in range(agents)]
    for t in range(steps):
        row = ([], [], [])
        for i in range(agents):
            x = state[t] if network.sees_state else z[t, i, : network.obs_dim] if hasattr(network, "obs_dim") else None
            if isinstance(network, LocalAgent):
                hat = z[t, i]
            elif isinstance(network, RawLeader | RawFollower):
                hat = network.fusion.linear(torch.cat([x, z[t, i]]) if network.sees_state else z[t, i])
            else:
                w, bias = generated(network.fusion, z[t, i])
                hat = x @ w + bias
            both = torch.cat([hat, z[t, i]]) if getattr(network, "sees_local", False) else hat
            f = torch.relu(network.agent.encoder(both))
            hidden[i] = torch.gru_cell(f[None], hidden[i][None], *network.agent.gru.parameters())[0]
            for values, value in zip(row, (hat, f, network.agent.q_head(hidden[i])), strict=True):
                values.append(value)
        for out, values in zip((fused, features, q), row, strict=True):
            out.append(torch.stack(values))
    return torch.stack(fused), torch.stack(features), torch.stack(q)


def mixed(mixer, q, state):
    """Q_tot of one team at one step, for the mixers that need no more."""
    return mixer(types.SimpleNamespace(q=q[None], state=state[None]))[0]


def local_information(episodes, row, spec):
    """``z_i = (o_i, u_i, i)`` of one episode."""
    n = int(episodes["length"][row])
    z = torch.zeros(n + 1, spec.num_agents, spec.obs_dim + spec.num_actions + spec.num_agents)
    for t in range(n + 1):
        for i in range(spec.num_agents):
            z[t, i, : spec.obs_dim] = torch.from_numpy(episodes["obs"][row, t, i].astype(np.float32))
            if t > 0:
                z[t, i, spec.obs_dim + int(episodes["actions"][row, t - 1, i])] = 1
            z[t, i, spec.obs_dim + spec.num_actions + i] = 1
    return z


def losses(policy, episodes):
    """L_global, L_local and L_I, by the names of the learners."""
    model, config, spec = policy.model, policy.config, policy.spec
    host, distillation, intrinsic = (getattr(model, part, None) for part in ("host", "distillation", "intrinsic"))
    squares, block, kl_q, kl_f, errors = [], [], [], [], []
    for row in range(len(episodes["length"])):
        n = int(episodes["length"][row])
        state = torch.from_numpy(episodes["state"][row, : n + 1].astype(np.float32))
        mask, actions = episodes["action_mask"][row], episodes["actions"][row].astype(int)
        z = local_information(episodes, row, spec)
        s_hat, f_leader, q_leader = unroll(host.agent, z, state)
        _, _, q_target = unroll(host.target_agent, z, state)
        if distillation is not None:
            o_hat, f_follower, q_follower = unroll(distillation.follower, z, None)
        for t in range(n):
            reward = float(episodes["rewards"][row, t])
            if intrinsic is not None:
                networks = intrinsic.networks
                error = (networks.predictor(state[t]) - networks.target(state[t])).pow(2).mean()
                errors.append(error)
                masked_in = episodes["uniform"][row, t] < config["mask_probability"]
                if masked_in and config["intrinsic_reward_stage"] == "replay":
                    reward += config["intrinsic_reward_coeff"] * error.item()
            taken = torch.stack([q_leader[t, i, actions[t, i]] for i in range(spec.num_agents)])
            q_tot = mixed(host.mixer, taken, state[t])
            target = torch.tensor(reward)
            last = t == n - 1
            if not (last and episodes["terminated"][row]):  # a cut-off episode bootstraps
                best = []
                for i in range(spec.num_agents):
                    available = [a for a in range(spec.num_actions) if mask[t + 1, i, a]]
                    chooser = q_leader if config["double_q"] else q_target
                    a = max(available, key=lambda a, i=i: chooser[t + 1, i, a].item())
                    best.append(q_target[t + 1, i, a])
                target = target + config["gamma"] * mixed(host.target_mixer, torch.stack(best), state[t + 1])
            squares.append((q_tot - target.detach()) ** 2)
            if distillation is None:
                continue
            block.append(((o_hat[t] - s_hat[t].detach()) ** 2).mean())
            total_q = total_f = 0.0
            for i in range(spec.num_agents):
                available = torch.from_numpy(mask[t, i])
                p = torch.softmax(q_leader[t, i][available].detach() / config["distillation_temperature"], 0)
                q = torch.softmax(q_follower[t, i][available] / config["distillation_temperature"], 0)
                total_q = total_q + (p * (p / q).log()).sum()
                p, q = torch.softmax(f_leader[t, i].detach(), 0), torch.softmax(f_follower[t, i], 0)
                total_f = total_f + (p * (p / q).log()).sum()
            kl_q.append(total_q)
            kl_f.append(total_f)
    mean = lambda values: torch.stack(values).mean()  # noqa: E731
    found = {"host": mean(squares)}
    if distillation is not None:
        coeffs = config["block_loss_coeff"], config["q_loss_coeff"], config["feature_loss_coeff"]
        found["follower"] = sum(c * mean(v) for c, v in zip(coeffs, (block, kl_q, kl_f), strict=True))
    if intrinsic is not None:
        found["intrinsic"] = mean(errors)
    return found
