"""Reports on runs, made from their folders."""
