"""The async HTTP client of Tollway, `async with tollway.Client() as client`: knows the contract and nothing else."""

from tollway.client.client import Client, Page
from tollway.client.errors import ApiError, RunFailed, Unreachable
from tollway.client.options import RunSpec, SubmitOptions, TenantSettings
from tollway.client.transport import ClientOptions
from tollway.client.views import FINAL, RunEvent, RunView, StepView

__all__ = [
    "FINAL",
    "ApiError",
    "Client",
    "ClientOptions",
    "Page",
    "RunEvent",
    "RunFailed",
    "RunSpec",
    "RunView",
    "StepView",
    "SubmitOptions",
    "TenantSettings",
    "Unreachable",
]
