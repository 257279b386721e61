"""A cohort of clients trained at once on a GPU, with CUDA graphs on parallel streams."""
