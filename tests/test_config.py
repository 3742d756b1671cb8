"""Configs: the defaults, the optimizers that they make, and the way through a dict."""

import inspect
import re

import pytest

from rllib_ddn import DDN, DDNConfig, PTDEConfig, ValueDecompositionConfig, VDNConfig
from support.configs import small_config


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
    for key, papers in (
        ("lr", "5e-4"),
        ("optimizer", '"rmsprop" (the paper\'s'),
        ("target_update_interval_episodes", "200"),
    ):
        assert papers in re.search(rf"^    {key}: .*", DDNConfig.training.__doc__, re.MULTILINE)[0]
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


@pytest.mark.parametrize("config", [ValueDecompositionConfig, DDNConfig, VDNConfig, PTDEConfig])
def test_training_takes_the_keys_that_it_documents_and_they_do_what_they_say(config):
    """Its signature, its docstring and a new config agree on every default, those of the variants included."""
    documented = {
        name: parameter.default
        for name, parameter in inspect.signature(config.training).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY
    }
    assert {"mixer", "lr", "td_lambda"} <= documented.keys()
    assert ("mask_probability" in documented) == issubclass(config, DDNConfig)
    plain = config()
    assert documented == {name: getattr(plain, name) for name in documented}
    config().training(**documented)  # none is unknown
    for name, default in documented.items():
        assert re.search(
            rf"^    {name}: .*Default: {re.escape(repr(default))}\.$", config.training.__doc__, re.MULTILINE
        ), name
    for name in ("evaluation_interval", "num_envs_per_env_runner", "exploration_config"):
        assert name not in documented
        assert f"``{name}``: " in config.__doc__
    with pytest.raises(ValueError, match=r"'num_env_runners' is not training\(\)'s: env_runners\(\)"):
        config().training(num_env_runners=2)
