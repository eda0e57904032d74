"""The laws by which simulated quantities (latencies, token counts) are drawn. Pure: the randomness is an argument."""

import math
from dataclasses import dataclass
from random import Random
from typing import Literal

LawName = Literal["constant", "exponential", "lognormal", "uniform"]
UNIFORM_CV_MAX = 1 / math.sqrt(3)


@dataclass(frozen=True, slots=True)
class Law:
    """A distribution over numbers ≥ 0, given by its mean and coefficient of variation (`cv`, deviation / mean).

    `constant` and `exponential` have a cv of their own (0 and 1); `lognormal` takes any (default 1); `uniform` spreads
    symmetrically around the mean and cannot exceed 1/√3 (the default: from 0 to twice the mean). Raises ValueError for
    what does not hold together.
    """

    mean: float
    name: LawName = "constant"
    cv: float | None = None

    def __post_init__(self) -> None:
        own = {"constant": 0.0, "exponential": 1.0}.get(self.name)
        if own is not None and self.cv not in (None, own):
            raise ValueError(f"the law {self.name} has cv {own:g}; leave cv out or take lognormal or uniform")
        if self.name == "uniform" and self.cv is not None and self.cv > UNIFORM_CV_MAX + 1e-9:
            raise ValueError(f"the law uniform cannot have a cv above {UNIFORM_CV_MAX:.4f}")

    def draw(self, rng: Random) -> float:
        """One value, in the unit of the mean."""
        mean = self.mean
        if self.name == "constant" or mean == 0:
            return mean
        if self.name == "exponential":
            return rng.expovariate(1 / mean)
        if self.name == "uniform":
            width = mean * min(1.0, (UNIFORM_CV_MAX if self.cv is None else self.cv) / UNIFORM_CV_MAX)
            return rng.uniform(mean - width, mean + width)
        variance = math.log1p((1.0 if self.cv is None else self.cv) ** 2)
        return rng.lognormvariate(math.log(mean) - variance / 2, math.sqrt(variance))
