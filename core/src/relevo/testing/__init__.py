"""
Test an application: memory transports, a clock that is moved by hand, and assertions.

Start with ``with app.testing() as t:``, or with the pytest fixture ``relevo_app`` of relevo-memory. Everything is
restored afterwards. To test a listener alone, call it with ``make_call()``.
"""

from relevo.testing._clock import FakeClock
from relevo.testing._record import DispatchedEvent
from relevo.testing._drain import DeadEvent
from relevo.testing._effect import RepeatedEffect, RepeatedEffectError
from relevo.testing._application import AppTesting
from relevo.testing._call import RecordedCall, make_call
from relevo.testing._project import project_app

__all__ = [
    # an application under test
    "AppTesting",
    "DispatchedEvent",
    "DeadEvent",
    "project_app",
    # crashes
    "RepeatedEffectError",
    "RepeatedEffect",
    # a listener alone
    "make_call",
    "RecordedCall",
    # time
    "FakeClock",
]
