"""The machine: CPU threads, devices, disk, signals and profiling."""
