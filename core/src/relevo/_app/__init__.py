"""The application: the object that holds the parts together."""
