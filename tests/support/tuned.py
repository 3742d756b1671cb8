"""The tuned examples."""

from pathlib import Path

import yaml
from ray import tune
from ray.tune.registry import get_trainable_cls
from ray.tune.search.variant_generator import generate_variants

EXAMPLES = Path(__file__).parents[2] / "tuned_examples"


def _samplers(value):
    """``{tune.NAME: [arguments]}`` as Tune's sampler of that name, at any depth."""
    if not isinstance(value, dict):
        return value
    ((name, arguments), *more) = value.items() if value else [("", None)]
    if more or not name.startswith("tune."):
        return {key: _samplers(item) for key, item in value.items()}
    sampler = getattr(tune, name.removeprefix("tune."))
    return sampler(arguments) if sampler is tune.choice else sampler(*arguments)


def accept(path):
    """Builds the config of all variants of a file, and the env; returns its experiments."""
    experiments = yaml.safe_load(path.read_text())
    for spec in experiments.values():
        assert spec["stop"]["timesteps_total"] > 0
        for _, values in generate_variants(_samplers({**spec["config"], "env": spec["env"]})):
            config = get_trainable_cls(spec["run"]).get_default_config().update_from_dict(values)
            config.validate()
            config.check_env()
    return experiments
