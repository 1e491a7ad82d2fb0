"""MMEngine configs, runners and hooks, test-time augmentation, devices and profiling."""
