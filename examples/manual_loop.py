"""A loop of one's own: act, observe, update, without launcher and without `Trainer`.

    python examples/manual_loop.py

The environment stands for a robot, a simulator or a notebook: the agent never sees more
of it than observations, rewards and costs. Every state can be saved with
`safex.training.checkpoint.save_checkpoint` and gone on from.
"""

import gymnasium

import safex.envs
from safex.agents.mpc import MPCAgent
from safex.agents.planners import Safe
from safex.config import CalibrationConfig, CEMConfig, EnsembleConfig, TerminalConfig
from safex.constraints.feasible_first import FeasibleFirst
from safex.envs.gymnasium_adapter import JaxEnv
from safex.models.ensemble import probabilistic_ensemble
from safex.optimizers.cem import CEM
from safex.training.manual import ManualLoop, ManualState
from safex.types import DynamicsModel


def make_loop(
    env: gymnasium.Env, steps: int, model: DynamicsModel | None
) -> ManualLoop:
    """An agent that knows reward and limits of the pendulum, not how it moves."""
    assert isinstance(env.unwrapped, JaxEnv)
    task = env.unwrapped.system
    network = EnsembleConfig(num_training_steps=500, features=(32, 32))
    model = model or probabilistic_ensemble(3, 1, network, CalibrationConfig())
    planner = Safe(15, terminal=TerminalConfig(steps=10))
    search = CEM(1, CEMConfig(horizon=15, num_samples=100, num_elites=10, num_iter=4))
    agent = MPCAgent(task, model, planner, search, FeasibleFirst())
    return ManualLoop(task, agent, capacity=steps)


def main(
    episodes: int = 4, steps: int = 100, model: DynamicsModel | None = None
) -> tuple[ManualLoop, ManualState, list]:
    """Loop, last state, and the return of each episode, the first one random."""
    assert safex.envs.SYSTEMS  # importing it registers them with gymnasium
    env = gymnasium.make("safex/Pendulum-v0", speed_threshold=6.0)
    loop = make_loop(env, (episodes + 1) * steps, model)
    state, returns = loop.init(seed=0), []
    for episode in range(episodes + 1):
        obs, _ = env.reset(seed=episode)
        state, total = loop.begin(state), 0.0
        for _ in range(steps):
            if episode == 0:
                action = loop.explore(state)
            else:
                state, action, _ = loop.act(state, obs)
            next_obs, reward, terminated, truncated, info = env.step(action)
            state = loop.observe(
                state,
                obs=obs,
                action=action,
                reward=float(reward),
                cost=info["costs"],
                next_obs=next_obs,
                terminated=terminated,
                truncated=truncated,
            )
            obs, total = next_obs, total + float(reward)
        state, metrics = loop.update(state)
        returns.append(total)
        violating, rmse = (
            loop.violating_steps(state),
            metrics.get("model/held_out/rmse"),
        )
        print(f"{episode}: return {total:.1f}, violating {violating}, rmse {rmse}")
    return loop, state, returns


if __name__ == "__main__":
    main()
