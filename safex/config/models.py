"""Dynamics models and their calibration."""

import dataclasses

from safex.config.checks import require_at_least, require_positive

ACTIVATIONS = ("algebraic_swish", "swish", "tanh", "relu")
CALIBRATION_METHODS = ("none", "kuleshov", "conformal")
CONFIDENCES = ("constant", "information_gain")
KERNELS = ("rbf", "matern52")
PLAN_DTYPES = ("float32", "bfloat16")
SUBSETS = ("none", "newest", "farthest")


@dataclasses.dataclass(frozen=True)
class SplitConfig:
    """Which rows a learned model is trained on, and how many judge it.

    Attributes:
      train_share: share of the data that is trained on; half of the rest stops early
        and calibrates, the other half measures coverage.
      eval_batch_size: most held-out rows used to evaluate and to calibrate.
    """

    train_share: float = 0.8
    eval_batch_size: int = 512

    def __post_init__(self) -> None:
        """Refuses impossible settings.

        Raises:
          ValueError: names the field, its value and what would be right.
        """
        if not 0.0 < self.train_share < 1.0:
            raise ValueError(f"train_share must lie in (0, 1), got {self.train_share}")
        require_at_least(1, self, ("eval_batch_size",))


@dataclasses.dataclass(frozen=True)
class LearnedConfig(SplitConfig):
    """What all learned models share.

    Attributes:
      own_frame: learn in the system's own frame where the environment has one: its
        place and heading then do not matter to the model.
    """

    own_frame: bool = True


@dataclasses.dataclass(frozen=True)
class NetworkConfig(LearnedConfig):
    """Architecture and training of the networks of a learned model.

    Attributes:
      features: widths of the hidden layers.
      activation: one of `ACTIVATIONS`.
      min_std: smallest learned noise std, in units of the std of the targets.
      num_training_steps: most minibatch steps per fit.
      batch_size: rows per minibatch and member.
      lr_rate: peak learning rate of Adam, decayed to 5 % over the fit by a cosine.
      weight_decay: precision of the Gaussian prior on the weights, as a multiple of
        their fan-in; its share in the loss falls as data come in, and where noise is
        small the likelihood outweighs it. It keeps extrapolation smooth; too much of
        it, and what takes many weights to say is called noise.
      nll_beta: where the noise is learned, each output's likelihood is weighted by
        `std^(2 beta)` in training, so that outputs known early do not drown the others;
        0 is plain likelihood. The weight prior then weighs the more the less noise
        there is, by `1 / std^(2 beta)`.
      eval_frequency: steps between held-out evaluations.
      patience: evaluations without improvement that end a fit; 0 never ends it early.
      return_best_model: keep the parameters of the best held-out likelihood instead of
        the last ones.
      plan_dtype: `float32`, or `bfloat16` for the products and activations of the
        hidden layers in every prediction, calibration and coverage included; training
        stays in float32.
    """

    features: tuple[int, ...] = (64, 64)
    activation: str = "algebraic_swish"
    min_std: float = 1e-2
    num_training_steps: int = 2000
    batch_size: int = 64
    lr_rate: float = 5e-3
    weight_decay: float = 0.02
    nll_beta: float = 0.5
    eval_frequency: int = 100
    patience: int = 10
    return_best_model: bool = True
    plan_dtype: str = "float32"

    def __post_init__(self) -> None:
        """Refuses impossible settings.

        Raises:
          ValueError: names the field, its value and what would be right.
        """
        super().__post_init__()
        if not self.features or min(self.features) < 1:
            raise ValueError(f"features must be positive widths, got {self.features}")
        if self.activation not in ACTIVATIONS:
            raise ValueError(
                f"activation must be one of {ACTIVATIONS}, got {self.activation!r}"
            )
        if self.plan_dtype not in PLAN_DTYPES:
            raise ValueError(
                f"plan_dtype must be one of {PLAN_DTYPES}, got {self.plan_dtype!r}"
            )
        require_at_least(
            1, self, ("num_training_steps", "batch_size", "eval_frequency")
        )
        require_positive(self, ("lr_rate", "min_std"))
        require_at_least(0, self, ("weight_decay", "patience", "nll_beta"))


@dataclasses.dataclass(frozen=True)
class EnsembleConfig(NetworkConfig):
    """What an ensemble has beyond its networks.

    Attributes:
      num_ensembles: E, number of members.
      output_stds: fixed noise std of a deterministic ensemble, in the unit of each
        output; one number or one per output.
      prior_scale: scale of a fixed random function added to each member, in units of
        the std of the targets (randomised priors, Osband et al. 2018,
        arXiv 1806.03335). It keeps members apart where there is no data; 0 is off.
    """

    num_ensembles: int = 5
    output_stds: tuple[float, ...] = (1e-2,)
    prior_scale: float = 0.0

    def __post_init__(self) -> None:
        """Refuses impossible settings.

        Raises:
          ValueError: names the field, its value and what would be right.
        """
        super().__post_init__()
        if self.num_ensembles < 2:
            raise ValueError(
                "num_ensembles must be >= 2, a single member has no epistemic std; "
                f"got {self.num_ensembles}"
            )
        if not self.output_stds or min(self.output_stds) <= 0:
            raise ValueError(f"output_stds must be > 0, got {self.output_stds}")
        require_at_least(0, self, ("prior_scale",))


@dataclasses.dataclass(frozen=True)
class FSVGDConfig(EnsembleConfig):
    """What functional SVGD has beyond an ensemble.

    Attributes:
      weight_decay: as of an ensemble; 0, because the function prior is in its place.
      nll_beta: 0, members follow a posterior, which has no weights.
      num_measurements: M, points at which members are compared, uniform around and
        beyond the data, drawn anew every `eval_frequency` steps.
      measurement_margin: how far beyond the range of the inputs these points lie, as a
        share of that range, on either side.
      prior_lengthscale: of the Gaussian process that is the prior over functions, in
        stds of the inputs, for distances per dimension.
      prior_std: of that process, in stds of the targets.
      prior_weight: multiple of the prior's log density; 0 switches it off.
      prior_jitter: share of white noise in the prior.
      bandwidth: of the repulsion, as a multiple of the median heuristic.
    """

    weight_decay: float = 0.0
    nll_beta: float = 0.0
    num_measurements: int = 32
    measurement_margin: float = 0.5
    prior_lengthscale: float = 0.5
    prior_std: float = 1.0
    prior_weight: float = 1.0
    prior_jitter: float = 1e-2
    bandwidth: float = 1.0

    def __post_init__(self) -> None:
        """Refuses impossible settings.

        Raises:
          ValueError: names the field, its value and what would be right.
        """
        super().__post_init__()
        if self.nll_beta != 0:
            raise ValueError(
                "nll_beta must be 0, the members of FSVGD follow a posterior; "
                f"got {self.nll_beta}"
            )
        require_at_least(1, self, ("num_measurements",))
        require_at_least(0, self, ("measurement_margin", "prior_weight"))
        require_positive(
            self, ("prior_lengthscale", "prior_std", "prior_jitter", "bandwidth")
        )


@dataclasses.dataclass(frozen=True)
class GaussianProcessConfig(LearnedConfig):
    """Kernel, training and size of an exact Gaussian process.

    Attributes:
      kernel: one of `KERNELS`, with a lengthscale for every input.
      noise_std: where the training of the noise std starts, and what it is drawn to
        while data are few, in stds of the targets.
      min_std: smallest noise std, in stds of the targets. It also keeps the kernel
        matrix invertible: below 0.01 the digits of float32 may not do.
      num_training_steps: steps of Adam on the marginal likelihood per fit.
      lr_rate: peak learning rate of Adam, decayed to 5 % over the fit by a cosine.
      num_hyper_rows: most rows, drawn at random, that hyper-parameters are trained on.
      max_data: M, most rows that are conditioned on; a fit costs M^3, a prediction M^2.
      subset: which rows, if there are more: `newest`, `farthest` (that cover all), or
        `none` to refuse such a run before it starts.
      confidence: `constant`, one posterior std is one epistemic std; or
        `information_gain`, the epistemic std is the width of the band that holds the
        truth with probability `1 - delta`.
      f_norm_bound: bound on the norm of the true function in the kernel's space, in
        stds of the targets, for `information_gain`.
      delta: probability that the truth leaves that band anywhere, at any time.
    """

    kernel: str = "rbf"
    noise_std: float = 0.1
    min_std: float = 1e-2
    num_training_steps: int = 100
    lr_rate: float = 0.1
    num_hyper_rows: int = 256
    max_data: int = 1500
    subset: str = "none"
    confidence: str = "constant"
    f_norm_bound: float = 1.0
    delta: float = 0.1

    def __post_init__(self) -> None:
        """Refuses impossible settings.

        Raises:
          ValueError: names the field, its value and what would be right.
        """
        super().__post_init__()
        for name, choices in (
            ("kernel", KERNELS),
            ("subset", SUBSETS),
            ("confidence", CONFIDENCES),
        ):
            if getattr(self, name) not in choices:
                raise ValueError(
                    f"{name} must be one of {choices}, got {getattr(self, name)!r}"
                )
        require_positive(self, ("noise_std", "min_std", "lr_rate"))
        require_at_least(1, self, ("num_training_steps", "num_hyper_rows", "max_data"))
        require_at_least(0, self, ("f_norm_bound",))
        if not 0.0 < self.delta < 1.0:
            raise ValueError(f"delta must lie in (0, 1), got {self.delta}")


@dataclasses.dataclass(frozen=True)
class LastLayerConfig(NetworkConfig):
    """What a Bayesian last layer has beyond its network.

    Attributes:
      num_samples: E, weights drawn from the posterior at each fit; they are the members
        that the sampling modes `TS1` and `TSInf` ask.
      num_evidence_steps: fixed-point steps of the prior precision.
    """

    num_samples: int = 10
    num_evidence_steps: int = 30

    def __post_init__(self) -> None:
        """Refuses impossible settings.

        Raises:
          ValueError: names the field, its value and what would be right.
        """
        super().__post_init__()
        require_at_least(1, self, ("num_samples", "num_evidence_steps"))


@dataclasses.dataclass(frozen=True)
class DropoutConfig(NetworkConfig):
    """What a network with dropout has beyond its layers.

    Attributes:
      dropout_rate: share of hidden units that a mask switches off.
      num_masks: E, masks drawn once and kept; they are the members.
    """

    dropout_rate: float = 0.1
    num_masks: int = 10

    def __post_init__(self) -> None:
        """Refuses impossible settings.

        Raises:
          ValueError: names the field, its value and what would be right.
        """
        super().__post_init__()
        if not 0.0 < self.dropout_rate < 1.0:
            raise ValueError(
                f"dropout_rate must lie in (0, 1), got {self.dropout_rate}"
            )
        require_at_least(2, self, ("num_masks",))


@dataclasses.dataclass(frozen=True)
class CalibrationConfig:
    """How the stds are rescaled after each fit.

    Attributes:
      method: `none`, `kuleshov` (match the predicted CDF) or `conformal` (meet a
        target coverage).
      target_coverage: share of errors that the conformal band must hold, two-sided.
      min_scale: smallest scale allowed; 1 means that calibration may only widen.
      max_scale: largest scale and largest stretch allowed.
      num_calibration_ps: CDF levels matched by `kuleshov`.
      num_test_alphas: candidate scales tried by `kuleshov`, evenly in (0, max_scale].
      num_inducing: size M of the smooth second opinion that tells new inputs from known
        ones and widens the band at the new ones; 0 is off, no input counts as new.
      prequential: also calibrate on each new episode before it is learned: stretch the
        band at known and at new inputs, each by what was missed there. A held-out part
        of old data says nothing of where the agent goes next.
      prequential_rate: by how much the logarithm of the stretch rises for an episode
        that misses the band entirely; it falls by `1 - target_coverage` of that for one
        that misses nowhere.
    """

    method: str = "conformal"
    target_coverage: float = 0.95
    min_scale: float = 0.05
    max_scale: float = 10.0
    num_calibration_ps: int = 20
    num_test_alphas: int = 100
    num_inducing: int = 64
    prequential: bool = True
    prequential_rate: float = 3.0

    def __post_init__(self) -> None:
        """Refuses impossible settings.

        Raises:
          ValueError: names the field, its value and what would be right.
        """
        if self.method not in CALIBRATION_METHODS:
            raise ValueError(
                f"method must be one of {CALIBRATION_METHODS}, got {self.method!r}"
            )
        if not 0.0 < self.target_coverage < 1.0:
            raise ValueError(
                f"target_coverage must lie in (0, 1), got {self.target_coverage}"
            )
        if not 0.0 <= self.min_scale <= self.max_scale:
            raise ValueError(
                "min_scale must lie in [0, max_scale], got "
                f"{self.min_scale} with max_scale {self.max_scale}"
            )
        if self.max_scale < 1.0:
            raise ValueError(f"max_scale must be >= 1, got {self.max_scale}")
        require_positive(self, ("prequential_rate",))
        require_at_least(0, self, ("num_inducing",))
        require_at_least(2, self, ("num_calibration_ps", "num_test_alphas"))
