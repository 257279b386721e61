"""Neural collapse: metrics, closed-form theory, deep linear networks, language models (see :mod:`fedloge.collapse`)."""
