"""Checkpoints: exact on the way back, and honest about every damaged file."""

import errno
import hashlib
import json
import os
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from safex.errors import CheckpointError, ResultsError
from safex.training.checkpoint import (
    fingerprint_of,
    load_checkpoint,
    newest_checkpoint,
    save_checkpoint,
)


def state(value):
    return {
        "a": jnp.full(3, value),
        "n": jnp.asarray(7, jnp.int32),
        "t": (jnp.ones(2),),
    }


@pytest.fixture
def folder(tmp_path):
    for episode in range(3):
        save_checkpoint(tmp_path, state(float(episode)), episode, "print")
    return tmp_path


def load(folder, template=None, fingerprint="print"):
    said = []
    found = load_checkpoint(folder, template or state(0.0), fingerprint, said.append)
    return found, said


def newest(folder):
    return sorted(folder.glob("*.ckpt"))[-1]


def test_the_newest_comes_back_exactly(folder):
    (loaded, episode), said = load(folder)
    assert episode == 2
    assert not said
    for ours, theirs in zip(
        jax.tree.leaves(state(2.0)), jax.tree.leaves(loaded), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)
        assert ours.dtype == theirs.dtype


def test_none_where_there_never_was_one(tmp_path):
    assert load(tmp_path / "empty") == (None, [])


def test_only_the_newest_few_are_kept(folder):
    save_checkpoint(folder, state(3.0), 3, "print")
    assert [p.name for p in sorted(folder.glob("*"))] == [
        f"episode_{e:04d}.ckpt" for e in (1, 2, 3)
    ]


def test_a_file_that_cannot_be_read_now_is_not_passed_over(folder):
    path = newest(folder)
    path.unlink()
    path.symlink_to(path.name)
    with pytest.raises(ResultsError, match=r"episode_0002\.ckpt cannot be read: Too"):
        load(folder)
    with pytest.raises(ResultsError, match=r"episode_0002\.ckpt cannot be read"):
        fingerprint_of(path)


def test_a_folder_that_cannot_be_read_now_is_not_taken_for_empty(folder, monkeypatch):
    def listdir(path):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(os, "listdir", listdir)
    with pytest.raises(ResultsError, match="cannot be read: Too many open files"):
        newest_checkpoint(folder)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda p: p.write_bytes(p.read_bytes()[:-5]), "truncated or damaged"),
        (lambda p: p.write_bytes(b""), "not a safex checkpoint"),
        (lambda p: p.write_bytes(b"\x80\x04pickle"), "not a safex checkpoint"),
        (lambda p: p.write_bytes(flip(p.read_bytes())), "truncated or damaged"),
        (lambda p: p.write_bytes(foreign(p.read_bytes())), "another configuration"),
    ],
)
def test_a_bad_file_falls_back_to_the_one_before(folder, damage, reason):
    damage(newest(folder))
    (_, episode), said = load(folder)
    assert episode == 1
    assert len(said) == 1
    assert "episode_0002.ckpt" in said[0]
    assert reason in said[0]


class Payload:
    """Unpickling it would leave a file behind."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return (open, (str(self.marker), "w"))


@pytest.mark.parametrize("sealed", [False, True])
def test_a_pickle_is_refused_and_not_executed(folder, tmp_path, sealed):
    marker = tmp_path / "executed"
    payload = pickle.dumps(Payload(marker))
    path = newest(folder)
    if sealed:
        header = json.loads(path.read_bytes().partition(b"\n")[0])
        header["sha256"] = hashlib.sha256(payload).hexdigest()
        payload = json.dumps(header).encode() + b"\n" + payload
    path.write_bytes(payload)
    (_, episode), said = load(folder)
    assert (episode, len(said)) == (1, 1)
    assert not marker.exists()


def test_a_header_of_another_episode_is_damage(folder):
    """One bit of it; the digest is of the payload alone."""
    path = newest(folder)
    path.write_bytes(path.read_bytes().replace(b'"episode": 2', b'"episode": 3'))
    (_, episode), said = load(folder)
    assert episode == 1
    assert "truncated or damaged" in said[0]


def flip(content):
    return content[:-3] + bytes([content[-3] ^ 1]) + content[-2:]


def foreign(content):
    line, _, payload = content.partition(b"\n")
    header = json.loads(line) | {"fingerprint": "other"}
    return json.dumps(header).encode() + b"\n" + payload


def test_all_bad_is_an_error_not_a_fresh_start(folder):
    for path in folder.glob("*.ckpt"):
        path.write_bytes(b"x")
    with pytest.raises(CheckpointError, match="none of the 3 checkpoints"):
        load(folder)


def test_other_shapes_do_not_fit(folder):
    template = state(0.0) | {"a": jnp.zeros(4)}
    with pytest.raises(CheckpointError, match="none of the 3"):
        load(folder, template)


def test_nothing_half_written_stays(folder, monkeypatch):
    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr("safex.training.checkpoint._write_bytes", fail)
    with pytest.raises(OSError, match="disk full"):
        save_checkpoint(folder, state(9.0), 9, "print")
    assert len(list(folder.iterdir())) == 3
