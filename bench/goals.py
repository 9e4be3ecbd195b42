"""What Spindle is to reach: a row a cell. A goal is judged in the tables and nowhere else: a time is no exit status."""
from typing import NamedTuple


class Goal(NamedTuple):
    """A bound of the ratio of one of the load client's figures to another server's, or to the run without."""

    key: str
    against: str
    bound: float
    at_least: bool

    def verdict(self, ratio):
        # As it is printed, so that no table contradicts itself.
        ratio = round(ratio, 2)
        reached = ratio >= self.bound if self.at_least else ratio <= self.bound
        return "yes" if reached else "**no**"

    def text(self):
        what = {"iops": "", "server_cpu_us_per_op": "CPU "}.get(self.key, "")
        return f"{what}{'>=' if self.at_least else '<='} {self.bound:g} {self.against}".rstrip()


def rate(bound, against):
    return Goal("iops", against, bound, True)


def cpu(bound, against):
    return Goal("server_cpu_us_per_op", against, bound, False)


CELLS = {
    ("tmpfs", "4K rand read QD1"): [rate(0.9, "echo")],
    ("tmpfs", "4K rand read QD32 1s"): [rate(3.0, "tgt"), cpu(0.3, "tgt")],
    ("tmpfs", "4K rand write QD32 1s"): [rate(3.0, "tgt"), cpu(0.3, "tgt")],
    ("tmpfs", "4K rand read QD32 4s"): [rate(5.0, "tgt")],
    ("tmpfs", "4K rand write QD32 4s"): [rate(5.0, "tgt")],
    ("tmpfs", "64K seq read QD8"): [rate(2.5, "tgt")],
    ("tmpfs", "64K seq write QD8"): [rate(1.4, "tgt")],
    ("tmpfs", "256K seq read QD8"): [rate(1.7, "tgt")],
    ("tmpfs", "256K seq write QD8"): [rate(1.6, "tgt")],
    ("tmpfs", "1M seq read QD8"): [rate(1.6, "tgt"), rate(1.0, "istgt")],
    ("tmpfs", "1M seq write QD8"): [rate(1.8, "tgt"), rate(1.0, "istgt")],
    ("ext4", "4K rand write QD32 1s"): [rate(1.8, "tgt")],
    ("tmpfs", "4K rand read QD32 1s digests"): [rate(4.0, "tgt")],
    ("tmpfs", "256K seq read QD8 digests"): [rate(4.0, "tgt")],
    ("tmpfs", "256K seq write QD8 digests"): [rate(4.0, "tgt")],
}

# ATA over Ethernet, against vblade: frames a second, CPU of a frame (with xdp=on), and writes with `vblade -s`.
AOE_RATE, AOE_CPU, AOE_XDP_CPU, AOE_DURABLE = 1.0, 0.8, 0.6, 5.0
