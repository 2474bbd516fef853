"""The text with which a host system runs an application: for cron, supervisor and systemd."""

from relevo._runner.command import command
from relevo._runner.cron import cron, within_the_minute
from relevo._runner.supervisor import supervisor
from relevo._runner.systemd import systemd

__all__ = ["command", "cron", "supervisor", "systemd", "within_the_minute"]
