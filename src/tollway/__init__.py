"""Tollway runs AI agents the way a payment system runs transactions."""

from tollway.domain.errors import LlmError, Reject, Retry, StepUnknown, TollwayError
from tollway.runtime.registry import agent
from tollway.runtime.run import Budget, Reply, Run

__all__ = ["Budget", "LlmError", "Reject", "Reply", "Retry", "Run", "StepUnknown", "TollwayError", "agent"]
