"""A search's candidates shared out over the devices of one process."""

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
      function: of one row, returns a pytree of scalars.
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
        share = -(-rows // num_devices)

        def own(*arguments: Array) -> Array:
            first = jax.lax.axis_index("candidate") * share
            mine = [
                jax.lax.dynamic_slice_in_dim(
                    _pad(leaf, share * num_devices), first, share
                )
                for leaf in arguments
            ]
            leaves = jnp.stack(jax.tree.leaves(jax.vmap(function)(*mine)))
            return jax.lax.all_gather(leaves, "candidate", axis=1, tiled=True)

        everywhere = PartitionSpec()
        gathered = jax.shard_map(
            own, mesh=mesh, in_specs=everywhere, out_specs=everywhere, check_vma=False
        )(*arguments)
        outputs = jax.eval_shape(function, *(leaf[0] for leaf in arguments))
        return jax.tree.unflatten(jax.tree.structure(outputs), list(gathered[:, :rows]))

    return spread


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
