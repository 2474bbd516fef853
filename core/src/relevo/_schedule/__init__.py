"""Schedules: events that are dispatched at the times of a cron expression."""
