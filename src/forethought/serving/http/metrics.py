"""Counters of a server in Prometheus' text format. Numbers only: no contents, no users, no keys.

Format: https://prometheus.io/docs/instrumenting/exposition_formats/ (version 0.0.4).
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass, field

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
"""Upper bounds of the histograms' buckets."""
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Histogram:
    """How often values fell into each bucket.

    Example: `Histogram().observe(0.2)`
    """

    def __init__(self) -> None:
        self._buckets = [0] * (len(SECONDS) + 1)
        self._sum = 0.0

    def observe(self, seconds: float) -> None:
        """Count a value."""
        self._buckets[bisect_left(SECONDS, seconds)] += 1
        self._sum += seconds

    def lines(self, name: str, meaning: str) -> list[str]:
        """As text; buckets are cumulative there."""
        lines = [f"# HELP {name} {meaning}", f"# TYPE {name} histogram"]
        total = 0
        for bound, count in zip((*map(str, SECONDS), "+Inf"), self._buckets, strict=True):
            total += count
            lines.append(f'{name}_bucket{{le="{bound}"}} {total}')
        return [*lines, f"{name}_sum {self._sum:.6f}", f"{name}_count {total}"]


@dataclass
class Metrics:
    """What a server counts.

    Example: `Metrics().text(running=1, waiting=0)`
    """

    requests: Counter[tuple[str, int]] = field(default_factory=Counter)
    """By route and status; a client that left is 499."""
    answers: Counter[str] = field(default_factory=Counter)
    """By outcome."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    """Thoughts included."""
    thought_tokens: int = 0
    draws: int = 0
    """Outputs, those without a response included."""
    private_log_failures: int = 0
    request_seconds: Histogram = field(default_factory=Histogram)
    queue_seconds: Histogram = field(default_factory=Histogram)
    first_token_seconds: Histogram = field(default_factory=Histogram)

    def text(self, *, running: int, waiting: int) -> str:
        """All of it, for a scrape."""
        lines = _head("requests_total", "counter", "Requests by route and status.")
        for (route, status), count in sorted(self.requests.items()):
            labels = f'route="{route}",status="{status}"'
            lines.append(f"forethought_requests_total{{{labels}}} {count}")
        lines += _head("answers_total", "counter", "Answers by outcome.")
        for outcome, count in sorted(self.answers.items()):
            lines.append(f'forethought_answers_total{{outcome="{outcome}"}} {count}')
        for name, kind, meaning, value in (
            ("prompt_tokens_total", "counter", "Tokens of conversations.", self.prompt_tokens),
            (
                "completion_tokens_total",
                "counter",
                "Tokens written, thoughts included.",
                self.completion_tokens,
            ),
            ("thought_tokens_total", "counter", "Tokens of thoughts.", self.thought_tokens),
            ("draws_total", "counter", "Outputs drawn for finished answers.", self.draws),
            (
                "private_log_failures_total",
                "counter",
                "Answers missing in the private log.",
                self.private_log_failures,
            ),
            ("running_answers", "gauge", "Answers that hold a slot.", running),
            ("waiting_answers", "gauge", "Answers that wait for a slot.", waiting),
        ):
            lines += [*_head(name, kind, meaning), f"forethought_{name} {value}"]
        lines += self.request_seconds.lines(
            "forethought_request_seconds", "Time of a chat request."
        )
        lines += self.queue_seconds.lines(
            "forethought_queue_seconds", "Time until an answer had a slot."
        )
        lines += self.first_token_seconds.lines(
            "forethought_first_token_seconds", "Time until the response began to show."
        )
        return "\n".join(lines) + "\n"


def _head(name: str, kind: str, meaning: str) -> list[str]:
    return [f"# HELP forethought_{name} {meaning}", f"# TYPE forethought_{name} {kind}"]
