"""Where a run happens and whom it tells."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from kdtune.evaluation.subject import Context
from kdtune.store import checkpoints
from kdtune.store.store import Store
from kdtune.training.step import Row


@dataclass(frozen=True)
class RunContext:
    """Where a run happens and whom it tells. Nothing here changes its numbers beyond floating-point order."""

    store: Store
    data_dir: Path
    device: str = "cpu"
    threads: int = 1  # of torch, on the CPU
    checkpoint_every: float = checkpoints.EVERY_S
    report: Callable[[list[Row]], None] = lambda history: None  # gets the whole history after every epoch
    pulse: Callable[[], None] = lambda: None  # called at every pass of the network: a step, a batch of an evaluation
    captured: bool = True  # on a GPU: steps as CUDA graphs, where a run's first epoch shows them to be the same
    stopped: Callable[[], bool] = lambda: False  # asked at each epoch's end: whether training ends there, kept as it is

    @property
    def measuring(self) -> Context:
        """The same for evaluators."""
        return Context(self.data_dir, self.device, self.store)
