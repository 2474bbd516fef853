"""The mark of a class that declares an event."""

MARK = "__relevo_event__"
"""The attribute of a class that holds its declaration, with the event's name and the number of the declaration."""
