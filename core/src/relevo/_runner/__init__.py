"""Runners: what hosts a worker on a machine."""
