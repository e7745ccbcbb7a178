"""Benchmark suites of the papers: ImageNet-21K subsets over class hierarchies, and the zero-shot protocol."""
