"""
Test an application: memory transports, a clock that is moved by hand, and assertions.

``with app.testing() as t:`` is where they begin; with pytest the fixture ``relevo_app``, which comes with
relevo-memory, gives the same. Nothing is left of it afterwards.
"""

from relevo.testing._clock import FakeClock
from relevo.testing._record import DispatchedEvent
from relevo.testing._drain import DeadEvent
from relevo.testing._application import AppTesting
from relevo.testing._project import project_app

__all__ = [
    # an application under test
    "AppTesting",
    "DispatchedEvent",
    "DeadEvent",
    "project_app",
    # time
    "FakeClock",
]
