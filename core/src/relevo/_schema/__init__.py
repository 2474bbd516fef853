"""Schemas: declared events as JSON Schema and AsyncAPI, and whether a change breaks a reader."""
