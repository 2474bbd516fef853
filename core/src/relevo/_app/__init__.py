"""The application: what holds the parts together."""
