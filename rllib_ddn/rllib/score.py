"""The score of a training: the quality of the deployed network, and the best evaluation so far."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ray.rllib.algorithms.algorithm import Algorithm

WINDOW = 3
BEST = "best"  # of a result, the key; of a checkpoint, the folder
FIGURES = ("score", "training_iteration", "timesteps_total")
SCORED = "rllib_ddn_score"  # the attribute of RLlib's own algorithms that holds their Score


@dataclass
class Score:
    """Scores the evaluations of a training.

    The score is the smaller one of the newest evaluation and the mean of the newest three: the mean guards against a
    lucky evaluation, the newest one against weights that have just become worse. Simulated on the learning curves of
    ``tuned_examples/results`` with the noise of 32 and of 64 episodes, it chooses better weights than the means of 2,
    3, 5 and 7 evaluations, than the last evaluation unless nearly all of the curves' variation is real, and than the
    last weights.

    Attributes:
        value: the score after the newest evaluation; NaN before the first.
        best: the ``FIGURES`` of the best evaluation; NaN before the first.
        recent: the newest evaluations.
        metric: the scored metric, ``"win_rate"`` where the env reports it, else ``"episode_return_mean"``.
    """

    value: float = math.nan
    best: dict[str, float] = field(default_factory=lambda: dict.fromkeys(FIGURES, math.nan))
    recent: list[float] = field(default_factory=list)
    metric: str = "episode_return_mean"

    def update(self, evaluation: Mapping[str, Any], iteration: int, env_steps: int) -> bool:
        """Scores an iteration.

        Args:
            evaluation: the results of the deployed network's evaluation; empty, or NaN, where there was none.

        Returns:
            Whether the evaluation is the best so far.
        """
        if self.metric != "win_rate" and math.isfinite(evaluation.get("win_rate", math.nan)):
            vars(self).update(vars(Score(metric="win_rate")))  # returns are not comparable with win rates
        figure = float(evaluation.get(self.metric, math.nan))
        if math.isnan(figure):
            # Of two checkpoints with one evaluation, the evaluated one ranks first.
            self.value = math.nextafter(self.value, -math.inf)
            return False
        self.recent = [*self.recent, figure][-WINDOW:]
        self.value = min(figure, math.fsum(self.recent) / len(self.recent))
        if self.value <= self.best["score"]:
            return False
        self.best = {"score": self.value, "training_iteration": iteration, "timesteps_total": env_steps}
        return True

    def results(self) -> dict[str, Any]:
        """The entries of a result."""
        return {"score": self.value, BEST: dict(self.best)}


def add_score(*, algorithm: Algorithm, result: dict[str, Any], **_: Any) -> None:
    """Scores the results of RLlib's own algorithms: a function for ``config.callbacks(on_train_result=...)``.

    The evaluation is scored, or without one the training's episodes. A restored algorithm starts a new score.
    """
    score: Score = vars(algorithm).setdefault(SCORED, Score())
    scored = result.get("evaluation", {}) if algorithm.config.evaluation_interval else result
    score.update(scored.get("env_runners", {}), result["training_iteration"], env_steps_of(result))
    result.update(score.results())


def env_steps_of(result: Mapping[str, Any]) -> int:
    """The env steps sampled so far, on either of RLlib's API stacks."""
    return int(result.get("timesteps_total") or result.get("num_env_steps_sampled_lifetime") or 0)
