"""Runs JaxMARL's own QMIX on SMAX, with its own settings, as a yardstick of the time to a win; prints CSV.

    git clone https://github.com/FLAIROx/JaxMARL && cd JaxMARL && git checkout c793d095618c
    python -m venv venv && venv/bin/pip install -e '.[algs]'
    venv/bin/python .../scripts/jaxmarl_qmix.py . --map 2s3z --steps 1000000

It needs nothing of this package. JaxMARL's script compiles a whole training into one call, so the number of steps is
fixed beforehand, and settings that are fractions of it (epsilon's, the evaluations') move with it. It logs to Weights &
Biases, in whose place this script puts itself.
"""

from __future__ import annotations

import argparse
import runpy
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", type=Path, help="folder of a checkout of JaxMARL")
    parser.add_argument("--map", default="2s3z")
    parser.add_argument("--steps", type=int, default=1_000_000, help="env steps")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--set", action="append", default=[], help="more of hydra's settings, such as alg.TEST_NUM_ENVS=64"
    )
    options = parser.parse_args()
    start, update = time.perf_counter(), 16 * 128  # env steps of one, by JaxMARL's settings
    interval = int(options.steps // update * 0.05) * update

    def log(metrics: dict[str, Any]) -> None:
        step = int(metrics["env_step"])
        if step % interval == 0:  # an evaluation; between two of them the last one's figures are logged
            print(
                f"{time.perf_counter() - start:.1f},{step},{float(metrics['test_returned_won_episode']):.4f}",
                flush=True,
            )

    wandb = ModuleType("wandb")
    wandb.init, wandb.log = (lambda **_: None), log  # type: ignore[attr-defined]
    sys.modules["wandb"] = wandb
    script = options.checkout.absolute() / "baselines" / "QLearning" / "qmix_rnn.py"
    settings = {
        "+alg": "ql_rnn_smax",
        "alg.MAP_NAME": options.map,
        "alg.TOTAL_TIMESTEPS": options.steps,
        "SEED": options.seed,
        "WANDB_MODE": "online",
        "SAVE_PATH": "null",
        "hydra.run.dir": ".",
        "hydra.output_subdir": "null",
    }
    sys.argv = [str(script), *(f"{name}={value}" for name, value in settings.items()), *options.set]
    print("seconds,env steps,win rate", flush=True)
    runpy.run_path(str(script), run_name="__main__")
    print(f"{time.perf_counter() - start:.1f} s with compiling", file=sys.stderr)


if __name__ == "__main__":
    main()
