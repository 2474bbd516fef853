"""relevo and whom it runs beside, one module each; what loads such a module is also that peer's own worker."""
