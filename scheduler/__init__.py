"""The scheduler: recovery, probes, statistics, on the clock."""
