"""The seam: what a backend implements, and the values that cross it."""
