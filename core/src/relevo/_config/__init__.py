"""Configuration: from files, the environment and arguments to checked values."""
