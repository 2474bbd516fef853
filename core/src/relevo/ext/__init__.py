"""Plugins that come with relevo; none is imported unless configuration or a program names it."""
