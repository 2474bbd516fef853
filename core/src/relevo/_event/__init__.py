"""Events: the fact, its subject, and the body that carries both."""
