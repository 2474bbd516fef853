"""The image gallery on Redis, by one changed line of its configuration."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from relevo_redis import RedisOptions

GALLERY = Path(__file__).resolve().parents[2] / "images"


def test_the_gallery_runs_on_redis_by_one_line(options: RedisOptions, tmp_path: Path) -> None:
    shutil.copytree(GALLERY, tmp_path / "images", ignore=shutil.ignore_patterns("var", "tests", "__pycache__"))
    file = tmp_path / "images" / "relevo.toml"
    redis = f'{{ url = "{options.url.reveal()}", prefix = "{options.prefix}", outbox = "sqlite:///var/gallery.db" }}'
    text, lines = re.subn(r"(?m)^main = .*$", f"main = {redis}", file.read_text())
    file.write_text(text)
    environ = {name: value for name, value in os.environ.items() if not name.startswith("RELEVO_")}

    def run(*command: str) -> str:
        done = subprocess.run(
            [sys.executable, *command], env=environ, capture_output=True, text=True, check=False, timeout=300
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    played = run(str(tmp_path / "images" / "demo.py"))

    assert lines == 1
    assert "through RedisTransport" in played
    dead = json.loads(run("-m", "relevo", "--config", str(file), "dead", "list", "--json"))
    assert [(each["queue"], each["attempt"]) for each in dead] == [("media", 1)]
