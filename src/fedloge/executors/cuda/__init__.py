"""A cohort of clients trained at once on a GPU, with CUDA graphs on parallel streams."""

from fedloge.executors.cuda.executor import Cohort

__all__ = ["Cohort"]
