"""Runners, which host a worker on a machine."""
