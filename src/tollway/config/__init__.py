"""The settings: `load_settings` reads them once, everything else is given the frozen object."""

from tollway.config.alerts import Alerts
from tollway.config.checks import settings_warnings
from tollway.config.faults import ConfigErrors
from tollway.config.load import load_settings
from tollway.config.money import Price, Spend
from tollway.config.settings import (
    SIM_PORT,
    SIM_PROVIDER,
    Breaker,
    Database,
    Dependency,
    Lane,
    Llm,
    Provider,
    Redis,
    Retention,
    Route,
    Server,
    Settings,
    Telemetry,
    Tier,
    Worker,
)

__all__ = [
    "SIM_PORT",
    "SIM_PROVIDER",
    "Alerts",
    "Breaker",
    "ConfigErrors",
    "Database",
    "Dependency",
    "Lane",
    "Llm",
    "Price",
    "Provider",
    "Redis",
    "Retention",
    "Route",
    "Server",
    "Settings",
    "Spend",
    "Telemetry",
    "Tier",
    "Worker",
    "load_settings",
    "settings_warnings",
]
