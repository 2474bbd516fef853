"""Executors: listeners in threads or in child processes."""
