"""How fast virtual nodes are: from measured profiles, never from a guess by name."""

from dataclasses import dataclass
from random import Random

from maille_coordinator.records import ModelRecord
from maille_protocol import ModelFormat
from maille_protocol.signature import TensorSpec


@dataclass(frozen=True, slots=True)
class VirtualModel:
    """A model that virtual nodes run. Times are for a node of speed 1, in ms."""

    name: str
    run_ms: float
    load_ms: float = 30.0
    spread: float = 0.2
    """Standard deviation of the time of a run, as a share of it."""
    broken: bool = False
    """Whether every run fails by the model's own fault."""

    @property
    def record(self) -> ModelRecord:
        """As the coordinator's catalogue has it."""
        spec = TensorSpec("x", "uint8", ("n",))
        return ModelRecord(
            self.name,
            1,
            self.sha256,
            10_000,
            ModelFormat.ONNX,
            (spec,),
            (TensorSpec("y", "uint8", ("n",)),),
            False,
            0,
        )

    @property
    def sha256(self) -> bytes:
        """A name for bytes that nobody needs."""
        return self.name.encode().ljust(32, b".")


@dataclass(frozen=True, slots=True)
class NodeProfile:
    """One virtual node's machine."""

    slots: int = 8
    cores: int = 2
    workers: int = 2
    max_batch: int = 16
    speed: float = 1.0
    """Runs take a model's time divided by this."""
    overhead_ms: float = 0.0
    """What a batch takes beside its runs."""
    holds_slices: bool = True
    """Whether it takes part where the run has a language model."""
    measured_run_ms: tuple[tuple[str, float], ...] = ()
    """(model, time of a run here), where it was measured; else as the model says."""

    def run_ms(self, model: VirtualModel, random: Random) -> float:
        """How long one run takes."""
        factor = max(0.3, random.gauss(1.0, model.spread)) if model.spread else 1.0
        for name, run_ms in self.measured_run_ms:
            if name == model.name:
                return run_ms * factor
        return model.run_ms * factor / self.speed
