"""Lightning strategy for fully sharded data parallelism (FSDP2) over all processes."""

from __future__ import annotations

from typing import Any, cast

from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.strategies import ModelParallelStrategy


class FullyShardedStrategy(ModelParallelStrategy):
    """Splits the weights over all processes, and writes checkpoints of one file, as every other strategy does.

    Each process reads its own batches, as in DDP. Modules shard themselves in `configure_model`.
    """

    def __init__(self) -> None:
        super().__init__(tensor_parallel_size=1, save_distributed_checkpoint=False)

    def setup_environment(self) -> None:
        """Take all processes as the group over which data and weights are split.

        Raises:
            ValueError: A callback averages the weights, which needs them whole.
        """
        callbacks = cast(Any, self.lightning_module).trainer.callbacks
        if any(isinstance(callback, WeightAveraging) for callback in callbacks):
            raise ValueError("EMAWeightAveraging cannot average sharded weights; leave it out, or use strategy ddp")
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()
