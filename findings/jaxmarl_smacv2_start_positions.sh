#!/usr/bin/env bash
# Package:  jaxmarl 0.2.0, SMAX's smacv2_5_units (smacv2_10_units and smacv2_20_units draw positions by the same
#           class).
# Promised: SMAX's scenarios of SMACv2 start with random positions on a map of 32 x 32, where walls kill by default
#           (walls_cause_death=True): a unit that stands on or beyond the border dies.
# Happens:  where one team surrounds the other, its groups are placed on the diagonals, the corners included, and
#           every unit is moved by up to 2 in both directions, without a limit at the border. In a tenth of the
#           episodes a unit starts on or beyond the border; nearly all of these are dead after the first step,
#           whatever they do.
# Matters:  a tenth of the battles are fought by unequal teams, by chance and on both sides; no policy wins or loses
#           those units. Win rates carry that noise, and the agents concerned act once.
# Upstream: no issue was found (bold-lab-ai/JaxMARL pull request 98 mended the start positions of fixed scenarios).
#
# Exits with 0 if this still happens, with 1 if it has changed. About a minute on an idle core.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-deps jaxmarl==0.2.0 jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6 scipy==1.17.1 \
    flax==0.12.8 chex==0.1.92 jaxtyping==0.3.11 wadler-lindig etils==1.15.0 absl-py==2.5.1 ml_dtypes==0.6.0 \
    msgpack==1.2.4 opt_einsum==3.4.0 toolz==1.2.0 typing_extensions==4.16.0 flatbuffers filelock cloudpickle==3.1.2 \
    matplotlib==3.11.2 contourpy cycler fonttools kiwisolver packaging pillow pyparsing python-dateutil six \
    rich pygments markdown-it-py mdurl pyyaml treescope
JAX_PLATFORMS=cpu "$work/venv/bin/python" -W ignore - <<'EOF'
import sys
from importlib.metadata import version

import jax
import jax.numpy as jnp
import jaxmarl
from jaxmarl.environments.smax import map_name_to_scenario

EPISODES, STOP = 1000, 4
env = jaxmarl.make("HeuristicEnemySMAX", scenario=map_name_to_scenario("smacv2_5_units"))


def first_step(key):
    """Which units start on or beyond the border, and which are alive after a step in which no ally moves."""
    _, start = env.reset(key)
    positions, size = start.state.unit_positions, jnp.array([env.map_width, env.map_height])
    _, then, *_ = env.step_env(key, start, dict.fromkeys(env.agents, jnp.array(STOP)))
    return ((positions <= 0) | (positions >= size)).any(-1), then.state.unit_alive


outside, alive = jax.jit(jax.vmap(first_step))(jax.random.split(jax.random.PRNGKey(0), EPISODES))
share, deaths = outside.any(1).mean().item(), (~alive)[outside].mean().item()
elsewhere = (~alive)[~outside].mean().item()
print(f"jaxmarl {version('jaxmarl')}, smacv2_5_units, {EPISODES} episodes, walls kill: {bool(env.walls_cause_death)}")
print("expected: every unit starts inside the map and is alive after the first step")
print(f"seen:     {share:.1%} of the episodes have a unit on or beyond the border; {deaths:.0%} of these units, and")
print(f"          {elsewhere:.1%} of the others, are dead after one step")
sys.exit(0 if share > 0.05 and deaths > 0.5 else 1)
EOF
