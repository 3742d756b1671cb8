#!/usr/bin/env bash
# Package:  pymarlzooplus 1.1.0 (its QMIX and VDN learner is EPyMARL's; EPyMARL at commit cbc38c0 computes the same).
# Promised: the learner's own comments say that targets of padded steps are zeroed and that the loss is a mean over
#           actual data; so the loss of a batch should not depend on how many padded steps follow the episodes.
#           pymarlzooplus's qmix.yaml, and EPyMARL's, have standardise_rewards: True.
# Happens:  the running mean and variance that standardise the rewards are taken over the padded steps, too, whose
#           rewards are zeros. The same two episodes give another loss with each number of padded steps; in training
#           that number follows from the longest episode of each batch. With standardise_rewards off the loss stays
#           the same.
# Matters:  rewards, and so Q values and losses, are on a scale that changes with the lengths of the other episodes in
#           the batch. Do not compare losses or Q values with those of libraries that mask padding, and switch the
#           option off to compare learning curves.
# Upstream: uoe-agents/epymarl issue 10 asks why rewards are standardised by the batch; none about padding was found.
#
# Exits with 0 if this still happens, with 1 if it has changed. Most of its time goes into installing torch, whose CPU
# build is enough.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 numpy==1.26.4
"$work/venv/bin/pip" install --quiet --no-deps pymarlzooplus==1.1.0
"$work/venv/bin/python" -W ignore - <<'EOF'
import importlib
import sys
import types
from importlib.metadata import distribution, version
from types import SimpleNamespace

import torch

# The package's __init__ files import every environment. Only the learner runs here, so they are replaced by empty ones.
root = distribution("pymarlzooplus").locate_file("pymarlzooplus")
for name in ("", ".learners", ".components", ".modules", ".modules.mixers", ".utils"):
    module = types.ModuleType(f"pymarlzooplus{name}")
    module.__path__ = [str(root.joinpath(*name.split(".")))]
    sys.modules[module.__name__] = module
EpisodeBatch = importlib.import_module("pymarlzooplus.components.episode_buffer").EpisodeBatch
QLearner = importlib.import_module("pymarlzooplus.learners.q_learner").QLearner

AGENTS, ACTIONS, OBS, LENGTHS = 2, 3, 4, (3, 5)


class Controller:
    """A linear Q network for both agents."""

    def __init__(self):
        torch.manual_seed(1)
        self.network = torch.nn.Linear(OBS, ACTIONS)

    def parameters(self):
        return self.network.parameters()

    def init_hidden(self, batch_size):
        pass

    def forward(self, batch, t):
        return self.network(batch["obs"][:, t])


def episodes(padded_steps):
    """Two terminated episodes with rewards near 4, and padded steps behind the longer one."""
    agents = {"group": "agents"}
    scheme = {
        "state": {"vshape": 1},
        "obs": {"vshape": OBS, **agents},
        "actions": {"vshape": (1,), "dtype": torch.long, **agents},
        "avail_actions": {"vshape": (ACTIONS,), "dtype": torch.int, **agents},
        "reward": {"vshape": (1,)},
        "terminated": {"vshape": (1,), "dtype": torch.uint8},
    }
    batch = EpisodeBatch(scheme, {"agents": AGENTS}, len(LENGTHS), max(LENGTHS) + 1 + padded_steps)
    random = torch.Generator().manual_seed(0)
    for row, length in enumerate(LENGTHS):
        for t in range(length + 1):
            at = {"bs": slice(row, row + 1), "ts": slice(t, t + 1)}
            seen = {"obs": torch.randn(1, AGENTS, OBS, generator=random), "state": torch.zeros(1, 1)}
            batch.update({**seen, "avail_actions": torch.ones(1, AGENTS, ACTIONS, dtype=torch.int)}, **at)
            done = {"actions": torch.randint(ACTIONS, (1, AGENTS, 1), generator=random)}
            if t < length:
                done["reward"] = 4 + torch.randn(1, 1, generator=random)
                done["terminated"] = torch.tensor([[t == length - 1]], dtype=torch.uint8)
            batch.update(done, mark_filled=False, **at)
    return batch


def loss(standardise, padded_steps):
    options = SimpleNamespace(
        n_agents=AGENTS, mixer="vdn", double_q=True, gamma=0.99, lr=0.0, grad_norm_clip=10, use_cuda=False,
        standardise_rewards=standardise, standardise_returns=False, prioritized_buffer=False,
        target_update_interval_or_tau=200, learner_log_interval=0,
    )
    logged = {}
    logger = SimpleNamespace(log_stat=lambda name, value, step: logged.update({name: value}))
    QLearner(Controller(), None, logger, options).train(episodes(padded_steps), t_env=1, episode_num=1)
    return logged["loss"]


on, off = ([loss(standardise, padded) for padded in (0, 4, 40)] for standardise in (True, False))
print(f"pymarlzooplus {version('pymarlzooplus')}; two episodes of 3 and 5 steps, with 0, 4 and 40 padded steps")
print("expected: the same loss three times")
print("seen:     standardise_rewards on  " + ", ".join(f"{value:.3f}" for value in on))
print("          standardise_rewards off " + ", ".join(f"{value:.3f}" for value in off))
same = [max(values) - min(values) < 1e-4 * max(values) for values in (on, off)]
sys.exit(0 if same == [False, True] else 1)
EOF
