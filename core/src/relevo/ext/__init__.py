"""Plugins that come with relevo; each is imported only if configuration or a program names it."""
