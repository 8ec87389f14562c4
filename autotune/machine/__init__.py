"""The GPU and the stack: devices, targets, probe and fingerprint."""
