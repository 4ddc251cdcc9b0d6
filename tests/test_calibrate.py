import io
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import yaml
from rich.console import Console

from experiments import calibrate, calibrating
from experiments.configuration import plain_of
from safex.envs.pendulum import Pendulum
from safex.training.account import EpisodeRecord, save_record
from safex.types import Prediction
from tests.helpers import assert_close
from tests.test_configuration import read

ENV = Pendulum.from_config()
KEY = jax.random.key(0)


class HalfKnown:
    """Knows the pendulum up to a bias that its std covers near the data alone."""

    num_members = 0

    def init(self, key):
        del key
        return jnp.zeros((), jnp.int32)

    def fit(self, key, state, data):
        del key
        return state + 1, {"size": data.size}

    def test_rows(self, data):
        row = jnp.arange(data.transitions.reward.shape[0])
        return (row % 4 == 0) & (row < data.size)

    def predict(self, state, obs, action):
        # The bias falls with every fit; the std is right for speeds within the limit.
        bias = jnp.where(jnp.abs(obs[2]) < 6.0, 0.15, 1.5) / state
        std = 0.1 * jnp.ones(3) / state
        return Prediction(ENV.dynamics(obs, action) + bias, std, jnp.zeros(3))


@pytest.fixture(scope="module")
def episodes():
    return [
        calibrating.Rows(*(leaf[:60] for leaf in episode))
        for episode in calibrating.collect_random(KEY, ENV, 3)
    ]


@pytest.fixture(scope="module")
def fits(episodes):
    far = calibrating.collect_far(jax.random.key(1), ENV)
    return calibrating.replay(KEY, ENV, HalfKnown(), episodes, far, imagine=True)


def test_random_episodes_are_those_of_the_system(episodes):
    episode = episodes[1]
    assert_close(episode.next_obs[:-1], episode.obs[1:])
    truth = jax.vmap(ENV.dynamics)(episode.obs, episode.action)
    assert_close(episode.next_obs, truth, atol=1e-4)
    assert np.any(episodes[0].action != episode.action)


def test_far_paths_start_beyond_the_limit():
    far = calibrating.collect_far(jax.random.key(1), ENV)
    assert far.obs.shape == (calibrating.NUM_FAR, calibrating.HORIZON, 3)
    assert np.all(np.abs(far.obs[:, 0, 2]) >= 6.0)


def test_every_fit_is_asked_about_what_it_was_not_given(fits):
    assert [fit.episode for fit in fits] == [0, 1, 2]
    assert "next" not in fits[-1].one_step
    for number, fit in enumerate(fits):
        rows = {name: len(error) for name, (error, _) in fit.one_step.items()}
        wanted = {"held_out": 15 * (number + 1), "far": calibrating.NUM_FAR, "next": 60}
        assert rows.items() <= wanted.items()
        error, std = fit.one_step["held_out"]
        assert_close(std, np.full_like(std, 0.1 / (number + 1)), rtol=1e-4)
        assert_close(np.abs(error), np.full_like(error, 0.15 / (number + 1)), rtol=1e-2)
    assert np.median(fits[0].distance["far"]) > np.median(fits[0].distance["held_out"])


def test_the_summary_says_where_the_band_holds(fits):
    entries = calibrating.summarise([fits, fits], ENV.obs_names)
    assert [entry["episode"] for entry in entries] == [0, 1, 2]
    for region, inside in (("held_out", 1.0), ("next", 1.0), ("far", 0.0)):
        mean = entries[0]["one_step"][region]["mean"]
        assert mean["nominal"] == pytest.approx(inside, abs=0.02)
        assert mean["coverage"]["1"] == pytest.approx(0.0, abs=0.02)
        assert len(entries[0]["one_step"][region]["seeds"]) == 2
    # Ten biased steps drift apart faster than ten independent errors spread.
    assert entries[0]["band"]["next"] < 0.9
    assert set(mean["dimensions"]) == set(ENV.obs_names)
    shown = calibrating.table(entries, "title")
    assert shown.row_count == 3
    # As wide as the command prints it, a fit is a line, whatever its numbers.
    entries[0]["one_step"]["far"]["mean"]["coverage"] = {1: 1.0, 2: 1.0, 3: 1.0}
    entries[0]["one_step"]["held_out"]["mean"]["nll"] = -1234.5
    console = Console(width=calibrating.WIDTH, file=io.StringIO())
    console.print(calibrating.table(entries, "title"))
    text = console.file.getvalue()
    lines = [line.split() for line in text.splitlines() if line.strip()]
    rows = [line for line in lines if line[0] in ("0", "1", "2")]
    assert [row[0] for row in rows] == ["0", "1", "2"]
    # A number for the episode, four a region, and four; less where nothing is known.
    assert [len(row) for row in rows] == [17, 17, 15]
    assert rows == lines[-3:]
    assert "steps, 95 %" in text
    assert "…" not in text


def test_the_command_replays_a_run(tmp_path, monkeypatch, episodes, capsys):
    for seed in range(2):
        folder = tmp_path / "run" / f"seed_{seed}" / "episodes"
        folder.mkdir(parents=True)
        # The second seed was stopped early.
        for number, rows in enumerate(episodes[: 3 - seed]):
            none = np.zeros(len(rows.obs))
            record = EpisodeRecord(*rows, *[none] * (len(EpisodeRecord._fields) - 3))
            save_record(folder / f"episode_{number:03d}.npz", record)
    monkeypatch.setattr(calibrating, "set_up_jax", lambda: None)
    monkeypatch.setattr(calibrating, "build_model", lambda *arguments: HalfKnown())
    config = plain_of(read("model.num_ensembles=2"))
    (tmp_path / "run" / "config.yaml").write_text(yaml.safe_dump(config))
    assert calibrate.main([str(tmp_path / "run"), "--no-imagination"]) == 0
    assert "far" in capsys.readouterr().out
    found = json.loads((tmp_path / "run" / "calibration.json").read_text())
    assert found["seeds"] == 2
    assert len(found["fits"]) == 2
    held = found["fits"][0]["one_step"]["held_out"]["mean"]["coverage"]
    assert held["2"] == pytest.approx(1.0, abs=0.02)
    assert (tmp_path / "run" / "calibration.png").stat().st_size > 10_000


def run_of(folder, episodes):
    """A run of one seed, as far as the command reads it."""
    below = folder / "seed_0" / "episodes"
    below.mkdir(parents=True)
    for number, rows in enumerate(episodes):
        none = np.zeros(len(rows.obs))
        record = EpisodeRecord(*rows, *[none] * (len(EpisodeRecord._fields) - 3))
        save_record(below / f"episode_{number:03d}.npz", record)
    config = plain_of(read("model.num_ensembles=2"))
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return folder


def test_a_damaged_episode_is_named(tmp_path, episodes, capsys):
    folder = run_of(tmp_path / "run", episodes[:2])
    path = folder / "seed_0" / "episodes" / "episode_001.npz"
    path.write_bytes(path.read_bytes()[:200])
    assert calibrate.main([str(folder)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"safex: {path} is not a whole episode record")
    assert f"resume.py {folder}" in line


def test_the_table_is_shown_though_no_file_can_be_written(
    tmp_path, monkeypatch, episodes, capsys
):
    monkeypatch.setattr(calibrating, "set_up_jax", lambda: None)
    monkeypatch.setattr(calibrating, "build_model", lambda *arguments: HalfKnown())
    folder = run_of(tmp_path / "run", episodes[:2])
    out = folder / "config.yaml" / "here"
    arguments = [str(folder), "--no-imagination", "--out", str(out)]
    assert calibrate.main(arguments) == 2
    shown = capsys.readouterr()
    assert "held out" in shown.out
    (line,) = shown.err.splitlines()
    assert line.startswith(f"safex: {out} cannot be written to: ")

    def refuse(folder):
        raise PermissionError(13, "Permission denied", str(folder))

    monkeypatch.setattr(calibrate, "read_plain", refuse)
    assert calibrate.main([str(folder)]) == 2
    assert capsys.readouterr().err == f"safex: Permission denied: {folder}\n"


def settings_of(*arguments):
    return calibrate.read_settings(calibrate._parse(arguments))


def test_fresh_data_are_of_the_task_and_fields_named(capsys):
    config = settings_of("--task", "car_park", "--model", "true", "env.mass=2")
    assert (config.task, config.model.kind) == ("car_park", "TrueDynamics")
    assert config.env.settings.mass == 2.0
    assert settings_of("model.num_ensembles=3").model.settings.num_ensembles == 3


def test_a_run_keeps_its_settings_but_for_what_is_set(tmp_path):
    config = plain_of(read("env.mass=2", "model.num_ensembles=3"))
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    found = settings_of(str(tmp_path), "env.gravity=5")
    assert (found.env.settings.mass, found.env.settings.gravity) == (2.0, 5.0)
    assert found.model.settings.num_ensembles == 3
    other = settings_of(str(tmp_path), "--model", "gp")
    assert (other.model.kind, other.model_name) == ("GaussianProcess", "gp")
    more = settings_of(
        str(tmp_path), "--model", "gp", "model.max_data=10", "env.mass=3"
    )
    assert (more.model.settings.max_data, more.env.settings.mass) == (10, 3.0)
    # A field that stands in no file.
    other = settings_of("--model", "fsvgd", str(tmp_path), "model.prior_scale=1")
    assert other.model.settings.prior_scale == 1.0


def test_what_cannot_be_read_is_refused_in_one_line(tmp_path, capsys):
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(plain_of(read())))
    empty = tmp_path / "empty"
    empty.mkdir()
    for arguments, words in (
        ([str(empty)], "no folder of a run"),
        ([str(tmp_path)], "two episodes"),
        ([str(tmp_path), "env.mas=2"], "unknown key env.mas"),
        ([str(tmp_path), "mass"], "key=value"),
        (["env.mas=2"], "did you mean env.mass"),
        (["env.mass=0"], "env.mass must be > 0"),
    ):
        assert calibrate.main(arguments) == 2
        error = capsys.readouterr().err
        assert words in error
        assert len(error.splitlines()) == 1
