"""Upload photographs: ``python -m gallery PATH …``."""

from __future__ import annotations

import sys
from pathlib import Path

from gallery.app import app
from gallery.upload import upload

for path in sys.argv[1:]:
    print(f"{path} is image {upload(app, Path(path)).id}")
