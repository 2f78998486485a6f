"""Compiling for TPU slices that are not at hand, and what the compiler says."""
