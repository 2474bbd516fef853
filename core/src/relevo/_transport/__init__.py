"""The transport interface, which a backend implements, and its values."""
