"""Schemas: declared events as JSON Schema and AsyncAPI, and the detection of breaking changes."""
