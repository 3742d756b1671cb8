"""Imports what must not need Ray where Ray cannot be imported, and makes updates of DDN on QMIX."""

# ruff: noqa: E402  (what follows is imported without Ray)

import sys

sys.modules["ray"] = None

import importlib
import pkgutil

import pytest
import torch

import rllib_ddn.learning
import rllib_ddn.networks
import rllib_ddn.team
from rllib_ddn.learning import LEARNERS
from rllib_ddn.learning.batch import make_batch
from rllib_ddn.learning.distillation import TERMS, Distillation
from rllib_ddn.learning.host import Host
from rllib_ddn.learning.intrinsic import IDM
from rllib_ddn.learning.optimizers import clip_gradients
from rllib_ddn.learning.update import compute_update
from rllib_ddn.networks import LEADERS, MIXERS
from support.episodes import as_tensors, random_episodes
from support.small_team import SIZES, SPEC, local_input

for package in (rllib_ddn.learning, rllib_ddn.networks):
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        importlib.import_module(module.name)
with pytest.raises(ImportError, match=r"rllib_ddn\.DDN needs Ray and torch: pip install 'ray\[rllib,tune\]' torch\."):
    from rllib_ddn import DDN  # noqa: F401
assert not hasattr(rllib_ddn, "nonsense")

torch.manual_seed(0)
leader_class = LEADERS["personalized"]
leader, follower = (kind(SIZES, embed_dim=8, hyper_dim=4) for kind in (leader_class, leader_class.follower))
host = Host(leader, MIXERS["qmix"](SIZES), gamma=0.99, double_q=True)
distillation = Distillation(follower, {name: (TERMS[name](), 1.0) for name in ("block", "kl", "feature")})
intrinsic = IDM(SIZES)
optimizers = {
    learner: torch.optim.Adam(part.trained(), lr=1e-2)
    for learner, part in zip(LEARNERS, (host, distillation, intrinsic), strict=True)
}


def update():
    """One update; returns its losses and the gradient norms."""
    result = compute_update(host, make_batch(as_tensors(random_episodes(SPEC)), local_input()), distillation, intrinsic)
    assert set(result.losses) == set(LEARNERS)
    for optimizer in optimizers.values():
        optimizer.zero_grad()
    sum(result.losses.values()).backward()
    norms = clip_gradients(optimizers, 10.0)
    for optimizer in optimizers.values():
        optimizer.step()
    return {name: loss.item() for name, loss in result.losses.items()}, {
        name: norm.item() for name, norm in norms.items()
    }


before, norms = update()
for _ in range(20):
    after, _ = update()
assert all(norm > 0 for norm in norms.values()), norms
assert all(after[learner] < before[learner] for learner in LEARNERS), (before, after)  # on the same episodes
assert not [name for name in sys.modules if name.startswith("ray.")]
print("learned")
