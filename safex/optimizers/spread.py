"""A search's candidates shared out over the devices of one process."""

import itertools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from safex.types import Array, PyTree


def mapped(function: Callable[..., Any], num_devices: int) -> Callable[..., PyTree]:
    """`jax.vmap(function)`, each device taking an equal share of the rows.

    Small products do not fill several cores, however they are split; candidates do.
    All else of a search is done by every device alike, so one exchange of scores is all
    they need.

    Args:
      function: of one row, returns a pytree of scalars and vectors.
      num_devices: local devices that take part; 1 is plain `vmap`, and all that is
        possible inside a program that is itself spread over devices.

    Raises:
      ValueError: this process has fewer devices.
    """
    if num_devices == 1:
        return jax.vmap(function)
    if num_devices > jax.local_device_count():
        raise ValueError(
            f"num_devices must not exceed the {jax.local_device_count()} devices of "
            f"this process, got {num_devices}"
        )
    mesh = _mesh(num_devices)

    def spread(*arguments: Array) -> PyTree:
        rows = arguments[0].shape[0]
        count = share(rows, num_devices)

        def own(*arguments: Array) -> Array:
            first = jax.lax.axis_index("candidate") * count
            mine = [
                jax.lax.dynamic_slice_in_dim(
                    _pad(leaf, count * num_devices), first, count
                )
                for leaf in arguments
            ]
            leaves = jax.tree.leaves(jax.vmap(function)(*mine))
            # One exchange is much cheaper than one for each leaf.
            flat = jnp.concatenate([leaf.reshape(count, -1) for leaf in leaves], 1)
            return jax.lax.all_gather(flat, "candidate", axis=0, tiled=True)

        everywhere = PartitionSpec()
        gathered = jax.shard_map(
            own, mesh=mesh, in_specs=everywhere, out_specs=everywhere, check_vma=False
        )(*arguments)
        outputs = jax.eval_shape(function, *(leaf[0] for leaf in arguments))
        leaves, structure = jax.tree.flatten(outputs)
        ends = list(itertools.accumulate(math.prod(leaf.shape) for leaf in leaves))
        columns = jnp.split(gathered[:rows], ends[:-1], axis=1)
        return jax.tree.unflatten(
            structure,
            [
                part.reshape(rows, *leaf.shape)
                for part, leaf in zip(columns, leaves, strict=True)
            ],
        )

    return spread


def share(rows: int, num_devices: int) -> int:
    """Rows that each of some devices computes, the last one's padded."""
    return -(-rows // num_devices)


def replicate(tree: PyTree, num_devices: int) -> PyTree:
    """A tree on all devices of a search, where its results will be as well.

    An agent whose first state comes from elsewhere compiles its second decision anew.
    """
    if num_devices == 1:
        return tree
    return jax.device_put(tree, NamedSharding(_mesh(num_devices), PartitionSpec()))


def _mesh(num_devices: int) -> Mesh:
    return Mesh(np.array(jax.local_devices()[:num_devices]), "candidate")


def _pad(rows: Array, count: int) -> Array:
    """Repeats the last row until there are `count`."""
    last = jnp.minimum(jnp.arange(count), rows.shape[0] - 1)
    return rows[last]
