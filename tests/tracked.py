"""Reads the files that TensorBoard's and wandb's loggers leave."""

import json
import os
import struct

import pytest


def without_service():
    """This process's variables, for a command that is to start wandb's service itself.

    Tests of the same process may have left the address of a service that is gone.
    """
    return {k: v for k, v in os.environ.items() if k != "WANDB_SERVICE"}


def events(folder):
    """Tag, step and value of every scalar in a folder's event files."""
    event_pb2 = pytest.importorskip("tensorboardX.proto.event_pb2")
    found = []
    for path in sorted(folder.glob("events.out.tfevents.*")):
        data = path.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            event = event_pb2.Event.FromString(data[12 : 12 + length])
            found += [(v.tag, event.step, v.simple_value) for v in event.summary.value]
            data = data[16 + length :]
    return found


def wandb_records(path):
    """What wandb's file holds: a log of LevelDB behind a header of 7 bytes."""
    from wandb.proto import wandb_internal_pb2

    data, place, parts = path.read_bytes(), 7, b""
    while place + 7 <= len(data):
        left = 32768 - place % 32768
        if left < 7:  # the rest of a block is padding
            place += left
            continue
        _, length, kind = struct.unpack("<IHB", data[place : place + 7])
        parts += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield wandb_internal_pb2.Record.FromString(parts)
            parts = b""


def wandb_run(path):
    """What wandb's file says of the run: project, run_group, job_type, config."""
    kinds = (record for record in wandb_records(path) if record.HasField("run"))
    return next(kinds).run


def wandb_config(run):
    """The configuration that a run began with."""
    return {
        item.key or "/".join(item.nested_key): json.loads(item.value_json)
        for item in run.config.update
    }


def wandb_history(path):
    """The rows of a run by name, each with its `_step`."""
    return [
        {
            item.key or "/".join(item.nested_key): json.loads(item.value_json)
            for item in record.history.item
        }
        for record in wandb_records(path)
        if record.HasField("history")
    ]


def wandb_rows(folder):
    """Steps and values of an offline run."""
    (path,) = folder.glob("*.wandb")
    return [(row["_step"], row.get("a")) for row in wandb_history(path)]
