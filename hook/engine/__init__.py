"""MMEngine: configs, runs, hooks, test-time augmentation, devices and measurements."""
