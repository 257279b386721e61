"""Many runs under one plan: comparisons, sweeps and the paper's studies."""
