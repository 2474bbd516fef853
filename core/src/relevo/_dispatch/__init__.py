"""Dispatchers: call listeners now, or send events to a transport for later."""
