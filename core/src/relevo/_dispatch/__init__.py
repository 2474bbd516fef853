"""Dispatchers: events to listeners now, or to a transport for later."""
