"""Model-free agents that learn from a replay of all their experience."""

import dataclasses
import math
from collections.abc import Mapping
from types import MappingProxyType

from safex.config.checks import require_at_least, require_below_bound, require_positive
from safex.config.constraints import PIDConfig

OFF_POLICY_KINDS = ("SAC", "TD3", "DDPG", "SACLag", "TD3Lag", "DDPGLag", "CVPO")

# Gains on an episode's cost as FSRL has them (commit e056fc9). It does not smooth:
# after a costly round the slope alone prices the next one off, and so on by turns; and
# what is left of the excess is priced in thousands of rounds.
_FSRL_PID = PIDConfig(k_p=0.05, k_i=0.0005, k_d=0.1)
_EPISODIC_PID = PIDConfig(k_p=0.05, k_i=0.01, k_d=0.1, smoothing=0.8)

# Least and most that a cost may weigh beside the reward.
COST_WEIGHTS = (0.05, 20.0)


@dataclasses.dataclass(frozen=True)
class OffPolicyConfig:
    """What every off-policy agent has: critics, their targets, minibatches.

    Attributes:
      cost_budget: allowed cost of an episode, one number or one per constraint; 0 is
        allowed. Agents without a multiplier leave it to the account.
      discount: of the reward, per step, in [0, 1).
      cost_discount: of the cost, per step, in [0, 1).
      n_step: most steps whose rewards and costs are added up before the bootstrap.
      batch_size: B, rows of a minibatch.
      features: widths of the hidden layers of the actor and of each critic.
      activation: of the hidden layers, `relu`, `tanh` or `swish`.
      num_critics: critics of each signal; of a reward's the least counts, of a cost's
        the largest.
      actor_lr_rate: learning rate of Adam on the actor.
      critic_lr_rate: learning rate of Adam on the critics.
      tau: share of the live critics that the target critics take over per update.
    """

    cost_budget: tuple[float, ...] = (25.0,)
    discount: float = 0.99
    cost_discount: float = 0.99
    n_step: int = 2
    batch_size: int = 256
    features: tuple[int, ...] = (128, 128)
    activation: str = "relu"
    num_critics: int = 2
    actor_lr_rate: float = 5e-4
    critic_lr_rate: float = 1e-3
    tau: float = 0.01

    def __post_init__(self) -> None:
        """Refuses impossible settings.

        Raises:
          ValueError: names the field, its value and what would be right.
        """
        if not self.cost_budget or not all(value >= 0 for value in self.cost_budget):
            raise ValueError(f"cost_budget must be >= 0, got {self.cost_budget}")
        for name in ("discount", "cost_discount"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise ValueError(
                    f"{name} must lie in [0, 1), got {getattr(self, name)}"
                )
        if not self.features or min(self.features) < 1:
            raise ValueError(f"features must be positive widths, got {self.features}")
        if self.activation not in ("relu", "tanh", "swish"):
            raise ValueError(
                "activation must be one of ('relu', 'tanh', 'swish'), got "
                f"{self.activation!r}"
            )
        require_at_least(1, self, ("n_step", "batch_size", "num_critics"))
        require_positive(self, ("actor_lr_rate", "critic_lr_rate"))
        if not 0.0 < self.tau <= 1.0:
            raise ValueError(f"tau must lie in (0, 1], got {self.tau}")


@dataclasses.dataclass(frozen=True)
class SACConfig(OffPolicyConfig):
    """Soft actor-critic with a learned temperature.

    Attributes:
      init_temperature: price of an action's log density before the first update, in
        reward.
      temperature_lr_rate: learning rate of Adam on the temperature's logarithm.
      target_entropy: entropy of an action that the temperature steers to [nat per
        action dimension].
    """

    init_temperature: float = 0.1
    temperature_lr_rate: float = 3e-4
    target_entropy: float = -1.0

    def __post_init__(self) -> None:
        """Refuses impossible settings.

        Raises:
          ValueError: names the field, its value and what would be right.
        """
        super().__post_init__()
        require_positive(self, ("init_temperature", "temperature_lr_rate"))
        # A density on the box [-1, 1] has at most the uniform's entropy, log 2.
        if not self.target_entropy < 0.69:
            raise ValueError(
                f"target_entropy must be < log 2 = 0.69, got {self.target_entropy}"
            )


@dataclasses.dataclass(frozen=True)
class DDPGConfig(OffPolicyConfig):
    """Deep deterministic policy gradient: one critic, Gaussian exploration.

    Attributes:
      exploration_std: of the noise on an action that explores, clipped to the box; half
        the box is 1.
    """

    num_critics: int = 1
    exploration_std: float = 0.1

    def __post_init__(self) -> None:
        """Refuses impossible settings.

        Raises:
          ValueError: names the field, its value and what would be right.
        """
        super().__post_init__()
        require_at_least(0, self, ("exploration_std",))


@dataclasses.dataclass(frozen=True)
class TD3Config(DDPGConfig):
    """Twin critics, smoothed target actions, a delayed actor.

    Attributes:
      target_noise_std: of the noise on the target's action.
      target_noise_clip: bound of that noise.
      actor_delay: critic updates to an actor update.
    """

    num_critics: int = 2
    target_noise_std: float = 0.2
    target_noise_clip: float = 0.5
    actor_delay: int = 2

    def __post_init__(self) -> None:
        """Refuses impossible settings.

        Raises:
          ValueError: names the field, its value and what would be right.
        """
        super().__post_init__()
        require_at_least(0, self, ("target_noise_std", "target_noise_clip"))
        require_at_least(1, self, ("actor_delay",))


@dataclasses.dataclass(frozen=True)
class SACLagConfig(SACConfig):
    """SAC whose actor pays for costs.

    Attributes:
      pid: controller of the multipliers, on the mean cost of the episodes that ended.
    """

    pid: PIDConfig = _EPISODIC_PID


@dataclasses.dataclass(frozen=True)
class DDPGLagConfig(DDPGConfig):
    """DDPG whose actor pays for costs, with two critics not to underrate them.

    Attributes:
      pid: controller of the multipliers, on the mean cost of the episodes that ended.
    """

    num_critics: int = 2
    pid: PIDConfig = _EPISODIC_PID


@dataclasses.dataclass(frozen=True)
class TD3LagConfig(TD3Config):
    """TD3 whose actor pays for costs.

    Attributes:
      pid: controller of the multipliers, on the mean cost of the episodes that ended.
    """

    pid: PIDConfig = _EPISODIC_PID


@dataclasses.dataclass(frozen=True)
class CVPOConfig(OffPolicyConfig):
    """Constrained variational policy optimisation.

    Attributes:
      threshold: how the budget of an episode becomes one of Q_c: `measured`, by the
        mean of Q_c and the cost of episodes, or `even`, as if cost was spent evenly
        over episodes of full length and Q_c looked at from their first step.
      estep_newest: newest steps of the replay, of all environments, that the E-step's
        observations come from; None is all of it. The costs are held at the states that
        it shows: old ones within a forbidden region ask for more than any policy can
        do there, and tell nothing of where it goes now.
      num_samples: N, actions drawn from the old policy for each observation.
      estep_kl: KL of the weights from the old policy, mean over observations [nat].
      max_multiplier: cap of the E-step's multipliers, in reward per cost; a batch that
        asks for more is called infeasible.
      init_cost_weight: cap of `lambda std(Q_c) / std(Q_r)` in an infeasible batch,
        before any episode, in [0.05, 20], where it stays; None leaves `max_multiplier`
        alone.
      cost_weight_rate: by which its logarithm moves after each round of episodes, for
        an excess of one budget.
      mstep_kl_mean: KL that a change of the means may make from the old policy [nat].
      mstep_kl_std: the same for a change of the stds [nat].
      mstep_lr_rate: learning rate of Adam on the logarithms of the two KLs' prices.
      num_msteps: gradient steps of the actor per minibatch.
      old_policy_period: updates between two moves of the old policy.
      old_policy_tau: share of the actor that the old policy takes over in a move.
      init_std: std of the policy before the first update, on the scale before tanh.
      min_std: least std of the policy, on the same scale.
    """

    threshold: str = "measured"
    estep_newest: int | None = 10_000
    num_samples: int = 16
    estep_kl: float = 0.1
    max_multiplier: float = 100.0
    init_cost_weight: float | None = 0.5
    cost_weight_rate: float = 0.03
    mstep_kl_mean: float = 0.02
    mstep_kl_std: float = 0.0005
    mstep_lr_rate: float = 0.01
    num_msteps: int = 1
    old_policy_period: int = 100
    old_policy_tau: float = 1.0
    init_std: float = 0.7
    min_std: float = 0.01

    def __post_init__(self) -> None:
        """Refuses impossible settings.

        Raises:
          ValueError: names the field, its value and what would be right.
        """
        super().__post_init__()
        positive = ("estep_kl", "max_multiplier", "mstep_kl_mean", "mstep_kl_std")
        require_positive(self, (*positive, "mstep_lr_rate", "min_std"))
        if self.threshold not in ("measured", "even"):
            raise ValueError(
                f"threshold must be measured or even, got {self.threshold!r}"
            )
        # One action has nothing to be weighed against.
        require_at_least(2, self, ("num_samples",))
        require_at_least(1, self, ("num_msteps", "old_policy_period"))
        if not 0.0 <= self.cost_weight_rate < math.inf:
            raise ValueError(
                f"cost_weight_rate must be >= 0 and finite, got {self.cost_weight_rate}"
            )
        least, most = COST_WEIGHTS
        if self.init_cost_weight is not None and not (
            least <= self.init_cost_weight <= most
        ):
            raise ValueError(
                f"init_cost_weight must lie in [{least:g}, {most:g}] or be None, got "
                f"{self.init_cost_weight}"
            )
        if self.estep_newest is not None:
            require_at_least(1, self, ("estep_newest",))
        require_below_bound(self, "min_std", "init_std")
        # Weights on one action alone are log N from uniform ones.
        if not self.estep_kl < math.log(self.num_samples):
            raise ValueError(
                f"estep_kl must be < log num_samples = "
                f"{math.log(self.num_samples):.3g}, got {self.estep_kl}"
            )
        if not 0.0 < self.old_policy_tau <= 1.0:
            raise ValueError(
                f"old_policy_tau must lie in (0, 1], got {self.old_policy_tau}"
            )


# Settings named after the code that they were read in, as far as an agent has them;
# docs/model_free.md has each number's source and what differs all the same.
OFF_POLICY_PRESETS: Mapping[str, tuple[str, OffPolicyConfig]] = MappingProxyType(
    {
        "cvpo_fsrl": (
            "CVPO",
            CVPOConfig(
                threshold="even",
                estep_newest=None,
                init_cost_weight=None,
                cost_budget=(10.0,),
                discount=0.97,
                cost_discount=0.97,
                num_critics=1,
                tau=0.05,
                estep_kl=0.02,
                max_multiplier=20.0,
                mstep_kl_mean=0.005,
                mstep_kl_std=0.0005,
                mstep_lr_rate=0.1,
                old_policy_period=500,
            ),
        ),
        "cvpo_fsrl_navigation": (
            "CVPO",
            CVPOConfig(
                threshold="even",
                estep_newest=None,
                init_cost_weight=None,
                discount=0.995,
                cost_discount=0.995,
                n_step=3,
                num_critics=1,
                tau=0.05,
                estep_kl=0.02,
                max_multiplier=20.0,
                mstep_kl_mean=0.005,
                mstep_kl_std=0.0005,
                mstep_lr_rate=0.1,
                old_policy_period=2000,
            ),
        ),
        "cvpo_paper": (
            "CVPO",
            CVPOConfig(
                threshold="even",
                estep_newest=None,
                init_cost_weight=None,
                cost_budget=(10.0,),
                n_step=1,
                batch_size=300,
                features=(256, 256),
                actor_lr_rate=2e-3,
                tau=0.005,
                num_samples=32,
                estep_kl=0.1,
                mstep_kl_mean=0.001,
                mstep_kl_std=0.001,
                num_msteps=6,
                old_policy_period=1,
                old_policy_tau=0.005,
            ),
        ),
        "cvpo_paper_circle": (
            "CVPO",
            CVPOConfig(
                threshold="even",
                estep_newest=None,
                init_cost_weight=None,
                cost_budget=(20.0,),
                n_step=1,
                batch_size=300,
                features=(256, 256),
                actor_lr_rate=6.4e-3,
                critic_lr_rate=1.5e-3,
                tau=0.005,
                num_samples=64,
                estep_kl=0.1,
                mstep_kl_mean=0.001,
                mstep_kl_std=0.001,
                num_msteps=29,
                old_policy_period=1,
                old_policy_tau=0.005,
            ),
        ),
        "sac_lag_fsrl": (
            "SACLag",
            SACLagConfig(
                cost_budget=(10.0,),
                discount=0.97,
                cost_discount=0.97,
                tau=0.05,
                init_temperature=1.0,
                pid=_FSRL_PID,
            ),
        ),
        "ddpg_lag_fsrl": (
            "DDPGLag",
            DDPGLagConfig(
                cost_budget=(10.0,),
                discount=0.97,
                cost_discount=0.97,
                num_critics=1,
                tau=0.05,
                pid=_FSRL_PID,
            ),
        ),
    }
)
