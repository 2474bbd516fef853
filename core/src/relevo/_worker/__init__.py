"""The worker: from a delivery to its outcome."""
