"""How runs talk to other programs: telemetry out, messages and constraints in."""

from cascade_dist.connectors.base import Connector, Subscription
from cascade_dist.connectors.in_process import InProcessConnector
from cascade_dist.connectors.observer import TelemetryObserver

__all__ = ["Connector", "InProcessConnector", "Subscription", "TelemetryObserver"]
