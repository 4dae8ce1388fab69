"""The line of the white paper: source -> simulator -> reconstruction -> inference."""

from typing import Any, Generic, TypeVar

import equinox as eqx
import jax

from kythera.core.stage import (
    AbstractSimulator,
    AbstractSource,
    AbstractStage,
    Identity,
    has_host_stage,
)
from kythera.core.types import Design, Key

Truth = TypeVar("Truth")
Signal = TypeVar("Signal")
Reco = TypeVar("Reco")
Result = TypeVar("Result")


class Trace(eqx.Module, Generic[Truth, Signal, Reco, Result]):
    """What each slot gave for the same events, for the objective to compare."""

    truth: Truth
    signal: Signal
    reco: Reco
    result: Result


class Pipeline(eqx.Module):
    """Four named slots: the figure of the white paper (arXiv:2203.13818, Eq. 7).

    Args:
        source: x ~ f(x), what arrives.
        simulator: z ~ p(z | x, theta), what the detector records.
        reconstruction: R(z).
        inference: A(R(z)).
    """

    source: AbstractSource
    simulator: AbstractSimulator
    reconstruction: AbstractStage = Identity()
    inference: AbstractStage = Identity()

    @property
    def is_host(self) -> bool:
        """Whether any slot runs outside JAX, so that nothing here may be compiled."""
        return has_host_stage(self)

    @property
    def batch(self) -> int:
        """Designs that one call of the simulator takes."""
        return getattr(self.simulator, "batch", 1)

    def simulate(self, design: Design, events: int, *, key: Key) -> tuple[Any, Any]:
        """Truth and signal of `events` rows."""
        source, simulator, *_ = jax.random.split(key, 4)
        truth = self.source(events, key=source)
        return truth, self.simulator(design, truth, key=simulator)

    def simulate_batch(
        self, designs: list[Design], events: int, *, keys: list[Key]
    ) -> list[tuple[Any, Any]]:
        """The same for several designs, in one call of a simulator outside JAX."""
        split = [jax.random.split(key, 4) for key in keys]
        truths = [self.source(events, key=source) for source, *_ in split]
        simulators = [simulator for _, simulator, *_ in split]
        signals = self.simulator.call_batch(designs, truths, simulators)  # type: ignore
        return list(zip(truths, signals, strict=True))

    def analyse(self, design: Design, truth: Any, signal: Any, *, key: Key) -> Trace:
        """Reconstruct and infer from given signals; `key` as in `simulate`."""
        *_, reconstruction, inference = jax.random.split(key, 4)
        reco = self.reconstruction(design, signal, key=reconstruction)
        result = self.inference(design, reco, key=inference)
        return Trace(truth, signal, reco, result)

    def __call__(self, design: Design, events: int, *, key: Key) -> Trace:
        """All four slots on `events` fresh rows."""
        truth, signal = self.simulate(design, events, key=key)
        return self.analyse(design, truth, signal, key=key)
