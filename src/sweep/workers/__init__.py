"""Workers: processes here, on Slurm, on Ray, several for one run; and the GPUs that they lease."""
