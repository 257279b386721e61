"""Fixed workloads on which fedloge is timed against other ways to do the same; see docs/performance.md."""
