"""The benchmarks of ImageNet-21K: subsets and coarser classes over class hierarchies (Adaloglou et al. 2024)."""
