"""Listeners: how they are declared, found and called."""
