"""Breakers: which route is worth calling now, decided in each process and told to the others."""

from tollway.llm.breakers.board import BreakerBoard
from tollway.llm.breakers.breaker import Breaker
from tollway.llm.breakers.parts import BreakerOptions, Shown, Ticket

__all__ = ["Breaker", "BreakerBoard", "BreakerOptions", "Shown", "Ticket"]
