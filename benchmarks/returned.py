"""
Measure the disk usage of a quorum queue whose messages are returned repeatedly, for two delivery limits.

    python benchmarks/returned.py [returns]

It starts a private node for each limit and sends 100 messages to one queue. They are delivered and returned until the
number of returns is reached (100,000 by default). It prints the bytes and files of the node's Raft data ten times
meanwhile, and again after all messages are acked; then how many entries the log of the queue gets while the queue is
unused for 40 s. Each node stops at the end of its run; everything takes two or three minutes.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pika

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "servers"))

import rabbitmq
import rabbitmq_node

MESSAGES = 100
LIMITS = (-1, 10**15)
RETURNS = 100_000
AT_MOST = 900.0
"""Seconds for one limit; then the run ends with the results so far."""


IDLE = 40.0
_LAST_ENTRY = "{ok, #{commit_index := Last}, _} = ra:member_overview({'%2F_returned', node()}), Last."


def measure(limit: int, returns: int) -> None:
    """Return messages of a queue with the delivery limit *limit* and print the growth of the node's data."""
    launcher = rabbitmq_node.launcher()
    if launcher is None:
        raise SystemExit("RabbitMQ is not installed")
    with rabbitmq_node.PrivateNode(launcher) as node:
        node.wait_until(lambda: not rabbitmq.refusal(node.url))
        connection = pika.BlockingConnection(pika.URLParameters(node.url))
        channel = connection.channel()
        channel.confirm_delivery()
        channel.queue_declare("returned", durable=True, arguments={"x-queue-type": "quorum", "x-delivery-limit": limit})
        for _ in range(MESSAGES):
            channel.basic_publish("", "returned", bytes(1000), pika.BasicProperties(delivery_mode=2))
        print(f"x-delivery-limit {limit}")
        _print(node.folder, 0, 0.0)
        channel.basic_qos(prefetch_count=MESSAGES)
        begun = time.monotonic()
        done = held = 0
        for method, _, _ in channel.consume("returned"):
            held += 1
            if held < MESSAGES:
                continue
            channel.basic_nack(method.delivery_tag, multiple=True, requeue=True)
            done, held = done + held, 0
            if done % (returns // 10) < MESSAGES:
                _print(node.folder, done, time.monotonic() - begun)
            if done >= returns or time.monotonic() > begun + AT_MOST:
                break
        channel.cancel()
        for _ in range(MESSAGES):
            method, _, _ = channel.basic_get("returned")
            channel.basic_ack(method.delivery_tag)
        time.sleep(2.0)
        print("all acked:")
        _print(node.folder, done, time.monotonic() - begun)
        connection.close()
        before = int(node.control("eval", _LAST_ENTRY))
        time.sleep(IDLE)
        print(f"  {int(node.control('eval', _LAST_ENTRY)) - before} entries in {IDLE:g} s without any use")


def _print(folder: Path, done: int, seconds: float) -> None:
    files = [each for each in (folder / "data").rglob("*") if each.suffix in {".segment", ".wal"} and each.is_file()]
    segments = sum(each.suffix == ".segment" for each in files)
    used = sum(each.stat().st_blocks * 512 for each in files)
    print(
        f"  {done:>8} returns  {used / 2**20:8.1f} MiB in {segments} segments and the log  {seconds:6.1f} s", flush=True
    )


if __name__ == "__main__":
    for each in LIMITS:
        measure(each, int(sys.argv[1]) if len(sys.argv) > 1 else RETURNS)
