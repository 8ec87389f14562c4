"""Executes gfx942 machine code on the CPU, to check a compiled kernel's numbers without the card."""
