"""Listeners: their declaration, registration and import, and the call that they receive."""
