"""relevo and its peers, one module each; the worker of a peer loads its module too."""
