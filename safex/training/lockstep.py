"""One function for many seeds at once.

On a CPU each device (a core, see `jax_num_cpu_devices`) works through its share of the
seeds one by one: small products stay small and in its cache, and no core waits for
another within a step. On an accelerator the seeds are one more batch dimension.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from safex.types import PyTree

_BY_SEED = PartitionSpec("seed")


class Lockstep(NamedTuple):
    """How a number of seeds is spread over this process's devices.

    Attributes:
      num_devices: devices that take part.
      in_turn: seeds that a device works through one by one; 1 where they are batched.
      rows: leading dimension of every array, a multiple of `num_devices`; rows beyond
        the seeds are padding.
      batched: whether a device's seeds are one batch.
    """

    num_devices: int
    in_turn: int
    rows: int
    batched: bool

    @classmethod
    def of(cls, num_seeds: int) -> "Lockstep":
        """The layout on the devices of this process."""
        devices = jax.local_devices()
        batched = devices[0].platform != "cpu"
        share = -(-num_seeds // min(num_seeds, len(devices)))
        # No device that would have nothing but padding.
        num_devices = -(-num_seeds // share)
        return cls(num_devices, 1 if batched else share, share * num_devices, batched)

    def over_seeds(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """`function` of one seed, as a function of arrays `[rows, ...]`."""

        @functools.wraps(function)
        def share(*arguments: Any) -> Any:
            if self.batched:
                return jax.vmap(function)(*arguments)
            return jax.lax.map(lambda row: function(*row), arguments)

        if self.num_devices == 1:
            return share
        return jax.shard_map(
            share,
            mesh=self._mesh,
            in_specs=_BY_SEED,
            out_specs=_BY_SEED,
            check_vma=False,
        )

    def place(self, tree: PyTree) -> PyTree:
        """Host arrays `[rows, ...]` where the programs leave theirs.

        Programs that find their input elsewhere would compile anew.
        """
        if self.num_devices == 1:
            return tree
        return jax.device_put(tree, NamedSharding(self._mesh, _BY_SEED))

    @property
    def _mesh(self) -> Mesh:
        return Mesh(np.array(jax.local_devices()[: self.num_devices]), "seed")


def default_group_size(num_seeds: int) -> int:
    """Seeds to train in lockstep: one a core, or all of them on an accelerator."""
    devices = jax.local_devices()
    return len(devices) if devices[0].platform == "cpu" else num_seeds
