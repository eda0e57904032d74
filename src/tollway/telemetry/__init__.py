"""What is seen of Tollway from outside: logs and metrics."""

from tollway.telemetry.logs import Log, configure, get_logger
from tollway.telemetry.metrics import Metrics

__all__ = ["Log", "Metrics", "configure", "get_logger"]
