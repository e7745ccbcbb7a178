"""The commands: one file each. Hydra is known here and nowhere else."""
