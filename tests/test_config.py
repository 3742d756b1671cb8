"""Configs: the defaults, the optimizers that they make, and the way through a dict."""

import inspect
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from rllib_ddn import DDN, DDNConfig, PTDEConfig, ValueDecompositionConfig, VDNConfig
from rllib_ddn.rllib.ranges import RANGES
from support.configs import small_config

document = runpy.run_path(str(Path(__file__).parents[1] / "scripts" / "document.py"))


def test_a_config_dict_is_the_config():
    config = small_config(mixer="vdn", mask_probability=0.3)
    again = DDN.get_default_config().update_from_dict(config.to_dict())
    assert again.to_dict() == config.to_dict()


def test_the_defaults_are_the_papers_but_where_the_docs_say_so():
    """Section B.3, and PyMARL's values where it is silent; those that learn sooner are told beside the paper's."""
    config = DDNConfig()
    assert (config.gamma, config.train_batch_size, config.grad_clip) == (0.99, 32, 10)
    assert config.replay_buffer_config == {"capacity": 5000}
    assert (config.mixer, config.mask_probability) == ("qmix", 0.75)
    ours = (
        config.optimizer,
        config.lr,
        config.td_lambda,
        config.target_update_interval_episodes,
        config.behaviour_network,
    )
    assert ours == ("adam", 1e-3, 0.6, 50, "leader")
    meanings = document["meanings"](ValueDecompositionConfig.training)
    for key, papers in (("lr", "5e-4"), ("optimizer", "rmsprop"), ("target_update_interval_episodes", "200")):
        assert papers in meanings[key]
        assert "the paper's" in meanings[key]
    schedule = config.exploration_config
    assert (schedule["initial_epsilon"], schedule["final_epsilon"], schedule["epsilon_timesteps"]) == (
        1.0,
        0.05,
        50_000,
    )


def test_the_optimizers_are_the_papers(build):
    optimizers = build(optimizer="rmsprop", lr=5e-4, follower_lr=1e-3).get_policy().optimizers
    kinds = {name: type(optimizer).__name__ for name, optimizer in optimizers.items()}
    assert kinds == {"host": "RMSprop", "follower": "Adam", "intrinsic": "Adam"}
    host = optimizers["host"].defaults
    assert (host["lr"], host["alpha"], host["eps"]) == (5e-4, 0.99, 1e-5)
    assert {name: o.defaults["lr"] for name, o in optimizers.items()} == {
        "host": 5e-4,
        "follower": 1e-3,
        "intrinsic": 5e-4,
    }


@pytest.mark.parametrize("config_class", [ValueDecompositionConfig, DDNConfig])
def test_fields_signature_docstring_and_ranges_have_the_same_keys(config_class):
    keys, plain = config_class.keys_with_defaults(), config_class()
    others = document["meanings"](ValueDecompositionConfig)  # RLlib's own methods take these
    arguments = inspect.signature(config_class.training).parameters
    arguments = [p.name for p in arguments.values() if p.kind is p.KEYWORD_ONLY]
    assert sorted([*arguments, *others]) == sorted(keys)
    documented = others | document["meanings"](ValueDecompositionConfig.training)
    documented |= document["meanings"](config_class.training)
    assert documented.pop("others")
    assert documented.keys() == set(keys)
    for name, text in documented.items():
        assert text.endswith(f" Default: {getattr(plain, name)!r}."), name
        RANGES[name].validate(name, getattr(plain, name))
    assert RANGES.keys() >= set(keys)
    with pytest.raises(ValueError, match=r"'num_env_runners' is not training\(\)'s"):
        config_class().training(num_env_runners=2)


def test_every_range_is_of_a_key():
    assert RANGES.keys() <= vars(DDNConfig()).keys()


def test_a_variants_defaults_are_its_own():
    assert (VDNConfig().mixer, PTDEConfig().follower_agent, PTDEConfig().intrinsic_reward) == ("vdn", "leader", False)
    assert (DDNConfig().follower_agent, DDNConfig().intrinsic_reward) == ("own", True)
    VDNConfig().mixer_config["embed_dim"] = 3
    assert VDNConfig().mixer_config == {}


class Tempered(DDNConfig):
    """A custom config with a key of its own and another default."""

    heat: float = 0.5
    mixer = "vdn"


def test_a_custom_config_has_keys_of_its_own():
    config = Tempered().training(heat=0.25, lr=1e-4)
    assert (config.heat, config.mixer, config.lr) == (0.25, "vdn", 1e-4)
    assert config.copy().to_dict()["heat"] == 0.25
    assert Tempered().algo_class is DDN


def test_type_checkers_flag_wrong_uses():
    """mypy, with the settings of this repository; each line that ends in ``# wrong`` is flagged, and no other."""
    uses = Path(__file__).parent / "programs" / "typed_uses.py"
    wrong = [n for n, line in enumerate(uses.read_text().splitlines(), 1) if line.endswith("# wrong")]
    command = [sys.executable, "-m", "mypy", "--no-error-summary", str(uses)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=uses.parents[2], timeout=300, check=False)
    flagged = [int(n) for n in re.findall(r"typed_uses\.py:(\d+): error", done.stdout)]
    assert sorted(set(flagged)) == wrong, done.stdout + done.stderr
