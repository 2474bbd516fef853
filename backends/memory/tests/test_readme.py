"""The README's example does what it says."""

from __future__ import annotations

import re
from pathlib import Path

README = Path(__file__).parents[1] / "README.md"


def test_the_example_runs() -> None:
    [example] = re.findall(r"^```python\n(.*?)^```", README.read_text(), flags=re.MULTILINE | re.DOTALL)

    exec(compile(example, str(README), "exec"), {"__name__": "readme"})  # noqa: S102 - it is ours
