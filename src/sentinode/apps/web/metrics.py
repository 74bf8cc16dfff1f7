"""What the service counts, as Prometheus's text format 0.0.4 has it."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Mapping
from itertools import accumulate
from typing import Final

_BOUNDS_S: Final = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)


class Metrics:
    """Counters of one process; the event loop alone writes them."""

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, int]] = Counter()
        """By route, such as "/v1/predict", and status."""
        self.patches = self.batches = self.refused = 0
        self._within: dict[str, list[int]] = {}
        self._total_s: defaultdict[str, float] = defaultdict(float)

    def answered(self, route: str, status: int, seconds: float) -> None:
        """Count a request; `route` is one of the service's own, never what a client made up."""
        self.requests[route, status] += 1
        within = self._within.setdefault(route, [0] * (len(_BOUNDS_S) + 1))
        within[bisect_left(_BOUNDS_S, seconds)] += 1
        self._total_s[route] += seconds

    def text(self, gauges: Mapping[str, float]) -> str:
        """All of it; `gauges` are numbers of this moment."""
        lines = ["# TYPE sentinode_requests_total counter"]
        for (route, status), count in sorted(self.requests.items()):
            lines.append(f'sentinode_requests_total{{route="{route}",status="{status}"}} {count}')
        lines.append("# TYPE sentinode_request_seconds histogram")
        for route, within in sorted(self._within.items()):
            for bound, count in zip([*_BOUNDS_S, "+Inf"], accumulate(within), strict=True):
                lines.append(f'sentinode_request_seconds_bucket{{route="{route}",le="{bound}"}} {count}')
            lines.append(f'sentinode_request_seconds_sum{{route="{route}"}} {self._total_s[route]:.6f}')
            lines.append(f'sentinode_request_seconds_count{{route="{route}"}} {sum(within)}')
        counters = {"patches": self.patches, "batches": self.batches, "refused": self.refused}
        for name, value in counters.items():
            lines += [f"# TYPE sentinode_{name}_total counter", f"sentinode_{name}_total {value}"]
        for name, gauge in gauges.items():
            lines += [f"# TYPE sentinode_{name} gauge", f"sentinode_{name} {gauge:g}"]
        return "\n".join(lines) + "\n"
