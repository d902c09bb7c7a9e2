"""Where runs are computed: through Ray Tune, or in this process. Ray is imported here and nowhere else."""
