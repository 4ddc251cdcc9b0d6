"""mbrl-lib at the work of benchmarks/plan.py or fit.py, once for each line it reads.

Runs in its own environment. Prints `{"wall": s, "cpu": s}` after each call.
"""

import json
import sys
import time

import gymnasium
import numpy as np
import omegaconf
import torch
from mbrl.models import GaussianMLP, ModelEnv, ModelTrainer, OneDTransitionRewardModel
from mbrl.planning import TrajectoryOptimizer
from mbrl.util.replay_buffer import BootstrapIterator, TransitionBatch


class Sizes(gymnasium.Env):
    """Only the spaces of a system."""

    def __init__(self, obs_dim, action_dim):
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (obs_dim,))
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (action_dim,))


def build(s):
    """The ensemble, as PETS has it."""
    network = GaussianMLP(
        s["obs_dim"] + s["action_dim"],
        s["obs_dim"],
        "cpu",
        num_layers=len(s["features"]),
        ensemble_size=s["members"],
        hid_size=s["features"][0],
        propagation_method="fixed_model",
        activation_fn_cfg={"_target_": "torch.nn.SiLU"},
    )
    return OneDTransitionRewardModel(
        network, target_is_delta=True, normalize=True, learned_rewards=False
    )


def plan(s):
    """One decision of the PETS agent."""
    env = Sizes(s["obs_dim"], s["action_dim"])
    model_env = ModelEnv(
        env,
        build(s),
        termination_fn=lambda action, obs: torch.zeros(len(obs), 1, dtype=torch.bool),
        reward_fn=lambda action, obs: -(obs**2).sum(1, keepdim=True),
        generator=torch.Generator(),
    )
    config = omegaconf.OmegaConf.create(
        {
            "_target_": "mbrl.planning.CEMOptimizer",
            "num_iterations": s["iterations"],
            "elite_ratio": s["elites"] / s["samples"],
            "population_size": s["samples"],
            "alpha": 0.1,
            "device": "cpu",
            "lower_bound": None,
            "upper_bound": None,
            "return_mean_elites": True,
        }
    )
    bound = np.ones(s["action_dim"])
    optimizer = TrajectoryOptimizer(config, -bound, bound, s["horizon"])
    obs = np.full(s["obs_dim"], 0.1)

    def call():
        with torch.no_grad():
            optimizer.optimize(
                lambda actions: model_env.evaluate_action_sequences(
                    actions, initial_state=obs, num_particles=s["particles"]
                )
            )

    return call


def fit(s):
    """A fit of the same number of steps on the same number of rows."""
    model = build(s)
    rng = np.random.default_rng(0)
    rows = s["batch"] * s["steps_per_epoch"]
    obs = rng.normal(size=(rows, s["obs_dim"])).astype(np.float32)
    action = rng.uniform(-1, 1, (rows, s["action_dim"])).astype(np.float32)
    zeros = np.zeros(rows, np.float32)
    data = TransitionBatch(obs, action, 0.9 * obs, zeros, zeros > 0, zeros > 0)
    model.update_normalizer(data)
    trainer = ModelTrainer(model, optim_lr=1e-3, weight_decay=0.0)
    iterator = BootstrapIterator(
        data, s["batch"], s["members"], shuffle_each_epoch=True
    )

    def call():
        trainer.train(
            iterator,
            num_epochs=s["steps"] // s["steps_per_epoch"],
            evaluate=False,
            silent=True,
        )

    return call


def main():
    """Reads the work from the command line and `go` from standard input."""
    torch.set_num_threads(int(sys.argv[3]))
    call = {"plan": plan, "fit": fit}[sys.argv[1]](json.loads(sys.argv[2]))
    for _ in sys.stdin:
        wall, cpu = time.perf_counter(), time.process_time()
        call()
        timing = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
        print(json.dumps(timing), flush=True)


if __name__ == "__main__":
    main()
