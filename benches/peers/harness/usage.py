"""What a process and its children use, from /proc."""

import os
import threading
import time
from pathlib import Path

TICK = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")


def stat(pid):
    """Parent, CPU seconds and resident bytes of a process; nothing once it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return int(fields[1]), (int(fields[11]) + int(fields[12])) / TICK, int(fields[21]) * PAGE


def tree(root):
    """A process and all that descend from it."""
    parents = {}
    for name in os.listdir("/proc"):
        if name.isdigit() and (found := stat(name)):
            parents.setdefault(found[0], []).append(int(name))
    found, left = [], [root]
    while left:
        pid = left.pop()
        found.append(pid)
        left += parents.get(pid, [])
    return found


class Sampler(threading.Thread):
    """Samples a process tree ten times a second, until the root is gone or `end`."""

    EVERY, LOOK_EVERY = 0.1, 1.0

    def __init__(self, root):
        super().__init__(daemon=True)
        self.root, self.ended = root, threading.Event()
        self.samples, self.rss_max, self.used = [(time.time(), 0.0)], 0, {}
        self.start()

    def run(self):
        looked, pids = 0.0, [self.root]
        while not self.ended.is_set():
            now = time.time()
            if now - looked >= self.LOOK_EVERY:
                looked, pids = now, tree(self.root)
            rss = 0
            for pid in pids:
                if found := stat(pid):
                    self.used[pid] = found[1]
                    rss += found[2]
            self.rss_max = max(self.rss_max, rss, self.peak())
            self.samples.append((now, sum(self.used.values())))
            self.ended.wait(self.EVERY)

    def peak(self):
        """The root's own peak, which a sample may miss."""
        try:
            for line in Path(f"/proc/{self.root}/status").read_text().splitlines():
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) << 10
        except OSError:
            pass
        return 0

    def end(self):
        self.ended.set()
        self.join()

    @property
    def cpu(self):
        return self.samples[-1][1]

    def cpu_at(self, when):
        """CPU seconds up to a time, between two samples on the line between them."""
        before = self.samples[0]
        for sample in self.samples:
            if sample[0] >= when:
                span = sample[0] - before[0]
                return before[1] + (sample[1] - before[1]) * ((when - before[0]) / span if span else 1)
            before = sample
        return self.cpu
