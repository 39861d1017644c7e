"""Benchmarks: quality, gateway, index, MoE kernels."""
