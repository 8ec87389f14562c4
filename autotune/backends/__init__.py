"""Families of kernels, one package each, behind one protocol; see `autotune.protocol`."""
