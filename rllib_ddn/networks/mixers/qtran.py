"""QTRAN-base: factorization by transformation (Son et al. 2019)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rllib_ddn.losses import Statistics, global_loss
from rllib_ddn.networks.mixers.mixer import Mixer, TeamSizes, TeamValues, mlp


class QTRANMixer(Mixer):
    """An unrestricted joint Q_jt; two soft constraints make ``sum_i Q_i`` its factorization.

    ``L = L_td + opt_coeff L_opt + nopt_coeff L_nopt`` (Son et al. 2019, learning of QTRAN-base), with
    ``D(u) = sum_i Q_i(u_i) - Q_jt(u) + V_jt``: ``L_opt = D(greedy)^2``, ``L_nopt = min(D(u), 0)^2``.
    Q_jt has no gradient in the last two. Its inputs are the state and the sum of the agents' encoded hidden states and
    actions; that of V_jt is the state.

    DDN cannot be built on it: its agents learn a factorization of Q_jt, and no Q_tot is mixed from their Q values.

    Args:
        sizes: of the team.
        embed_dim: width of Q_jt and V_jt.
        opt_coeff: weight of L_opt.
        nopt_coeff: weight of L_nopt.
    """

    hosts_ddn = False

    def __init__(self, sizes: TeamSizes, embed_dim: int = 64, opt_coeff: float = 1.0, nopt_coeff: float = 0.1):
        super().__init__(sizes)
        if min(opt_coeff, nopt_coeff) < 0:
            raise ValueError(
                f"mixer_config: opt_coeff and nopt_coeff are at least 0; got {opt_coeff!r} and {nopt_coeff!r}."
            )
        self.num_actions, self.opt_coeff, self.nopt_coeff = sizes.num_actions, opt_coeff, nopt_coeff
        encoding = sizes.hidden_dim + sizes.num_actions
        self.encoder = mlp(encoding, encoding, encoding)
        self.q_joint = mlp(sizes.state_dim + encoding, embed_dim, embed_dim, 1)
        self.v_joint = mlp(sizes.state_dim, embed_dim, embed_dim, 1)

    def forward(self, team: TeamValues) -> Tensor:
        """``Q_jt(tau, u)``, ``[M]``."""
        return self._joint(team, team.actions)

    def loss(self, team: TeamValues, target: Tensor, greedy_value: Tensor, valid: Tensor) -> tuple[Tensor, Statistics]:
        q_joint = self(team)
        v_joint = self.v_joint(team.state).squeeze(-1)  # [M]
        with torch.no_grad():
            greedy_joint = self._joint(team, team.greedy)
        td = global_loss(q_joint, target, valid)
        optimal = global_loss(team.best_q.sum(-1) + v_joint, greedy_joint, valid)
        lacking = (team.q.sum(-1) + v_joint - q_joint.detach()).clamp(max=0.0)
        not_optimal = global_loss(lacking, torch.zeros_like(lacking), valid)
        return td + self.opt_coeff * optimal + self.nopt_coeff * not_optimal, self.statistics(q_joint, valid)

    def _joint(self, team: TeamValues, actions: Tensor) -> Tensor:
        one_hot = nn.functional.one_hot(actions, self.num_actions).to(team.state.dtype)
        encoding = self.encoder(torch.cat([team.hidden_states, one_hot], -1)).sum(1)  # [M, H + A]
        return self.q_joint(torch.cat([team.state, encoding], -1)).squeeze(-1)
