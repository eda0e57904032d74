"""A route with its guards."""

from dataclasses import dataclass

from tollway.llm.breakers.breaker import Breaker
from tollway.llm.calls import Served
from tollway.llm.capacity.costs import Cost
from tollway.llm.capacity.limiter import Limiter
from tollway.llm.capacity.open import OpenLimiter


@dataclass(slots=True)
class Way:
    """A route with what guards it; `usual` is what its calls take by and by."""

    served: Served
    limiter: Limiter | OpenLimiter
    breaker: Breaker
    usual: Cost | None = None

    @property
    def name(self) -> str:
        """The route's name."""
        return self.served.route.name

    @property
    def provider(self) -> str:
        """The provider's name as configured."""
        return self.served.route.provider
