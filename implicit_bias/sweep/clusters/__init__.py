"""Where the cells of a sweep are computed: local workers or Slurm jobs."""
