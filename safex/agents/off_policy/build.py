"""Agents by the name of their kind."""

import math
from collections.abc import Callable
from typing import Any, Protocol

from safex.agents.off_policy.critics import Critics
from safex.agents.off_policy.cvpo import VariationalPolicy
from safex.agents.off_policy.learner import OffPolicyLearner
from safex.agents.off_policy.networks import DeterministicActor, GaussianActor
from safex.agents.off_policy.prices import EpisodicPrice, NoPrice, Price
from safex.agents.off_policy.sac import SoftPolicy
from safex.agents.off_policy.td3 import DeterministicPolicy, TargetNoise
from safex.agents.off_policy.threshold import Threshold
from safex.agents.off_policy.weight import AccountedWeight, AnyWeight, CostWeight
from safex.config import (
    CVPOConfig,
    DDPGConfig,
    DDPGLagConfig,
    OffPolicyConfig,
    SACConfig,
    SACLagConfig,
    TD3Config,
    TD3LagConfig,
)
from safex.constraints.pid import PID
from safex.errors import ConfigError

# Share of a budget that measured costs must outweigh: below it there is little to
# measure, and the constraint is far from acting.
_TRUST = 0.1


class Sizes(Protocol):
    """What an agent must know of a task."""

    @property
    def obs_dim(self) -> int:
        """D."""
        ...

    @property
    def action_dim(self) -> int:
        """A."""
        ...

    @property
    def num_constraints(self) -> int:
        """C."""
        ...

    @property
    def max_steps(self) -> int:
        """Length of an episode, the same for all [steps]."""
        ...


def episode_budgets(config: OffPolicyConfig, num_constraints: int) -> tuple[float, ...]:
    """The budget of each constraint.

    Raises:
      ConfigError: `cost_budget` has neither one entry nor one per constraint.
    """
    budgets = config.cost_budget
    if len(budgets) == 1:
        return budgets * num_constraints
    if len(budgets) != num_constraints:
        raise ConfigError(
            f"cost_budget needs 1 or {num_constraints} entries, got {len(budgets)}"
        )
    return budgets


def _threshold(config: CVPOConfig, env: Sizes) -> Threshold:
    budgets = episode_budgets(config, env.num_constraints)
    trust = _TRUST if config.threshold == "measured" else math.inf
    return Threshold(budgets, config.cost_discount, env.max_steps, trust)


def _gaussian(
    config: OffPolicyConfig, env: Sizes, init_std: float = 1.0, min_std: float = 1e-3
) -> GaussianActor:
    sizes = (env.obs_dim, env.action_dim, config.features, config.activation)
    return GaussianActor(*sizes, init_std=init_std, min_std=min_std)


def _critics(config: OffPolicyConfig, env: Sizes, num_costs: int) -> Critics:
    return Critics(config, env.obs_dim, env.action_dim, num_costs)


def _episodic(config: Any, env: Sizes) -> EpisodicPrice:
    budgets = episode_budgets(config, env.num_constraints)
    return EpisodicPrice(PID(config.pid), budgets)


def _soft(
    config: SACConfig, env: Sizes, num_costs: int, price: Price
) -> OffPolicyLearner:
    critics = _critics(config, env, num_costs)
    return OffPolicyLearner(
        critics, SoftPolicy(config, _gaussian(config, env), critics), price
    )


def _deterministic(
    config: DDPGConfig,
    env: Sizes,
    num_costs: int,
    price: Price,
    target_noise: TargetNoise,
    delay: int,
) -> OffPolicyLearner:
    critics = _critics(config, env, num_costs)
    sizes = (env.obs_dim, env.action_dim, config.features, config.activation)
    actor = DeterministicActor(*sizes)
    policy = DeterministicPolicy(config, actor, critics, target_noise, delay)
    return OffPolicyLearner(critics, policy, price)


def _sac(config: SACConfig, env: Sizes) -> OffPolicyLearner:
    return _soft(config, env, 0, NoPrice())


def _sac_lag(config: SACLagConfig, env: Sizes) -> OffPolicyLearner:
    return _soft(config, env, env.num_constraints, _episodic(config, env))


def _ddpg(config: DDPGConfig, env: Sizes) -> OffPolicyLearner:
    return _deterministic(config, env, 0, NoPrice(), TargetNoise(), 1)


def _ddpg_lag(config: DDPGLagConfig, env: Sizes) -> OffPolicyLearner:
    price = _episodic(config, env)
    return _deterministic(config, env, env.num_constraints, price, TargetNoise(), 1)


def _td3_noise(config: TD3Config) -> TargetNoise:
    return TargetNoise(config.target_noise_std, config.target_noise_clip)


def _td3(config: TD3Config, env: Sizes) -> OffPolicyLearner:
    noise = _td3_noise(config)
    return _deterministic(config, env, 0, NoPrice(), noise, config.actor_delay)


def _td3_lag(config: TD3LagConfig, env: Sizes) -> OffPolicyLearner:
    noise, price = _td3_noise(config), _episodic(config, env)
    costs = env.num_constraints
    return _deterministic(config, env, costs, price, noise, config.actor_delay)


def _cvpo(config: CVPOConfig, env: Sizes) -> OffPolicyLearner:
    critics = _critics(config, env, env.num_constraints)
    actor = _gaussian(config, env, init_std=config.init_std, min_std=config.min_std)
    threshold = _threshold(config, env)
    weight: CostWeight = AnyWeight(env.num_constraints)
    if config.init_cost_weight is not None:
        weight = AccountedWeight(
            threshold.cost_budget, config.init_cost_weight, config.cost_weight_rate
        )
    policy = VariationalPolicy(config, actor, critics, threshold, weight)
    return OffPolicyLearner(critics, policy, NoPrice())


_BUILDERS: dict[
    str, tuple[type[OffPolicyConfig], Callable[[Any, Sizes], OffPolicyLearner]]
] = {
    "SAC": (SACConfig, _sac),
    "TD3": (TD3Config, _td3),
    "DDPG": (DDPGConfig, _ddpg),
    "SACLag": (SACLagConfig, _sac_lag),
    "TD3Lag": (TD3LagConfig, _td3_lag),
    "DDPGLag": (DDPGLagConfig, _ddpg_lag),
    "CVPO": (CVPOConfig, _cvpo),
}


def build_off_policy(kind: str, config: Any, env: Sizes) -> OffPolicyLearner:
    """An agent of a task.

    Args:
      kind: one of `safex.config.OFF_POLICY_KINDS`.
      config: the dataclass of that kind.
      env: sizes of the task, and the length of its episodes.

    Raises:
      ConfigError: the kind is unknown, the configuration is another kind's, or it has
        another number of budgets than the task has constraints.
    """
    if kind not in _BUILDERS:
        raise ConfigError(f"agent.kind must be one of {tuple(_BUILDERS)}, got {kind!r}")
    expected, build = _BUILDERS[kind]
    if type(config) is not expected:
        raise ConfigError(
            f"agent.kind {kind} takes a {expected.__name__}, got a "
            f"{type(config).__name__}"
        )
    # Agents without a price have budgets too, for the account.
    episode_budgets(config, env.num_constraints)
    return build(config, env)
