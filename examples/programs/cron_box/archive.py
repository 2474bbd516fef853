"""Copy reports to a disk that is not always mounted."""

import shutil
from pathlib import Path

import relevo

DISK = Path("disk")


@relevo.listener("report.written")
def copy_to_disk(event: relevo.Event) -> None:
    report = Path(event["path"])
    shutil.copy(report, DISK / report.name)


@relevo.listener("report.written")
def note(event: relevo.Event) -> None:
    with Path("journal.txt").open("a") as journal:
        journal.write(f"{event['path']}\n")
